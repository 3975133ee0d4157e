"""The gateway: appends a request to the log, waits for the decision of the card's worker, and returns it.

The gateway decides nothing itself. Only when the owner is late does it append a stand-in by the rules,
and then too the answer is what stands first in the log.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from prometheus_client import CollectorRegistry, Counter
from pydantic import ValidationError
from pydantic_core import from_json

from fraud import config, policy
from fraud.ingest import read_verdict
from fraud.schema import (
    ALARMS,
    DECISIONS,
    EVENTS,
    HEARTBEATS,
    RELEASES,
    REPORTS,
    STORY,
    Alarm,
    Decision,
    Outcome,
    Report,
    Transaction,
)
from fraud.watch import Watch
from shared.background_job import Heartbeat
from shared.clock import Clock
from shared.dead_letters import Refused
from shared.eventlog.port import Entry, EventLog, LogUnavailable, Place, Record, beginning
from shared.follower import Follower, by_topic
from shared.releases import Ledger, Release
from shared.store.port import Store, StoreUnavailable
from shared.story import Scene
from shared.supervised_thread import SupervisedThread

VIEW = "first-decisions"  # by identity: where the first decision stands in the log, and its JSON
NEEDED = [DECISIONS, RELEASES]  # without these no answer is right
SHOWN = [ALARMS, REPORTS, STORY, HEARTBEATS]  # on the page only
MISSING = "no decision on payment {!r}; one that is older than the log keeps decisions is in the lake only"
GROUP = 1_000  # appends that share a commit at most

Waiter = asyncio.Future[bytes]
Append = tuple[Sequence[Entry], Future[list[tuple[int, int]]]]


class Unavailable(Exception):
    """No decision could be had in time: the log is away, or it is read back too late."""


class Conflict(Exception):
    """The card has another payment under this transaction id."""


class Edge:
    """One appending and two following threads beside the event loop."""

    def __init__(self, log: EventLog, store: Store, *, secret: bytes, clock: Clock, metrics: CollectorRegistry) -> None:
        """`secret` keys the fingerprint of a payment."""
        self._log, self._store, self._secret, self._clock = log, store, secret, clock
        self._queue: SimpleQueue[Append] = SimpleQueue()
        self._waiting: dict[str, list[Waiter]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._positions: dict[Place, int] = {}  # of the view, as this gateway has filled it
        self._counted: dict[Place, int] = {}  # how far decisions are counted here: once, whatever is read again
        self.ledger: Ledger[Release] = Ledger()
        self.alarms: deque[Alarm] = deque(maxlen=1_000)
        self.reports: deque[Report] = deque(maxlen=400)
        self.scenes: deque[Scene] = deque(maxlen=100)
        self.heartbeats: dict[str, Heartbeat] = {}  # by process
        self.watch = Watch()
        self.appends = SupervisedThread("appends", self._append_all)
        self.needed = Follower("decisions", log, NEEDED, self._take, start=self._from_view)
        self._heard = beginning(SHOWN)
        self.shown = Follower("page", log, SHOWN, self._hear, start=lambda: self._heard)
        self._decisions = Counter(
            "fraud_decisions", "Decisions by action and path", ["action", "path"], registry=metrics
        )
        self._marked = Counter(
            "fraud_marked", "Decisions that were not made as usual, by reason", ["mark"], registry=metrics
        )
        self._superseded = Counter("fraud_superseded", "Decisions that came second and do not count", registry=metrics)
        self._outcomes = Counter("fraud_outcomes", "Repeats and conflicts", ["kind"], registry=metrics)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        for thread in (self.appends, self.needed, self.shown):
            thread.start()

    def stop(self) -> None:
        for thread in (self.appends, self.needed, self.shown):
            thread.stop()

    # --- requests --------------------------------------------------------------------------------

    async def decide(self, payment: Transaction) -> bytes:
        """The decision on a payment, as JSON, as it stands first in the log.

        Raises:
            Conflict: the identity is taken by another payment.
            Unavailable: the log is away, or the answer cannot be read back in time.
        """
        waiter: Waiter = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(payment.identity, [])
        waiters.append(waiter)
        try:
            async with asyncio.timeout(config.ANSWER_DEADLINE):
                await self.append([Entry(EVENTS, payment.card, payment.model_dump_json().encode())])
                done, _ = await asyncio.wait([waiter], timeout=config.OWNER_DEADLINE)
                answer = waiter.result() if done else await self._stand_in(payment, waiter)
        except TimeoutError as error:
            raise Unavailable("the decision cannot be read back in time") from error
        finally:
            waiters.remove(waiter)
            if not waiters:
                self._waiting.pop(payment.identity, None)
        if from_json(answer)["fingerprint"] != payment.fingerprint(self._secret):
            raise Conflict(f"card and id {payment.id!r} belong to another payment")
        return answer

    async def _stand_in(self, payment: Transaction, waiter: Waiter) -> bytes:
        # [4.3] The owner is late: a till cannot wait, so the rules answer, through the log like everything.
        try:
            ends = await asyncio.to_thread(self._log.ends, DECISIONS)
        except LogUnavailable as error:
            raise Unavailable(f"the log does not answer: {error}") from error
        while any(self._positions.get(Place(DECISIONS.name, p), 0) < end for p, end in ends.items()):
            await asyncio.sleep(0.01)
        # The view knows all that the log holds.
        if (first := await asyncio.to_thread(self.decision, payment.identity)) is not None:
            return first
        action, fired = policy.rules(payment.cents, None)
        decision = Decision(
            card=payment.card,
            id=payment.id,
            terminal=payment.terminal,
            at=payment.at,
            cents=payment.cents,
            fingerprint=payment.fingerprint(self._secret),
            action=action,
            reasons=tuple(fired),
            path="stand-in",
            mark="owner-late",
            rules=action,
            probe=payment.probe,
        )
        await self.append([Entry(DECISIONS, payment.identity, decision.model_dump_json().encode())])
        return await waiter

    async def append(self, entries: Sequence[Entry]) -> list[tuple[int, int]]:
        """Append through the one writing thread; what waits while it commits shares the next commit.

        Raises:
            Unavailable: nothing was appended, or the outcome is not known yet; asking again does no harm.
        """
        done: Future[list[tuple[int, int]]] = Future()
        self._queue.put((entries, done))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(done), config.ANSWER_DEADLINE)
        except LogUnavailable as error:
            raise Unavailable(str(error)) from error
        except TimeoutError as error:
            raise Unavailable("the log takes too long") from error

    def decision(self, identity: str) -> bytes | None:
        """The decision on a payment, as JSON. It may wait for the store: not for the event loop.

        Raises:
            Unavailable: the view cannot be read.
        """
        try:
            found = self._store.get(VIEW, identity)
        except StoreUnavailable as error:
            raise Unavailable(str(error)) from error
        if found is None and not self.needed.caught_up:
            raise Unavailable("still reading the decisions made so far")
        return None if found is None else _message(found)

    # --- threads ---------------------------------------------------------------------------------

    def _append_all(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            self.appends.healthy()
            try:
                group = [self._queue.get(timeout=0.25)]
            except Empty:
                continue
            while len(group) < GROUP and not self._queue.empty():
                group.append(self._queue.get())
            # A request that was given up while it stood in the queue is not appended; from here on none can be.
            group = [(entries, done) for entries, done in group if done.set_running_or_notify_cancel()]
            try:
                places = iter(self._log.append([entry for entries, _ in group for entry in entries]))
                for entries, done in group:
                    done.set_result([next(places) for _ in entries])
            except LogUnavailable as error:
                _fail(group, error)
            except Exception as error:
                _fail(group, LogUnavailable(f"the append failed: {type(error).__name__}"))
                raise

    def _from_view(self) -> dict[Place, int]:
        """Where the view stands, or this gateway, whichever is behind: another gateway may fill the view, too."""
        known = _decided(beginning(NEEDED)) | self._store.positions(VIEW)
        ends = self._log.ends(DECISIONS)
        if any(offset > ends[place.partition] for place, offset in known.items()):
            raise StoreUnavailable(
                "the view of decisions stands behind the end of the log, so it is of another log:"
                " name an empty store (another --var folder, or another prefix in its URL)"
            )
        if not self._counted:
            self._counted = dict(known)
        start = {place: min(offset, self._counted[place]) for place, offset in known.items()}
        releases = Place(RELEASES.name, 0)
        self._positions = start | {releases: self._positions.get(releases, 0)}
        return self._positions

    def _take(self, records: Sequence[Record], positions: Mapping[Place, int]) -> None:
        """Enter decisions into the view, count them, then wake the requests that wait for them."""
        decided: list[tuple[Record, Decision]] = []
        outcomes: list[tuple[Record, Outcome]] = []
        releases: list[Release] = []
        for record in records:
            try:
                if record.topic == RELEASES.name:
                    releases.append(Release.model_validate_json(record.value))
                elif isinstance(verdict := read_verdict(record), Decision):
                    decided.append((record, verdict))
                else:
                    outcomes.append((record, verdict))
            except (ValidationError, Refused) as error:
                self.needed.skip(record, error)
        rows = [(record.key, f"{record.partition}/{record.offset} ".encode() + record.value) for record, _ in decided]
        added = self._store.put(VIEW, rows, _decided(positions), after=_decided(self._positions))
        # What was not added is second, or was added by another gateway, or by this one before it lost the log.
        firsts = [True] * len(rows) if added == len(rows) else [self._store.get(VIEW, key) == row for key, row in rows]
        # Until here nothing has changed, and until all is counted nothing can fail.
        self._positions = dict(positions)
        for release in releases:
            self.ledger.add(release)
        new = [self._is_new(record) for record, _ in decided]
        self._count([verdict for (_, verdict), new, first in zip(decided, new, firsts, strict=True) if new and first])
        self._superseded.inc(sum(new and not first for new, first in zip(new, firsts, strict=True)))
        for record, outcome in outcomes:
            if self._is_new(record):
                self._outcomes.labels(outcome.kind).inc()
        for place, offset in _decided(positions).items():
            self._counted[place] = max(self._counted[place], offset)
        if self._loop is not None and (keys := {record.key for record in records if record.key in self._waiting}):
            answers = [(key, self._store.get(VIEW, key)) for key in keys]
            self._loop.call_soon_threadsafe(self._wake, answers)

    def _is_new(self, record: Record) -> bool:
        return record.offset >= self._counted[Place(record.topic, record.partition)]

    def _count(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            self._clock.observe(decision.at)
            self._decisions.labels(decision.action, decision.path).inc()
            if decision.mark is not None:
                self._marked.labels(decision.mark).inc()
        self.watch.saw(decisions)

    def _wake(self, answers: Sequence[tuple[str, bytes | None]]) -> None:
        for identity, row in answers:
            for waiter in self._waiting.get(identity, ()):
                if row is not None and not waiter.done():
                    waiter.set_result(_message(row))

    def _hear(self, records: Sequence[Record], positions: Mapping[Place, int]) -> None:
        by_topic(
            {
                ALARMS.name: lambda record: self.alarms.append(Alarm.model_validate_json(record.value)),
                REPORTS.name: lambda record: self.reports.append(Report.model_validate_json(record.value)),
                STORY.name: self._hear_story,
                HEARTBEATS.name: self._hear_heartbeat,
            },
            self.shown.skip,
        )(records, positions)
        self._heard = dict(positions)

    def _hear_story(self, record: Record) -> None:
        if from_json(record.value)["kind"] == "scene":  # else it is a wish, for the demo
            self.scenes.append(Scene.model_validate_json(record.value))

    def _hear_heartbeat(self, record: Record) -> None:
        heartbeat = Heartbeat.model_validate_json(record.value)
        self.heartbeats[heartbeat.process] = heartbeat


def _fail(group: Sequence[Append], error: LogUnavailable) -> None:
    for _, done in group:
        if not done.done():
            done.set_exception(error)


def _message(row: bytes) -> bytes:
    """A row of the view without the place of its record."""
    return row.partition(b" ")[2]


def _decided(positions: Mapping[Place, int]) -> dict[Place, int]:
    return {place: offset for place, offset in positions.items() if place.topic == DECISIONS.name}
