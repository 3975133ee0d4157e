"""A process that goes on: however long the log is away, and until somebody stops it."""

import logging
import signal
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
