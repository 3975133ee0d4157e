"""Score -> Opinion. What is counted, by which path, what people look at, and when a brand's manager is called.

Pure. Evaluation, both views and the monitor all call these.
"""

import hmac
from math import sqrt
from typing import NamedTuple

from sentiment import config
from sentiment.schema import Label, Path, Score

LABELS: tuple[Label, Label, Label] = config.LABELS  # type: ignore[assignment]  # plain strings in config


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


def drawn(post: str, secret: bytes) -> float | None:
    """The probability with which the audit drew the post; None if it did not. The same post, the same answer."""
    # [6.3] By a keyed hash and not by what the model said: whoever audits only doubtful posts measures doubt. Readers'
    # corrections are no sample at all, as they correct what hurts them.
    draw = int.from_bytes(hmac.digest(secret, post.encode(), "sha256")[:8]) / 2**64
    return config.AUDIT_RATE if draw < config.AUDIT_RATE else None


class Cusum:
    """A sequential test of one brand: has the share of negative opinions risen above its baseline?

    Each bin adds its standardised residual less a slack; the sum never goes below zero, and beyond a limit
    it is an alarm. Opinions come in threads, so their variance is a beta-binomial's.
    """

    # Ten-minute bins: a month has 4,320. On quiet simulated brand-months this limit is crossed less than once in
    # one (alarm.false_per_brand_month).
    SLACK, LIMIT = 0.75, 9.0
    TOGETHER = 0.03  # correlation of two opinions of one bin
    BOUND = 4.0  # standard deviations that one bin may add: no single bin is a crisis

    def __init__(self) -> None:
        self.sum = 0.0

    def add(self, negative: int, opinions: int, *, usual: float) -> bool:
        """The next bin; whether that makes it an alarm. `usual`: the baseline's share of negatives."""
        if not opinions:
            return False
        usual = min(max(usual, 0.02), 0.98)
        variance = opinions * usual * (1 - usual) * (1 + (opinions - 1) * self.TOGETHER)
        residual = (negative - opinions * usual) / sqrt(variance)
        self.sum = max(0.0, self.sum + min(residual, self.BOUND) - self.SLACK)
        if self.sum <= self.LIMIT:
            return False
        self.sum = 0.0  # told once; if it goes on, it is told again
        return True
