"""Time series for the page: counts, latency and money by intervals of event time, in bounded memory."""

from collections import Counter
from collections.abc import Mapping
from math import ceil, log

from fraud import config
from fraud.savings import Gain, total
from fraud.schema import Action
from shared.messages import Message

WIDTH, MOST = config.MINUTE, 720  # seconds of a bucket at first, and how many there may be before two become one
FASTEST, STEP = 0.0005, 1.1  # seconds, and the ratio of two neighbouring latencies that are told apart


class Series(Message):
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

    def entered(self, version: str, gain: Gain) -> None:
        self.gains[version] = self.gains.get(version, Gain()).plus(gain)

    def took(self, seconds: float) -> None:
        """A request was answered after so long."""
        self.latencies[_slot(seconds)] += 1

    def join(self, later: "Bucket") -> None:
        self.rate = (self.rate * self.decided + later.rate * later.decided) / max(1, self.decided + later.decided)
        self.tests += later.tests
        self.rules += later.rules
        self.actions.update(later.actions)
        self.latencies.update(later.latencies)
        for version, gain in later.gains.items():
            self.gains[version] = self.gains.get(version, Gain()).plus(gain)


class Timeline:
    """Buckets in order; when there are too many, two become one. Not for several threads at a time."""

    def __init__(self) -> None:
        self.width = WIDTH  # seconds
        self._buckets: list[Bucket] = []

    def bucket(self, at: int) -> Bucket:
        """The newest one: who comes late is counted when it came."""
        start = at // self.width * self.width
        if self._buckets and start <= self._buckets[-1].at:
            return self._buckets[-1]
        self._buckets.append(Bucket(start))
        if len(self._buckets) > MOST:
            self._halve()
        return self._buckets[-1]

    def _halve(self) -> None:
        """Make one bucket of two: months fit the memory, and the width of a screen."""
        self.width *= 2
        before, self._buckets = self._buckets, []
        for bucket in before:
            start = bucket.at // self.width * self.width
            if self._buckets and self._buckets[-1].at == start:
                self._buckets[-1].join(bucket)
            else:
                bucket.at = start
                self._buckets.append(bucket)

    def series(self, gains: Mapping[str, Gain], *, without: frozenset[str], last: int) -> Series:
        """The last buckets; money counts from the first one on, and `gains` are all there were."""
        shown = self._buckets[-last:]
        sum_ = total(gains, without=without)
        saved, spread = [], []
        for bucket in reversed(shown):
            saved.append(sum_.mean)
            spread.append(sum_.spread)
            gain = total(bucket.gains, without=without)
            sum_ = sum_._replace(mean=sum_.mean - gain.mean, variance=sum_.variance - gain.variance)
        return Series(
            width=self.width,
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
