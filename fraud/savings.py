"""Estimates the money that decisions saved against the rules alone, from calibrated probabilities."""

from collections.abc import Mapping
from math import sqrt
from typing import NamedTuple

from fraud import policy
from fraud.schema import Decision
from shared.messages import Message
from shared.releases import Ledger, Release

SURE = 1.96  # standard deviations that 95 % of outcomes lie within


class Money(Message):
    """EUR saved against the rules alone, expected; the bounds hold 95 % of outcomes if the probabilities are right."""

    expected: float
    low: float
    high: float
    payments: int  # decided by a model: the others are the rules' own
    differed: int  # of them, done otherwise than by the rules
    without: dict[str, int]  # payments by versions that were taken back: their probabilities are not believed


class Gain(NamedTuple):
    """Money of one version: sums of expectation and of variance."""

    payments: int = 0
    differed: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def plus(self, other: "Gain") -> "Gain":
        payments, differed, mean, variance = self
        return Gain(payments + other[0], differed + other[1], mean + other[2], variance + other[3])

    @property
    def spread(self) -> float:
        """EUR, half the width of the band that holds 95 % of outcomes."""
        return SURE * sqrt(max(0.0, self.variance))


SAME = Gain(payments=1)  # done as the rules would have done


def gained(decision: Decision) -> Gain:
    """What an action saved that was not that of the rules."""
    p = decision.probability or 0.0
    if_fraud, if_good = (
        policy.realised(decision.rules, decision.cents, fraud=fraud)
        - policy.realised(decision.action, decision.cents, fraud=fraud)
        for fraud in (True, False)
    )
    return Gain(1, 1, p * if_fraud + (1 - p) * if_good, p * (1 - p) * (if_fraud - if_good) ** 2)


def taken_back(ledger: Ledger[Release]) -> frozenset[str]:
    """The versions that were rolled back or withdrawn, and are not in force again."""
    return ledger.known_bad() - {ledger.version()}


def total(gains: Mapping[str, Gain], *, without: frozenset[str]) -> Gain:
    """Over all versions but those."""
    sum_ = Gain()
    for version, gain in gains.items():
        sum_ = sum_ if version in without else sum_.plus(gain)
    return sum_


def money(gains: Mapping[str, Gain], *, without: frozenset[str]) -> Money:
    """So far; `without` the versions that were taken back."""
    sum_ = total(gains, without=without)
    return Money(
        expected=sum_.mean,
        low=sum_.mean - sum_.spread,
        high=sum_.mean + sum_.spread,
        payments=sum_.payments,
        differed=sum_.differed,
        without={version: gain.payments for version, gain in gains.items() if version in without},
    )
