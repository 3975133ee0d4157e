"""What `serve` follows of the log, and how it writes to it: the speed view, the latest opinions, what was said."""

import asyncio
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter

from sentiment.artifact import Artifact
from sentiment.schema import (
    ALARMS,
    AUDITS,
    MINUTES,
    OPINIONS,
    POSTS,
    RELEASES,
    REPORTS,
    STORY,
    Alarm,
    Confusion,
    Opinion,
    Release,
    Report,
)
from sentiment.shares import correcting
from sentiment.stream import WORKERS
from sentiment.timeline import Timeline
from sentiment.watch import Watch
from shared.champion import Champion, NotSwapped
from shared.clock import Clock, monotonic, sleep
from shared.eventlog.port import Entry, EventLog, LogUnavailable, Record, beginning
from shared.story import Scene

KEPT = 20_000  # opinions that can be corrected, and audits that can be given
TYPED = 1_000  # opinions on texts that somebody typed, without the texts
FOLLOWED = (MINUTES, OPINIONS, AUDITS, ALARMS, RELEASES, REPORTS, STORY)
logger = logging.getLogger(__name__)


class Unavailable(Exception):
    """The log is away, so nothing can be written now."""


class Edge:
    """One following thread beside the event loop."""

    def __init__(
        self, log: EventLog, champion: Champion[Artifact], *, folder: Path, clock: Clock, metrics: CollectorRegistry
    ) -> None:
        self._log, self._clock = log, clock
        self.champion, self.timeline = champion, Timeline(folder)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.caught_up, self.trouble, self.followed = False, "", monotonic()
        self.watch = Watch()
        self.opinions: OrderedDict[str, Opinion] = OrderedDict()
        self.typed: OrderedDict[str, Opinion] = OrderedDict()
        self.audits: OrderedDict[str, Opinion] = OrderedDict()  # drawn, and not given yet
        self._audited: set[str] = set()
        self._gone: set[str] = set()  # deleted, and shown no more, though the post comes after
        self.alarms: deque[Alarm] = deque(maxlen=1_000)
        self.releases: deque[Release] = deque(maxlen=100)
        self.scenes: deque[Scene] = deque(maxlen=100)
        self.reports: dict[int, Report] = {}
        self._tried: Release | None = None
        self._counted = Counter("sentiment_opinions", "Opinions", ["label", "path", "mark"], registry=metrics)
        self._dropped = Counter("sentiment_not_counted", "Posts without a label", ["why"], registry=metrics)

    def start(self) -> None:
        self._stopped.clear()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    async def append(self, entry: Entry) -> tuple[int, int]:
        """Gives partition and offset. Raises Unavailable."""
        try:
            ((partition, offset),) = await asyncio.to_thread(self._log.append, [entry])
        except LogUnavailable as error:
            raise Unavailable(str(error)) from error
        return partition, offset

    def lag(self) -> int:
        """Posts that no worker has read yet. Raises LogUnavailable."""
        done = self._log.committed(WORKERS, POSTS)
        return sum(end - (done[p].offset if p in done else 0) for p, end in self._log.ends(POSTS).items())

    def answered(self, opinion: Opinion) -> None:
        """Somebody has typed a text and been told this: it can be corrected for a while, and the text is not kept."""
        self.typed[opinion.id] = opinion.model_copy(update={"text": ""})
        if len(self.typed) > TYPED:
            self.typed.popitem(last=False)

    def confusions(self) -> dict[tuple[int, str], Confusion]:
        return correcting(list(self.reports.values()))

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                with closing(self._log.reader(beginning(FOLLOWED))) as reader:
                    while not self._stopped.is_set():
                        records = reader.poll(2_000, 0.25)
                        self._take(records)
                        self.caught_up = self.caught_up or not records
                        self.trouble, self.followed = "", monotonic()
            except LogUnavailable as error:  # whatever is read twice is known by its key or revision
                self.trouble = str(error)
                logger.warning("cannot follow the log, beginning again: %s", error)
                sleep(0.25)

    def _take(self, records: Sequence[Record]) -> None:
        self.timeline.speed.take(record for record in records if record.topic == MINUTES.name)
        self._clock.observe(self.timeline.speed.watermark)
        for record in records:
            match record.topic:
                case OPINIONS.name:
                    self._hear(Opinion.model_validate_json(record.value))
                case AUDITS.name:
                    self._audited.add(record.key)
                    self.audits.pop(record.key, None)
                case ALARMS.name:
                    if (alarm := Alarm.model_validate_json(record.value)) not in self.alarms:
                        self.alarms.append(alarm)
                case RELEASES.name:
                    if (release := Release.model_validate_json(record.value)) not in self.releases:
                        self.releases.append(release)
                case REPORTS.name:
                    report = Report.model_validate_json(record.value)
                    self.reports[report.day] = report
                case STORY.name if b'"scene"' in record.value:
                    self.scenes.append(Scene.model_validate_json(record.value))
        self._load()

    def _hear(self, opinion: Opinion) -> None:
        if opinion.kind == "deleted":  # from now on nobody is shown the text
            self._gone.add(opinion.id)
            self.opinions.pop(opinion.id, None)
            self.audits.pop(opinion.id, None)
            self.watch.forget(opinion.id)
        if opinion.id in self._gone:
            return
        if opinion.id not in self.opinions:
            self.watch.saw(opinion)
            if opinion.label is None:
                self._dropped.labels(opinion.why_not or opinion.mark or "no-model").inc()
            else:
                self._counted.labels(opinion.label, opinion.path, opinion.mark or "").inc()
        self.opinions[opinion.id] = opinion
        if opinion.inclusion is not None and opinion.id not in self._audited:
            self.audits[opinion.id] = opinion
        for kept in (self.opinions, self.audits):
            if len(kept) > KEPT:
                kept.popitem(last=False)

    def _load(self) -> None:
        """What scores a text that somebody types is what scores the stream."""
        if not self.releases or self.releases[-1] is self._tried:
            return
        release = self._tried = self.releases[-1]
        try:
            self.champion.swap(release.version, artifact=release.artifact, digest=release.digest)
        except NotSwapped as error:  # the one before goes on; the worker has raised the alarm
            logger.error("not released: %s", error)
