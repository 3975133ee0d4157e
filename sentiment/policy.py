"""Score -> Opinion. Label or abstention, load shedding, the audit draw, and the sequential tests behind alarms.

Pure. Evaluation, both views and the monitor all call these.
"""

import hmac
from collections.abc import Iterable, Mapping
from math import exp, lgamma, log
from typing import NamedTuple

from sentiment import config
from sentiment.schema import Label, Path, Score

LABELS: tuple[Label, Label, Label] = config.LABELS  # type: ignore[assignment]  # plain strings in config


LOST = 0.06  # of the recalls that were promised: a fall that audits have to tell
FALL_LIMIT = log(365)  # a false alarm a year, at most, of a version whose quality has not changed


class Policy(NamedTuple):
    """Parameters that travel with the model and are rolled back with it."""

    sure: float = config.SURE


class Verdict(NamedTuple):
    label: Label | None
    why_not: str | None  # why it is not counted


def decide(score: Score, policy: Policy) -> Verdict:
    """The label that is counted: the most probable one, or none when no label is probable enough."""
    # [1.1] Asked is what a crowd thinks, not what one person meant: a post that leans nowhere is left out of the
    # shares, and its share of all is shown beside them.
    best = max(range(3), key=score.__getitem__)
    return Verdict(LABELS[best], None) if score[best] >= policy.sure else Verdict(None, "unsure")


class Load:
    """Which path a post takes, by how many wait behind it."""

    def __init__(self) -> None:
        self.path: Path = "transformer"

    def choose(self, lag: int) -> Path:
        """`lag`: posts not yet read. Between the two limits the path stays as it is."""
        if lag > config.SHED_ABOVE:
            self.path = "linear"
        elif lag < config.SHED_BELOW:
            self.path = "transformer"
        return self.path


def drawn(names: Iterable[str], *, of: str, most: int, secret: bytes) -> list[str]:
    """At most so many of the names, drawn at random for a person to look at; the same ones whenever it is asked.

    `of`: what they are names of, such as a brand and a day; another one is another draw.
    """
    # [6.3] By a keyed hash and not by what the model said: an audit of doubtful posts would measure doubt. And readers'
    # corrections are no sample at all, as they correct what hurts them.
    return sorted(set(names), key=lambda name: hmac.digest(secret, f"{of} {name}".encode(), "sha256"))[:most]


def fallen(before: float, audited: Mapping[str, tuple[int, int]], promised: Mapping[str, float]) -> float:
    """The evidence that a version has become worse than was promised, after one more day of audits.

    `audited`: by true label, how many posts were read right and wrong; `promised`: by label, the recall. A CUSUM of the
    log-likelihood ratio of recalls that are lower by LOST: the mean time between false alarms, in days, is at least the
    exponential of the limit (Lorden, 1971), however many audits a day has. A change of the labels' shares does not move
    it, as each label is asked about by itself.
    """
    added = 0.0
    for label, (right, wrong) in audited.items():
        if label in promised:  # people may say what the version cannot
            recall = min(max(promised[label], LOST + 0.01), 0.99)
            added += right * log((recall - LOST) / recall) + wrong * log((1 - recall + LOST) / (1 - recall))
    return max(0.0, before + added)


class Cusum:
    """A sequential test of one brand: has the share of negative opinions risen above what is usual?

    Each bin adds its log-likelihood ratio of a rise against none; the sum never goes below zero, and beyond a limit it
    is an alarm (CUSUM; Page, 1954). Opinions come in threads, so those of one clock hour are one beta-binomial draw:
    the more of them there are, the less each one adds.
    """

    # Opinions cannot rise above all, so the rise is in log-odds: from .35 to .60, from .10 to .23. The limit is set on
    # quiet simulated months with moods that change from day to day and threads that last an hour
    # (alarm.false_per_brand_month).
    RISE, LIMIT = 1.0, 5.75

    def __init__(self, *, falls: bool = False) -> None:
        """`falls`: the other way round, whether a rise is over."""
        self._sign = -1 if falls else 1
        self.sum = 0.0
        self.since = 0  # event time: the start of the first bin since the sum was zero
        self._hour, self._negative, self._opinions = -1, 0, 0  # of the hour that is under way, before this bin

    def add(self, start: int, negative: int, opinions: int, *, usual: float, together: float) -> bool:
        """The bin that begins at `start`; whether it makes an alarm.

        `usual`: the share of negatives on the days before; `together`: the correlation of two opinions of one hour.
        """
        if not opinions:
            return False
        if start // config.HOUR != self._hour:
            self._hour, self._negative, self._opinions = start // config.HOUR, 0, 0
        before = rise(self._negative, self._opinions, usual=usual, together=together)
        self._negative, self._opinions = self._negative + negative, self._opinions + opinions
        added = rise(self._negative, self._opinions, usual=usual, together=together) - before
        if self.sum == 0.0:
            self.since = start
        self.sum = max(0.0, self.sum + self._sign * added)
        if self.sum <= self.LIMIT:
            return False
        self.sum = 0.0  # told once; if it goes on, it is told again
        return True


def rise(negative: int, opinions: int, *, usual: float, together: float) -> float:
    """The log-likelihood ratio of an hour's opinions: how much more a risen share of negatives explains them.

    >>> round(rise(0, 0, usual=0.3, together=0.03), 1), rise(9, 12, usual=0.3, together=0.03) > 1
    (0.0, True)
    """
    usual = min(max(usual, 0.02), 0.98)
    risen = 1 / (1 + exp(-log(usual / (1 - usual)) - Cusum.RISE))
    return _likelihood(negative, opinions, risen, together) - _likelihood(negative, opinions, usual, together)


def _likelihood(negative: int, opinions: int, share: float, together: float) -> float:
    """The logarithm of a beta-binomial's probability, up to a term that is the same for every share."""
    whole = 1 / together - 1
    a, b = share * whole, (1 - share) * whole
    return lgamma(negative + a) + lgamma(opinions - negative + b) - lgamma(a) - lgamma(b)
