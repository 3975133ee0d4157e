"""Estimates over every shuffle there is equal the truth; over drawn ones their intervals cover it."""

from itertools import permutations

import numpy as np
import pytest

from recsys.offpolicy import Slates, doubly_robust, ips, replay, slate_ips, snips

WORTH = np.array([0.9, 0.5, 0.2])  # chance of a click if looked at
LOOKED = np.array([1.0, 0.6, 0.3])  # by slot


def every(k: int = 3) -> tuple[Slates, np.ndarray]:
    """Each shuffle of three items once, with clicks as their chances would have it: twenty copies of each."""
    orders = np.array([order for order in permutations(range(3)) for _ in range(100)])[:, :k]
    rng = np.random.default_rng(3)
    draws = np.tile((np.arange(100) + 0.5) / 100, 6)  # not random: each chance is met exactly, slot by slot
    clicks = np.stack(
        [np.take(rng.permuted(draws.reshape(6, 100), axis=1), range(6), axis=0).ravel() for _ in range(k)]
    )
    return Slates([f"u{n}" for n in range(600)], orders, WORTH[orders] * LOOKED[:k] > clicks.T, np.full(600, 3)), orders


def test_over_all_shuffles_the_estimate_is_the_truth() -> None:
    slates, _ = every()
    for order in permutations(range(3)):
        truth = float((WORTH[list(order)] * LOOKED).sum())
        wanted = np.tile(np.array(order), (600, 1))
        assert ips(slates, wanted).value == pytest.approx(truth, abs=0.01)
        assert snips(slates, wanted).value == pytest.approx(truth, abs=0.01)
        assert slate_ips(slates, wanted).value == pytest.approx(truth, abs=0.01)
        model = np.full(600, 0.7)  # wrong, and put right
        assert doubly_robust(slates, wanted, model, np.full((600, 3), 0.7 / 3)).value == pytest.approx(truth, abs=0.01)


def test_a_prefix_says_what_the_prefix_earns() -> None:
    slates, _ = every(k=2)
    wanted = np.tile(np.array([2, 0]), (600, 1))
    assert ips(slates, wanted).value == pytest.approx(float((WORTH[[2, 0]] * LOOKED[:2]).sum()), abs=0.01)


def test_a_good_click_model_narrows_the_interval() -> None:
    slates, orders = every()
    wanted = np.tile(np.array([0, 1, 2]), (600, 1))
    plain = ips(slates, wanted)
    robust = doubly_robust(slates, wanted, np.full(600, float((WORTH * LOOKED).sum())), WORTH[orders] * LOOKED)
    assert robust.high - robust.low < 0.8 * (plain.high - plain.low)


def test_whole_lists_have_far_larger_weights() -> None:
    slates, _ = every()
    wanted = np.tile(np.array([0, 1, 2]), (600, 1))
    assert slate_ips(slates, wanted).largest == 6
    assert ips(slates, wanted).largest == 3
    assert slate_ips(slates, wanted).effective < ips(slates, wanted).effective


def test_replay_of_served_lists_is_wrong() -> None:
    rng, n = np.random.default_rng(1), 20_000
    served = np.tile(np.array([0, 1, 2]), (n, 1))
    slates = Slates([f"u{i}" for i in range(n)], served, rng.random((n, 3)) < WORTH * LOOKED, np.full(n, 3))
    wanted = np.tile(np.array([0, 2, 1]), (n, 1))
    truth = float((WORTH[[0, 2, 1]] * LOOKED).sum())
    naive = replay(slates, wanted)
    assert not naive.low <= truth <= naive.high


def test_a_user_who_comes_often_counts_as_one() -> None:
    slates, _ = every()
    wanted = np.tile(np.array([0, 1, 2]), (600, 1))
    few = ips(slates._replace(users=[f"u{n // 100}" for n in range(600)]), wanted)
    assert few.high - few.low > 2 * (ips(slates, wanted).high - ips(slates, wanted).low)
