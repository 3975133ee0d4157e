"""Follows topics beside the HTTP requests: keeps the table lookup and the data of the page up to date."""

from collections import deque
from collections.abc import Mapping, Sequence

from recsys.ingest import accept
from recsys.schema import (
    ALARMS,
    EVENTS,
    HEARTBEATS,
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
    Release,
    Report,
)
from recsys.shelf import Shelf
from recsys.watch import Watch
from shared.background_job import Heartbeat
from shared.clock import Clock
from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import Entry, EventLog, Place, Record, beginning
from shared.follower import Follower, by_topic
from shared.health import Health
from shared.releases import Ledger
from shared.story import Scene

TOLD = (NIGHTS, ALARMS, REPORTS, STORY, HEARTBEATS)  # read from the beginning, for the page
PASSING = (IMPRESSIONS, EVENTS)  # read from now on: the page shows what passes

PAUSE = 0.1  # seconds between two looks at the pointer, and at what was bought


class Edge:
    """Two following threads beside the event loop: what lists depend on, and what only the page shows."""

    def __init__(self, log: EventLog, shelf: Shelf, *, clock: Clock, key: bytes) -> None:
        """`key`: of the pseudonyms."""
        self._log, self._shelf, self._clock, self._key = log, shelf, clock, key
        self.ledger: Ledger[Release] = Ledger()
        self.nights: deque[Night] = deque(maxlen=400)
        self.alarms: deque[Alarm] = deque(maxlen=1_000)
        self.reports: deque[Report] = deque(maxlen=400)
        self.scenes: deque[Scene] = deque(maxlen=100)
        self.books: deque[Books] = deque(maxlen=400)
        self.monitor: Heartbeat | None = None
        self.watch = Watch()
        self._read: Mapping[Place, int] = beginning([RELEASES])  # how far; a new beginning goes on there
        self._read_for_page: Mapping[Place, int] = {}
        # Yesterday's table is good while the log is away, so lists go on then.
        self.needed = Follower(
            "shelf",
            log,
            [RELEASES],
            self._on_releases,
            start=lambda: self._read,
            each_round=self._follow_shelf,
            serves_stale=True,
            timeout=PAUSE,
        )
        self.shown = Follower("page", log, [*TOLD, *PASSING], self._on_page, start=self._page_start)
        self._handle = by_topic(
            {
                NIGHTS.name: lambda record: self.nights.append(Night.model_validate_json(record.value)),
                ALARMS.name: lambda record: self.alarms.append(Alarm.model_validate_json(record.value)),
                REPORTS.name: lambda record: self.reports.append(Report.model_validate_json(record.value)),
                STORY.name: self._on_story,
                HEARTBEATS.name: self._on_heartbeat,
            },
            self.shown.skip,
        )
        shelf.on_bad = self.needed.skip
        self.health = Health(needed=[self.needed], shown=[self.shown], service=self._no_table, warns=self._old_table)

    def start(self) -> None:
        self.needed.start()
        self.shown.start()

    def stop(self) -> None:
        self.needed.stop()
        self.shown.stop()

    @property
    def trouble(self) -> str:
        """Why the log cannot be read; empty when it can."""
        return self.needed.thread.trouble or self.shown.thread.trouble

    def append(self, entries: Sequence[Entry]) -> list[tuple[int, int]]:
        """Raises LogUnavailable."""
        return self._log.append(entries)

    def _no_table(self) -> str:
        return "" if self._shelf.version else self._shelf.trouble or "no table has been published yet"

    def _old_table(self) -> str:
        return f"table {self._shelf.version} is shown: {self._shelf.trouble}" if self._shelf.trouble else ""

    # --- the threads --------------------------------------------------------------------------------

    def _on_releases(self, records: Sequence[Record], after: Mapping[Place, int]) -> None:
        for record in records:
            try:
                self.ledger.add(Release.model_validate_json(record.value))
            except ValueError as error:
                self.needed.skip(record, error)
        self._read = dict(after)

    def _follow_shelf(self) -> None:
        self._shelf.follow()
        self._clock.observe(self._shelf.seen)

    def _page_start(self) -> Mapping[Place, int]:
        if not self._read_for_page:
            now = {Place(topic.name, n): end for topic in PASSING for n, end in self._log.ends(topic).items()}
            self._read_for_page = beginning(TOLD) | now
        return self._read_for_page

    def _on_page(self, records: Sequence[Record], after: Mapping[Place, int]) -> None:
        """Lists before deeds: what a shopper did was done with a list that had been shown."""
        passing = {topic.name for topic in PASSING}
        for record in records:
            self._clock.observe(record.at)
        self._handle([record for record in records if record.topic not in passing], after)
        lists, deeds = list[Impression](), list[Event]()
        for record in records:
            if record.topic in passing:
                try:
                    message = accept(record, self._key)
                except DEPENDENCY_ERRORS:
                    raise
                except Exception as error:
                    if record.topic == IMPRESSIONS.name:  # the shelf's follower counts the others
                        self.shown.skip(record, error)
                else:
                    lists += [message] if isinstance(message, Impression) else []
                    deeds += [message] if isinstance(message, Event) else []
        self.watch.saw(lists)
        self.watch.heard(deeds)
        self._read_for_page = dict(after)

    def _on_story(self, record: Record) -> None:
        if record.key == "scene":
            self.scenes.append(Scene.model_validate_json(record.value))
        elif record.key == "books":
            self.books.append(Books.model_validate_json(record.value))

    def _on_heartbeat(self, record: Record) -> None:
        heartbeat = Heartbeat.model_validate_json(record.value)
        if heartbeat.process == "monitor":
            self.monitor = heartbeat
