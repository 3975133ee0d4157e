"""Topics -> validated lake by event date, up to the offsets that a night has frozen. The rest becomes dead letters."""

from collections.abc import Sequence

import polars as pl
from pydantic import ValidationError

from recsys import config
from recsys.history import EVENT_COLUMNS, PRODUCT_COLUMNS, Columns, Refused
from recsys.schema import (
    CATALOGUE,
    DEAD,
    ERASURES,
    EVENTS,
    IMPRESSIONS,
    INPUTS,
    DeadLetter,
    Erasure,
    Event,
    Impression,
    Noun,
    Product,
)
from shared.eventlog.port import Entry, EventLog, Place, Position, Record
from shared.lake import Lake

GROUP = "recsys-ingest"
Offsets = dict[str, dict[int, int]]  # by topic and partition, of the next record

NOUNS: dict[str, type[Event] | type[Impression] | type[Erasure] | type[Product]] = {
    EVENTS.name: Event,
    IMPRESSIONS.name: Impression,
    ERASURES.name: Erasure,
    CATALOGUE.name: Product,
}
COLUMNS: dict[str, Columns] = {
    EVENTS.name: EVENT_COLUMNS,
    CATALOGUE.name: PRODUCT_COLUMNS,
    ERASURES.name: {"user": pl.String, "at": pl.Int64},
}
IMPRESSION_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys(("list_id", "user", "version", "path"), pl.String),
    **dict.fromkeys(("at", "permuted"), pl.Int64),
    "explored": pl.Boolean,
    "items": pl.List(pl.String),
    "sources": pl.List(pl.String),
}


def frozen(log: EventLog) -> Offsets:
    """Where the night's input ends: what comes later waits for tomorrow."""
    return {topic.name: log.ends(topic) for topic in INPUTS}


def check_time(at: int, appended: int) -> None:
    """Judged against the time of append, which the log keeps, so that a replay judges alike.

    Raises:
        Refused: naming `at`.
    """
    if at > appended + config.MAX_AHEAD:
        raise Refused("at", at, f"more than {config.MAX_AHEAD // config.HOUR} hours in the future")
    if at < appended - config.MAX_AGE:
        raise Refused("at", at, f"more than {config.MAX_AGE // config.DAY} days in the past")


def accept(record: Record) -> Event | Impression | Erasure | Product:
    """The noun in a record of an input topic.

    Raises:
        Refused: what is wrong with it.
    """
    try:
        noun = NOUNS[record.topic].model_validate_json(record.value)
    except ValidationError as error:
        raise unreadable(error) from error
    if not isinstance(noun, Product):
        check_time(noun.at, record.at)
        if record.key != noun.user:
            raise Refused("user", noun.user, "the record's key is another shopper")
    return noun


def unreadable(error: ValidationError) -> Refused:
    """The first thing that is wrong; cut, as it may quote a megabyte."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "message"
    return Refused(field[:200], first["input"], first["msg"][:200])


def dead_letter(record: Record, refused: Refused) -> Entry:
    """Without the value where it could name a person."""
    letter = DeadLetter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        field=refused.field,
        value="" if refused.field == "user" else refused.value,
        reason=refused.reason,
    )
    return Entry(DEAD, record.key[:64], letter.model_dump_json().encode())


def refusals(letters: Sequence[DeadLetter]) -> list[Entry]:
    """Dead letters of a file as records of their topic."""
    letters = [x.model_copy(update={"value": ""}) if x.field == "user_id" else x for x in letters]
    return [Entry(DEAD, f"{letter.topic}:{letter.offset}", letter.model_dump_json().encode()) for letter in letters]


def ingest(log: EventLog, lake: Lake, offsets: Offsets, *, member: str = "night", limit: int = 20_000) -> int:
    """Take the topics into the lake up to `offsets`; gives the number of records.

    Written first and committed then, under names that hang on the offsets alone: who is killed in between
    writes the same files again.
    """
    consumer = log.consumer(GROUP, INPUTS, member)
    wanted, total = {Place(topic.name, n) for topic in INPUTS for n in range(topic.partitions)}, 0
    try:
        while True:
            records = consumer.poll(limit, 0.0)
            due = [r for r in records if r.offset < offsets.get(r.topic, {}).get(r.partition, 0)]
            if due:
                letters = _write(lake, due)
                consumer.commit(letters, {Place(r.topic, r.partition): Position(r.offset + 1) for r in due})
                total += len(due)
            elif wanted <= consumer.owned.keys():
                return total
    finally:
        consumer.close()


def _write(lake: Lake, records: Sequence[Record]) -> list[Entry]:
    """Write what is valid, a file for each partition's stretch; gives the dead letters."""
    letters, by_place = [], dict[Place, list[tuple[Record, Noun]]]()
    for record in records:
        try:
            by_place.setdefault(Place(record.topic, record.partition), []).append((record, accept(record)))
        except Refused as refused:
            letters.append(dead_letter(record, refused))
    for place, taken in by_place.items():
        if not taken:
            continue
        texts = "\n".join(noun.model_dump_json() for _, noun in taken)
        schema = IMPRESSION_COLUMNS if place.topic == IMPRESSIONS.name else COLUMNS[place.topic]
        rows = pl.read_ndjson(texts.encode(), schema=schema).with_columns(
            partition=pl.lit(place.partition, pl.Int64),
            offset=pl.Series([record.offset for record, _ in taken], dtype=pl.Int64),
        )
        batch = f"{place.partition}-{taken[0][0].offset:012d}"
        lake.write(place.topic.removeprefix("recsys."), rows, batch=batch)
    return letters
