"""Confidence intervals of paired differences by a clustered bootstrap, for gates and comparisons."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Interval(NamedTuple):
    """A measured value, and the bounds between which it lies with the wanted probability."""

    low: float
    value: float
    high: float


def paired_bootstrap(
    difference: Callable[[NDArray[np.float64]], float],
    clusters: NDArray[np.int64],
    *,
    seed: int,
    draws: int = 500,
    level: float = 0.9,
) -> Interval:
    """The percentile bootstrap of a paired difference, which draws whole clusters again.

    `difference` is given a weight for each row and gives the difference of the two sides on these rows. `clusters` has
    the number of each row's entity (card, shopper, author), from 0 on: rows of one entity are alike, so an interval
    that drew them one by one would be too narrow. Where a draw has no difference (NaN), neither has the interval.
    """
    random = np.random.default_rng(seed)
    count = int(clusters.max()) + 1 if clusters.size else 0
    value = difference(np.ones(clusters.size))
    if count == 0 or not np.isfinite(value):
        return Interval(float("nan"), value, float("nan"))
    again = [
        difference(np.bincount(random.integers(count, size=count), minlength=count)[clusters].astype(np.float64))
        for _ in range(draws)
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(again, [tail, 1 - tail])
    return Interval(float(low), float(value), float(high))
