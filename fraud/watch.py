"""What is seen of the decisions as they pass: the latest, counts and latency over event time, and the money so far.

All of it since this edge started, in bounded memory. Money is what the rules would have cost less
what was done, in expectation: by the calibrated probability of the model that decided.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, log, sqrt
from threading import Lock
from typing import Any, NamedTuple, get_args

from fraud import config, policy
from fraud.schema import Action, Noun, Release
from shared.clock import monotonic

ACTIONS: tuple[Action, ...] = get_args(Action)
WIDTH, MOST = config.MINUTE, 720  # seconds of a bucket at first, and how many there may be before two become one
RECENT = 120  # decisions kept of all, and of those that were stopped
NOW = 5.0  # seconds of real time that "now" covers
FASTEST, STEP = 0.0005, 1.1  # seconds, and the ratio of two neighbouring latencies that are told apart
SURE = 1.96  # standard deviations that 95 % of outcomes lie within

Message = Mapping[str, Any]  # a Decision's JSON, as read


class Row(Noun):
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


class Money(Noun):
    """EUR saved against the rules alone, expected; the bounds hold 95 % of outcomes if the probabilities are right."""

    expected: float
    low: float
    high: float
    payments: int  # decided by a model: the others are the rules' own
    differed: int  # of them, done otherwise than by the rules
    without: dict[str, int]  # payments by versions that were taken back: their probabilities are not believed


class Now(Noun):
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


class Series(Noun):
    """By bucket of `width` seconds of event time; a gap is a bucket that is not there."""

    width: int
    at: list[int]
    approve: list[int]
    review: list[int]
    decline: list[int]
    rules: list[int]  # decided without a model
    rate: list[float]  # decisions a second, over the NOW before
    p50: list[float | None]
    p99: list[float | None]
    saved: list[float]  # EUR, from the start on
    spread: list[float]  # half the width of its band


class Gain(NamedTuple):
    """Money of one version: sums of expectation and of variance."""

    payments: int = 0
    differed: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def plus(self, other: "Gain") -> "Gain":
        payments, differed, mean, variance = self
        return Gain(payments + other[0], differed + other[1], mean + other[2], variance + other[3])


SAME = Gain(payments=1)  # done as the rules would have done


class Bucket:
    """What passed in one stretch of event time."""

    __slots__ = ("actions", "at", "gains", "latencies", "rate", "rules", "tests")

    def __init__(self, at: int) -> None:
        self.at = at
        self.rate = 0.0  # decisions a second of real time
        self.tests = self.rules = 0
        self.actions: Counter[Action] = Counter()
        self.latencies: Counter[int] = Counter()
        self.gains: dict[str, Gain] = {}

    @property
    def decided(self) -> int:
        return self.actions.total() + self.tests

    def join(self, later: "Bucket") -> None:
        self.rate = (self.rate * self.decided + later.rate * later.decided) / max(1, self.decided + later.decided)
        self.tests += later.tests
        self.rules += later.rules
        self.actions.update(later.actions)
        self.latencies.update(later.latencies)
        for version, gain in later.gains.items():
            self.gains[version] = self.gains.get(version, Gain()).plus(gain)


class Watch:
    """Fed by the edge: `saw` by its following thread, `answered` and `failed` by its event loop."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._began = monotonic()
        self._buckets: list[Bucket] = []
        self._width = WIDTH
        self._number = 0
        self._total = Bucket(0)
        self._paths: Counter[str] = Counter()
        self._recent: deque[tuple[int, Message]] = deque(maxlen=RECENT)
        self._stopped: deque[tuple[int, Message]] = deque(maxlen=RECENT)
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

    def saw(self, decisions: Sequence[Message]) -> None:
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

    def _enter(self, decision: Message, rate: float) -> None:
        bucket = self._bucket(decision["at"])
        bucket.rate = rate
        while self._fresh:
            bucket.latencies[_slot(self._fresh.popleft())] += 1
        if decision["probe"]:
            bucket.tests += 1
            self._total.tests += 1
            return
        self._number += 1
        action, version = decision["action"], decision["model"]
        bucket.actions[action] += 1
        self._total.actions[action] += 1
        self._paths[decision["path"]] += 1
        self._recent.append((self._number, decision))
        if action != "approve":
            self._stopped.append((self._number, decision))
        if version is None:
            bucket.rules += 1
            return
        # Most payments are treated as by the rules, so this is the way that has to be short.
        gain = SAME if action == decision["rules"] else gained(decision)
        bucket.gains[version] = bucket.gains.get(version, Gain()).plus(gain)
        self._total.gains[version] = self._total.gains.get(version, Gain()).plus(gain)

    def _bucket(self, at: int) -> Bucket:
        """The newest one: who comes late is counted when it came."""
        start = at // self._width * self._width
        if self._buckets and start <= self._buckets[-1].at:
            return self._buckets[-1]
        self._buckets.append(Bucket(start))
        if len(self._buckets) > MOST:
            self._halve()
        return self._buckets[-1]

    def _halve(self) -> None:
        """Make one bucket of two: months fit the memory, and the width of a screen."""
        self._width *= 2
        before, self._buckets = self._buckets, []
        for bucket in before:
            start = bucket.at // self._width * self._width
            if self._buckets and self._buckets[-1].at == start:
                self._buckets[-1].join(bucket)
            else:
                bucket.at = start
                self._buckets.append(bucket)

    def _rate(self) -> float:
        moment = monotonic()
        lately = sum(count for at, count in self._counts if at > moment - NOW)
        return lately / min(NOW, max(0.5, moment - self._began))

    # --- out --------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        return self._width

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
            gains = dict(self._total.gains)
        sum_ = _sum(gains, without)
        spread = SURE * sqrt(sum_.variance)
        return Money(
            expected=sum_.mean,
            low=sum_.mean - spread,
            high=sum_.mean + spread,
            payments=sum_.payments,
            differed=sum_.differed,
            without={version: gain.payments for version, gain in gains.items() if version in without},
        )

    def series(self, *, without: frozenset[str], last: int = MOST) -> Series:
        """The last buckets; money counts from the first one on."""
        with self._lock:
            shown = self._buckets[-last:]
            sum_ = _sum(self._total.gains, without)
            saved, spread = [], []
            for bucket in reversed(shown):
                saved.append(sum_.mean)
                spread.append(SURE * sqrt(max(0.0, sum_.variance)))
                gain = _sum(bucket.gains, without)
                sum_ = sum_._replace(mean=sum_.mean - gain.mean, variance=sum_.variance - gain.variance)
            return Series(
                width=self._width,
                at=[bucket.at for bucket in shown],
                approve=[bucket.actions["approve"] for bucket in shown],
                review=[bucket.actions["review"] for bucket in shown],
                decline=[bucket.actions["decline"] for bucket in shown],
                rules=[bucket.rules for bucket in shown],
                rate=[bucket.rate for bucket in shown],
                p50=[_quantile(bucket.latencies, 0.5) for bucket in shown],
                p99=[_quantile(bucket.latencies, 0.99) for bucket in shown],
                saved=saved[::-1],
                spread=spread[::-1],
            )


def gained(decision: Message) -> Gain:
    """What an action saved that was not that of the rules.

    >>> gained({"action": "decline", "rules": "approve", "cents": 100_00, "probability": 0.5})
    Gain(payments=1, differed=1, mean=54.0, variance=3721.0)
    """
    action, baseline, cents, p = decision["action"], decision["rules"], decision["cents"], decision["probability"]
    if_fraud, if_good = (
        policy.realised(baseline, cents, fraud=fraud) - policy.realised(action, cents, fraud=fraud)
        for fraud in (True, False)
    )
    return Gain(1, 1, p * if_fraud + (1 - p) * if_good, p * (1 - p) * (if_fraud - if_good) ** 2)


def taken_back(ledger: Iterable[Release]) -> frozenset[str]:
    """The versions that a rollback has ended, and nobody has promoted again."""
    back: set[str] = set()
    current: str | None = None
    for release in ledger:
        if release.action == "rollback" and current is not None:
            back.add(current)
        back.discard(release.version)
        current = release.version
    return frozenset(back)


def _sum(gains: Mapping[str, Gain], without: frozenset[str]) -> Gain:
    total = Gain()
    for version, gain in gains.items():
        total = total if version in without else total.plus(gain)
    return total


def _slot(seconds: float) -> int:
    return max(0, ceil(log(max(seconds, FASTEST) / FASTEST) / log(STEP)))


def _quantile(latencies: Mapping[int, int], share: float) -> float | None:
    """Seconds, a tenth too much at most; None of nothing."""
    left = ceil(share * sum(latencies.values()))
    for slot, count in sorted(latencies.items()):
        left -= count
        if left <= 0:
            return float(FASTEST * STEP**slot)
    return None


def _row(number: int, decision: Message) -> Row:
    known = {name: decision[name] for name in Row.model_fields if name in decision}
    return Row(number=number, identity=f"{decision['card']}.{decision['id']}", **known)
