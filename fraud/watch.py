"""The latest decisions for the page, with counts, latency and the money saved so far.

All of it since this edge started, in bounded memory.
"""

from collections import Counter, deque
from collections.abc import Sequence
from math import ceil
from threading import Lock
from typing import get_args

from fraud import config
from fraud.savings import SAME, Money, gained, money
from fraud.schema import Action, Decision
from fraud.timeline import MOST, Bucket, Series, Timeline
from shared.clock import monotonic
from shared.messages import Message

ACTIONS: tuple[Action, ...] = get_args(Action)
RECENT = 120  # decisions kept of all, and of those that were stopped
NOW = 5.0  # seconds of real time that "now" covers


class Row(Message):
    """A decision, as a line."""

    number: int  # since the start
    identity: str
    at: int
    card: str
    terminal: str
    cents: int
    action: Action
    rules: Action
    reasons: tuple[str, ...]
    path: str
    mark: str | None
    model: str | None
    probability: float | None


class Now(Message):
    """The last seconds, and the totals."""

    seconds: float  # since the start
    payments: int
    actions: dict[Action, int]
    paths: dict[str, int]
    tests: int
    rate: float  # decisions a second, tests included
    p50: float | None  # seconds, of the requests answered lately
    p99: float | None
    requests: int  # that these two are of
    unanswered: int  # requests without a decision
    unanswered_now: int  # of the last minute


class Watch:
    """Fed by the edge: `saw` by its following thread, `answered` and `failed` by its event loop."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._began = monotonic()
        self._timeline = Timeline()
        self._number = 0
        self._total = Bucket(0)
        self._paths: Counter[str] = Counter()
        self._recent: deque[tuple[int, Decision]] = deque(maxlen=RECENT)
        self._stopped: deque[tuple[int, Decision]] = deque(maxlen=RECENT)
        self._counts: deque[tuple[float, int]] = deque(maxlen=100)  # when how many were decided
        # Appended to without a lock, so that no request waits for who looks on.
        self._fresh: deque[float] = deque(maxlen=10_000)
        self._answers: deque[float] = deque(maxlen=1_000)
        self._failures: deque[float] = deque(maxlen=10_000)
        self._unanswered = 0

    # --- in ---------------------------------------------------------------------------------------

    def answered(self, seconds: float) -> None:
        """A request got its decision after so long."""
        self._fresh.append(seconds)
        self._answers.append(seconds)

    def failed(self) -> None:
        """A request got none."""
        self._unanswered += 1
        self._failures.append(monotonic())

    def saw(self, decisions: Sequence[Decision]) -> None:
        """These have been decided, in the order of the log."""
        if not decisions:
            return
        with self._lock:
            moment = monotonic()
            if self._counts and moment - self._counts[-1][0] < 0.05:
                self._counts[-1] = (self._counts[-1][0], self._counts[-1][1] + len(decisions))
            else:
                self._counts.append((moment, len(decisions)))
            rate = self._rate()
            for decision in decisions:
                self._enter(decision, rate)

    def _enter(self, decision: Decision, rate: float) -> None:
        bucket = self._timeline.bucket(decision.at)
        bucket.rate = rate
        while self._fresh:
            bucket.took(self._fresh.popleft())
        if decision.probe:
            bucket.tests += 1
            self._total.tests += 1
            return
        self._number += 1
        action, version = decision.action, decision.model
        bucket.actions[action] += 1
        self._total.actions[action] += 1
        self._paths[decision.path] += 1
        self._recent.append((self._number, decision))
        if action != "approve":
            self._stopped.append((self._number, decision))
        if version is None:
            bucket.rules += 1
            return
        # Most payments are treated as by the rules, so this is the way that has to be short.
        gain = SAME if action == decision.rules else gained(decision)
        bucket.entered(version, gain)
        self._total.entered(version, gain)

    def _rate(self) -> float:
        moment = monotonic()
        lately = sum(count for at, count in self._counts if at > moment - NOW)
        return lately / min(NOW, max(0.5, moment - self._began))

    # --- out --------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        return self._timeline.width

    @property
    def number(self) -> int:
        """How many payments have been decided."""
        return self._number

    def rows(self, *, since: int = 0, most: int = RECENT, stopped: bool = False) -> list[Row]:
        """The latest decisions after number `since`, oldest first."""
        with self._lock:
            kept = [pair for pair in (self._stopped if stopped else self._recent) if pair[0] > since][-most:]
        return [_row(number, decision) for number, decision in kept]

    def now(self) -> Now:
        moment = monotonic()
        with self._lock:
            rate, tests = self._rate(), self._total.tests
            actions, paths = dict(self._total.actions), dict(self._paths)
        answers = sorted(self._answers.copy())
        return Now(
            seconds=moment - self._began,
            payments=sum(actions.values()),
            actions={action: actions.get(action, 0) for action in ACTIONS},
            paths=paths,
            tests=tests,
            rate=rate,
            p50=answers[len(answers) // 2] if answers else None,
            p99=answers[min(len(answers) - 1, ceil(0.99 * len(answers)))] if answers else None,
            requests=len(answers),
            unanswered=self._unanswered,
            unanswered_now=sum(at > moment - config.MINUTE for at in self._failures.copy()),
        )

    def money(self, *, without: frozenset[str]) -> Money:
        """So far; `without` the versions that were taken back."""
        with self._lock:
            return money(self._total.gains, without=without)

    def series(self, *, without: frozenset[str], last: int = MOST) -> Series:
        """The last buckets."""
        with self._lock:
            return self._timeline.series(self._total.gains, without=without, last=last)


def _row(number: int, decision: Decision) -> Row:
    known = {name: getattr(decision, name) for name in Row.model_fields if name != "number"}
    return Row(number=number, **known)
