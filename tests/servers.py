"""Real servers that tests start, and may kill."""

import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx
import pytest
import redis

from shared.clock import monotonic, sleep


class Toxiproxy:
    """A proxy between clients and a server, whose connections can be slowed, silenced or cut."""

    def __init__(self, upstream: int) -> None:
        if (program := shutil.which("toxiproxy-server")) is None:
            pytest.skip("needs toxiproxy-server (https://github.com/Shopify/toxiproxy/releases; on macOS: brew)")
        (self.port, control), self._upstream = free_ports(2), upstream
        self._command = [program, "-port", str(control)]
        self._api = httpx.Client(base_url=f"http://127.0.0.1:{control}", headers={"User-Agent": "tests"})

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        proxy = {"name": "it", "listen": f"127.0.0.1:{self.port}", "upstream": f"127.0.0.1:{self._upstream}"}
        until = monotonic() + 20
        while True:
            try:
                self._api.post("/proxies", json=proxy).raise_for_status()
                return self
            except httpx.TransportError:
                assert monotonic() < until, "toxiproxy does not answer"
                sleep(0.02)

    def slow(self, milliseconds: int) -> None:
        """Every packet, in both directions, comes so much later."""
        for stream in ("upstream", "downstream"):
            self._poison(stream, "latency", {"latency": milliseconds})

    def half_open(self) -> None:
        """Connections stay, and nothing comes through: what a pulled cable looks like."""
        for stream in ("upstream", "downstream"):
            self._poison(stream, "timeout", {"timeout": 0})

    def cut(self) -> None:
        """Connections end, and new ones are refused."""
        self._api.post("/proxies/it", json={"enabled": False}).raise_for_status()

    def heal(self) -> None:
        self._api.post("/reset").raise_for_status()

    def _poison(self, stream: str, kind: str, attributes: dict[str, int]) -> None:
        toxic = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "attributes": attributes}
        self._api.post("/proxies/it/toxics", json=toxic).raise_for_status()

    def __exit__(self, *_: object) -> None:
        self._api.close()
        self._process.kill()
        self._process.wait()


def free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in sockets]


class RedisServer:
    """A Redis on a free port that keeps nothing: after `kill`, `start` brings an empty one up at the same URL."""

    def __init__(self, folder: Path) -> None:
        if (program := shutil.which("redis-server")) is None:
            pytest.skip("needs redis-server (on Debian: apt install redis-server; on macOS: brew install redis)")
        (port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{port}/0"
        self._command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until = monotonic() + 20
        while not self._answers():
            assert self.process.poll() is None, "redis-server ended at once"
            assert monotonic() < until, "redis-server does not answer"
            sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def empty(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
