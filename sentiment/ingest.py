"""Topic or file -> validated lake by event date. What does not validate becomes a dead letter."""

from collections.abc import Sequence
from contextlib import suppress

import polars as pl
from pydantic import ValidationError

from sentiment import config
from sentiment.history import AUDIT_COLUMNS, Columns
from sentiment.schema import (
    AUDITS,
    CORRECTIONS,
    DEAD,
    EVENT,
    OPINIONS,
    POSTS,
    Audit,
    Correction,
    DeadLetter,
    Event,
    Opinion,
    Post,
    Tick,
    Tombstone,
)
from shared.eventlog.port import Entry, EventLog, Place, Position, Record
from shared.lake import Lake

GROUP = "sentiment-ingest"
TAKEN = (POSTS, OPINIONS, AUDITS, CORRECTIONS)

POST_COLUMNS: Columns = {
    **dict.fromkeys(("id", "author", "text"), pl.String),
    **dict.fromkeys(("at", "partition", "offset"), pl.Int64),
    "expired": pl.Boolean,  # came when its hour could no longer be published again
}
TOMBSTONE_COLUMNS: Columns = {
    "id": pl.String,
    **dict.fromkeys(("at", "partition", "offset"), pl.Int64),
}
OPINION_COLUMNS: Columns = {
    **dict.fromkeys(("kind", "id", "text", "label", "why_not", "path", "mark", "model", "definition"), pl.String),
    **dict.fromkeys(("at", "partition", "offset"), pl.Int64),
    "score": pl.List(pl.Float64),
    "inclusion": pl.Float64,
}
CORRECTION_COLUMNS: Columns = {
    **dict.fromkeys(("post", "shown", "label", "model", "reader"), pl.String),
    **dict.fromkeys(("at", "partition", "offset"), pl.Int64),
}


class Refused(Exception):
    """A message that is no valid event: which field, which value, and why."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(f"{field}: {reason} (got {str(value)[:200]!r})")
        self.field, self.value, self.reason = field, str(value)[:200], reason


def accept(record: Record) -> Event:
    """The event in a record of `sentiment.posts`; judged against the time of append, so that a replay judges alike.

    Raises:
        Refused: what is wrong with it.
    """
    try:
        event = EVENT.validate_json(record.value)
    except ValidationError as error:
        raise unreadable(error) from error
    if isinstance(event, Tick):  # our own clock's
        return event
    if event.at > record.at + config.MAX_AHEAD:
        raise Refused("at", event.at, f"more than {config.MAX_AHEAD // config.MINUTE} minutes in the future")
    if isinstance(event, Post) and event.at < record.at - config.MAX_AGE:
        raise Refused("at", event.at, f"more than {config.MAX_AGE // config.DAY} days in the past")
    if record.key != event.id:
        raise Refused("id", event.id, "the record's key is another id")
    if isinstance(event, Post) and not event.text.strip():
        raise Refused("text", event.text, "holds nothing but blanks")
    return event


def unreadable(error: ValidationError) -> Refused:
    """The first thing that is wrong; cut, as it may quote a megabyte."""
    first = error.errors(include_url=False)[0]
    kinds = ("post", "tombstone", "tick")
    field = ".".join(str(part) for part in first["loc"] if part not in kinds) or "message"
    return Refused(field[:200], first["input"], first["msg"][:200])


def dead_letter(record: Record, refused: Refused) -> Entry:
    letter = DeadLetter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        field=refused.field,
        value=refused.value.encode(errors="replace").decode(),
        reason=refused.reason,
        raw=record.value[:2_000].decode(errors="replace"),
    )
    return Entry(DEAD, record.key[:64], letter.model_dump_json().encode())


class Ingest:
    """Takes posts and audits into the lake. It owns all partitions; `watermark` says how complete the lake is."""

    def __init__(self, log: EventLog, lake: Lake, *, member: str = "ingest") -> None:
        self._lake = lake
        self.consumer = log.consumer(GROUP, TAKEN, member)

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
        """Take in what is there; gives the number of records."""
        records = self.consumer.poll(limit, 0.0)
        if not records:
            return 0
        batch = f"{records[0].topic}-{records[0].partition}-{records[0].offset:012d}"  # nobody else starts one there
        by_topic = {topic: [r for r in records if r.topic == topic.name] for topic in TAKEN}
        marks = self._write_posts(by_topic[POSTS], batch=batch)
        opinions = [Opinion.model_validate_json(r.value).model_dump() | _place(r) for r in by_topic[OPINIONS]]
        self._lake.write("opinions", _frame(opinions, OPINION_COLUMNS), batch=batch)
        refusals = self._write_said(by_topic[AUDITS], Audit, "audits", AUDIT_COLUMNS | {"of": pl.Int64}, batch=batch)
        refusals += self._write_said(by_topic[CORRECTIONS], Correction, "corrections", CORRECTION_COLUMNS, batch=batch)
        positions = {Place(r.topic, r.partition): r.offset + 1 for r in records}
        self.consumer.commit(
            refusals, {place: Position(offset, str(marks.get(place, ""))) for place, offset in positions.items()}
        )
        return len(records)

    def catch_up(self) -> int:
        """Take in all that there is; gives the number of records."""
        total = 0
        while taken := self.step():
            total += taken
        return total

    def _write_posts(self, records: Sequence[Record], *, batch: str) -> dict[Place, int]:
        """Posts and deletions; gives how far time has come, by partition."""
        marks = {place: int(position.note or 0) for place, position in self.consumer.owned.items()}
        posts, tombstones = [], []
        for record in records:
            place = Place(record.topic, record.partition)
            with suppress(Refused):  # the worker has written the dead letter
                event = accept(record)
                marks[place] = max(marks[place], event.at)
                row = event.model_dump(exclude={"kind"}) | _place(record)
                if isinstance(event, Post):
                    posts.append(row | {"expired": event.at < marks[place] - config.REOPEN})
                elif isinstance(event, Tombstone):
                    tombstones.append(row)
        self._lake.write("posts", _frame(posts, POST_COLUMNS), batch=batch)
        self._lake.write("tombstones", _frame(tombstones, TOMBSTONE_COLUMNS), batch=batch)
        return marks

    def _write_said(
        self, records: Sequence[Record], noun: type[Audit | Correction], table: str, columns: Columns, *, batch: str
    ) -> list[Entry]:
        """What people said of posts; gives the dead letters of what cannot be read."""
        rows, refusals = [], []
        for record in records:
            try:
                said = noun.model_validate_json(record.value)
            except ValidationError as error:
                refusals.append(dead_letter(record, unreadable(error)))
                continue
            known = {"of": said.at, "at": said.known_at} if isinstance(said, Audit) else {}
            rows.append(said.model_dump() | _place(record) | known)
        self._lake.write(table, _frame(rows, columns), batch=batch)
        return refusals


def _place(record: Record) -> dict[str, int]:
    return {"partition": record.partition, "offset": record.offset}


def _frame(rows: list[dict[str, object]], columns: Columns) -> pl.DataFrame:
    return pl.DataFrame([{name: row[name] for name in columns} for row in rows], schema=columns)
