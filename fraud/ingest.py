"""Topic -> validated, de-duplicated lake by event date. What does not validate becomes a dead letter."""

from collections.abc import Sequence
from contextlib import suppress

import polars as pl
from pydantic import ValidationError

from fraud import config
from fraud.history import EVENT_COLUMNS, Refused
from fraud.schema import DEAD, DECISIONS, EVENT, EVENTS, DeadLetter, Event, Tick
from shared.eventlog.port import Entry, EventLog, Place, Position, Record
from shared.lake import Lake

GROUP = "fraud-ingest"
DECIDERS = "fraud-worker"  # the group whose verdict counts

DECISION_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys(("kind", "card", "id", "terminal", "action", "rules", "path", "mark", "model"), pl.String),
    **dict.fromkeys(("at", "cents", "partition", "offset"), pl.Int64),
    **dict.fromkeys(("probability", "propensity"), pl.Float64),
    **dict.fromkeys(("explored", "probe"), pl.Boolean),
    "features": pl.List(pl.Float64),
}


def check_time(event: Event, appended: int) -> None:
    """Judged against the time of append, which the log keeps, so that a replay judges alike.

    Raises:
        Refused: naming `at`.
    """
    if isinstance(event, Tick):  # the bank's own clock
        return
    if event.at > appended + config.MAX_AHEAD:
        raise Refused("at", event.at, f"more than {config.MAX_AHEAD // config.HOUR} hours in the future")
    if event.at < appended - config.MAX_AGE and event.kind == "payment":
        raise Refused("at", event.at, "more than 30 days in the past")


def accept(record: Record) -> Event:
    """The event in a record of `fraud.events`.

    Raises:
        Refused: what is wrong with it.
    """
    try:
        event = EVENT.validate_json(record.value)
    except ValidationError as error:
        raise unreadable(error) from error
    check_time(event, record.at)
    if not isinstance(event, Tick) and record.key != event.card:
        raise Refused("card", event.card, "the record's key is another card")
    return event


def unreadable(error: ValidationError) -> Refused:
    """The first thing that is wrong; cut, as it may quote a megabyte."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("payment", "label", "tick")) or "message"
    return Refused(field[:200], first["input"], first["msg"][:200])


def refusals(letters: Sequence[DeadLetter]) -> list[Entry]:
    """Dead letters of a file as records of their topic; without values that could name a person."""
    letters = [x.model_copy(update={"value": ""}) if x.field in ("card", "device", "line") else x for x in letters]
    return [Entry(DEAD, f"{letter.topic}:{letter.offset}", letter.model_dump_json().encode()) for letter in letters]


def dead_letter(record: Record, refused: Refused) -> Entry:
    letter = DeadLetter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        field=refused.field,
        value=refused.value,
        reason=refused.reason,
        raw=record.value[:2_000].decode(errors="replace"),
    )
    return Entry(DEAD, record.key[:64], letter.model_dump_json().encode())


class Ingest:
    """Takes the topics into the lake, as far as the workers have given their verdict.

    Only the owner of a partition refuses or recognises a repeat; its verdicts are kept as a table of
    refusals and applied on reading, so that the lake and the state of the stream never differ.
    """

    def __init__(self, log: EventLog, lake: Lake, *, member: str = "ingest") -> None:
        self._log, self._lake = log, lake
        self.consumer = log.consumer(GROUP, [EVENTS, DECISIONS, DEAD], member)
        self._held: list[Record] = []
        self.watermarks = [0] * config.PARTITIONS  # event time up to which the lake is complete, by partition

    def step(self, limit: int = 5_000) -> tuple[dict[Place, Position], pl.DataFrame]:
        """Write what is new to the lake; gives the positions that a commit then makes final, and the new decisions."""
        decided = self._log.committed(DECIDERS, EVENTS)
        records = self._held + self.consumer.poll(limit, 0.0)
        self._held = [r for r in records if r.topic == EVENTS.name and r.offset >= _offset(decided, r.partition)]
        done = [r for r in records if r.topic != EVENTS.name or r.offset < _offset(decided, r.partition)]
        if not done:
            return {}, pl.DataFrame(schema=DECISION_COLUMNS)
        positions = {Place(r.topic, r.partition): Position(r.offset + 1) for r in done}
        batch = f"{done[0].topic}-{done[0].partition}-{done[0].offset:012d}"  # nobody else starts a batch there
        by_topic = {topic.name: [r for r in done if r.topic == topic.name] for topic in (EVENTS, DECISIONS, DEAD)}
        self._write_events(by_topic[EVENTS.name], batch=batch)
        write_dead(self._lake, by_topic[DEAD.name], batch=batch)
        return positions, write_verdicts(self._lake, by_topic[DECISIONS.name], batch=batch)

    def catch_up(self) -> int:
        """Take in all that has been decided; gives the number of records."""
        total = 0
        while positions := self.step()[0]:
            before = sum(self.consumer.owned[place].offset for place in positions)
            self.consumer.commit([], positions)
            total += sum(position.offset for position in positions.values()) - before
        return total

    def _write_events(self, records: Sequence[Record], *, batch: str) -> None:
        good, texts = [], []
        for record in records:
            with suppress(Refused):  # its owner has written the dead letter
                event = accept(record)
                good.append(record)
                texts.append(event.model_dump_json())  # not as it came: JSON may be spread over lines, or say "yes"
                if event.kind != "payment" or not event.probe:
                    self.watermarks[record.partition] = max(self.watermarks[record.partition], event.at)
        if good:
            rows = pl.read_ndjson("\n".join(texts).encode(), schema=EVENT_COLUMNS)
            self._lake.write("events", rows.with_columns(_places(good)), batch=batch)


def _offset(positions: dict[int, Position], partition: int) -> int:
    return positions[partition].offset if partition in positions else 0


def write_verdicts(lake: Lake, records: Sequence[Record], *, batch: str) -> pl.DataFrame:
    """Decisions, and the repeats and conflicts among them as refusals; gives the decisions."""
    if not records:
        return pl.DataFrame(schema=DECISION_COLUMNS)
    rows = pl.read_ndjson(b"\n".join(r.value for r in records), schema=DECISION_COLUMNS)
    refusals = rows.filter(pl.col("kind") != "decision").select("partition", "offset", at=pl.lit(records[0].at))
    lake.write("refusals", refusals, batch=f"{batch}-verdicts")
    placed = rows.rename({"partition": "event_partition", "offset": "event_offset"}).with_columns(_places(records))
    decisions = placed.filter(pl.col("kind") == "decision")
    lake.write("decisions", decisions, batch=batch)
    return decisions


def write_dead(lake: Lake, records: Sequence[Record], *, batch: str) -> None:
    if not records:
        return
    letters = [DeadLetter.model_validate_json(record.value) for record in records]
    rows = [(x.partition, x.offset, r.at) for x, r in zip(letters, records, strict=True) if x.topic == EVENTS.name]
    frame = pl.DataFrame(rows, schema={"partition": pl.Int64, "offset": pl.Int64, "at": pl.Int64}, orient="row")
    lake.write("refusals", frame, batch=f"{batch}-dead")


def _places(records: Sequence[Record]) -> list[pl.Series]:
    return [
        pl.Series("partition", [record.partition for record in records], dtype=pl.Int64),
        pl.Series("offset", [record.offset for record in records], dtype=pl.Int64),
    ]
