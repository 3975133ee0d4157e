"""Follows topics beside the HTTP requests: speed view, latest opinions, audits; and writes to the log."""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter

from sentiment.artifact import Artifact
from sentiment.ingest import accept_opinion
from sentiment.schema import (
    ALARMS,
    AUDITS,
    HEARTBEATS,
    MINUTES,
    OPINIONS,
    POSTS,
    RELEASES,
    REPORTS,
    STORY,
    Alarm,
    Audit,
    Opinion,
    Report,
)
from sentiment.shares import Corrections, correcting
from sentiment.stream import WORKERS
from sentiment.timeline import Timeline
from sentiment.watch import Watch
from shared.background_job import Heartbeat
from shared.champion import Champion, ChampionFollower
from shared.clock import Clock
from shared.eventlog.port import Entry, EventLog, LogUnavailable, Place, Record, Topic, beginning
from shared.follower import Follower, OnBatch, by_topic
from shared.releases import Ledger, Release
from shared.story import Scene

KEPT = 20_000  # opinions that can be corrected, and audits that can be given
TYPED = 1_000  # opinions on typed texts, without the texts
NEEDED = (MINUTES, OPINIONS, RELEASES)  # what answers are made of
SHOWN = (ALARMS, AUDITS, REPORTS, STORY, HEARTBEATS)
logger = logging.getLogger(__name__)


class Unavailable(Exception):
    """The log is away, so nothing can be written now."""


class Edge:
    """Two following threads beside the event loop: of what answers need, and of what the page shows."""

    def __init__(
        self, log: EventLog, champion: Champion[Artifact], *, folder: Path, clock: Clock, metrics: CollectorRegistry
    ) -> None:
        self._log, self._clock = log, clock
        self.champion, self.timeline = champion, Timeline(folder)
        self._releases = ChampionFollower(log, RELEASES, champion)
        self.ledger: Ledger[Release] = Ledger()
        self.watch = Watch()
        self.opinions: OrderedDict[str, Opinion] = OrderedDict()
        self.typed: OrderedDict[str, Opinion] = OrderedDict()
        self.audits: OrderedDict[str, Audit] = OrderedDict()  # asked, and not answered yet
        self._waiting: OrderedDict[str, Opinion] = OrderedDict()  # not shown before their deletions would be known
        self._ends: dict[Place, int] | None = None  # of the opinions when following began; none once they are reached
        self._audited: OrderedDict[str, None] = OrderedDict()  # answered, or deleted
        self._gone: OrderedDict[str, None] = OrderedDict()  # deleted, and shown no more, though the post comes after
        self.alarms: deque[Alarm] = deque(maxlen=1_000)
        self.scenes: deque[Scene] = deque(maxlen=100)
        self.reports: dict[int, Report] = {}
        self.heartbeats: dict[str, Heartbeat] = {}  # by process, the last
        self._counted = Counter("sentiment_opinions", "Opinions", ["label", "path", "mark"], registry=metrics)
        self._dropped = Counter("sentiment_not_counted", "Posts without a label", ["why"], registry=metrics)
        needed = {MINUTES.name: self.timeline.speed.enter, OPINIONS.name: self._hear, RELEASES.name: self._release}
        shown = {
            ALARMS.name: self._alarm,
            AUDITS.name: self._audit,
            REPORTS.name: self._report,
            STORY.name: self._scene,
            HEARTBEATS.name: self._beat,
        }
        self.needed = self._follower("counts", NEEDED, self._complete(by_topic(needed, self._skip_needed)), needed=True)
        self.shown = self._follower("page", SHOWN, by_topic(shown, self._skip_shown))

    def start(self) -> None:
        self.needed.start()
        self.shown.start()

    def stop(self) -> None:
        self.needed.stop()
        self.shown.stop()
        self._releases.close()

    @property
    def caught_up(self) -> bool:
        """Whether all has been read that answers need, of what there was at the start."""
        return self.needed.caught_up

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
        """The opinion on a typed text: it can be corrected for a while, and the text is not kept."""
        self.typed[opinion.id] = opinion.model_copy(update={"text": ""})
        if len(self.typed) > TYPED:
            self.typed.popitem(last=False)

    def corrections(self) -> Corrections:
        return correcting(list(self.reports.values()))

    # --- following ----------------------------------------------------------------------------------

    def _follower(self, name: str, topics: Sequence[Topic], take: OnBatch, *, needed: bool = False) -> Follower:
        """It goes on where it was when it begins again, so that nothing is counted twice."""
        at: dict[Place, int] = beginning(topics)

        def start() -> dict[Place, int]:
            if needed:
                self._ends = {Place(OPINIONS.name, number): end for number, end in self._log.ends(OPINIONS).items()}
                for place, end in self._ends.items():  # no more are kept, and a deletion stands behind its opinion
                    at[place] = max(at[place], end - KEPT)
            return at

        def on_batch(records: Sequence[Record], after: Mapping[Place, int]) -> None:
            take(records, after)
            at.update(after)

        each_round = self._round if needed else lambda: None
        return Follower(name, self._log, topics, on_batch, start=start, each_round=each_round, serves_stale=needed)

    def _complete(self, take: OnBatch) -> OnBatch:
        """Show texts only once all is read that the log held when following began: a deletion may be the last of it."""

        def on_batch(records: Sequence[Record], after: Mapping[Place, int]) -> None:
            take(records, after)
            if self._ends is not None and all(after[place] >= end for place, end in self._ends.items()):
                self._ends = None
                while self._waiting:
                    self._show(self._waiting.popitem(last=False)[1])

        return on_batch

    def _skip_needed(self, record: Record, error: Exception) -> None:
        self.needed.skip(record, error)

    def _skip_shown(self, record: Record, error: Exception) -> None:
        self.shown.skip(record, error)

    def _round(self) -> None:
        """A typed text is scored by the version that scores the stream."""
        self._clock.observe(self.timeline.speed.watermark)
        for reason in self._releases.poll():  # the worker raises the alarm
            logger.error("not released: %s", reason)

    def _release(self, record: Record) -> None:
        self.ledger.add(Release.model_validate_json(record.value))

    def _alarm(self, record: Record) -> None:
        if (alarm := Alarm.model_validate_json(record.value)) not in self.alarms:
            self.alarms.append(alarm)

    def _audit(self, record: Record) -> None:
        audit = Audit.model_validate_json(record.value)
        if audit.known_at is not None:
            _remember(self._audited, audit.post)
            self.audits.pop(audit.post, None)
        elif audit.post not in self._audited and audit.post not in self._gone:
            self.audits[audit.post] = audit
            if len(self.audits) > KEPT:
                self.audits.popitem(last=False)

    def _report(self, record: Record) -> None:
        report = Report.model_validate_json(record.value)
        self.reports[report.day] = report

    def _scene(self, record: Record) -> None:
        if b'"scene"' in record.value:  # a newer demo may tell more
            self.scenes.append(Scene.model_validate_json(record.value))

    def _beat(self, record: Record) -> None:
        beat = Heartbeat.model_validate_json(record.value)
        self.heartbeats[beat.process] = beat

    def _hear(self, record: Record) -> None:
        opinion = accept_opinion(record)
        if opinion.kind == "deleted":  # from now on the text is shown no more
            _remember(self._gone, opinion.id)
            for kept in (self._waiting, self.opinions, self.audits):
                kept.pop(opinion.id, None)
            self.watch.forget(opinion.id)
        if opinion.id in self._gone:
            return
        if opinion.id not in self.opinions and opinion.id not in self._waiting:
            self.watch.count(opinion)
            if opinion.label is None:
                self._dropped.labels(opinion.why_not or opinion.mark or "no-model").inc()
            else:
                self._counted.labels(opinion.label, opinion.path, opinion.mark or "").inc()
        if self._ends is None:
            self._show(opinion)
        else:
            self._waiting[opinion.id] = opinion
            if len(self._waiting) > KEPT:
                self._waiting.popitem(last=False)

    def _show(self, opinion: Opinion) -> None:
        if not opinion.text:  # it came more than a week late
            return
        if opinion.id not in self.opinions:
            self.watch.show(opinion)
        self.opinions[opinion.id] = opinion
        if len(self.opinions) > KEPT:
            self.opinions.popitem(last=False)


def _remember(ids: OrderedDict[str, None], id: str) -> None:
    """Among the latest."""
    ids[id] = None
    if len(ids) > KEPT:
        ids.popitem(last=False)
