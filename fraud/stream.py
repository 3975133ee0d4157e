"""Event -> Features -> Score -> Decision. The stream worker: it owns partitions and alone decides for their cards.

A step is one atomic write: the decisions, the cells of the terminal book, the dead letters, and how
far the partitions have come. Whatever goes wrong before it is written, the state is dropped and
rebuilt, because it had moved on.
"""

import hmac
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from copy import copy
from datetime import date, timedelta
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from fraud import config, dataset, policy
from fraud.artifact import Artifact
from fraud.features import DEFINITION, StepFailed, needs
from fraud.history import LAKE_COLUMNS
from fraud.ingest import DECIDERS, accept, dead_letter, read_letter, read_verdict, unexpected
from fraud.ingest import GROUP as INGESTS
from fraud.order import Order
from fraud.schema import (
    ALARMS,
    BOOK,
    DEAD,
    DECISIONS,
    EVENTS,
    RELEASES,
    Alarm,
    Cell,
    Decision,
    Event,
    Features,
    Outcome,
    Transaction,
)
from fraud.snapshot import Memory, SnapshotUnusable
from fraud.terminals import Book
from shared.champion import Champion, ChampionFollower
from shared.clock import Clock, monotonic, perf_counter
from shared.dead_letters import Refused
from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import Entry, EventLog, Fenced, Place, Position, Record, beginning
from shared.lake import HISTORY, PLACE, Lake, LakeCorrupt

LIMIT = 500  # records a partition and step: bounds what a crash repeats, and how long a request waits behind others
BACKLOG = 10 * LIMIT  # records held while they wait for the book, or for the state of their partition
CHUNK = 10_000  # events of a rebuild between two looks at the claims
TERMINALS = 10_000  # of one record of the book: a name has 64 letters at most, so it stays below a megabyte
SNAPSHOT_EVERY = 20_000  # records of a partition
REACH = timedelta(days=40)  # the longest window, the lag of the book, and room: what a rebuild reads of the lake
KNOWN = timedelta(days=130)  # as far back as a state knows labels, and room

logger = logging.getLogger(__name__)


class Decided(NamedTuple):
    """How far a partition was decided, as the decisions themselves say."""

    offset: int  # of the next record
    desk: policy.Desk


class Worker:
    """One member of the group of deciders.

    `secret` keys the draw of exploration. `patience`: seconds to wait for a partition that is behind
    with its hours, before deciding on the last book there is; without bound, results do not depend on timing.
    """

    def __init__(
        self,
        log: EventLog,
        lake: Lake,
        champion: Champion[Artifact],
        *,
        slot: int,
        clock: Clock,
        snapshots: Path,
        secret: bytes,
        patience: float,
    ) -> None:
        self._log, self._lake, self._champion, self._clock = log, lake, champion, clock
        self._snapshots, self._secret, self._patience = snapshots, secret, patience
        self._consumer = log.consumer(DECIDERS, [EVENTS], f"worker-{slot}")
        self._cells = log.reader(beginning([BOOK]))
        # What was there before its first step was an earlier worker's alarm: it is only logged again.
        self._old_cells: dict[int, int] = {}
        self._first_look = True
        self._releases = ChampionFollower(log, RELEASES, champion)
        self._book = Book()
        self._order: Order[tuple[Record, Event | Refused]] = Order(self._book)
        self._memories: dict[int, Memory] = {}
        self._desks: dict[int, policy.Desk] = {}
        self._saved: dict[int, int] = {}  # by partition: offset of the last snapshot
        self._early: dict[int, list[Record]] = defaultdict(list)  # of partitions whose state is not built yet
        self._lake_rows: tuple[pl.DataFrame, pl.DataFrame] | None = None  # kept while partitions are rebuilt
        self._decided: dict[int, Decided] | None = None  # read only when the group's positions are gone
        self._out: list[Entry] = []
        self._waiting_since: float | None = None

    @property
    def rebuilding(self) -> bool:
        """Whether it owns partitions whose state is not built yet."""
        return any(place.partition not in self._memories for place in self._consumer.owned)

    def step(self, timeout: float) -> int:
        """Take in what is there, decide what can be decided, commit; gives the number of events done.

        Of the partitions newly owned it rebuilds one a step, so that a long rebuild makes progress for good.

        Raises:
            Fenced, or one of DEPENDENCY_ERRORS: nothing was written; make a new worker.
        """
        if len(self._order):  # waits for another's hours: look for them often, and take in no more than needed
            timeout = min(timeout, 0.005)
        room = len(self._order) + sum(map(len, self._early.values())) < BACKLOG
        records = self._poll(LIMIT if room else 0, 0.0 if self.rebuilding else timeout)
        self._follow()  # after the poll: a payment that was sent after a release meets it
        for record in records:
            self._early[record.partition].append(record)
        self._take_over()
        for partition in self._early.keys() & self._memories.keys():
            for record in self._early.pop(partition):
                self._queue(record)
        moved: dict[int, int] = {}
        count = 0
        while (item := self._order.pop(patient=self._patient())) is not None:
            partition, (record, event) = item
            self._take(partition, record, event)
            moved[partition] = record.offset + 1
            count += 1
        self._waiting_since = (self._waiting_since or monotonic()) if len(self._order) and not count else None
        if moved or self._out:
            self._commit(moved)
        return count

    def close(self) -> None:
        """Leave at once, with snapshots, so that the next owner starts where this one stopped."""
        for memory in self._memories.values():
            self._save(memory)
        self._consumer.close()
        self._cells.close()
        self._releases.close()

    def _patient(self) -> bool:
        return self._waiting_since is None or monotonic() - self._waiting_since < self._patience

    def _follow(self) -> None:
        """Read the terminal book, and swap the model when a release says so."""
        if self._first_look:
            self._old_cells = self._log.ends(BOOK)
        while records := self._cells.poll(10_000, 0.0):
            self._book.add(self._readable(records))
        for reason in self._releases.poll():
            if self._first_look and reason.endswith("cannot be read"):
                logger.error(reason)
                continue
            version = self._champion.version
            self._alarm("model", reason, f"version {version} goes on" if version else "the rules decide")
        self._first_look = False

    def _readable(self, records: Sequence[Record]) -> Iterator[Cell]:
        for record in records:
            try:
                yield Cell.model_validate_json(record.value)
            except ValueError:
                said = f"record {record.offset} of {record.topic} cannot be read"
                if record.offset < self._old_cells[record.partition]:
                    logger.error(said)
                else:
                    self._alarm("unreadable", said, "its counts are missing in the terminals' features")

    def _alarm(self, kind: str, message: str, action: str) -> None:
        alarm = Alarm(kind=kind, at=self._clock.now(), message=message, action=action)
        self._out.append(Entry(ALARMS, alarm.kind, alarm.model_dump_json().encode()))
        logger.error("%s; %s", message, action)

    # --- partitions that come and go ---------------------------------------------------------

    def _poll(self, limit: int, timeout: float) -> list[Record]:
        """Read on; what is known of partitions that were lost goes, even if they come back with the next poll."""
        records = self._consumer.poll(limit, timeout)
        owned = {place.partition for place in self._consumer.owned}
        for partition in self._memories.keys() - owned:
            self._order.drop(partition)
            del self._memories[partition], self._desks[partition], self._saved[partition]
        for partition in self._early.keys() - owned:
            del self._early[partition]
        return records

    def _take_over(self) -> None:
        """Build the state of one partition newly owned, and say in the log that it stands."""
        gained = {
            place.partition: position
            for place, position in self._consumer.owned.items()
            if place.partition not in self._memories
        }
        if not gained:
            self._lake_rows = self._decided = None
            return
        partition, began = min(gained), perf_counter()
        if not self._rebuild(partition, gained[partition]):
            logger.info("partition %d went to another worker while it was rebuilt", partition)
            return
        logger.info("partition %d rebuilt in %.2f s", partition, perf_counter() - began)
        if not self.rebuilding:
            logger.info("owns %s", sorted(self._memories))

    def _rebuild(self, partition: int, position: Position) -> bool:
        """From the snapshot or the lake, then from the log; whether the partition is still owned at the end."""
        if position.offset > self._log.ends(EVENTS)[partition]:
            self._give_up_position(partition, position)
        if 0 < position.offset < (start := self._log.starts(EVENTS)[partition]):
            said = f"records {position.offset} to {start - 1} of partition {partition} went before they were decided"
            self._alarm("positions", said, "the worker goes on with what is left: keep the topic for longer")
        until, desk = position.offset, _desk(position.note)
        if desk is None:  # never committed, or the group's positions were lost: the decisions themselves know
            decided = self._decided_before().get(partition, Decided(0, policy.Desk()))
            until, desk = max(until, decided.offset), decided.desk
        cells: list[Cell] = []
        memory, saved = self._remembered(partition, until)
        for number, event in enumerate(self._past(memory, until, whole=saved < 0)):
            if number % CHUNK == 0 and not self._still_owns(partition):
                return False
            cells += self._recall(memory, event)
        while self._still_owns(partition):
            for event in self._inputs(memory, until):
                cells += self._recall(memory, event)
            # First the log: a snapshot must not know of hours that the book does not have.
            self._commit_rebuilt(partition, Position(until, json.dumps([desk.day, desk.taken])), cells)
            cells = []
            if saved < 0 or memory.offset - saved >= SNAPSHOT_EVERY:
                self._save(memory)
                saved = memory.offset
            if memory.offset >= until:
                self._memories[partition], self._desks[partition] = memory, desk
                self._saved[partition] = saved
                return True
        return False

    def _give_up_position(self, partition: int, position: Position) -> None:
        """Another log's position, as after a restored backup: the decisions themselves know how far they have come.

        Raises:
            Fenced: the next worker begins without that position.
        """
        said = f"the position of partition {partition}, {position.offset}, is behind the end of the log"
        self._alarm("positions", said, "the partition goes on where its decisions end")
        self._consumer.commit(self._out, {Place(EVENTS.name, partition): Position(0)})
        raise Fenced(said)

    def _still_owns(self, partition: int) -> bool:
        """Renews the claims in the middle of a rebuild."""
        self._poll(0, 0.0)
        return Place(EVENTS.name, partition) in self._consumer.owned

    def _commit_rebuilt(self, partition: int, position: Position, cells: Sequence[Cell]) -> None:
        """Make the hours that a rebuild has closed known, and only then part of the book here."""
        place = Place(EVENTS.name, partition)
        entries = [entry for cell in cells if cell.until > self._book.closed[partition] for entry in entries_of(cell)]
        if entries or self._consumer.owned[place] != position:
            self._consumer.commit(entries, {place: position})
        self._book.add(cells)

    def _remembered(self, partition: int, until: int) -> tuple[Memory, int]:
        """From the snapshot, with the offset at which it counts as saved; -1 without a usable one."""
        try:
            return Memory.load(self._snapshots, partition, until=until), until
        except SnapshotUnusable as error:
            logger.info("%s: rebuilding", error)
            return Memory(partition), -1

    def _past(self, memory: Memory, until: int, *, whole: bool) -> Iterator[Event]:
        """What is in the lake only: from before the log, or gone from it. The memory's offset goes with it.

        `whole`: there is no snapshot, so all that the windows reach is wanted, and the lake is read as far as it goes.
        """
        partition = memory.state.partition
        start = min(self._log.starts(EVENTS)[partition], until)
        if not whole and memory.offset >= start:
            return
        labels, events = self._from_lake()
        # Below this all is in the lake; of a step of the ingest that was not committed there may be a part.
        taken = self._log.committed(INGESTS, EVENTS).get(partition, Position(0)).offset
        mine = (pl.col("partition") == partition) & (pl.col("offset") < min(taken, until))
        if whole:
            for label in dataset.streams(labels.filter(mine))[partition]:
                self._recall(memory, label)  # the hours that it closes are in no window
            rows = events.filter(mine)
        else:
            rows = events.filter(mine, pl.col("offset") >= memory.offset)
        yield from dataset.streams(rows)[partition]
        if rows.height:
            memory.offset = max(memory.offset, rows["offset"].to_list()[-1] + 1)
        if max(memory.offset, taken if events.height else 0) < start:
            said = f"records {memory.offset} to {start - 1} of partition {partition} are in neither log nor lake"
            self._alarm("positions", said, "the features lack them; the worker goes on")
            memory.offset = start

    def _from_lake(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The events as far as the windows reach, and the labels before them that a state still knows."""
        if self._lake_rows is None:
            last = max(self._lake.dates("events"), default=date.max)
            try:
                older, recent = self._read_lake(last)
            except LakeCorrupt as error:
                self._alarm("lake", str(error), "the features lack what is not in the log; the worker goes on")
                try:
                    older, recent = self._read_lake(last, batch=HISTORY)
                except LakeCorrupt:
                    older = recent = pl.DataFrame(schema=dict.fromkeys(PLACE, pl.Int64))
            older, recent = dataset.complete(older, LAKE_COLUMNS), dataset.complete(recent, LAKE_COLUMNS)
            self._lake_rows = older.filter(pl.col("kind") == "label"), recent
        return self._lake_rows

    def _read_lake(self, last: date, *, batch: str = "") -> tuple[pl.DataFrame, pl.DataFrame]:
        older = self._lake.read("events", since=last - KNOWN, until=last - REACH, batch=batch)
        return older, self._lake.read("events", since=last - REACH, batch=batch)

    def _decided_before(self) -> dict[int, Decided]:
        """By partition, how far it was decided, read from decisions and dead letters."""
        if self._decided is not None:
            return self._decided
        logged, beyond = self._log.ends(EVENTS), 0
        ends: dict[int, int] = defaultdict(int)
        days: dict[int, int] = defaultdict(lambda: -1)  # the last one decided on
        reviews: Counter[tuple[int, int]] = Counter()  # by partition and day
        reader = self._log.reader(beginning([DECISIONS, DEAD]))
        while records := reader.poll(10_000, 0.0):
            for record in records:
                try:
                    said = read_letter(record) if record.topic == DEAD.name else read_verdict(record)
                except Refused:
                    continue
                if said.partition is None or said.offset is None or getattr(said, "topic", EVENTS.name) != EVENTS.name:
                    continue  # a stand-in, or the dead letter of another topic
                if said.offset >= logged[said.partition]:  # nothing stands there
                    beyond += 1
                    continue
                ends[said.partition] = max(ends[said.partition], said.offset + 1)
                if isinstance(said, Decision) and not said.probe:
                    day = min(said.at, record.at) // config.DAY
                    days[said.partition] = max(days[said.partition], day)
                    reviews[said.partition, day] += said.action == "review"
        reader.close()
        if beyond:
            said_ = f"{beyond} decisions or dead letters name an offset behind the end of the log"
            self._alarm("positions", said_, "they do not count for how far the partitions are decided")
        self._decided = {
            partition: Decided(end, policy.Desk(day := days[partition], min(reviews[partition, day], policy.PLACES)))
            for partition, end in ends.items()
        }
        return self._decided

    def _save(self, memory: Memory) -> None:
        """A snapshot only saves time, so payments do not wait for a disk that takes none."""
        try:
            memory.save(self._snapshots)
        except OSError as error:
            logger.warning("partition %d has no new snapshot: %s", memory.state.partition, error)

    def _inputs(self, memory: Memory, until: int) -> Iterator[Event]:
        """The next chunk of what the group has passed already; the memory's offset goes with it."""
        if memory.offset >= until:
            return
        end, place = min(until, memory.offset + CHUNK), Place(EVENTS.name, memory.state.partition)
        with closing(self._log.reader({place: memory.offset})) as reader:
            # Where there is nothing for a second, the claims want to be renewed before the next attempt.
            while memory.offset < end and (records := reader.poll(end - memory.offset, 1.0)):
                for record in records:
                    if not isinstance(event := _read(record), Refused):  # what was a dead letter stays one
                        yield event
                    memory.offset = record.offset + 1
            memory.offset = max(memory.offset, min(end, reader.positions[place]))  # Kafka's markers are no records

    def _recall(self, memory: Memory, event: Event) -> Sequence[Cell]:
        """Take an event in that was decided before; gives the hour that it closes, if any."""
        try:
            if isinstance(event, Transaction) and memory.recall(event, event.fingerprint(self._secret)) != "new":
                return ()
        except DEPENDENCY_ERRORS:
            raise
        except Exception:  # it was a dead letter, and stays one
            logger.exception("partition %d: a payment cannot be recalled", memory.state.partition)
            return ()
        _, cell, _ = self._stepped(memory, event)
        return () if cell is None else (cell,)

    # --- events --------------------------------------------------------------------------------

    def _queue(self, record: Record) -> None:
        if record.offset < self._memories[record.partition].offset:
            return  # decided before the group's positions were lost
        event = _read(record)
        if isinstance(event, Refused):
            self._order.push(record.partition, (record, event), at=0)
            return
        self._clock.observe(event.at)
        self._order.push(record.partition, (record, event), at=event.at, needs=needs(event))

    def _take(self, partition: int, record: Record, event: Event | Refused) -> None:
        memory = self._memories[partition]
        memory.offset = record.offset + 1
        if isinstance(event, Refused):
            self._out.append(dead_letter(record, event))
            return
        try:
            self._take_event(memory, record, event)
        except DEPENDENCY_ERRORS:
            raise
        except Exception as error:  # not even the rules can decide
            logger.exception("partition %d offset %d cannot be taken in", partition, record.offset)
            self._out.append(dead_letter(record, unexpected(error)))

    def _take_event(self, memory: Memory, record: Record, event: Event) -> None:
        partition = record.partition
        if isinstance(event, Transaction) and (known := memory.recall(event, event.fingerprint(self._secret))) != "new":
            outcome = Outcome(kind=known, card=event.card, id=event.id, partition=partition, offset=record.offset)
            self._out.append(Entry(DECISIONS, event.identity, outcome.model_dump_json().encode()))
            if known == "conflict":
                self._out.append(
                    dead_letter(record, Refused("id", event.id, "this card has another payment of that id"))
                )
            return
        features, cell, failed = self._stepped(memory, event)
        self._emit(cell)
        if isinstance(event, Transaction):
            decision = self._decide(record, event, features, failed=failed is not None)
            self._out.append(Entry(DECISIONS, event.identity, decision.model_dump_json().encode()))
        elif failed is not None:
            self._out.append(dead_letter(record, unexpected(failed)))

    def _stepped(self, memory: Memory, event: Event) -> tuple[Features | None, Cell | None, Exception | None]:
        """The features of an event and the hour that it closed; and what went wrong in our own code."""
        try:
            return *memory.state.step(event, self._book), None
        except DEPENDENCY_ERRORS:
            raise
        except Exception as error:
            logger.exception("partition %d: an event cannot be stepped", memory.state.partition)
            return None, error.cell if isinstance(error, StepFailed) else None, error

    def _emit(self, cell: Cell | None) -> None:
        """Enter a closed hour into the book, unless the book has it: a replay closes hours again."""
        if cell is not None and cell.until > self._book.closed[cell.partition]:
            self._book.add((cell,))
            self._out += entries_of(cell)

    def _decide(self, record: Record, payment: Transaction, features: Features | None, *, failed: bool) -> Decision:
        """By the model; by the rules where it cannot be, marked with the reason."""
        mark = "error" if failed else "late" if features is None else None
        try:
            return self._decide_with(record, payment, features, mark)
        except DEPENDENCY_ERRORS:
            raise
        except Exception:
            logger.exception(
                "partition %d offset %d cannot be scored: the rules decide", record.partition, record.offset
            )
            return self._by_rules(record, payment, features, "error")

    def _decide_with(
        self, record: Record, payment: Transaction, features: Features | None, mark: str | None
    ) -> Decision:
        artifact = self._champion.model
        if artifact is None or features is None:
            return self._by_rules(record, payment, features, mark or "no-model")
        desk = self._desk(record.partition, payment)
        score = artifact.model.score(features)
        verdict = policy.decide(
            score,
            payment.cents,
            artifact.policy,
            free=desk.free(payment.moment),
            draw=self._chance(record, payment),
        )
        if not isfinite(score + sum(verdict.costs.values())):
            raise ValueError("the score or a cost is not finite")
        why = (
            []
            if verdict.action == "approve" and not verdict.explored
            else policy.reasons(artifact.model.contributions(features))
        )
        why += ["analysts_busy"] * verdict.overflow + ["let_through"] * verdict.explored
        decision = Decision(
            path="model",
            mark="stale-book" if needs(payment) > self._book.complete else None,
            action=verdict.action,
            reasons=tuple(why),
            probability=score,
            costs=verdict.costs,
            explored=verdict.explored,
            propensity=verdict.propensity,
            model=self._champion.version,
            rules=policy.rules(payment.cents, features)[0],
            **self._known(record, payment, features),
        )
        if verdict.action == "review":
            desk.take()
        return decision

    def _by_rules(self, record: Record, payment: Transaction, features: Features | None, mark: str) -> Decision:
        action, fired = policy.rules(payment.cents, features)
        desk = self._desk(record.partition, payment)
        if action == "review" and desk.free(payment.moment):  # the same analysts
            desk.take()
        why = {"late": ["too_late"], "error": ["failed"]}.get(mark, [])
        known = self._known(record, payment, features)
        return Decision(path="rules", mark=mark, action=action, reasons=(*why, *fired), rules=action, **known)

    def _desk(self, partition: int, payment: Transaction) -> policy.Desk:
        """The analysts' day; a probe sees it, and leaves it as it was."""
        desk = self._desks[partition]
        return copy(desk) if payment.probe else desk

    def _known(self, record: Record, payment: Transaction, features: Features | None) -> dict[str, Any]:
        """What every decision says, by the model or by the rules."""
        return {
            "card": payment.card,
            "id": payment.id,
            "terminal": payment.terminal,
            "cents": payment.cents,
            "fingerprint": payment.fingerprint(self._secret),
            "at": payment.at,
            "features": features,
            "definition": DEFINITION,
            "book": min(needs(payment), self._book.complete),
            "partition": record.partition,
            "offset": record.offset,
            "probe": payment.probe,
        }

    def _chance(self, record: Record, payment: Transaction) -> Callable[[], float] | None:
        """The draw of the payment's card and day; None when the card has tried too much that day.

        All that the card tried counts, declined or not, at earlier times or later ones: so the bound is the same in a
        replay, and whatever times a till claims.
        """
        day = payment.at // config.DAY
        card = self._memories[record.partition].state.cards[payment.card]
        if card.spent(day * config.DAY, (day + 1) * config.DAY) > config.EXPLORED_A_DAY:
            return None
        return lambda: self._draw(payment.card, day)

    def _draw(self, card: str, day: int) -> float:
        """Uniform in [0, 1), the same for all payments of a card on a day, and not predictable without the key."""
        # [6.3] Two models side by side would fight over the same analysts, and fraudsters would find the weaker one.
        # So no A/B test: a small random slice passes, and every challenger is judged on what it shows.
        return int.from_bytes(hmac.digest(self._secret, f"{card} {day}".encode(), "sha256")[:8]) / 2**64

    def _commit(self, moved: dict[int, int]) -> None:
        positions = {}
        for partition, offset in moved.items():
            desk = self._desks[partition]
            positions[Place(EVENTS.name, partition)] = Position(offset, json.dumps([desk.day, desk.taken]))
        self._consumer.commit(self._out, positions)
        self._out = []
        for partition, offset in moved.items():
            if offset - self._saved[partition] >= SNAPSHOT_EVERY:
                self._save(self._memories[partition])
                self._saved[partition] = offset
                break  # one a step: a payment must not wait for eight


def entries_of(cell: Cell) -> list[Entry]:
    """A cell as records that any log takes: more than one for an hour of very many terminals."""
    counts = list(cell.counts.items())
    parts = max(1, -(-len(counts) // TERMINALS))
    cells = [
        cell.model_copy(update={"counts": dict(counts[n * TERMINALS : (n + 1) * TERMINALS]), "part": n, "parts": parts})
        for n in range(parts)
    ]
    return [Entry(BOOK, _key(part), part.model_dump_json().encode()) for part in cells]


def _key(cell: Cell) -> str:
    key = f"{cell.partition}:{cell.hour}"
    return key if cell.parts == 1 else f"{key}:{cell.part}"


def _read(record: Record) -> Event | Refused:
    """The event of a record, or why it is a dead letter: the same in a rebuild as when it first came."""
    try:
        return accept(record)
    except Refused as refused:
        return refused
    except DEPENDENCY_ERRORS:
        raise
    except Exception as error:
        return unexpected(error)


def _desk(note: str) -> policy.Desk | None:
    """The analysts' day as a position keeps it; a newer version may have noted more, or something else."""
    try:
        day, taken = json.loads(note)[:2]
        return policy.Desk(int(day), int(taken))
    except (ValueError, TypeError):
        return None
