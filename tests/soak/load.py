"""Payments at a fixed rate, by HTTP and by topic. Who gets no answer asks again: the same payment, the same id.

Open loop: each payment has its moment, whether or not those before it have been answered.
"""

import heapq
import http.client
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from queue import Empty, SimpleQueue
from random import Random
from typing import Any, NamedTuple

import polars as pl

from fraud.schema import EVENTS, Transaction
from shared.clock import Clock, monotonic, sleep
from shared.eventlog.port import Entry, EventLog, LogUnavailable
from shared.privacy import pseudonym

SENDERS = 64  # connections: what waits while an edge is away must not close the loop
TIMEOUT = 5.0  # seconds a till waits for an answer
AGAIN = 0.5  # seconds until it asks again
TWICE, BOTH = 0.05, 0.02  # shares of payments by HTTP that are sent twice on purpose, and by topic besides


@dataclass(frozen=True)
class Request:
    """What a till asks for; `identity` is that of the payment behind its pseudonym."""

    identity: str
    body: bytes
    moment: float  # when it was to be sent first


class Answer(NamedTuple):
    identity: str
    status: int
    body: bytes
    seconds: float  # since the intended moment


class Load:
    """Sends copies of past payments, with a new id and the time of now, from its making until `stop`.

    `rate`: payments a second by HTTP, and as many by topic. What it sent and heard is to be read after `finished`.
    """

    def __init__(
        self,
        log: EventLog,
        past: pl.DataFrame,
        *,
        port: int,
        keys: tuple[bytes, bytes],
        rate: float,
        seed: int,
        clock: Clock,
    ) -> None:
        self._log, self._port, self._rate, self._clock = log, port, rate, clock
        self._key, self._pseudonym_key = keys
        self._rows = (
            past.select("card", "terminal", "cents", "country").sample(10_000, with_replacement=True, seed=seed).rows()
        )
        self._chance = Random(seed)
        self._due: list[tuple[float, int, Request]] = []  # a heap of what is to be asked again
        self._numbers = count()
        self._requests: SimpleQueue[Request | None] = SimpleQueue()
        self._entries: SimpleQueue[Entry] = SimpleQueue()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._open = 0  # requests and entries that have not been answered
        self.sent: dict[str, float] = {}  # by identity: the moment
        self.answers: list[Answer] = []
        self.silences: Counter[str] = Counter()  # why a request had to be asked again
        self.answered = 0.0  # moment at which the latest of the answered requests was sent
        targets = [self._pace, self._append, *[self._ask] * SENDERS]
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No new payments; what has no answer is asked again until it has."""
        self._stopping.set()

    @property
    def unanswered(self) -> int:
        return self._open

    @property
    def finished(self) -> bool:
        return self._stopping.is_set() and not any(thread.is_alive() for thread in self._threads)

    # --- threads ---------------------------------------------------------------------------------

    def _pace(self) -> None:
        start, number = monotonic(), 0
        while not (self._stopping.is_set() and not self._open):
            now = monotonic()
            while not self._stopping.is_set() and start + number / self._rate <= now:
                self._send(number, start + number / self._rate)
                number += 1
            with self._lock:
                while self._due and self._due[0][0] <= now:
                    self._requests.put(heapq.heappop(self._due)[2])
            sleep(0.005)
        for _ in range(SENDERS):
            self._requests.put(None)

    def _send(self, number: int, moment: float) -> None:
        by_http, by_topic = self._payment(f"http-{number}"), self._payment(f"topic-{number}")
        request = Request(self._hidden(by_http).identity, by_http.model_dump_json().encode(), moment)
        hidden = [self._hidden(by_topic)] + [self._hidden(by_http)] * (self._chance.random() < BOTH)
        twice = self._chance.random() < TWICE
        for identity in (request.identity, *(payment.identity for payment in hidden)):
            self.sent[identity] = moment
        with self._lock:
            self._open += 1 + twice + len(hidden)
            if twice:
                delay = self._chance.choice((0.0, 0.0, 0.01, 1.0, 5.0))
                heapq.heappush(self._due, (moment + delay, next(self._numbers), request))
        self._requests.put(request)
        for payment in hidden:
            self._entries.put(Entry(EVENTS, payment.card, payment.model_dump_json().encode()))

    def _payment(self, name: str) -> Transaction:
        card, terminal, cents, country = self._chance.choice(self._rows)
        return Transaction(card=card, id=name, terminal=terminal, at=self._clock.now(), cents=cents, country=country)

    def _hidden(self, payment: Transaction) -> Transaction:
        return payment.model_copy(update={"card": pseudonym(payment.card, self._pseudonym_key)})

    def _append(self) -> None:
        """By topic; when it is not known what was appended, the same again."""
        while not (self._stopping.is_set() and not self._open):
            batch: Sequence[Entry] = _all(self._entries)
            while batch:
                try:
                    self._log.append(batch)
                    with self._lock:
                        self._open -= len(batch)
                    batch = ()
                except LogUnavailable:
                    self.silences["append refused"] += 1
                    sleep(0.25)

    def _ask(self) -> None:
        headers = {"X-API-Key": self._key.decode(), "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT)
        while (request := self._requests.get()) is not None:
            try:
                connection.request("POST", "/v1/decisions", request.body, headers)
                response = connection.getresponse()
                body, status = response.read(), response.status
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._wait(request, type(error).__name__)
                continue
            if status >= 500:
                self._wait(request, str(status))
                continue
            with self._lock:
                self.answers.append(Answer(request.identity, status, body, monotonic() - request.moment))
                self.answered = max(self.answered, request.moment)
                self._open -= 1
        connection.close()

    def _wait(self, request: Request, why: str) -> None:
        with self._lock:
            self.silences[why] += 1
            heapq.heappush(self._due, (monotonic() + AGAIN, next(self._numbers), request))


def _all(queue: "SimpleQueue[Any]") -> list[Any]:
    """All that is there; waits a little for the first."""
    items = []
    try:
        items.append(queue.get(timeout=0.1))
        while True:
            items.append(queue.get_nowait())
    except Empty:
        return items
