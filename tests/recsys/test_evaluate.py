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


def test_a_judgement_is_the_mean_over_shoppers_of_their_first_twenty_places() -> None:
    truth = Truth(np.array([0, 0, 3]), np.array([1, 4, 2]), count=100)
    late = [*range(50, 70), 2]  # the 21st place is not looked at
    lists = np.array([[1, *range(50, 70)], late])
    ideal = 1 + 1 / np.log2(3)
    expected = {"ndcg": 1 / ideal / 2, "recall": 0.5 / 2, "map": 0.5 / 2, "users": 2}
    assert evaluate.judge(truth, lists) == pytest.approx(expected)
    no_buyers = Truth(np.zeros(0, np.int64), np.zeros(0, np.int64), count=100)
    assert evaluate.judge(no_buyers, lists[:0]) == {"ndcg": 0, "recall": 0, "map": 0, "users": 0}


def test_an_empty_place_is_no_hit() -> None:
    truth = Truth(np.array([0, 1]), np.array([9, 5]), count=10)  # user 1, place -1 would be the key of user 0, item 9
    assert not truth.hits(np.array([[-1, -1], [-1, -1]])).any()


def test_a_hit_is_the_shopper_s_own() -> None:
    truth = Truth(np.array([2, 5]), np.array([0, 4]), count=10)
    assert truth.hits(np.array([[4, 0], [0, 4]])).tolist() == [[False, True], [False, True]]


def test_breadth_of_lists() -> None:
    world = known([(0, 0, 1.0), (1, 0, 1.0), (1, 1, 1.0)], users=2, items=4, category=["a", "a", "b", "b"])
    breadth = evaluate.breadth(np.array([[0, 1, -1], [0, 2, 3]]), world)
    assert breadth["coverage"] == 1.0
    assert breadth["diversity"] == 1.5
    assert breadth["small_sellers"] == 0.0
    chances = np.array([3, 2, 3, 1, 1]) / 7  # buyers and one more, of those of all items
    assert breadth["novelty"] == pytest.approx(-np.log2(chances).mean())
    assert evaluate.breadth(np.array([[1]]), world)["popularity_bias"] == pytest.approx(2 / 3 - 1 / 2)
    assert evaluate.breadth(np.array([[0, 0, 1]]), world)["coverage"] == 0.5
    assert evaluate.breadth(np.array([[0], [0]]), world)["popularity_bias"] == pytest.approx(0.5)


def test_a_gain_is_relative_and_its_interval_holds_what_chance_could_do() -> None:
    rng = np.random.default_rng(1)
    theirs = rng.random(500)
    sure = evaluate.gain(1.1 * theirs, theirs, seed=1)
    assert sure.low == pytest.approx(sure.high) == pytest.approx(0.1)
    chance = evaluate.gain(rng.permutation(theirs), theirs, seed=1)
    assert chance.low < 0 < chance.high
    assert np.isnan(evaluate.gain(theirs, np.zeros(500), seed=1).low), "nothing can be compared with nothing"
    assert evaluate.gain(theirs / 500, theirs / 1_000, seed=1).low == pytest.approx(1), "small figures are figures"


GOOD = {"ndcg": 0.30, "lift_low": 0.01, "best_single": 0.25, "blend_low": 0.01, "ndcg_blend": 0.28}
BETTER = {"ndcg": 0.29, "gain_low": 0.001, "older_gain_low": -0.01}  # what it gains on the champion


@pytest.mark.parametrize(
    ("change", "of_champion", "reason"),
    [
        ({"lift_low": 0.0}, {}, "single source"),
        ({"blend_low": 0.0}, {}, "hand blend"),
        ({}, {"gain_low": 0.0}, "champion"),
        ({}, {"older_gain_low": -0.02}, "older data"),
        ({}, {"older_gain_low": -0.01, "loss": -0.01}, "older data"),
        ({"lift_low": np.nan}, {}, "single source"),
        ({"blend_low": np.nan}, {}, "hand blend"),
        ({}, {"gain_low": np.nan}, "champion"),
        ({}, {"older_gain_low": np.nan}, "older data"),
        ({"trees": 0.0, "lift_high": np.nan}, {}, "surely below"),
    ],
)
def test_a_recipe_is_refused_for_each_reason_alone(
    change: dict[str, float], of_champion: dict[str, float], reason: str
) -> None:
    assert evaluate.gate(GOOD, None) == ""
    assert evaluate.gate(GOOD, BETTER) == ""
    assert reason in evaluate.gate(GOOD | change, BETTER | of_champion)


def test_a_champion_that_no_older_data_can_judge_is_beaten_on_the_newest() -> None:
    alone = {"ndcg": 0.29, "gain_low": 0.001}
    assert evaluate.gate(GOOD, alone) == ""
    assert evaluate.gate(GOOD, alone | {"loss": -0.01}) == ""
    said = evaluate.gate(GOOD, alone | {"loss": -0.03})
    assert "+0.0% after -3.0% of versions before" in said, "what a forced version has lost is lost"


def test_a_blend_is_what_is_left_where_trees_are_no_better_and_must_not_be_surely_below_the_best_source() -> None:
    """It may be one source alone, which cannot be better than itself."""
    alone = {"ndcg": 0.25, "lift_low": 0.0, "lift_high": 0.0, "best_single": 0.25}
    assert evaluate.gate(alone | {"trees": 0.0}, None) == ""
    assert "single source" in evaluate.gate(alone | {"trees": 60.0}, None)
    assert "surely below" in evaluate.gate(alone | {"trees": 0.0, "lift_high": -0.01}, None)
    assert "champion" in evaluate.gate(alone | {"trees": 0.0}, {"ndcg": 0.25, "gain_low": 0.0})


def test_small_losses_do_not_add_up_over_versions() -> None:
    """Each version loses 1 % on older data for sure, and gains on the newest."""
    loss, released = 0.0, 0
    for _ in range(20):
        if evaluate.gate(GOOD, BETTER | {"older_gain_low": -0.01, "loss": loss}) == "":
            released, loss = released + 1, loss - 0.01
    assert released == 1


TABLE = {
    "users": 100.0,
    "stored": 10_000.0,
    "fallbacks": 0.1,
    "input": 500.0,
    "input_usual": 600.0,
    "for_sale": 90.0,
    "for_sale_yesterday": 95.0,
    "titled": 100.0,
    "titled_yesterday": 100.0,
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
        ({"for_sale": 50.0}, "items for sale"),
        ({"titled": 50.0}, "items with a title"),
        *(({name: float("nan")}, "no number") for name in TABLE),
    ],
)
def test_a_table_is_refused_for_each_reason_alone(change: dict[str, float], reason: str) -> None:
    assert evaluate.gate_table(TABLE) == ""
    assert reason in evaluate.gate_table(TABLE | change)


@pytest.mark.parametrize(
    "change",
    [
        {"users": 0.95 * 100},
        {"for_sale": 0.75 * 95},
        {"titled": 0.75 * 100},
        {"fallbacks": config.MAX_FALLBACKS},
        {"fallbacks": 0.7 + config.MORE_FALLBACKS, "fallbacks_yesterday": 0.7},
        {"overlap": config.MIN_OVERLAP},
        {"shift": config.MAX_SHIFT},
        {"input": config.MIN_INPUT * 600},
    ],
)
def test_a_bound_itself_may_be_reached(change: dict[str, float]) -> None:
    assert evaluate.gate_table(TABLE | change) == ""


def test_a_table_of_one_list_of_one_item_is_not_empty() -> None:
    one = {"users": 1.0, "stored": 1.0, "users_yesterday": 1.0}
    assert evaluate.gate_table(TABLE | one) == ""
    for nothing in ("users", "stored"):
        assert "empty" in evaluate.gate_table(TABLE | one | {nothing: 0.0})


def test_the_first_table_has_no_yesterday() -> None:
    always = ("users", "stored", "fallbacks", "input", "input_usual", "for_sale", "titled")
    first = {name: TABLE[name] for name in always}
    assert evaluate.gate_table(first) == ""
    assert evaluate.gate_table(first | {"fallbacks": 0.9}) == "", "a sparse shop has little but popularity"
    sparse = TABLE | {"fallbacks": 0.9, "fallbacks_yesterday": 0.9}
    assert evaluate.gate_table(sparse) == ""
    assert "popularity" in evaluate.gate_table(sparse | {"fallbacks_yesterday": 0.6})


def test_of_equal_challengers_few_are_released() -> None:
    """Shoppers' nDCG as it is: most get nothing, the others anything; two equal rankers agree on most of them."""
    rng = np.random.default_rng(8)
    released, better = 0, 0
    for seed in range(200):
        common = rng.random((2, 800)) < 0.5

        def ndcg(of: np.ndarray, more: float = 1.0) -> np.ndarray:
            return np.where(of, 0.3, rng.beta(0.3, 1.5, 800)) * more

        champion, equal = [ndcg(week) for week in common], [ndcg(week) for week in common]
        gains = [evaluate.gain(ours, theirs, seed=seed) for ours, theirs in zip(equal, champion, strict=True)]
        beside = {"ndcg": 0.2, "gain_low": gains[0].low, "older_gain_low": gains[1].low}
        released += evaluate.gate(GOOD, beside) == ""
        best = evaluate.gain(ndcg(common[0], 1.2), champion[0], seed=seed)
        better += best.low > 0
    assert released <= 10
    assert better >= 190, "a gain of a fifth is seen"
