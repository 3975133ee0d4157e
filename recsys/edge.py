"""What the process behind HTTP knows beside its requests: the shelf kept up to date, and the last words of others."""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from recsys.schema import (
    ALARMS,
    EVENTS,
    IMPRESSIONS,
    NIGHTS,
    RELEASES,
    REPORTS,
    STORY,
    Alarm,
    Books,
    Event,
    Impression,
    Night,
    Noun,
    Release,
    Report,
)
from recsys.shelf import Shelf
from recsys.watch import Watch
from shared.clock import Clock, monotonic
from shared.eventlog.port import Entry, EventLog, LogUnavailable, Place, Record, beginning
from shared.story import Scene

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
        self.scenes: deque[Scene] = deque(maxlen=100)
        self.books: deque[Books] = deque(maxlen=400)
        self.watch = Watch()
        self.followed = monotonic()  # when the log could be read last
        self._passing: dict[Place, int] = {}  # how far lists and deeds have been seen; empty: from now on

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
        for past in (self.releases, self.nights, self.alarms, self.reports, self.scenes, self.books):
            past.clear()
        if not self._passing:
            ends = [(topic, *end) for topic in (IMPRESSIONS, EVENTS) for end in self._log.ends(topic).items()]
            self._passing = {Place(topic.name, partition): end for topic, partition, end in ends}
        said = self._log.reader(beginning([RELEASES, NIGHTS, ALARMS, REPORTS, STORY]))
        passing = self._log.reader(self._passing)
        try:
            while not self._stopped.is_set():
                self._shelf.follow()
                self._clock.observe(self._shelf.seen)
                for record in said.poll(1_000, 0.0):
                    self._take(record.topic, record.value, record.at)
                self._watch(passing.poll(2_000, 0.0))
                self._passing = dict(passing.positions)
                self.caught_up, self.trouble, self.followed = True, "", monotonic()
                self._stopped.wait(PAUSE)
        finally:
            said.close()
            passing.close()

    def _watch(self, records: Sequence[Record]) -> None:
        """Lists before deeds: what a shopper did was done with a list that had been shown."""
        self.watch.saw(_read(Impression, IMPRESSIONS.name, records))
        self.watch.heard(_read(Event, EVENTS.name, records))

    def _take(self, topic: str, value: bytes, at: int) -> None:
        self._clock.observe(at)
        if topic == RELEASES.name:
            self.releases.append(Release.model_validate_json(value))
        elif topic == NIGHTS.name:
            self.nights.append(Night.model_validate_json(value))
        elif topic == ALARMS.name:
            self.alarms.append(Alarm.model_validate_json(value))
        elif topic == REPORTS.name:
            self.reports.append(Report.model_validate_json(value))
        elif (kind := from_json(value)["kind"]) == "scene":
            self.scenes.append(Scene.model_validate_json(value))
        elif kind == "books":
            self.books.append(Books.model_validate_json(value))


Known = TypeVar("Known", bound=Noun)


def _read(noun: type[Known], topic: str, records: Sequence[Record]) -> list[Known]:
    known = []
    for record in records:
        if record.topic == topic:
            with suppress(ValidationError):  # the night writes the dead letter
                known.append(noun.model_validate_json(record.value))
    return known
