"""Intervals of paired differences: how often they hold the truth, and what they say when there is none."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shared.intervals import paired_bootstrap


def test_rows_of_one_entity_are_drawn_together() -> None:
    """Each entity has ten equal rows; rows drawn one by one would give an interval a third as wide."""
    held, clusters = 0, np.repeat(np.arange(60), 10)
    for seed in range(200):
        rows = np.repeat(np.random.default_rng([11, seed]).normal(size=60), 10)
        low, _, high = paired_bootstrap(_mean_of(rows), clusters, seed=seed, draws=200)
        held += low <= 0 <= high
    assert 170 <= held <= 190  # nine in ten, and three standard deviations at most


def _mean_of(rows: NDArray[np.float64]) -> Callable[[NDArray[np.float64]], float]:
    return lambda weights: float(np.average(rows, weights=weights))


def test_bounds_are_those_of_the_normal_distribution_where_it_holds() -> None:
    rows = np.random.default_rng(5).normal(size=400)
    low, value, high = paired_bootstrap(_mean_of(rows), np.arange(400), seed=1, draws=4_000, level=0.8)
    error = rows.std() / 20
    assert abs((high - low) / (2 * 1.2816 * error) - 1) < 0.05
    assert abs((high + low) / 2 - value) < 0.05 * error


def test_what_has_no_value_has_no_bounds() -> None:
    interval = paired_bootstrap(lambda _: float("nan"), np.zeros(3, np.int64), seed=0)
    assert np.isnan(interval).all()
    assert np.isnan(paired_bootstrap(lambda _: 0.0, np.zeros(0, np.int64), seed=0).low)


def test_the_same_seed_draws_the_same_bounds() -> None:
    rows = np.arange(30.0)
    bounds = {
        paired_bootstrap(lambda weights: float(weights @ rows), np.arange(30), seed=3, draws=50) for _ in range(2)
    }
    assert len(bounds) == 1
