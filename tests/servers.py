"""Real servers that tests start, and may kill."""

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Self

import pytest
import redis

from shared.clock import monotonic, sleep


class RedisServer:
    """A Redis on a free port that keeps nothing: after `kill`, `start` brings an empty one up at the same URL."""

    def __init__(self, folder: Path) -> None:
        if (program := shutil.which("redis-server")) is None:
            pytest.skip("needs redis-server (on Debian: apt install redis-server; on macOS: brew install redis)")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
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
