"""Post -> Opinion -> Mention -> Minute. The worker: one process, two steps, and the log between them.

Step one scores posts, whichever brands they name; step two counts the mentions of the brands it owns. Each
step of the loop is one atomic write: opinions, mentions, minutes, dead letters, and how far the partitions
have come. Whatever goes wrong before it is written, the state is dropped and rebuilt from the log.
"""

import json
import logging
from contextlib import suppress

from sentiment import config
from sentiment.aggregates import Hour
from sentiment.artifact import Artifact
from sentiment.config import HOUR, LATENESS, MINUTE
from sentiment.ingest import Refused, accept, dead_letter
from sentiment.opinions import Reader
from sentiment.policy import Load
from sentiment.schema import (
    ALARMS,
    MENTION,
    MENTIONS,
    MINUTES,
    OPINIONS,
    POSTS,
    RELEASES,
    Alarm,
    Late,
    Mark,
    Mention,
    Minute,
    Opinion,
    Post,
    Release,
    Seal,
    Tick,
)
from sentiment.schema import Path as By
from shared.champion import Champion, NotSwapped
from shared.clock import Clock, monotonic
from shared.eventlog.port import Entry, EventLog, Place, Position, Record, beginning

WORKERS = "sentiment-worker"  # the group
LIMIT = 32  # records a partition and step: eight partitions of posts are then scored in under a second
LOOK = 1.0  # seconds between two looks at how many posts wait

logger = logging.getLogger(__name__)


def sealed(hour: int, watermark: int) -> bool:
    """Whether an hour (since the epoch) takes no more mentions at this event time."""
    return (hour + 1) * HOUR + LATENESS <= watermark


class Source:
    """One partition of posts: how far its time has come, and which ids the open hours have seen."""

    def __init__(self, offset: int, watermark: int = 0) -> None:
        self.offset, self.watermark = offset, watermark
        self.told = -1  # the last minute that step two was told of
        self._ids: dict[int, set[str]] = {}  # by open hour
        self._starts: dict[int, int] = {}  # by open hour, the offset of its first post

    def new(self, post: Post, offset: int) -> bool:
        """Remember a post; False for one whose id an open hour has."""
        if any(post.id in ids for ids in self._ids.values()):
            return False
        hour = post.at // HOUR
        if not sealed(hour, self.watermark):
            self._ids.setdefault(hour, set()).add(post.id)
            self._starts.setdefault(hour, offset)
        return True

    def observe(self, at: int) -> None:
        self.watermark = max(self.watermark, at)
        for hour in [hour for hour in self._ids if sealed(hour, self.watermark)]:
            del self._ids[hour], self._starts[hour]

    @property
    def note(self) -> str:
        """All that is needed, beside the log, to build this state again."""
        return json.dumps([self.watermark, min(self._starts.values(), default=self.offset)])


class Desk:
    """One partition of mentions: its brands' open hours, and the time in each partition of posts."""

    def __init__(self, offset: int, marks: list[int] | None = None) -> None:
        self.offset = offset
        self.marks = marks or [0] * POSTS.partitions
        self.told = -1  # the last minute that readers were told of
        self.dirty: set[tuple[str, int]] = set()  # brand and minute
        self._hours: dict[tuple[str, int], Hour] = {}
        self._starts: dict[int, int] = {}  # by open hour

    @property
    def watermark(self) -> int:
        return min(self.marks)

    def count(self, mention: Mention, offset: int) -> None:
        """Take one mention in, unless its hour is sealed."""
        hour = mention.at // HOUR
        if sealed(hour, self.watermark):
            return
        self._starts.setdefault(hour, offset)
        changed = self._hours.setdefault((mention.brand, hour), Hour()).add(mention, revision=offset)
        self.dirty |= {(mention.brand, minute) for minute in changed}

    def minutes(self) -> list[Minute]:
        """What has changed, and is clean after this."""
        made = []
        for brand, start in sorted(self.dirty):
            cell = self._hours[brand, start // HOUR].minutes[start]
            made.append(
                Minute(
                    brand=brand, at=start, revision=cell.revision, counts=cell.counts, shed=cell.shed, model=cell.model
                )
            )
        self.dirty.clear()
        return made

    def close(self) -> None:
        """Forget the hours that are sealed by now; their minutes have to be out."""
        for key in [key for key in self._hours if sealed(key[1], self.watermark)]:
            del self._hours[key]
        for hour in [hour for hour in self._starts if sealed(hour, self.watermark)]:
            del self._starts[hour]

    @property
    def note(self) -> str:
        return json.dumps([self.marks, min(self._starts.values(), default=self.offset)])


class Worker:
    """One member of the group. `secret` keys the draw of the audit."""

    def __init__(self, log: EventLog, champion: Champion[Artifact], reader: Reader, *, slot: int, clock: Clock) -> None:
        self._log, self._champion, self._reader, self._clock = log, champion, reader, clock
        self._consumer = log.consumer(WORKERS, [POSTS, MENTIONS], f"worker-{slot}")
        self._news = log.reader(beginning([RELEASES]))
        self._sources: dict[int, Source] = {}
        self._desks: dict[int, Desk] = {}
        self._load, self._looked = Load(), 0.0
        self._emitted = 0.0  # when open minutes were last told
        self._out: list[Entry] = []

    def step(self, timeout: float) -> int:
        """Read what is there, count what can be counted, commit; gives the number of records done.

        Raises:
            Fenced, LogUnavailable: nothing was written; make a new worker.
        """
        records = self._consumer.poll(LIMIT, timeout)
        self._follow()
        self._adopt()
        moved: set[Place] = set()
        for record in records:
            if record.topic == POSTS.name:
                self._read(self._sources[record.partition], record)
            else:
                self._count(self._desks[record.partition], record)
            moved.add(Place(record.topic, record.partition))
        moved |= self._mark() | self._emit()
        if moved or self._out:
            self._commit(moved)
        return len(records)

    def close(self) -> None:
        """Leave at once."""
        self._consumer.close()
        self._news.close()

    def _follow(self) -> None:
        """Swap the model when a release says so; what cannot be loaded leaves the one before it."""
        releases = [Release.model_validate_json(record.value) for record in self._news.poll(1_000, 0.0)]
        refused = []
        for release in reversed(releases):
            try:
                self._champion.swap(release.version, artifact=release.artifact, digest=release.digest)
                logger.info("version %s scores", release.version)
                break
            except NotSwapped as error:
                refused.append(error)
        for reason in refused:
            alarm = Alarm(
                kind="model",
                at=self._clock.now(),
                message=f"not released: {reason}",
                action=f"version {self._champion.version or 'none'} goes on",
            )
            self._out.append(Entry(ALARMS, alarm.kind, alarm.model_dump_json().encode()))
            logger.error("%s", alarm.message)

    # --- partitions that come and go ---------------------------------------------------------

    def _adopt(self) -> None:
        """Build the state of partitions newly owned, from the log and what the last commit noted."""
        owned = self._consumer.owned
        for partition in [number for number in self._sources if Place(POSTS.name, number) not in owned]:
            del self._sources[partition]
        for partition in [number for number in self._desks if Place(MENTIONS.name, number) not in owned]:
            del self._desks[partition]
        for (topic, partition), position in owned.items():
            if topic == POSTS.name and partition not in self._sources:
                self._sources[partition] = self._source(partition, position)
            elif topic == MENTIONS.name and partition not in self._desks:
                self._desks[partition] = self._desk(partition, position)

    def _source(self, partition: int, position: Position) -> Source:
        """Replay reads inputs only: nothing is scored again."""
        watermark, since = json.loads(position.note or "[0, 0]")
        source = Source(position.offset, watermark)
        for record in self._between(POSTS.name, partition, since, position.offset):
            with suppress(Refused):
                if isinstance(event := accept(record), Post):
                    source.new(event, record.offset)
        return source

    def _desk(self, partition: int, position: Position) -> Desk:
        marks, since = json.loads(position.note or "[null, 0]")
        desk = Desk(position.offset, marks)
        for record in self._between(MENTIONS.name, partition, since, position.offset):
            message = MENTION.validate_json(record.value)
            if isinstance(message, Mention) and not message.late:
                desk.count(message, record.offset)
        return desk

    def _between(self, topic: str, partition: int, since: int, until: int) -> list[Record]:
        reader, records = self._log.reader({Place(topic, partition): since}), []
        at = since
        while at < until:
            more = reader.poll(10_000, 1.0)
            records += [record for record in more if record.offset < until]
            at = reader.positions[Place(topic, partition)] if more else until
        reader.close()
        return records

    # --- step one: posts -> opinions and mentions ----------------------------------------------

    def _read(self, source: Source, record: Record) -> None:
        source.offset = record.offset + 1
        try:
            event = accept(record)
        except Refused as error:
            self._out.append(dead_letter(record, error))
            return
        self._clock.observe(event.at)
        if isinstance(event, Post):
            self._score(source, event, record)
        elif not isinstance(event, Tick):
            gone = Opinion(kind="deleted", id=event.id, at=event.at, partition=record.partition, offset=record.offset)
            self._out.append(Entry(OPINIONS, event.id, gone.model_dump_json().encode()))
        source.observe(event.at)

    def _score(self, source: Source, post: Post, record: Record) -> None:
        late, expired = sealed(post.at // HOUR, source.watermark), post.at < source.watermark - config.REOPEN
        if not source.new(post, record.offset):
            return
        champion = self._champion
        opinion = self._reader.read(
            post, champion.model, champion.version, path=self._path(), place=(record.partition, record.offset)
        )
        self._out.append(Entry(OPINIONS, post.id, opinion.model_dump_json().encode()))
        if expired:  # batch counts it as that, and no hour is opened for it
            return
        for mention in self._reader.mentions(post, opinion, late=late):
            self._out.append(Entry(MENTIONS, mention.brand, mention.model_dump_json().encode()))

    def _path(self) -> By:
        """By how much waits; asked seldom, as the log has to be asked."""
        if (now := monotonic()) >= self._looked + LOOK:
            self._looked = now
            ends = self._log.ends(POSTS)
            self._load.choose(sum(max(0, ends[number] - source.offset) for number, source in self._sources.items()))
        return self._load.path

    def _mark(self) -> set[Place]:
        """Tell every partition of mentions how far time has come, after the mentions that came before."""
        moved = set()
        for partition, source in self._sources.items():
            if source.watermark // MINUTE > source.told:
                source.told = source.watermark // MINUTE
                mark = Mark(source=partition, at=source.watermark).model_dump_json().encode()
                self._out += [Entry(MENTIONS, "mark", mark, number) for number in range(MENTIONS.partitions)]
                moved.add(Place(POSTS.name, partition))
        return moved

    # --- step two: mentions -> minutes ---------------------------------------------------------

    def _count(self, desk: Desk, record: Record) -> None:
        desk.offset = record.offset + 1
        message = MENTION.validate_json(record.value)
        if isinstance(message, Mark):
            # The least of all partitions: posts reach a brand from each of them.
            desk.marks[message.source] = max(desk.marks[message.source], message.at)
        elif message.late:
            late = Late(
                brand=message.brand,
                at=message.at,
                post=message.post,
                partition=message.partition,
                offset=message.offset,
            )
            entry = Entry(MINUTES, message.brand, late.model_dump_json().encode(), record.partition)
            self._out.append(entry)
        else:
            desk.count(message, record.offset)

    def _emit(self) -> set[Place]:
        """Tell what changed: open minutes every second, and everything before an hour is sealed."""
        due = monotonic() >= self._emitted + config.PROVISIONAL
        moved = set()
        for partition, desk in self._desks.items():
            seal = desk.watermark // MINUTE > desk.told
            if not (seal or (due and desk.dirty)):
                continue
            for minute in desk.minutes():
                key = f"{minute.brand}:{minute.at}"
                self._out.append(Entry(MINUTES, key, minute.model_dump_json().encode(), partition))
            if seal:
                desk.told = desk.watermark // MINUTE
                told = Seal(partition=partition, at=desk.watermark).model_dump_json().encode()
                self._out.append(Entry(MINUTES, f"seal:{partition}", told, partition))
                desk.close()
            moved.add(Place(MENTIONS.name, partition))
        if due and moved:
            self._emitted = monotonic()
        return moved

    def _commit(self, moved: set[Place]) -> None:
        positions = {}
        for place in moved:
            state = self._sources[place.partition] if place.topic == POSTS.name else self._desks[place.partition]
            positions[place] = Position(state.offset, state.note)
        self._consumer.commit(self._out, positions)
        self._out = []
