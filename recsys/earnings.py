"""The margin that lists added, by comparing days with lists and the same days without."""

from collections.abc import Sequence
from math import sqrt
from statistics import stdev
from typing import NamedTuple

SURE = 1.96  # standard deviations that 95 % of outcomes lie within


class Added(NamedTuple):
    """Margin net of returns, EUR; the bounds hold 95 %, by how days differ."""

    sum: float
    low: float
    high: float


def added(by_day: Sequence[float]) -> Added:
    """Of each day's earnings less those of the same day without lists.

    >>> [round(value, 2) for value in added([10.0, 14.0])]
    [24.0, 16.16, 31.84]
    """
    total = float(sum(by_day))
    margin = SURE * stdev(by_day) * sqrt(len(by_day)) if len(by_day) > 1 else 0.0
    return Added(total, total - margin, total + margin)
