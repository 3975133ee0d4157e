"""Topics -> validated lake by event date, up to the offsets that a nightly job has frozen. The rest: dead letters."""

from collections.abc import Mapping, Sequence

import polars as pl
from pydantic import ValidationError

from recsys import config
from recsys.history import EVENT_COLUMNS, PRODUCT_COLUMNS, Columns
from recsys.schema import (
    CATALOGUE,
    DEAD,
    ERASURES,
    EVENTS,
    IMPRESSIONS,
    INPUTS,
    PERSONAL,
    Erasure,
    Event,
    Impression,
    Product,
)
from shared import lake_rebuild
from shared.clock import monotonic
from shared.dead_letters import Refused, dead_letter, from_validation
from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import (
    Consumer,
    Entry,
    EventLog,
    LogUnavailable,
    Place,
    Position,
    Record,
    Topic,
    is_misplaced,
)
from shared.ingested_files import IngestedFiles
from shared.lake import Lake
from shared.lake_rebuild import Rebuilt, taken_records
from shared.privacy import pseudonymised

GROUP = "recsys-ingest"
PATIENCE = 60.0  # seconds without anything new before the frozen offsets count as out of reach
POLL = 0.1  # seconds that a poll waits
Offsets = dict[str, dict[int, int]]  # by topic and partition, of the next record

Input = Event | Impression | Erasure | Product

SCHEMAS: dict[str, tuple[Topic, type[Event] | type[Impression] | type[Erasure] | type[Product]]] = {
    EVENTS.name: (EVENTS, Event),
    IMPRESSIONS.name: (IMPRESSIONS, Impression),
    ERASURES.name: (ERASURES, Erasure),
    CATALOGUE.name: (CATALOGUE, Product),
}
COLUMNS: dict[str, Columns] = {
    EVENTS.name: EVENT_COLUMNS,
    CATALOGUE.name: PRODUCT_COLUMNS,
    ERASURES.name: {"user": pl.String, "at": pl.Int64},
}
IMPRESSION_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys(("list_id", "user", "version", "path"), pl.String),
    **dict.fromkeys(("at", "permuted"), pl.Int64),
    **dict.fromkeys(("explored", "logged"), pl.Boolean),
    "items": pl.List(pl.String),
    "sources": pl.List(pl.String),
    "support": pl.List(pl.String),
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


def accept(record: Record, key: bytes) -> Input:
    """The message in a record of an input topic; its shopper is a pseudonym, whatever the producer sent.

    `key`: of the pseudonyms.

    Raises:
        Refused: what is wrong with it.
    """
    topic, schema = SCHEMAS[record.topic]
    try:
        message = schema.model_validate_json(record.value)
    except ValidationError as error:
        raise from_validation(error) from error
    if not isinstance(message, Product):
        check_time(message.at, record.at)
        if record.key != message.user:
            raise Refused("user", message.user, "the record's key is another shopper")
        if is_misplaced(record, topic):
            raise Refused("partition", record.partition, "the record's key belongs to another partition")
        # [7.3] The one place at which records come in: no lake, table or list behind it knows a name.
        message = message.model_copy(update={"user": pseudonymised(message.user, key)})
    if isinstance(message, Erasure):  # asked for by a fast clock, it does not cover what is yet to come
        message = message.model_copy(update={"at": min(message.at, record.at)})
    return message


def ingest(
    log: EventLog, lake: Lake, offsets: Offsets, *, key: bytes, member: str = "night", limit: int = 20_000
) -> int:
    """Take the topics into the lake up to `offsets`; gives the number of records. `key`: of the pseudonyms.

    Written first and committed then, under names that hang on the offsets alone: a process that is killed in between
    writes the same files again.
    """
    ends = {Place(topic, n): end for topic, by_partition in offsets.items() for n, end in by_partition.items()}
    consumer, total = log.consumer(GROUP, INPUTS, member), 0
    wait, until = 0.0, monotonic() + PATIENCE
    try:
        while True:
            records = consumer.poll(limit, wait)
            due = [r for r in records if r.offset < ends.get(Place(r.topic, r.partition), 0)]
            if due:
                letters = _write(lake, due, key=key)
                consumer.commit(letters, {Place(r.topic, r.partition): Position(r.offset + 1) for r in due})
                total, until = total + len(due), monotonic() + PATIENCE
            wait = 0.0 if due else POLL
            # Partitions may come one by one, so a poll without any record that is due does not say that all are there.
            if not (missing := _missing(log, consumer, ends)):
                return total
            if monotonic() > until:
                raise LogUnavailable(f"{missing[0].topic}/{missing[0].partition} does not come up to the frozen offset")
    finally:
        consumer.close()


def _missing(log: EventLog, consumer: Consumer, ends: Mapping[Place, int]) -> list[Place]:
    """Partitions that have not been read up to their ends; what the log no longer keeps cannot be."""
    positions = consumer.positions
    behind = [place for place, end in ends.items() if positions.get(place, -1) < end]
    if behind:
        starts = {Place(topic.name, n): at for topic in INPUTS for n, at in log.starts(topic).items()}
        behind = [place for place in behind if starts[place] < ends[place]]
    return behind


def rebuild(log: EventLog, lake: Lake, *, key: bytes) -> Rebuilt:
    """Make the lake again. Nothing else may write to it meanwhile."""

    def take(new: Lake) -> int:
        count = 0
        for records in taken_records(log, GROUP, INPUTS):
            _write(new, records, key=key)  # its dead letters were written before
            count += len(records)
        return count

    return lake_rebuild.rebuild(log, lake, take, tables={_table(topic.name): topic for topic in INPUTS})


def _write(lake: Lake, records: Sequence[Record], *, key: bytes) -> list[Entry]:
    """Write what is valid, a file for each partition's stretch; gives the dead letters."""
    letters, by_place = [], dict[Place, list[tuple[Record, Input]]]()
    erased: dict[str, int] = {}  # until when, by shopper
    for record in records:
        try:
            message = accept(record, key)
        except Refused as refused:
            letters.append(dead_letter(DEAD, record, refused, personal=PERSONAL))
        else:
            by_place.setdefault(Place(record.topic, record.partition), []).append((record, message))
            if isinstance(message, Erasure):
                erased[message.user] = max(message.at, erased.get(message.user, 0))
    for place, taken in by_place.items():
        rows, bad = _rows(place, taken)
        letters += [dead_letter(DEAD, record, refused, personal=PERSONAL) for record, refused in bad]
        if not rows.is_empty():
            batch = f"{place.partition}-{taken[0][0].offset:012d}"
            lake.write(_table(place.topic), rows, batch=batch)
    # At reading, the lake leaves them out; what is kept to make it again has to lose them. Only now: a file that is
    # taken in at this moment either finds the erasure in the lake, or is there to be written again.
    if erased:
        until = pl.col("user").replace_strict(erased, default=-1, return_dtype=pl.Int64)
        IngestedFiles(lake).erase("events", list(erased), column="user", gone=pl.col("at") <= until)
    return letters


def _table(topic: str) -> str:
    return topic.removeprefix("recsys.")


def _rows(place: Place, taken: Sequence[tuple[Record, Input]]) -> tuple[pl.DataFrame, list[tuple[Record, Refused]]]:
    """The messages as rows of the lake; those that cannot be one, with the reason, cost only themselves."""
    schema = IMPRESSION_COLUMNS if place.topic == IMPRESSIONS.name else COLUMNS[place.topic]
    try:
        rows = pl.read_ndjson("\n".join(message.model_dump_json() for _, message in taken).encode(), schema=schema)
        return rows.with_columns(
            partition=pl.lit(place.partition, pl.Int64),
            offset=pl.Series([record.offset for record, _ in taken], dtype=pl.Int64),
            known_at=pl.Series([record.at for record, _ in taken], dtype=pl.Int64),  # when the log took it
        ), []
    except DEPENDENCY_ERRORS:
        raise
    except Exception as error:
        if len(taken) <= 1:
            refused = Refused("message", "", f"no row can be made of it: {type(error).__name__}")
            return pl.DataFrame(), [(record, refused) for record, _ in taken]
        parts = [_rows(place, [one]) for one in taken]
        good = [part for part, _ in parts if not part.is_empty()]
        return pl.concat(good) if good else pl.DataFrame(), [letter for _, bad in parts for letter in bad]
