"""Topic -> validated, deduplicated lake by event date. Invalid records become dead letters."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import polars as pl
from pydantic import ValidationError

from fraud import config
from fraud.history import EVENT_COLUMNS
from fraud.schema import (
    DEAD,
    DECISIONS,
    EVENT,
    EVENTS,
    PERSONAL,
    VERDICT,
    Decision,
    Event,
    Tick,
    Verdict,
)
from shared import dead_letters, lake_rebuild
from shared.dead_letters import DeadLetter, Refused, from_validation
from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import Entry, EventLog, Place, Position, Record, is_misplaced
from shared.lake import Lake
from shared.lake_rebuild import Rebuilt, taken_records
from shared.unusable import Unusable

GROUP = "fraud-ingest"
TAKEN = (EVENTS, DECISIONS, DEAD)
DECIDERS = "fraud-worker"  # the group whose verdict counts
HELD = 10_000  # records of a partition that wait for their worker's verdict; then no more are read
KINDS = ("payment", "label", "tick", "decision", "repeat", "conflict")  # name a message in the path of its field

Parsed = TypeVar("Parsed")
logger = logging.getLogger(__name__)

DECISION_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys(("kind", "card", "id", "terminal", "action", "rules", "path", "mark", "model"), pl.String),
    **dict.fromkeys(("at", "cents", "partition", "offset"), pl.Int64),
    **dict.fromkeys(("probability", "propensity"), pl.Float64),
    **dict.fromkeys(("explored", "probe"), pl.Boolean),
    "features": pl.List(pl.Float64),
}
REFUSAL_COLUMNS = {"partition": pl.Int64, "offset": pl.Int64, "at": pl.Int64}


def check_past(log: EventLog, snapshots: Path) -> None:
    """Nothing may be put before what the workers remember: they would not know it, and models would learn from it.

    Raises:
        Unusable: they have begun, and their snapshots are there.
    """
    if log.committed(DECIDERS, EVENTS) and any(snapshots.glob("*")):
        raise Unusable(
            "the workers have begun, and would not know the payments of a file: stop the service, delete the folder"
            f" {snapshots}, ingest the file, and start the service, which then remembers from the lake"
        )


def check_time(event: Event, appended: int) -> None:
    """Judged against the time of append, which the log keeps, so that a replay judges alike.

    Raises:
        Refused: naming `at`.
    """
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
        raise from_validation(error, skip=KINDS) from error
    check_time(event, record.at)
    event = event.appended(record.at)
    if isinstance(event, Tick):  # written to every partition
        return event
    if record.key != event.card:
        raise Refused("card", event.card, "the record's key is another card")
    if is_misplaced(record, EVENTS):
        raise Refused("partition", record.partition, "the card's records belong to another partition")
    return event


def read_verdict(record: Record) -> Verdict:
    """The decision or outcome in a record of `fraud.decisions`.

    Raises:
        Refused: what is wrong with it.
    """
    try:
        verdict = VERDICT.validate_json(record.value)
    except ValidationError as error:
        raise from_validation(error, skip=KINDS) from error
    if record.key != verdict.identity:
        raise Refused("card", verdict.card, "the record's key is another payment")
    if is_misplaced(record, DECISIONS):
        raise Refused("partition", record.partition, "the payment's records belong to another partition")
    return verdict


def dead_letter(record: Record, refused: Refused) -> Entry:
    return dead_letters.dead_letter(DEAD, record, refused, personal=PERSONAL)


def unexpected(error: Exception) -> Refused:
    """Why a record is refused on which our own code has failed."""
    return Refused("message", "", f"cannot be taken in: {type(error).__name__}")


class Taken(NamedTuple):
    """What a step has written to the lake; a commit of `positions`, with `letters`, makes it final."""

    positions: dict[Place, Position]  # those of events come once the lake has their decisions
    decisions: pl.DataFrame  # the new ones
    letters: list[Entry]


class Written(NamedTuple):
    """Events in the lake, and where the log ended for their decisions, which stand in other partitions."""

    positions: dict[Place, Position]
    passed: dict[int, int]  # event time, by partition
    decided: dict[int, int]  # offset, by partition of decisions


class Ingest:
    """Takes the topics into the lake, as far as the workers have given their verdict.

    A step whose lake takes nothing may be called again.

    Only the owner of a partition refuses or recognises a repeat; its verdicts are kept as a table of
    refusals and applied on reading, so that the lake and the state of the stream never differ.
    """

    def __init__(self, log: EventLog, lake: Lake, *, member: str = "ingest") -> None:
        self._log, self._lake = log, lake
        self.consumer = log.consumer(GROUP, TAKEN, member)
        self._held: list[Record] = []
        self._positions: dict[Place, Position] = {}  # of events that were written last
        self._passed: dict[int, int] = {}  # by partition, how far their time has come
        self._awaits: Written | None = None  # what is final once its decisions have been read
        self.watermarks = [0] * config.PARTITIONS  # event time up to which the lake is complete, by partition

    def step(self, limit: int = 5_000) -> Taken:
        """Write what is new to the lake."""
        decided = self._log.committed(DECIDERS, EVENTS)
        room = HELD - max(Counter((r.topic, r.partition) for r in self._held).values(), default=0)
        self._held += self.consumer.poll(max(0, min(limit, room)), 0.0)
        waits = [r.topic == EVENTS.name and r.offset >= _offset(decided, r.partition) for r in self._held]
        done = [r for r, waiting in zip(self._held, waits, strict=True) if not waiting]
        decisions, letters = pl.DataFrame(schema=DECISION_COLUMNS), list[Entry]()
        if done:
            decisions, letters, passed = write(self._lake, done, batch=_batch(done))
            self._passed |= {number: max(at, self._passed.get(number, 0)) for number, at in passed.items()}
        # Only now are they let go of: if the lake takes nothing, the next step tries again.
        self._held = [r for r, waiting in zip(self._held, waits, strict=True) if waiting]
        positions = {Place(r.topic, r.partition): Position(r.offset + 1) for r in done}
        self._positions |= {place: at for place, at in positions.items() if place.topic == EVENTS.name}
        others = {place: at for place, at in positions.items() if place.topic != EVENTS.name}
        return Taken(self._final() | others, decisions, letters)

    def _final(self) -> dict[Place, Position]:
        """The positions of events whose decisions the lake has by now; the watermarks go with them."""
        if self._awaits is None and self._positions:
            self._awaits = Written(self._positions, self._passed, self._log.written(DECISIONS))
            self._positions, self._passed = {}, {}
        if self._awaits is None:
            return {}
        positions, passed, decided = self._awaits
        read = self.consumer.positions  # of decisions that another member owns nothing is known
        if any(read.get(Place(DECISIONS.name, number), end) < end for number, end in decided.items()):
            return {}
        for number, at in passed.items():
            self.watermarks[number] = max(self.watermarks[number], at)
        self._awaits = None
        return positions

    def catch_up(self) -> int:
        """Take in all that has been decided; gives the number of records."""
        total = 0
        while (taken := self.step()).positions or self._awaits:
            if taken.positions:
                before = sum(self.consumer.owned[place].offset for place in taken.positions)
                self.consumer.commit(taken.letters, taken.positions)
                total += sum(position.offset for position in taken.positions.values()) - before
        return total


def write(lake: Lake, records: Sequence[Record], *, batch: str) -> tuple[pl.DataFrame, list[Entry], dict[int, int]]:
    """Write records of the three topics to the lake.

    Gives the decisions, the dead letters of what cannot be read, and by partition how far event time has come.
    """
    by_topic = {topic.name: [r for r in records if r.topic == topic.name] for topic in TAKEN}
    letters, bad_letters = _readable(by_topic[DEAD.name], read_letter)
    verdicts, bad_verdicts = _readable(by_topic[DECISIONS.name], read_verdict)
    watermarks = _write_events(lake, by_topic[EVENTS.name], batch=batch)
    write_dead(lake, letters, batch=batch)
    return write_verdicts(lake, verdicts, batch=batch), bad_letters + bad_verdicts, watermarks


def rebuild(log: EventLog, lake: Lake) -> Rebuilt:
    """Make the lake again. Nothing else may write to it meanwhile."""

    def take(new: Lake) -> int:
        count = 0
        for records in taken_records(log, GROUP, TAKEN):
            if records:
                write(new, records, batch=_batch(records))
                count += len(records)
        return count

    # A refusal stands at the place of its event, and came with a record of another topic.
    return lake_rebuild.rebuild(log, lake, take, tables={"events": EVENTS, "decisions": DECISIONS, "refusals": None})


def _batch(records: Sequence[Record]) -> str:
    """Names a batch; no other begins there."""
    return f"{records[0].topic}-{records[0].partition}-{records[0].offset:012d}"


def _write_events(lake: Lake, records: Sequence[Record], *, batch: str) -> dict[int, int]:
    good, texts = [], []
    watermarks: dict[int, int] = {}
    for record in records:
        try:
            event = accept(record)
        except DEPENDENCY_ERRORS:
            raise
        except Exception as error:  # its owner has written the dead letter
            logger.info("%s/%s offset %s: %s", record.topic, record.partition, record.offset, type(error).__name__)
            continue
        good.append(record)
        texts.append(event.model_dump_json())  # not as it came: JSON may be spread over lines, or say "yes"
        if event.kind != "payment" or not event.probe:
            watermarks[record.partition] = max(watermarks.get(record.partition, 0), event.moment)
    if good:
        rows = pl.read_ndjson("\n".join(texts).encode(), schema=EVENT_COLUMNS)
        appended = pl.Series("appended", [record.at for record in good], dtype=pl.Int64)
        lake.write("events", rows.with_columns(*_places(good), appended), batch=batch)
    return watermarks


def _offset(positions: dict[int, Position], partition: int) -> int:
    return positions[partition].offset if partition in positions else 0


def _readable(
    records: Sequence[Record], read: Callable[[Record], Parsed]
) -> tuple[list[tuple[Record, Parsed]], list[Entry]]:
    """The records with what they say, and a dead letter for each that cannot be read."""
    good, bad = [], []
    for record in records:
        try:
            good.append((record, read(record)))
        except Refused as refused:
            bad.append(dead_letter(record, refused))
        except DEPENDENCY_ERRORS:
            raise
        except Exception as error:
            bad.append(dead_letter(record, unexpected(error)))
    return good, bad


def read_letter(record: Record) -> DeadLetter:
    """The dead letter in a record of `fraud.dead`.

    Raises:
        Refused: what is wrong with it.
    """
    try:
        letter = DeadLetter.model_validate_json(record.value)
    except ValidationError as error:
        raise from_validation(error) from error
    if letter.topic == EVENTS.name and not (0 <= letter.partition < config.PARTITIONS and 0 <= letter.offset < 2**63):
        raise Refused("offset", letter.offset, "no record can stand there")
    return letter


def write_verdicts(lake: Lake, verdicts: Sequence[tuple[Record, Verdict]], *, batch: str) -> pl.DataFrame:
    """Decisions, and the repeats and conflicts among them as refusals; gives the decisions."""
    if not verdicts:
        return pl.DataFrame(schema=DECISION_COLUMNS)
    refused = [
        (verdict.partition, verdict.offset, r.at) for r, verdict in verdicts if not isinstance(verdict, Decision)
    ]
    lake.write("refusals", pl.DataFrame(refused, schema=REFUSAL_COLUMNS, orient="row"), batch=f"{batch}-verdicts")
    decided = [(record, verdict) for record, verdict in verdicts if isinstance(verdict, Decision)]
    if not decided:
        return pl.DataFrame(schema=DECISION_COLUMNS)
    texts = "\n".join(verdict.model_dump_json() for _, verdict in decided)
    rows = pl.read_ndjson(texts.encode(), schema=DECISION_COLUMNS)
    decisions = rows.rename({"partition": "event_partition", "offset": "event_offset"}).with_columns(
        _places([record for record, _ in decided])
    )
    lake.write("decisions", decisions, batch=batch)
    return decisions


def write_dead(lake: Lake, letters: Sequence[tuple[Record, DeadLetter]], *, batch: str) -> None:
    rows = [(letter.partition, letter.offset, r.at) for r, letter in letters if letter.topic == EVENTS.name]
    lake.write("refusals", pl.DataFrame(rows, schema=REFUSAL_COLUMNS, orient="row"), batch=f"{batch}-dead")


def _places(records: Sequence[Record]) -> list[pl.Series]:
    return [
        pl.Series("partition", [record.partition for record in records], dtype=pl.Int64),
        pl.Series("offset", [record.offset for record in records], dtype=pl.Int64),
    ]
