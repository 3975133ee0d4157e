"""The only module that reads the time.

Event time is whole seconds since the epoch. A virtual clock stands where the log stands: every
process moves its own forward by the records it reads, so that all agree without a time server.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

monotonic = time.monotonic
perf_counter = time.perf_counter
sleep = time.sleep


class Clock(Protocol):
    def now(self) -> int:
        """Seconds since the epoch, UTC."""
        ...

    def observe(self, at: int) -> None:
        """A record of this event time has been seen."""
        ...


class SystemClock:
    def now(self) -> int:
        return int(time.time())

    def observe(self, at: int) -> None:
        """The world's clock needs no telling."""


class VirtualClock:
    """Stands at the latest event time observed; never goes back."""

    def __init__(self, start: int = 0) -> None:
        self._now = start

    def now(self) -> int:
        return self._now

    def observe(self, at: int) -> None:
        self._now = max(self._now, at)


def boot_id() -> str:
    """Names this start of the machine: monotonic times of two boots must not be compared."""
    if sys.platform == "linux":
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    command = ["sysctl", "-n", "kern.bootsessionuuid"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
