"""What the process behind HTTP knows beside its requests: the shelf kept up to date, and the last words of others."""

import logging
import threading
from collections import deque
from collections.abc import Sequence

from recsys.schema import ALARMS, NIGHTS, RELEASES, REPORTS, Alarm, Night, Release, Report
from recsys.shelf import Shelf
from shared.clock import Clock
from shared.eventlog.port import Entry, EventLog, LogUnavailable, beginning

PAUSE = 0.1  # seconds between two looks at pointer and log
logger = logging.getLogger(__name__)


class Edge:
    """One following thread beside the event loop."""

    def __init__(self, log: EventLog, shelf: Shelf, *, clock: Clock) -> None:
        self._log, self._shelf, self._clock = log, shelf, clock
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.caught_up = False
        self.trouble = ""
        self.releases: deque[Release] = deque(maxlen=100)
        self.nights: deque[Night] = deque(maxlen=400)
        self.alarms: deque[Alarm] = deque(maxlen=1_000)
        self.reports: deque[Report] = deque(maxlen=400)

    def start(self) -> None:
        self._stopped.clear()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def ready(self) -> str:
        """Why requests should not be sent; empty if they may."""
        if not self.caught_up:
            return self.trouble or "still reading what happened since the table was made"
        return "" if self._shelf.version else "no table has been published yet"

    def append(self, entries: Sequence[Entry]) -> list[tuple[int, int]]:
        """Raises LogUnavailable."""
        return self._log.append(entries)

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow_log()
            except LogUnavailable as error:  # what is known is shown meanwhile
                self.trouble = str(error)
                logger.warning("the log cannot be followed: %s", error)
                self._stopped.wait(0.5)

    def _follow_log(self) -> None:
        for past in (self.releases, self.nights, self.alarms, self.reports):
            past.clear()
        reader = self._log.reader(beginning([RELEASES, NIGHTS, ALARMS, REPORTS]))
        try:
            while not self._stopped.is_set():
                self._shelf.follow()
                self._clock.observe(self._shelf.seen)
                for record in reader.poll(1_000, 0.0):
                    self._take(record.topic, record.value, record.at)
                self.caught_up, self.trouble = True, ""
                self._stopped.wait(PAUSE)
        finally:
            reader.close()

    def _take(self, topic: str, value: bytes, at: int) -> None:
        self._clock.observe(at)
        if topic == RELEASES.name:
            self.releases.append(Release.model_validate_json(value))
        elif topic == NIGHTS.name:
            self.nights.append(Night.model_validate_json(value))
        elif topic == ALARMS.name:
            self.alarms.append(Alarm.model_validate_json(value))
        else:
            self.reports.append(Report.model_validate_json(value))
