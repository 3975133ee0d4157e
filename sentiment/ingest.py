"""Topics -> validated lake by event date. Invalid records become dead letters."""

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple

import polars as pl
from pydantic import ValidationError

from sentiment import config
from sentiment.config import DAY, HOUR
from sentiment.dataset import day_of
from sentiment.history import AUDIT_COLUMNS, Columns
from sentiment.known_ids import KnownIds, sealed
from sentiment.schema import (
    AUDITS,
    CORRECTIONS,
    DEAD,
    EVENT,
    MENTION,
    MENTIONS,
    OPINIONS,
    PERSONAL,
    POSTS,
    Audit,
    Correction,
    Event,
    Mark,
    Mention,
    Opinion,
    Post,
    Tick,
    Tombstone,
)
from shared import lake_rebuild
from shared.dead_letters import Refused, from_validation
from shared.dead_letters import dead_letter as letter_of
from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import Entry, EventLog, Fenced, Place, Position, Record, Topic, is_misplaced
from shared.ingested_files import IngestedFiles
from shared.lake import Lake
from shared.lake_rebuild import Rebuilt, taken_records
from shared.privacy import pseudonymised

GROUP = "sentiment-ingest"
TAKEN = (POSTS, OPINIONS, AUDITS, CORRECTIONS)

POST_COLUMNS: Columns = {
    **dict.fromkeys(("id", "author", "text"), pl.String),
    **dict.fromkeys(("at", "partition", "offset"), pl.Int64),
}
UNCOUNTED_COLUMNS: Columns = {
    **dict.fromkeys(("id", "why"), pl.String),  # why: a repeat, or expired: its hour could not be published again
    **dict.fromkeys(("at", "partition", "offset"), pl.Int64),
}
LATE_COLUMNS: Columns = dict.fromkeys(("at", "partition", "offset"), pl.Int64)  # of posts whose hour was sealed
TOMBSTONE_COLUMNS: Columns = {
    "id": pl.String,
    **dict.fromkeys(("at", "said", "partition", "offset"), pl.Int64),  # said: when it was, as the producer has it
    "days": pl.List(pl.Int64),  # event days of the post, since the epoch; none are known of one older than a week
}
OPINION_COLUMNS: Columns = {
    **dict.fromkeys(("kind", "id", "text", "label", "why_not", "path", "mark", "model", "definition"), pl.String),
    **dict.fromkeys(("at", "partition", "offset"), pl.Int64),
    "score": pl.List(pl.Float64),
}
CORRECTION_COLUMNS: Columns = {
    **dict.fromkeys(("post", "shown", "label", "model", "reader"), pl.String),
    **dict.fromkeys(("at", "partition", "offset"), pl.Int64),
}
IDS = ("posts", "uncounted", "tombstones")  # tables that together have every id
POST_TABLES = {
    "posts": POST_COLUMNS,
    "late": LATE_COLUMNS,
    "uncounted": UNCOUNTED_COLUMNS,
    "tombstones": TOMBSTONE_COLUMNS,
}

logger = logging.getLogger(__name__)

KINDS = ("post", "tombstone", "tick", "mention", "mark")  # parts of a field's path that only name the kind


class Said(NamedTuple):
    """A topic of what was said of posts, and its table in the lake."""

    topic: Topic
    kind: type[Opinion | Audit | Correction]
    key: str  # the field that is the record's key
    table: str
    columns: Columns


SAID = (
    Said(OPINIONS, Opinion, "id", "opinions", OPINION_COLUMNS),
    Said(AUDITS, Audit, "post", "audits", AUDIT_COLUMNS | {"of": pl.Int64}),
    Said(CORRECTIONS, Correction, "post", "corrections", CORRECTION_COLUMNS),
)


def accept(record: Record, secret: bytes) -> Event:
    """The event in a record of `sentiment.posts`; judged against the time of append, so that a replay judges alike.

    Its author is a pseudonym from here on, whatever the producer sent; `secret` is its key.

    Raises:
        Refused: what is wrong with it.
    """
    try:
        event = EVENT.validate_json(record.value)
    except ValidationError as error:
        raise from_validation(error, skip=KINDS) from error
    if event.at > record.at + config.MAX_AHEAD:
        raise Refused("at", event.at, f"more than {config.MAX_AHEAD // config.MINUTE} minutes in the future")
    if isinstance(event, Tick):  # in every partition
        return event
    if isinstance(event, Post) and event.at < record.at - config.MAX_AGE:
        raise Refused("at", event.at, f"more than {config.MAX_AGE // config.DAY} days in the past")
    _check_key(record, POSTS, "id", event.id)
    if isinstance(event, Post):
        if not event.text.strip():
            raise Refused("text", event.text, "holds nothing but blanks")
        # [7.3] The one place at which posts come in: no topic, table or view behind it knows a handle.
        event = event.model_copy(update={"author": pseudonymised(event.author.removeprefix("@"), secret)})
    return event


def accept_mention(record: Record) -> Mention | Mark:
    """The message in a record of `sentiment.mentions`. Raises Refused."""
    try:
        message = MENTION.validate_json(record.value)
    except ValidationError as error:
        raise from_validation(error, skip=KINDS) from error
    if isinstance(message, Mention):
        _check_key(record, MENTIONS, "brand", message.brand)
    return message


def accept_opinion(record: Record) -> Opinion:
    """The opinion in a record of `sentiment.opinions`. Raises Refused."""
    try:
        opinion = Opinion.model_validate_json(record.value)
    except ValidationError as error:
        raise from_validation(error) from error
    _check_key(record, OPINIONS, "id", opinion.id)
    return opinion


def _check_key(record: Record, topic: Topic, field: str, key: str) -> None:
    """Raises Refused for a record that its key's owner would not find."""
    if record.key != key:
        raise Refused(field, key, "the record's key is another one")
    if is_misplaced(record, topic):
        raise Refused(field, key, f"partition {record.partition} is not that of its key")


def dead_letter(record: Record, refused: Refused) -> Entry:
    """The record of a refusal on `sentiment.dead`."""
    return letter_of(DEAD, record, refused, personal=PERSONAL)


class Ingest:
    """Takes posts and audits into the lake. It owns all partitions; `watermark` says how complete the lake is."""

    def __init__(self, log: EventLog, lake: Lake, *, secret: bytes, member: str = "ingest") -> None:
        """`secret`: key of the pseudonyms."""
        self._lake, self._secret = lake, secret
        self.consumer = log.consumer(GROUP, TAKEN, member)
        self._pending: list[Record] = []  # read, and not in the lake yet
        self._known: dict[int, KnownIds] = {}  # by partition of posts; where there is none it is built from the lake

    @property
    def until(self) -> tuple[int, ...]:
        """By partition of posts, the offset up to which the lake has them."""
        owned = self.consumer.owned
        places = [Place(POSTS.name, number) for number in range(POSTS.partitions)]
        return tuple(owned[place].offset if place in owned else 0 for place in places)

    @property
    def watermark(self) -> int:
        """Event time that every partition has passed; 0 while one is not owned, or has said nothing yet."""
        owned = self.consumer.owned
        places = [Place(POSTS.name, number) for number in range(POSTS.partitions)]
        return min(int(owned[place].note or 0) if place in owned else 0 for place in places)

    def step(self, limit: int = 2_000) -> int:
        """Take in what is there; gives the number of records.

        When a batch raises, its records are taken in one by one, so that a bad one costs only itself.

        Raises:
            Fenced, LogUnavailable: make a new one.
            OSError: the lake takes nothing now; the next step tries the same records again.
        """
        if self._pending:
            self.consumer.poll(0, 0.0)  # keeps its claims
        else:
            self._pending = self.consumer.poll(limit, 0.0)
        records = self._pending
        if not records:
            self._pass_over()
            return 0
        try:
            self._take(records)
        except (Fenced, *DEPENDENCY_ERRORS):
            raise
        except Exception:
            logger.exception("a batch of %d records is taken in one by one", len(records))
            for number, record in enumerate(records):
                self._pending = records[number:]
                self._take_alone(record)
        self._pending = []
        return len(records)

    def _pass_over(self) -> None:
        """Commit past what holds no records, such as a transaction's end: who looks sees that all was taken in."""
        owned, read = self.consumer.owned, self.consumer.positions
        moved = {place: read[place] for place in owned if read.get(place, 0) > owned[place].offset}
        if moved:
            self.consumer.commit([], {place: Position(offset, owned[place].note) for place, offset in moved.items()})

    def _take_alone(self, record: Record) -> None:
        """One record; what it brings the lake to raise is a dead letter."""
        try:
            self._take([record])
        except (Fenced, *DEPENDENCY_ERRORS):
            raise
        except Exception as error:
            place = Place(record.topic, record.partition)
            note = self.consumer.owned[place].note
            letter = dead_letter(record, Refused("message", "", type(error).__name__))
            self.consumer.commit([letter], {place: Position(record.offset + 1, note)})

    def _take(self, records: Sequence[Record]) -> None:
        """Write records to the lake, and commit behind them."""
        batch = _batch(records)
        by_topic = {topic: [r for r in records if r.topic == topic.name] for topic in TAKEN}
        partitions = {record.partition for record in by_topic[POSTS]}
        try:
            self._recall(partitions - self._known.keys())
            write_posts(self._lake, by_topic[POSTS], self._known, secret=self._secret, batch=batch)
        except BaseException:
            self._known.clear()  # the records come again
            raise
        marks = {Place(POSTS.name, number): self._known[number].watermark for number in partitions}
        refusals = [
            letter
            for said in SAID
            for letter in write_said(self._lake, by_topic[said.topic], said, secret=self._secret, batch=batch)
        ]
        positions = {Place(r.topic, r.partition): r.offset + 1 for r in records}
        self.consumer.commit(
            refusals, {place: Position(offset, str(marks.get(place, ""))) for place, offset in positions.items()}
        )

    def catch_up(self) -> int:
        """Take in all that there is; gives the number of records."""
        total = 0
        while taken := self.step():
            total += taken
        return total

    def _recall(self, partitions: Collection[int]) -> None:
        """Build what is known of partitions from the lake, which has every record that was taken in."""
        positions = {number: self.consumer.owned[Place(POSTS.name, number)] for number in partitions}
        watermarks = {number: int(position.note or 0) for number, position in positions.items()}
        ends = {number: position.offset for number, position in positions.items()}
        self._known |= known_ids(self._lake, watermarks, before=ends)


def known_ids(lake: Lake, watermarks: Mapping[int, int], *, before: Mapping[int, int]) -> dict[int, KnownIds]:
    """By partition of posts, the ids of the records before an offset, as the lake has them.

    `watermarks`: by partition, how far event time has come.
    """
    known = {number: KnownIds(watermark) for number, watermark in watermarks.items()}
    begun = [watermark for watermark in watermarks.values() if watermark]
    since = day_of(max(0, min(begun, default=0) - config.REOPEN - DAY))
    # A day at a time: eight days of texts may be more than the memory holds.
    days = [(table, day) for table in IDS for day in lake.dates(table) if begun and day >= since]
    for table, day in days:
        rows = lake.read(table, since=day, until=day + timedelta(days=1))
        time = pl.coalesce("said", "at") if "said" in rows.columns else pl.col("at")
        for id, at, number, offset in rows.select("id", time, "partition", "offset").iter_rows():
            if number in known and offset < before[number]:
                known[number].new(id, at, offset)
    return known


def write_posts(
    lake: Lake, records: Sequence[Record], known: Mapping[int, KnownIds], *, secret: bytes, batch: str
) -> None:
    """Posts that count, others, and deletions; moves what is `known` of the partitions on."""
    rows: dict[str, list[dict[str, object]]] = {table: [] for table in POST_TABLES}
    for record in records:
        ids = known[record.partition]
        with suppress(Refused):  # the worker has written the dead letter
            event = accept(record, secret)
            if isinstance(event, Tombstone):
                # The time that its partition has come to, so it is never before that of its post.
                passed = {"at": max(event.at, ids.watermark), "said": event.at, "days": ids.days(event.id)}
                rows["tombstones"].append({"id": event.id} | passed | _place(record))
                ids.new(event.id, event.at, record.offset)
            elif isinstance(event, Post):
                first = ids.new(event.id, event.at, record.offset)
                expired = event.at < ids.watermark - config.REOPEN
                why = "repeat" if not first else "expired" if expired else None
                row = event.model_dump() | _place(record) | {"why": why}
                rows["uncounted" if why else "posts"].append(row)
                if why is None and sealed(event.at // HOUR, ids.watermark):
                    rows["late"].append(row)
            ids.observe(min(event.at, record.at))
    for table, columns in POST_TABLES.items():
        lake.write(table, _frame(rows[table], columns), batch=batch)
    # From what is kept to make the lake again, too. Only now: a file that is taken in at this moment either finds the
    # deletion in the lake, or is there to be written again.
    if gone := [str(row["id"]) for row in rows["tombstones"]]:
        IngestedFiles(lake).erase("audits", gone, column="post")


def write_said(lake: Lake, records: Sequence[Record], said: Said, *, secret: bytes, batch: str) -> list[Entry]:
    """What was said of posts; gives the dead letters of what cannot be read."""
    rows, refusals = [], []
    for record in records:
        try:
            if said.topic == OPINIONS:
                message: Opinion | Audit | Correction = accept_opinion(record)
            else:
                message = said.kind.model_validate_json(record.value)
                _check_key(record, said.topic, said.key, getattr(message, said.key))
        except ValidationError as error:
            refusals.append(dead_letter(record, from_validation(error)))
            continue
        except Refused as error:
            refusals.append(dead_letter(record, error))
            continue
        other: dict[str, object] = {}
        if isinstance(message, Audit):
            if message.known_at is None or not message.text:  # a question, or a post that was deleted
                continue
            other = {"of": message.at, "at": message.known_at, "drawn": sorted(message.drawn)}
        elif isinstance(message, Correction):
            other = {"reader": pseudonymised(message.reader, secret)}
        rows.append(message.model_dump() | _place(record) | other)
    lake.write(said.table, _frame(rows, said.columns), batch=batch)
    return refusals


def rebuild(log: EventLog, lake: Lake, *, secret: bytes) -> Rebuilt:
    """Make the lake again. Nothing else may write to it meanwhile."""

    def take(new: Lake) -> int:
        begin = log.starts(POSTS)
        carried = pl.concat([new.read(table).select("partition", "at") for table in POST_TABLES])
        latest = dict(carried.group_by("partition").agg(pl.col("at").max()).iter_rows())
        known, count = known_ids(new, {n: latest.get(n, 0) for n in begin}, before=begin), 0
        for records in taken_records(log, GROUP, TAKEN):
            by_topic = {topic: [r for r in records if r.topic == topic.name] for topic in TAKEN}
            batch = _batch(records) if records else ""
            write_posts(new, by_topic[POSTS], known, secret=secret, batch=batch)
            for said in SAID:  # their dead letters were written before
                write_said(new, by_topic[said.topic], said, secret=secret, batch=batch)
            count += len(records)
        return count

    tables = dict.fromkeys(POST_TABLES, POSTS) | {said.table: said.topic for said in SAID}
    return lake_rebuild.rebuild(log, lake, take, tables=tables)


def _batch(records: Sequence[Record]) -> str:
    """Names a batch; no other begins there."""
    return f"{records[0].topic}-{records[0].partition}-{records[0].offset:012d}"


def _place(record: Record) -> dict[str, int]:
    return {"partition": record.partition, "offset": record.offset}


def _frame(rows: list[dict[str, object]], columns: Columns) -> pl.DataFrame:
    return pl.DataFrame([{name: row[name] for name in columns} for row in rows], schema=columns)
