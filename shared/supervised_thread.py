"""A thread that is restarted when it ends, and reports it."""

import logging
import threading
from collections.abc import Callable

from shared.clock import monotonic
from shared.dependencies import DEPENDENCY_ERRORS

RETRY = 0.25  # seconds before a dependency is tried again
PAUSE = 0.5  # seconds before the first restart
LONGEST_PAUSE = 10.0  # seconds between two restarts
STEADY = 60.0  # seconds that a thread has to run before its earlier failures are forgotten
GIVE_UP = 5  # failures in a row after which only a new process helps

logger = logging.getLogger(__name__)


class SupervisedThread:
    """Runs `work` until it is stopped.

    A dependency that is away is waited for. Any other error is a failure: it is logged, told by `trouble`, and the
    work begins again after a pause that doubles. `work` is given the event that asks it to stop, and calls `healthy`
    after each round that went well.
    """

    def __init__(self, name: str, work: Callable[[threading.Event], None]) -> None:
        self.name = name
        self.trouble = ""  # why the work does not go on right now
        self.failures = 0  # in a row
        self._work, self._stopping = work, threading.Event()
        self._thread: threading.Thread | None = None
        self._began = 0.0
        self._away: set[type[Exception]] = set()  # kinds of errors of dependencies since the last round that went well

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def healthy(self) -> None:
        """A round went well."""
        self.trouble = ""
        if self._away:
            self._away.clear()
            logger.info("%s goes on again", self.name)
        if self.failures and monotonic() - self._began > STEADY:
            self.failures = 0

    def fatal_reason(self) -> str:
        """Why only a new process helps; empty while restarts may."""
        return f"thread {self.name} failed {self.failures} times: {self.trouble}" if self.failures >= GIVE_UP else ""

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._began = monotonic()
            try:
                self._work(self._stopping)
                if not self._stopping.is_set():
                    raise RuntimeError(f"the work of {self.name} ended by itself")
            except DEPENDENCY_ERRORS as error:
                self.trouble = f"{self.name}: {error}"
                if type(error) not in self._away:  # once per outage, not four times a second
                    self._away.add(type(error))
                    logger.warning("%s, trying again until it answers", self.trouble)
                self._stopping.wait(RETRY)
            except Exception as error:
                self.failures += 1
                self.trouble = f"thread {self.name} ended: {type(error).__name__}"
                logger.exception("thread %s ended, failure %d in a row", self.name, self.failures)
                self._stopping.wait(min(PAUSE * 2 ** min(self.failures - 1, 10), LONGEST_PAUSE))
