"""Starts commands as child processes, waits for them, and ends them with their parent."""

import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from urllib.error import URLError

from shared.clock import Clock, monotonic, sleep
from shared.settings import Settings

PATIENCE = 300.0  # seconds to wait for a process before giving up


class Stuck(Exception):
    """A process did not do its part in time."""


class Children:
    """Commands of `service` on these settings, each with `options`, whose clocks begin where this one stands."""

    def __init__(self, service: str, settings: Settings, clock: Clock, *options: str) -> None:
        self._service, self._settings, self._clock, self._options = service, settings, clock, options
        self._started: list[subprocess.Popen[bytes]] = []
        self._stay: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *command: str, stays: bool = True) -> "subprocess.Popen[bytes]":
        """Start one; what it says goes to a file of its name. `stays`: it is not to end by itself."""
        var = self._settings.var
        options = ["--var", str(var), "--log", self._settings.log, "--virtual", str(self._clock.now())]
        with (var / f"{command[0]}.log").open("a") as log:
            words = [sys.executable, "-m", self._service, *options, *self._options, *command]
            child = subprocess.Popen(words, stdout=log, stderr=log)
        self._started.append(child)
        if stays:
            self._stay[command[0]] = child
        return child

    def wait(self, done: Callable[[], bool], why: str) -> None:
        """Raises Stuck: a child has ended, or it takes too long; then `why` says what did not happen."""
        until, nap = monotonic() + PATIENCE, 0.001
        while not done():
            ended = [name for name, child in self._stay.items() if child.poll() is not None]
            if ended or monotonic() > until:
                raise Stuck(f"{ended[0]} ended; see {ended[0]}.log" if ended else why)
            sleep(nap)
            nap = min(nap * 1.5, 0.02)

    def close(self) -> None:
        """The last one first, each as by Ctrl-C."""
        for child in reversed(self._started):
            finish(child)


def finish(child: "subprocess.Popen[bytes]") -> None:
    """End it as Ctrl-C would, and without asking if that takes too long."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        child.kill()


def ready(url: str) -> bool:
    """Whether the service there answers, and says that it is ready."""
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=1) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


def free_port(first: int) -> int:
    """The first free port from there on."""
    for port in range(first, 65_536):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise OSError(f"no free port from {first} on")
