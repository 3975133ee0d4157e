"""Event -> Features -> Score -> Decision. The worker: it owns partitions and alone decides for their cards.

A step is one atomic write: the decisions, the cells of the terminal book, the dead letters, and how
far the partitions have come. Whatever goes wrong before it is written, the state is dropped and
rebuilt, because it had moved on.
"""

import hmac
import json
import logging
from contextlib import suppress
from copy import copy
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import polars as pl

from fraud import dataset, policy
from fraud.artifact import Artifact
from fraud.features import DEFINITION, needs
from fraud.history import Refused
from fraud.ingest import DECIDERS, accept, dead_letter
from fraud.order import Order
from fraud.schema import (
    ALARMS,
    BOOK,
    DECISIONS,
    EVENTS,
    RELEASES,
    Alarm,
    Cell,
    Decision,
    Event,
    Features,
    Outcome,
    Release,
    Transaction,
)
from fraud.snapshot import Memory, SnapshotUnusable
from fraud.terminals import Book
from shared.champion import Champion, NotSwapped
from shared.clock import Clock, monotonic, perf_counter
from shared.eventlog.port import Entry, EventLog, Place, Position, Record, beginning
from shared.lake import Lake

LIMIT = 500  # records a partition and step: bounds what a crash repeats, and how long a request waits behind others
BACKLOG = 10 * LIMIT  # records held while they wait for the book
SNAPSHOT_EVERY = 20_000  # records of a partition
REACH = timedelta(days=40)  # the longest window, the lag of the book, and room: what a rebuild reads of the lake

logger = logging.getLogger(__name__)


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
        self._news = log.reader(beginning([BOOK, RELEASES]))
        self._book = Book()
        self._order: Order[tuple[Record, Event | Refused]] = Order(self._book)
        self._memories: dict[int, Memory] = {}
        self._desks: dict[int, policy.Desk] = {}
        self._saved: dict[int, int] = {}  # by partition: offset of the last snapshot
        self._out: list[Entry] = []
        self._waiting_since: float | None = None
        self._releases: list[Release] = []  # not yet followed
        self._courier: Thread | None = None

    def step(self, timeout: float) -> int:
        """Take in what is there, decide what can be decided, commit; gives the number of events done.

        Raises:
            Fenced, LogUnavailable: nothing was written; make a new worker.
        """
        if len(self._order):  # waits for another's hours: look for them often, and take in no more than needed
            timeout = min(timeout, 0.005)
        records = self._consumer.poll(LIMIT if len(self._order) < BACKLOG else 0, timeout)
        self._follow()  # after the poll: a payment that was sent after a release meets it
        rebuilt = self._adopt()
        for record in records:
            self._queue(record)
        moved = dict(rebuilt)
        count = 0
        while (item := self._order.pop(patient=self._patient())) is not None:
            partition, (record, event) = item
            self._take(partition, record, event)
            moved[partition] = record.offset + 1
            count += 1
        self._waiting_since = (self._waiting_since or monotonic()) if len(self._order) and not count else None
        if moved or self._out:
            self._commit(moved)
        for partition in rebuilt:  # not before: a snapshot must not know of hours that the book does not have
            self._memories[partition].save(self._snapshots)
        return count

    def close(self) -> None:
        """Leave at once, with snapshots, so that the next owner starts where this one stopped."""
        for memory in self._memories.values():
            memory.save(self._snapshots)
        self._consumer.close()
        self._news.close()

    def _patient(self) -> bool:
        return self._waiting_since is None or monotonic() - self._waiting_since < self._patience

    def _follow(self) -> None:
        """Read the terminal book, and swap the model when a release says so."""
        while records := self._news.poll(10_000, 0.0):
            self._book.add(Cell.model_validate_json(r.value) for r in records if r.topic == BOOK.name)
            self._releases += [Release.model_validate_json(r.value) for r in records if r.topic == RELEASES.name]
        if not self._releases or self._fetching(self._releases[-1]):
            return
        refused = []
        for release in reversed(self._releases):  # after a restart, too, what cannot be loaded leaves the one before it
            try:
                self._champion.swap(release.version, artifact=release.artifact, digest=release.digest)
                logger.info("version %s decides", release.version)
                break
            except NotSwapped as error:
                refused.append(error)
        self._releases = []
        for reason in refused:
            alarm = Alarm(
                kind="model",
                at=self._clock.now(),
                message=f"not released: {reason}",
                action=f"version {self._champion.version or 'none'} goes on",
            )
            self._out.append(Entry(ALARMS, alarm.kind, alarm.model_dump_json().encode()))
            logger.error("%s", alarm.message)

    def _fetching(self, release: Release) -> bool:
        """Whether its files are still on their way; meanwhile the champion goes on, since payments cannot wait."""
        if self._champion.model is None or self._champion.at_hand(release.digest):
            return False
        if self._courier is None:
            self._courier = Thread(target=self._champion.bring, args=(release.artifact, release.digest), daemon=True)
            self._courier.start()
        if self._courier.is_alive():
            return True
        self._courier = None
        return False

    # --- partitions that come and go ---------------------------------------------------------

    def _adopt(self) -> dict[int, int]:
        """Build the state of partitions newly owned; gives the offsets of those without snapshot."""
        owned = {place.partition: position for place, position in self._consumer.owned.items()}
        for partition in set(self._memories) - set(owned):
            self._order.drop(partition)
            del self._memories[partition], self._desks[partition], self._saved[partition]
        gained = {partition: position for partition, position in owned.items() if partition not in self._memories}
        if not gained:
            return {}
        began, missing = perf_counter(), []
        for partition, position in gained.items():
            try:
                self._memories[partition] = Memory.load(self._snapshots, partition, until=position.offset)
            except SnapshotUnusable as error:
                logger.info("%s: rebuilding", error)
                missing.append(partition)
        self._remember(missing)
        for partition, position in gained.items():
            self._saved[partition] = self._memories[partition].offset
            self._replay(self._memories[partition], position.offset)
            self._desks[partition] = policy.Desk(*json.loads(position.note or "[]"))
        logger.info(
            "owns %s; partitions %s rebuilt in %.2f s, %d of them without snapshot",
            sorted(owned),
            sorted(gained),
            perf_counter() - began,
            len(missing),
        )
        return {partition: gained[partition].offset for partition in missing}

    def _remember(self, partitions: list[int]) -> None:
        """Start these partitions from the lake: what happened before there was a log."""
        if not partitions:
            return
        dates = self._lake.dates("events")
        since = dates[-1] - REACH if dates else None
        history = self._lake.read("events", since=since).filter(pl.col("offset") < 0)
        streams = dataset.streams(history)
        for partition in partitions:
            memory = self._memories[partition] = Memory(partition)
            for event in streams[partition]:
                self._recall(memory, event)

    def _replay(self, memory: Memory, until: int) -> None:
        """Go from where the memory ends to where the group stands: inputs only, nothing is decided again."""
        partition = memory.state.partition
        if memory.offset >= until:
            return
        reader = self._log.reader({Place(EVENTS.name, partition): memory.offset})
        while memory.offset < until:
            for record in reader.poll(min(10_000, until - memory.offset), 1.0):
                with suppress(Refused):  # was a dead letter, and stays one
                    self._recall(memory, accept(record))
                memory.offset = record.offset + 1
        reader.close()

    def _recall(self, memory: Memory, event: Event) -> None:
        if isinstance(event, Transaction) and memory.recall(event, event.fingerprint(self._secret)) != "new":
            return
        _, cell = memory.state.step(event, self._book)
        self._emit(cell)

    # --- events --------------------------------------------------------------------------------

    def _queue(self, record: Record) -> None:
        try:
            event = accept(record)
            self._clock.observe(event.at)
            self._order.push(record.partition, (record, event), at=event.at, needs=needs(event))
        except Refused as error:
            self._order.push(record.partition, (record, error), at=0)

    def _take(self, partition: int, record: Record, event: Event | Refused) -> None:
        memory = self._memories[partition]
        memory.offset = record.offset + 1
        if isinstance(event, Refused):
            self._out.append(dead_letter(record, event))
            return
        if isinstance(event, Transaction) and (known := memory.recall(event, event.fingerprint(self._secret))) != "new":
            outcome = Outcome(kind=known, card=event.card, id=event.id, partition=partition, offset=record.offset)
            self._out.append(Entry(DECISIONS, event.identity, outcome.model_dump_json().encode()))
            if known == "conflict":
                self._out.append(
                    dead_letter(record, Refused("id", event.id, "this card has another payment of that id"))
                )
            return
        features, cell = memory.state.step(event, self._book)
        if isinstance(event, Transaction):
            decision = self._decide(record, event, features)
            self._out.append(Entry(DECISIONS, event.identity, decision.model_dump_json().encode()))
        self._emit(cell)

    def _emit(self, cell: Cell | None) -> None:
        """Enter a closed hour into the book, unless the book has it: a replay closes hours again."""
        if cell is not None and cell.until > self._book.closed[cell.partition]:
            self._book.add((cell,))
            self._out.append(Entry(BOOK, f"{cell.partition}:{cell.hour}", cell.model_dump_json().encode()))

    def _decide(self, record: Record, payment: Transaction, features: Features | None) -> Decision:
        baseline, fired = policy.rules(payment.cents, features)
        known: dict[str, Any] = {
            "card": payment.card,
            "id": payment.id,
            "terminal": payment.terminal,
            "cents": payment.cents,
            "fingerprint": payment.fingerprint(self._secret),
            "at": payment.at,
            "rules": baseline,
            "features": features,
            "definition": DEFINITION,
            "book": min(needs(payment), self._book.complete),
            "partition": record.partition,
            "offset": record.offset,
            "probe": payment.probe,
        }
        artifact = self._champion.model
        desk = self._desks[record.partition]
        if payment.probe:  # sees the analysts' day, and leaves it as it was
            desk = copy(desk)
        if artifact is None or features is None:
            if baseline == "review" and desk.free(payment.at):  # the same analysts
                desk.take()
            mark, why = ("late", ["too_late"]) if features is None else ("no-model", [])
            return Decision(path="rules", mark=mark, action=baseline, reasons=tuple(why + fired), **known)
        score = artifact.model.score(features)
        verdict = policy.decide(
            score, payment.cents, artifact.policy, free=desk.free(payment.at), draw=lambda: self._draw(payment.identity)
        )
        if verdict.action == "review":
            desk.take()
        why = (
            []
            if verdict.action == "approve" and not verdict.explored
            else policy.reasons(artifact.model.contributions(features))
        )
        why += ["analysts_busy"] * verdict.overflow + ["let_through"] * verdict.explored
        return Decision(
            path="model",
            mark="stale-book" if needs(payment) > self._book.complete else None,
            action=verdict.action,
            reasons=tuple(why),
            probability=score,
            costs=verdict.costs,
            explored=verdict.explored,
            propensity=verdict.propensity,
            model=self._champion.version,
            **known,
        )

    def _draw(self, identity: str) -> float:
        """Uniform in [0, 1), the same for the same payment, and nobody's guess without the key."""
        # [6.3] Two models side by side would fight over the same analysts, and fraudsters would find the weaker one.
        # So no A/B test: a small random slice passes, and every challenger is judged on what it shows.
        return int.from_bytes(hmac.digest(self._secret, identity.encode(), "sha256")[:8]) / 2**64

    def _commit(self, moved: dict[int, int]) -> None:
        positions = {}
        for partition, offset in moved.items():
            desk = self._desks[partition]
            positions[Place(EVENTS.name, partition)] = Position(offset, json.dumps([desk.day, desk.taken]))
        self._consumer.commit(self._out, positions)
        self._out = []
        for partition, offset in moved.items():
            if offset - self._saved[partition] >= SNAPSHOT_EVERY:
                self._memories[partition].save(self._snapshots)
                self._saved[partition] = offset
                break  # one a step: nobody should wait for eight
