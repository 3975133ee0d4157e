"""Post -> Opinion -> Mention -> Minute. The stream worker: one process, two steps, and the log between them.

Step one scores posts, whichever brands they name; step two counts the mentions of the brands it owns. Each
step of the loop is one atomic write: opinions, mentions, minutes, dead letters, and how far the partitions
have come. Whatever goes wrong before it is written, the state is dropped and rebuilt from the log.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from typing import TypeVar

from sentiment import config
from sentiment.aggregates import Hour
from sentiment.artifact import Artifact
from sentiment.config import HOUR, MINUTE
from sentiment.ingest import accept, accept_mention, accept_opinion, dead_letter
from sentiment.known_ids import KnownIds, sealed
from sentiment.opinions import Reader
from sentiment.policy import Load
from sentiment.schema import (
    ALARMS,
    AUDITS,
    MENTIONS,
    MINUTES,
    OPINIONS,
    POSTS,
    RELEASES,
    Alarm,
    Audit,
    Late,
    Mark,
    Mention,
    Minute,
    Opinion,
    Post,
    Seal,
    Tick,
)
from sentiment.schema import Path as By
from shared.champion import Champion, ChampionFollower
from shared.clock import Clock, monotonic
from shared.dead_letters import Refused
from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import Entry, EventLog, Place, Position, Record

WORKERS = "sentiment-worker"  # the group
LIMIT = 32  # records a partition and step: eight partitions of posts are then scored in a second or two
CHUNK = 10_000  # records of a rebuild that are in memory at once
LOOK = 1.0  # seconds between two looks at how many posts wait

logger = logging.getLogger(__name__)


class PartitionLost(Exception):
    """A partition went to another worker while its state was being built."""


class Source(KnownIds):
    """One partition of posts: how far its time has come, and which ids have come of late."""

    def __init__(self, offset: int, watermark: int = 0, *, judged: int = 0) -> None:
        """`judged`: posts before this offset have their opinion already, though the group does not know it."""
        super().__init__(watermark)
        self.offset, self.judged = offset, judged
        self.told = -1  # the last minute that step two was told of

    @property
    def note(self) -> str:
        """All that is needed, beside the log, to build this state again."""
        return json.dumps([self.watermark, self.since(self.offset)])


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


State = TypeVar("State", Source, Desk)


class Worker:
    """One member of the group."""

    def __init__(self, log: EventLog, champion: Champion[Artifact], reader: Reader, *, slot: int, clock: Clock) -> None:
        self._log, self._champion, self._reader, self._clock = log, champion, reader, clock
        self._consumer = log.consumer(WORKERS, [POSTS, MENTIONS], f"worker-{slot}")
        self._releases = ChampionFollower(log, RELEASES, champion)
        self._sources: dict[int, Source] = {}
        self._desks: dict[int, Desk] = {}
        self._early: dict[Place, list[Record]] = {}  # of partitions whose state is not built yet
        self._load, self._looked = Load(), 0.0
        self._emitted = 0.0  # when open minutes were last told
        self._out: list[Entry] = []

    @property
    def rebuilding(self) -> bool:
        """Whether it owns partitions whose state is not built yet."""
        return bool(self._unbuilt())

    def step(self, timeout: float) -> int:
        """Read what is there, count what can be counted, commit; gives the number of records read.

        Of the partitions newly owned it builds one a step; the posts and mentions of the others go on meanwhile.

        Raises:
            Fenced, LogUnavailable: nothing was written; make a new worker.
        """
        records = self._poll(LIMIT, 0.0 if self.rebuilding else timeout)
        self._follow()
        for record in records:
            self._early.setdefault(Place(record.topic, record.partition), []).append(record)
        self._take_over()
        moved: set[Place] = set()
        unbuilt = self._unbuilt()
        for place in [place for place in self._early if place not in unbuilt]:
            for record in self._early.pop(place):
                if place.topic == POSTS.name:
                    self._handle(self._read, self._sources[place.partition], record)
                else:
                    self._handle(self._count, self._desks[place.partition], record)
            moved.add(place)
        moved |= self._mark() | self._emit()
        if moved or self._out:
            self._commit(moved)
        return len(records)

    def close(self) -> None:
        """Leave at once."""
        self._consumer.close()
        self._releases.close()

    def _follow(self) -> None:
        """Load the champion that the ledger names, or what stands in for it."""
        for reason in self._releases.poll():
            alarm = Alarm(
                kind="model",
                at=self._clock.now(),
                message=f"not released: {reason}",
                action=f"version {self._champion.version or 'none'} goes on",
            )
            self._out.append(Entry(ALARMS, alarm.kind, alarm.model_dump_json().encode()))
            logger.error("%s", alarm.message)

    def _handle(self, step: Callable[[State, Record], None], state: State, record: Record) -> None:
        """One record; what it brings a step to raise costs that record alone, and goes to the dead letters."""
        state.offset, before = record.offset + 1, len(self._out)
        try:
            step(state, record)
        except DEPENDENCY_ERRORS:
            raise
        except Exception as error:
            if not isinstance(error, Refused):
                logger.exception("%s/%s offset %s cannot be handled", record.topic, record.partition, record.offset)
                error = Refused("message", "", type(error).__name__)
            del self._out[before:]
            self._out.append(dead_letter(record, error))

    # --- partitions that come and go ---------------------------------------------------------

    def _poll(self, limit: int, timeout: float) -> list[Record]:
        """Read on; what is known of partitions that were lost goes, even if they come back with the next poll."""
        records = self._consumer.poll(limit, timeout)
        owned = self._consumer.owned.keys()
        for number in [number for number in self._sources if Place(POSTS.name, number) not in owned]:
            del self._sources[number]
        for number in [number for number in self._desks if Place(MENTIONS.name, number) not in owned]:
            del self._desks[number]
        for place in self._early.keys() - owned:
            del self._early[place]
        return records

    def _unbuilt(self) -> set[Place]:
        """The partitions owned whose state is not built yet."""
        built = {Place(POSTS.name, number) for number in self._sources}
        return self._consumer.owned.keys() - built - {Place(MENTIONS.name, number) for number in self._desks}

    def _take_over(self) -> None:
        """Build the state of one partition newly owned, from the log and what the last commit noted."""
        for place in sorted(self._unbuilt())[:1]:
            position = self._consumer.owned[place]
            with suppress(PartitionLost):
                if place.topic == POSTS.name:
                    self._sources[place.partition] = self._source(place, position)
                else:
                    self._desks[place.partition] = self._desk(place, position)

    def _source(self, place: Place, position: Position) -> Source:
        """Replay reads inputs only: nothing is scored again."""
        watermark, since, *_ = json.loads(position.note or "[0, 0]")  # a newer version may note more
        judged = 0 if position.note else self._judged_until(place)
        source = Source(position.offset, watermark, judged=judged)

        def recall(record: Record) -> None:
            if not isinstance(event := accept(record, self._reader.secret), Tick):
                source.new(event.id, event.at, record.offset)

        self._recall(recall, self._between(place, since, position.offset, claim=place))
        return source

    def _judged_until(self, place: Place) -> int:
        """Without a committed offset: where the opinions end. It is 0 on a new log, and not when offsets were lost."""
        judged, end = 0, self._log.ends(POSTS)[place.partition]
        opinions = Place(OPINIONS.name, place.partition)
        for record in self._between(opinions, 0, self._log.ends(OPINIONS)[place.partition], claim=place):
            with suppress(Refused):
                offset = accept_opinion(record).offset
                judged = max(judged, offset + 1 if offset < end else 0)  # an offset that no post has says nothing
        return judged

    def _desk(self, place: Place, position: Position) -> Desk:
        marks, since, *_ = json.loads(position.note or "[null, 0]")
        desk = Desk(position.offset, marks)

        def recall(record: Record) -> None:
            message = accept_mention(record)
            if isinstance(message, Mention) and not message.late:
                desk.count(message, record.offset)

        self._recall(recall, self._between(place, since, position.offset, claim=place))
        return desk

    def _recall(self, take: Callable[[Record], None], records: Iterable[Record]) -> None:
        """Take records in again; what raises now has raised before, and is a dead letter already."""
        for record in records:
            try:
                take(record)
            except DEPENDENCY_ERRORS:
                raise
            except Exception as error:
                logger.debug("passed over %s/%s offset %s: %s", record.topic, record.partition, record.offset, error)

    def _between(self, place: Place, since: int, until: int, *, claim: Place) -> Iterator[Record]:
        """One chunk in memory at a time; between two of them the claims are renewed.

        Raises:
            PartitionLost: `claim`, whose state is being built, went to another worker.
        """
        at = since
        with closing(self._log.reader({place: since})) as reader:
            while at < until:
                more = reader.poll(CHUNK, 1.0)
                yield from (record for record in more if record.offset < until)
                at = reader.positions[place] if more else until
                self._poll(0, 0.0)
                if claim not in self._consumer.owned:
                    raise PartitionLost(f"{claim.topic}/{claim.partition}")

    # --- step one: posts -> opinions and mentions ----------------------------------------------

    def _read(self, source: Source, record: Record) -> None:
        event = accept(record, self._reader.secret)
        self._clock.observe(event.at)
        if isinstance(event, Post):
            self._score(source, event, record)
        elif not isinstance(event, Tick):
            source.new(event.id, event.at, record.offset)  # a post that comes after its deletion counts nowhere
            if record.offset >= source.judged:
                gone = Opinion(
                    kind="deleted", id=event.id, at=event.at, partition=record.partition, offset=record.offset
                )
                self._out.append(Entry(OPINIONS, event.id, gone.model_dump_json().encode()))
                # [7.3] A gateway reads the audits from their start, so it learns of the deletion from the same topic.
                void = Audit(post=event.id, at=event.at, known_at=event.at, why_not="deleted", inclusion=1.0)
                self._out.append(Entry(AUDITS, event.id, void.model_dump_json().encode()))
        source.observe(min(event.at, record.at))  # a fast clock closes no hour early

    def _score(self, source: Source, post: Post, record: Record) -> None:
        late, expired = sealed(post.at // HOUR, source.watermark), post.at < source.watermark - config.REOPEN
        if not source.new(post.id, post.at, record.offset) or record.offset < source.judged:
            return
        opinion, mentions = self._reader.judged(
            post,
            self._champion.model,
            self._champion.version,
            path=self._path(),
            late=late,
            place=(record.partition, record.offset),
        )
        if expired:  # batch counts it as that, and no hour is opened for it
            # [7.3] Whether it was deleted is not known any more, so its text goes no further.
            opinion, mentions = opinion.model_copy(update={"text": ""}), []
        self._out.append(Entry(OPINIONS, post.id, opinion.model_dump_json().encode()))
        for mention in mentions:
            self._out.append(Entry(MENTIONS, mention.brand, mention.model_dump_json().encode()))

    def _path(self) -> By:
        """By how much waits; asked seldom, as the log has to be asked."""
        if (now := monotonic()) >= self._looked + LOOK:
            self._looked = now
            ends = self._log.ends(POSTS)
            done = {
                place.partition: at.offset for place, at in self._consumer.owned.items() if place.topic == POSTS.name
            }
            done |= {number: source.offset for number, source in self._sources.items()}
            self._load.choose(sum(max(0, ends[number] - offset) for number, offset in done.items()))
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
        message = accept_mention(record)
        if isinstance(message, Mark):
            # The least of all partitions: posts reach a brand from each of them.
            desk.marks[message.source] = max(desk.marks[message.source], message.at)
        elif message.late:
            late = Late(
                brand=message.brand,
                at=message.at,
                post=message.post,
                text=message.text,
                label=message.label,
                partition=message.partition,
                offset=message.offset,
            )
            # With its hour: after a week the id may come again, and the topic keeps the latest record of a key.
            key = f"late:{message.brand}:{message.post}:{message.at // HOUR}"
            entry = Entry(MINUTES, key, late.model_dump_json().encode(), record.partition)
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
