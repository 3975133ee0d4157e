"""Processes that go on: without the log, after a failure, and after a child of theirs has died."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from shared.clock import monotonic, sleep
from shared.daemon import supervised, until_stopped
from shared.eventlog.port import Fenced, LogUnavailable


@pytest.fixture
def _signals() -> Iterator[None]:
    """Handlers as they were before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("error", [Fenced("somebody took over"), LogUnavailable("away")])
def test_what_the_log_does_starts_it_afresh(error: Exception) -> None:
    starts: list[int] = []

    def run(stopping: threading.Event) -> None:
        starts.append(len(starts))
        if len(starts) == 1:
            raise error
        stopping.set()

    until_stopped(run)
    assert len(starts) == 2


@pytest.mark.usefixtures("_signals")
def test_any_other_error_ends_it() -> None:
    def run(_: threading.Event) -> None:
        raise ValueError("a fault of ours")

    with pytest.raises(ValueError, match="a fault of ours"):
        until_stopped(run)


@pytest.mark.usefixtures("_signals")
def test_a_signal_stops_it_in_good_order() -> None:
    def run(stopping: threading.Event) -> None:
        signal.raise_signal(signal.SIGTERM)
        assert stopping.wait(5)

    until_stopped(run)


@pytest.mark.usefixtures("_signals")
def test_who_is_not_wanted_any_more_does_not_start() -> None:
    until_stopped(lambda _: pytest.fail("started"), wanted=lambda: False)


def test_a_child_that_dies_is_started_again_and_ends_with_its_supervisor() -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return started[-1]

    stopping = threading.Event()
    alive = supervised(start, stopping)
    assert alive()
    started[0].kill()
    end = monotonic() + 10
    while len(started) < 2:
        assert monotonic() < end
        sleep(0.02)
    assert alive()
    stopping.set()
    assert not alive()
    assert all(child.poll() is not None for child in started)
