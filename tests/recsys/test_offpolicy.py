"""Estimates over every shuffle there is equal the truth; over drawn ones their intervals cover it."""

from itertools import permutations

import numpy as np
import polars as pl
import pytest

from recsys.offpolicy import (
    ClickModel,
    Slates,
    cascade,
    doubly_robust,
    ips,
    judged,
    replay,
    slate_ips,
    slates_of,
    snips,
)
from recsys.otherwise import Otherwise
from tests.bench.offpolicy import ITEMS, coverage, covered, night

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
        wrong = ClickModel(np.full(3, 0.7 / 3), np.ones(3))  # and put right
        assert doubly_robust(slates, wanted, wrong).value == pytest.approx(truth, abs=0.01)


def test_a_prefix_says_what_the_prefix_earns() -> None:
    slates, _ = every(k=2)
    wanted = np.tile(np.array([2, 0]), (600, 1))
    assert ips(slates, wanted).value == pytest.approx(float((WORTH[[2, 0]] * LOOKED[:2]).sum()), abs=0.01)


def test_a_good_click_model_narrows_the_interval() -> None:
    slates, _ = every()
    wanted = np.tile(np.array([0, 1, 2]), (600, 1))
    plain = ips(slates, wanted)
    robust = doubly_robust(slates, wanted, ClickModel(LOOKED, WORTH))
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


def test_replay_is_the_click_rate_where_orders_agree_times_the_places() -> None:
    items, wanted = np.array([[0, 1, -1], [1, 2, 0]]), np.array([[0, 2, -1], [1, 2, 3]])
    slates = Slates(["u", "v"], items, np.array([[1, 1, 0], [0, 0, 1]], bool), np.array([2, 3]))
    told, rate = replay(slates, wanted), 1 / 3  # three places agree, an empty one is none, and one was clicked on
    assert told.value == pytest.approx(3 * rate)
    error = 1.96 * 3 * np.sqrt(rate * (1 - rate) / 3)
    assert (told.low, told.high) == pytest.approx((3 * rate - error, 3 * rate + error))
    assert (told.effective, told.largest, told.unsupported) == pytest.approx((3, 1, 1 - 3 / 6))
    nowhere = replay(slates, np.full((2, 3), 9))
    assert (nowhere.value, nowhere.effective, nowhere.unsupported) == (0, 0, 1)


def test_a_user_who_comes_often_counts_as_one() -> None:
    slates, _ = every()
    wanted = np.tile(np.array([0, 1, 2]), (600, 1))
    few = ips(slates._replace(users=[f"u{n // 100}" for n in range(600)]), wanted)
    assert few.high - few.low > 2 * (ips(slates, wanted).high - ips(slates, wanted).low)


def test_a_click_model_finds_slots_and_items() -> None:
    rng, orders = np.random.default_rng(2), np.array(list(permutations(range(3)))).repeat(20_000, axis=0)
    clicks = rng.random(orders.shape) < (WORTH[orders] * LOOKED)
    model = ClickModel.fit(Slates([""] * len(orders), orders, clicks, np.full(len(orders), 3)), count=3)
    assert model.expects(np.array([[0, 1, 2], [2, 0, -1]])) == pytest.approx(
        np.array([WORTH * LOOKED, [0.2, 0.9 * 0.6, 0.0]]), abs=0.02
    )


def test_a_place_that_was_always_empty_draws_no_click() -> None:
    shown, clicks = np.array([[0, -1], [1, -1]]), np.array([[True, False], [False, False]])
    model = ClickModel.fit(Slates(["u", "v"], shown, clicks, np.array([1, 1])), count=2)
    assert model.slots.tolist() == [0.5, 0]
    assert model.items.tolist() == pytest.approx([(1 + 5) / (0.5 + 5), 5 / (0.5 + 5)]), "five clicks are imagined"


def test_places_that_no_shown_list_speaks_for_are_counted() -> None:
    slates, _ = every()
    two = np.where(np.arange(3) < 2, slates.items, -1)
    shown = slates._replace(items=two, m=np.full(600, 2), support=two)
    assert ips(shown, two).unsupported == 0
    assert ips(shown, slates.items).unsupported == pytest.approx(1 / 3), "no item was shuffled onto the third place"
    assert ips(slates, np.tile(np.array([0, 1, 2]), (600, 1))).unsupported == 0


def test_a_place_has_support_if_its_item_was_shuffled_and_the_place_was_among_the_shuffled_ones() -> None:
    support = np.array([[0, 2, -1], [1, -1, -1]])
    slates = Slates(["u", "v"], support[:, :2], np.zeros((2, 2), bool), np.array([2, 1]), support)

    def unsupported(*wanted: list[int]) -> float:
        return ips(slates, np.array(wanted)).unsupported

    assert unsupported([0, 2], [1, -1]) == 0, "an empty place is not wanted"
    assert unsupported([2, 0], [-1, -1]) == 0, "whatever the order, and the first item is one like others"
    assert unsupported([0, 2], [1, 1]) == pytest.approx(1 / 4), "the second list had one shuffled place"
    assert unsupported([0, 1], [0, -1]) == pytest.approx(2 / 3), "each list speaks for what was shuffled in it"


def test_what_was_never_in_the_shuffle_has_no_support_and_what_was_only_not_seen_has() -> None:
    rng = np.random.default_rng(1)
    support = np.array([rng.permutation(20) for _ in range(1_000)])
    slates = Slates([f"u{n}" for n in range(1_000)], support[:, :10], support[:, :10] < 3, np.full(1_000, 20), support)
    for estimator in (ips, snips, cascade):
        assert estimator(slates, np.tile(np.arange(100, 110), (1_000, 1))).unsupported == 1
        assert estimator(slates, np.tile(np.arange(10), (1_000, 1))).unsupported == 0
        assert estimator(slates, np.tile([*range(5), *range(100, 105)], (1_000, 1))).unsupported == 0.5
    assert np.isnan(cascade(slates, np.tile(np.arange(100, 110), (1_000, 1))).value), "nothing tells of it"


def test_slates_are_the_first_shuffled_lists_of_a_night() -> None:
    about = {"path": "table", "version": "v1", "explored": True, "permuted": 2}
    shown = [
        about | {"list_id": "late", "user": "ann", "at": 9, "offset": 3, "items": ["c", "b", "a"]},
        about | {"list_id": "first", "user": "ann", "at": 5, "offset": 2, "items": ["b", "a", "c"]},
        about | {"list_id": "next", "user": "ann", "at": 99, "offset": 9, "items": ["a", "b", "c"], "version": "v2"},
        about | {"list_id": "plain", "user": "bob", "at": 5, "offset": 1, "items": ["a", "b", "c"], "explored": False},
        about | {"list_id": "other", "user": "eve", "at": 5, "offset": 4, "items": ["c", "b", "a"], "path": "today"},
    ]
    clicks = pl.DataFrame({"list_id": ["first", "first", "late"], "position": [2, 3, 1]})
    slates, names = slates_of(pl.DataFrame(shown), clicks, k=3, shuffled=True)
    assert (slates.users, names) == (["ann", "ann"], ["a", "b", "c"])
    assert slates.items.tolist() == [[1, 0, -1], [0, 1, -1]], "behind the shuffled ones stands no chance"
    assert slates.clicks.tolist() == [[False, True, False], [False, False, False]]
    assert slates.m.tolist() == [2, 2]
    assert slates.support.tolist() == [[1, 0, *[-1] * 18], [0, 1, *[-1] * 18]]
    plain, _ = slates_of(pl.DataFrame(shown), clicks, k=3, shuffled=False)
    assert (plain.users, plain.items.tolist(), plain.m.tolist()) == (["bob"], [[0, 1, 2]], [20])
    assert slates_of(pl.DataFrame(shown), clicks, k=2, shuffled=False)[0].items.tolist() == [[0, 1]]
    assert slates_of(pl.DataFrame(shown), clicks, k=1, shuffled=True)[0].items.tolist() == [[1], [0]]


def test_one_s_own_log_is_judged_by_what_it_holds() -> None:
    """Two shoppers' shuffled lists, one of them of an older version, and one as ranked."""
    about = {"path": "table", "version": "v1", "permuted": 3}
    shown = [
        about | {"list_id": "a", "user": "ann", "at": 5, "offset": 1, "explored": True, "items": ["y", "x"]},
        about | {"list_id": "b", "user": "bob", "at": 5, "offset": 2, "explored": True, "items": ["x", "z", "y"]},
        about | {"list_id": "c", "user": "eve", "at": 5, "offset": 3, "explored": False, "items": ["x", "y"]},
    ]
    supports = [["x", "y", "z"], None, []]
    rows = pl.DataFrame(shown).with_columns(support=pl.Series(supports, dtype=pl.List(pl.String)))
    clicks = pl.DataFrame({"list_id": ["a", "c", "c"], "position": [2, 1, 2]})
    said = judged(rows, clicks, {"z": 5.0, "y": 1.0}, k=2)
    assert (said.shuffled, said.plain, said.clicks) == (2, 1, 2.0)
    assert said.orders["as ranked"]["IPS"].value == pytest.approx(0), "x stood first in b, and was not clicked on"
    assert said.orders["by popularity"]["IPS"].unsupported == 0
    best_first = judged(rows, clicks, {"y": 5.0, "x": 1.0}, k=2).orders["by popularity"]["IPS"]
    assert best_first.value == pytest.approx(3 / 2), "y, x is what ann was shown, who clicked on its second place"
    assert judged(rows.filter(~pl.col("explored")), clicks, {}, k=2).orders == {}
    assert judged(rows.filter(pl.col("explored")), clicks, {}, k=2).clicks == 0, "no list as ranked, no clicks on one"
    assert slates_of(rows.drop("support"), clicks, k=2, shuffled=True)[0].support[0, :3].tolist() == [1, 0, -1]


# --- worlds whose truth is known --------------------------------------------------------------------


def test_where_a_click_ends_the_visit_only_the_cascade_estimator_holds() -> None:
    found, off = covered(200, ends=True)
    assert 180 <= found["cascade"] <= 198, found
    assert abs(off) < 0.01
    for name in ("ips", "snips", "robust"):
        assert found[name] <= 100, found


def test_where_places_do_not_hang_on_each_other_the_others_hold_and_say_neither_too_little_nor_too_much() -> None:
    found, _ = covered(200, ends=False)
    for name in ("ips", "snips", "robust"):
        assert 180 <= found[name] <= 198, found
    assert found["cascade"] <= 100, "it counts one click a list"


# --- the simulated shop, whose truth is known --------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_intervals_cover_the_truth_as_often_as_they_say(proof: bool) -> None:
    """A hundred worlds are the proof; `python -m tests.bench.offpolicy` records them."""
    seeds = 100 if proof else 20
    covered = coverage(range(seeds))
    for name in ("ips", "snips", "robust"):
        assert 0.9 <= covered[name] / seeds <= (0.99 if proof else 1), covered
    assert covered["naive"] <= seeds / 2, covered


def test_the_demo_s_books_hold_estimates_beside_the_truth() -> None:
    made = night(2)
    books = Otherwise(items=ITEMS)
    assert books.estimates() == {}
    for slates, wanted, shuffled in ((made.shuffled, made.wanted, True), (made.plain, made.wanted_plain, False)):
        users = np.array([int(user) for user in slates.users])
        for part in np.array_split(np.arange(users.size), 3):  # days
            books.add(users[part], slates.items[part], slates.clicks[part], wanted[part], shuffled=shuffled)
    books.expect(np.full(7, made.truth))
    said = books.estimates()
    assert said["item by item (IPS)"] == ips(made.shuffled, made.wanted)
    assert said["naive, from lists as served"] == replay(made.plain, made.wanted_plain)
    robust = said["with a click model (doubly robust)"]
    assert robust.low < books.truth < robust.high
    assert books.table()[1][-1][:2] == ["the truth", f"{made.truth:.2f}"]


def test_whole_lists_say_nothing_of_twenty_shuffled_items() -> None:
    made = night(1)
    assert slate_ips(made.shuffled, made.wanted).effective <= 1
    assert ips(made.shuffled, made.wanted).effective > 100
