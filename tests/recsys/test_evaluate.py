"""Metrics by hand, and gates that refuse what they should."""

import numpy as np
import pytest

from recsys import config, evaluate
from recsys.evaluate import Truth
from tests.recsys.shop import known


def test_metrics_by_hand() -> None:
    truth = Truth(np.array([0, 0, 3]), np.array([1, 4, -1]), count=10)
    assert truth.users.tolist() == [0, 3]
    assert truth.sizes.tolist() == [2, 1], "what was not there yet cannot be found, and counts as missed"
    hits = truth.hits(np.array([[4, 2, 1], [1, 2, 4]]))
    assert hits.tolist() == [[True, False, True], [False, False, False]]
    ideal = 1 + 1 / np.log2(3)
    assert evaluate.ndcg(hits, truth.sizes).tolist() == [pytest.approx((1 + 1 / 2) / ideal), 0]
    assert evaluate.recall(hits, truth.sizes).tolist() == [1, 0]
    assert evaluate.average_precision(hits, truth.sizes).tolist() == [pytest.approx((1 + 2 / 3) / 2), 0]


def test_the_ideal_list_is_no_longer_than_the_list() -> None:
    truth = Truth(np.zeros(50, np.int64), np.arange(50), count=100)
    assert evaluate.ndcg(truth.hits(np.arange(20)[None]), truth.sizes)[0] == pytest.approx(1.0)


def test_an_empty_place_is_no_hit() -> None:
    truth = Truth(np.array([1]), np.array([9]), count=10)  # user 1, place -1 would be the key of user 0, item 9
    assert not truth.hits(np.array([[-1, -1]])).any()


def test_breadth_of_lists() -> None:
    world = known([(0, 0, 1.0), (1, 0, 1.0), (1, 1, 1.0)], users=2, items=4, category=["a", "a", "b", "b"])
    breadth = evaluate.breadth(np.array([[0, 1, -1], [0, 2, 3]]), world)
    assert breadth["coverage"] == 1.0
    assert breadth["diversity"] == 1.5
    assert breadth["small_sellers"] == 0.0
    assert evaluate.breadth(np.array([[0], [0]]), world)["popularity_bias"] == pytest.approx(0.5)


def test_the_bound_holds_what_chance_could_do() -> None:
    rng = np.random.default_rng(1)
    ours = rng.random(500)
    assert evaluate.lower_bound(ours, ours - 0.1, seed=1) == pytest.approx(0.1)
    assert evaluate.lower_bound(ours, rng.permutation(ours), seed=1) < 0


GOOD = {"ndcg": 0.30, "lift_low": 0.01, "best_single": 0.25}


def test_a_recipe_has_to_beat_every_single_source_and_to_hold_the_champion() -> None:
    assert evaluate.gate(GOOD, None) == ""
    assert "single source" in evaluate.gate(GOOD | {"lift_low": 0.0}, None)
    assert evaluate.gate(GOOD, {"ndcg": 0.30}) == ""
    assert "champion" in evaluate.gate(GOOD, {"ndcg": 0.32})


def test_a_blend_is_what_is_left_where_trees_are_no_better_and_must_not_be_surely_below_the_best_source() -> None:
    """It may be one source alone, which cannot be better than itself."""
    alone = {"ndcg": 0.25, "lift_low": 0.0, "lift_high": 0.0, "best_single": 0.25}
    assert evaluate.gate(alone | {"trees": 0.0}, None) == ""
    assert "single source" in evaluate.gate(alone | {"trees": 60.0}, None)
    assert "surely below" in evaluate.gate(alone | {"trees": 0.0, "lift_high": -0.01}, None)
    assert "champion" in evaluate.gate(alone | {"trees": 0.0}, {"ndcg": 0.30})


TABLE = {
    "users": 100.0,
    "stored": 10_000.0,
    "fallbacks": 0.1,
    "input": 500.0,
    "input_usual": 600.0,
    "users_yesterday": 100.0,
    "overlap": 0.7,
    "shift": 0.05,
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"users": 0.0}, "empty"),
        ({"users": 80.0}, "yesterday 100"),
        ({"fallbacks": config.MAX_FALLBACKS + 0.01}, "popularity"),
        ({"overlap": config.MIN_OVERLAP - 0.01}, "first ten"),
        ({"shift": config.MAX_SHIFT + 0.01}, "Jensen-Shannon"),
        ({"input": 100.0}, "usual"),
    ],
)
def test_a_table_is_refused_for_each_reason_alone(change: dict[str, float], reason: str) -> None:
    assert evaluate.gate_table(TABLE) == ""
    assert reason in evaluate.gate_table(TABLE | change)


def test_the_first_table_has_no_yesterday() -> None:
    first = {name: TABLE[name] for name in ("users", "stored", "fallbacks", "input")}
    assert evaluate.gate_table(first) == ""
