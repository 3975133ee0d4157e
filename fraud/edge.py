"""The way of a request through the log: appended, decided by the card's owner, read back, answered.

The edge decides nothing itself. Only when the owner is late does it append a stand-in by the rules,
and then too the answer is what stands first in the log.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from queue import SimpleQueue

from prometheus_client import CollectorRegistry, Counter
from pydantic_core import from_json

from fraud import config, policy
from fraud.schema import (
    ALARMS,
    DECISIONS,
    EVENTS,
    RELEASES,
    REPORTS,
    STORY,
    Alarm,
    Decision,
    Release,
    Report,
    Transaction,
)
from fraud.watch import Watch
from shared.clock import Clock, monotonic, sleep
from shared.eventlog.port import Entry, EventLog, LogUnavailable, Place, Record, beginning
from shared.store.port import Store, StoreUnavailable
from shared.story import Scene

VIEW = "decisions"
GROUP = 1_000  # appends that share a commit at most
logger = logging.getLogger(__name__)

Waiter = asyncio.Future[bytes]


class Unavailable(Exception):
    """No decision could be had in time: the log is away, or nobody reads it back."""


class Conflict(Exception):
    """The card has another payment under this transaction id."""


class Edge:
    """One appending and one following thread beside the event loop."""

    def __init__(self, log: EventLog, store: Store, *, secret: bytes, clock: Clock, metrics: CollectorRegistry) -> None:
        """`secret` keys the fingerprint of a payment."""
        self._log, self._store, self._secret, self._clock = log, store, secret, clock
        self._appends: SimpleQueue[tuple[Sequence[Entry], Future[list[tuple[int, int]]]] | None] = SimpleQueue()
        self._waiting: dict[str, list[Waiter]] = {}
        self._positions: dict[Place, int] = {}
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.caught_up = False
        self.releases: deque[Release] = deque(maxlen=100)
        self.alarms: deque[Alarm] = deque(maxlen=1_000)
        self.reports: deque[Report] = deque(maxlen=400)
        self.scenes: deque[Scene] = deque(maxlen=100)
        self.watch = Watch()
        self.trouble = ""  # why the log cannot be followed, if it cannot
        self.followed = monotonic()  # when it could be read last
        self._decisions = Counter(
            "fraud_decisions", "Decisions by action and path", ["action", "path"], registry=metrics
        )
        self._superseded = Counter("fraud_superseded", "Decisions that came second and do not count", registry=metrics)
        self._outcomes = Counter("fraud_outcomes", "Repeats and conflicts", ["kind"], registry=metrics)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        for target in (self._append_all, self._follow):
            thread = threading.Thread(target=target, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self._stopped.set()
        self._appends.put(None)
        for thread in self._threads:
            thread.join()

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
        if (first := self.decision(payment.identity)) is not None:  # the view knows all that the log holds
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
            Unavailable: nothing was appended, or nobody knows yet; to ask again does no harm.
        """
        done: Future[list[tuple[int, int]]] = Future()
        self._appends.put((entries, done))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(done), config.ANSWER_DEADLINE)
        except LogUnavailable as error:
            raise Unavailable(str(error)) from error
        except TimeoutError as error:
            raise Unavailable("the log takes too long") from error

    def decision(self, identity: str) -> bytes | None:
        """The decision on a payment, as JSON.

        Raises:
            Unavailable: the view cannot be read.
        """
        try:
            found = self._store.get(VIEW, identity)
        except StoreUnavailable as error:
            raise Unavailable(str(error)) from error
        if found is None and not self.caught_up:
            raise Unavailable("still reading the decisions made so far")
        return found

    # --- threads ---------------------------------------------------------------------------------

    def _append_all(self) -> None:
        while (first := self._appends.get()) is not None:
            group = [first]
            while len(group) < GROUP and not self._appends.empty():
                if (item := self._appends.get()) is None:
                    return
                group.append(item)
            # Who gave up while it stood in the queue is not appended; from here on nobody can.
            group = [(entries, done) for entries, done in group if done.set_running_or_notify_cancel()]
            try:
                places = self._log.append([entry for entries, _ in group for entry in entries])
            except LogUnavailable as error:
                for _, done in group:
                    done.set_exception(error)
                continue
            start = 0
            for entries, done in group:
                done.set_result(places[start : start + len(entries)])
                start += len(entries)

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow_from_view()
            except (LogUnavailable, StoreUnavailable) as error:
                self.trouble = str(error)
                logger.warning("cannot follow the log, beginning again where the view stands: %s", error)
                sleep(0.25)

    def _follow_from_view(self) -> None:
        self.caught_up, self._positions = False, {}
        heard: deque[Alarm] | deque[Release] | deque[Report] | deque[Scene]
        for heard in (self.alarms, self.releases, self.reports, self.scenes):
            heard.clear()
        known = self._store.positions(VIEW)
        if not known:  # the view has to be made, or made again, so all is counted from the first decision on
            self.watch = Watch()
        start = beginning([DECISIONS, ALARMS, RELEASES, REPORTS, STORY]) | known
        with closing(self._log.reader(start)) as reader:
            self._positions = start
            while not self._stopped.is_set():
                if records := reader.poll(2_000, 0.25):
                    self._take(records, reader.positions)
                else:
                    self._take([], reader.positions)  # was the view emptied meanwhile? And a step's end takes an offset
                    self.caught_up = True
                self.trouble, self.followed = "", monotonic()

    def _take(self, records: Sequence[Record], positions: Mapping[Place, int]) -> None:
        """Enter decisions into the view, then wake who waits for them."""
        rows, decisions = [], []
        for record in records:
            if record.topic != DECISIONS.name:
                self._hear(record)
                continue
            message = from_json(record.value)
            if message["kind"] == "decision":
                rows.append((record.key, record.value))
                decisions.append(message)
                self._clock.observe(message["at"])
                self._decisions.labels(message["action"], message["path"]).inc()
            else:
                self._outcomes.labels(message["kind"]).inc()
        added = self._store.put(VIEW, rows, _decided(positions), after=_decided(self._positions))
        self._superseded.inc(len(rows) - added)
        if added < len(rows):  # who came second does not count
            firsts = [self._store.get(VIEW, key) == value for key, value in rows]
            decisions = [decision for decision, first in zip(decisions, firsts, strict=True) if first]
        self.watch.saw(decisions)
        self._positions = dict(positions)
        keys = [record.key for record in records if record.key in self._waiting]
        if keys and self._loop is not None:
            answers = [(key, self._store.get(VIEW, key)) for key in keys]
            self._loop.call_soon_threadsafe(self._wake, answers)

    def _wake(self, answers: Sequence[tuple[str, bytes | None]]) -> None:
        for identity, answer in answers:
            for waiter in self._waiting.get(identity, ()):
                if answer is not None and not waiter.done():
                    waiter.set_result(answer)

    def _hear(self, record: Record) -> None:
        if record.topic == ALARMS.name:
            self.alarms.append(Alarm.model_validate_json(record.value))
        elif record.topic == RELEASES.name:
            self.releases.append(Release.model_validate_json(record.value))
        elif record.topic == STORY.name:
            if from_json(record.value)["kind"] == "scene":
                self.scenes.append(Scene.model_validate_json(record.value))
        else:
            self.reports.append(Report.model_validate_json(record.value))


def _decided(positions: Mapping[Place, int]) -> dict[Place, int]:
    return {place: offset for place, offset in positions.items() if place.topic == DECISIONS.name}
