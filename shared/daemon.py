"""A process that goes on: however long the log is away, until somebody stops it, and again when it has died."""

import logging
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence

from shared.clock import Clock, sleep
from shared.eventlog import open_log
from shared.eventlog.port import EventLog, Fenced, LogUnavailable, Topic
from shared.settings import Settings

logger = logging.getLogger(__name__)


def opened(settings: Settings, clock: Clock, topics: Sequence[Topic]) -> EventLog:
    """The log, with its topics. Raises LogUnavailable."""
    log = open_log(settings.log, clock=clock)
    try:
        log.create(topics)
    except LogUnavailable:
        log.close()
        raise
    return log


def opened_at_last(settings: Settings, clock: Clock, topics: Sequence[Topic]) -> EventLog:
    """The log, however long it is away: whoever starts a service starts its parts in any order."""
    while True:
        try:
            return opened(settings, clock, topics)
        except LogUnavailable as error:
            logger.warning("waiting for the log: %s", error)
            sleep(0.5)


def until_stopped(run: Callable[[threading.Event], None], *, wanted: Callable[[], bool] = lambda: True) -> None:
    """Run until SIGINT or SIGTERM; when the log fails, or somebody took over, start afresh with nothing remembered.

    `wanted` is asked before each start, too: who fails while starting would come to no later question.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    while not stopping.is_set() and wanted():
        try:
            run(stopping)
        except (Fenced, LogUnavailable) as error:
            logger.warning("starting afresh: %s", error)
            stopping.wait(0.5)


def supervised(start: Callable[[], subprocess.Popen[bytes]], stopping: threading.Event) -> Callable[[], bool]:
    """Keep a child running until `stopping`; the function given says whether it runs, or ends it when it should."""
    child = start()

    def watch() -> None:
        nonlocal child
        while not stopping.wait(0.2):
            if child.poll() is not None:
                child = start()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    def alive() -> bool:
        if stopping.is_set():
            thread.join()
            child.terminate()
            child.wait()
        return child.poll() is None

    return alive
