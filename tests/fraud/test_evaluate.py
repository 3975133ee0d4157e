"""Money and ranking against counts by hand, and the gate's reasons."""

import math
from functools import partial

import numpy as np
import polars as pl
import pytest

from fraud import config, dataset, evaluate
from fraud.config import DAY
from fraud.evaluate import (
    Gains,
    act,
    card_precision,
    caught,
    cost,
    evidence,
    gain,
    gate,
    judge,
    missed_over_promised,
    ranking,
)
from fraud.model import fit
from fraud.policy import Policy, decide
from fraud.schema import Action
from shared.intervals import Interval
from tests.worlds import START, learnable

BLOCK = pl.DataFrame(
    {
        "partition": [0, 0, 1, 1],
        "card": ["a", "a", "b", "c"],
        "at": [START, START + 1, START + 2, START + DAY],
        "cents": [100_00, 200_00, 100_00, 50_00],
        "fraud": [True, False, True, False],
        "weight": [1.0, 1.0, 1.0, 1.0],
    }
)


# --- money -----------------------------------------------------------------------------------------


def test_a_block_costs_what_its_actions_cost_one_by_one() -> None:
    assert cost(BLOCK, ["approve"] * 4) == (100 + 15) + (100 + 15)
    assert cost(BLOCK, ["decline"] * 4) == (4 + 0.03 * 200) + (4 + 0.03 * 50)
    assert cost(BLOCK, ["review"] * 4) == pytest.approx(4 * 2.5 + 2 * 0.05 * 115)
    assert cost(BLOCK, ["decline", "approve", "review", "decline"]) == pytest.approx(2.5 + 0.05 * 115 + 5.5)


def test_a_weight_stands_for_so_many_payments() -> None:
    weighted = BLOCK.with_columns(weight=pl.Series([100.0, 0.0, 0.0, 1.0]))
    assert cost(weighted, ["approve"] * 4) == 100 * 115


@pytest.mark.slow
def test_what_exploration_sees_estimates_what_everything_cost() -> None:
    """Declines hide their labels; the few let through, by one over their propensity, stand for them without bias.

    All payments of a card are one draw, and what a card tries above a cap is certain to be declined: it weighs nothing.
    """
    rng = np.random.default_rng(1)
    n = 400
    truth = pl.DataFrame(
        {
            "card": [f"card-{k // 2}" for k in range(n)],
            "id": [f"tx-{k}" for k in range(n)],
            "cents": rng.integers(10_00, 400_00, n),
            "fraud": rng.random(n) < 0.5,
            "probe": False,
        }
    )
    scores = np.where(truth["fraud"], 0.9, 0.2) * rng.random(n)
    labels = truth.select("card", "id", "fraud", kind=pl.lit("label"), at=START)
    plan: list[Action] = ["decline" if k % 3 else "approve" for k in range(n)]  # any other policy, judged on those data
    over = truth.select(pl.col("cents").cum_sum().over("card") > 500_00).to_series().to_list()
    rows = list(zip(scores.tolist(), truth["cents"], strict=True))
    wanted = [decide(p, cents, Policy(), free=False, draw=None).action for p, cents in rows]
    weights = [0.0 if capped and action == "decline" else 1.0 for capped, action in zip(over, wanted, strict=True)]
    assert 0 < weights.count(0.0) < n // 4
    estimates = []
    for _ in range(600):
        drawn = np.repeat(rng.random(n // 2), 2).tolist()
        draws = [None if capped else partial(float, draw) for capped, draw in zip(over, drawn, strict=True)]
        columns = zip(rows, draws, strict=True)
        verdicts = [decide(p, cents, Policy(), free=False, draw=draw) for (p, cents), draw in columns]
        decisions = truth.select("card", "id").with_columns(
            action=pl.Series([verdict.action for verdict in verdicts]),
            propensity=pl.Series([verdict.propensity for verdict in verdicts]),
        )
        seen = decisions.filter(pl.col("action") != "decline").select("card", "id")
        estimates.append(cost(dataset.labelled(truth, labels.join(seen, on=["card", "id"]), decisions), plan))
    exact = cost(truth.with_columns(weight=pl.Series(weights)), plan)
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert error < 0.09 * exact
    assert abs(np.mean(estimates) - exact) < 3.5 * error


# --- what is done ------------------------------------------------------------------------------------


def test_evaluation_acts_as_the_desks_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "PLACES", 2)  # half of the cards, half of the places: one
    payments = pl.DataFrame(
        {"partition": [0, 0, 1, 0], "at": [START, START + 1, START + 2, START + DAY], "cents": [500_00] * 4}
    )
    assert act(payments, [0.1] * 4, Policy()) == ["review", "decline", "review", "review"]


def test_the_price_of_review_turns_reviews_away() -> None:
    assert act(BLOCK, [0.1] * 4, Policy(review_price=0.0)) == ["review"] * 4
    assert "review" not in act(BLOCK, [0.1] * 4, Policy(review_price=100.0))


def test_caught_by_hand() -> None:
    """Of 2 declined ones seen through 1 explored of weight 100, 1 reviewed and 1 missed: 101 of 102."""
    frauds = pl.DataFrame(
        {"fraud": True, "weight": [100.0, 1.0, 1.0, 0.0], "action": ["approve", "review", "approve", "decline"]}
    )
    assert caught(frauds) == pytest.approx(101 / 102)
    assert caught(frauds.with_columns(fraud=False)) is None


# --- a promise -----------------------------------------------------------------------------------------


def days_to(limit: float, *, rate: float, seed: int, days: int, burst: int = 1, promised: float = 8.0) -> int | None:
    """The day on which evidence against `promised` frauds a day reaches the limit, when `rate` times as many come."""
    gathered, rng = 0.0, np.random.default_rng([seed, burst])
    for day in range(days):
        frauds = burst * int(rng.poisson(rate * promised / burst))
        gathered = evidence(gathered, frauds=frauds, promised=promised, burst=burst)
        if gathered >= limit:
            return day + 1
    return None


@pytest.mark.parametrize("burst", [1, 4])
def test_a_promise_that_is_kept_is_doubted_once_in_so_many_days_at_most(burst: int) -> None:
    """At the edge of what is called kept, and in the middle of it."""
    waited = [days_to(50, rate=1.5, seed=seed, days=2_000, burst=burst) or 2_000 for seed in range(200)]
    assert np.mean(waited) >= 50
    assert [days_to(config.FALSE_ALARM, rate=1.0, seed=seed, days=365, burst=burst) for seed in range(100)] == [
        None
    ] * 100


@pytest.mark.parametrize(("rate", "within"), [(2.0, 40), (3.0, 4), (10.0, 1)])
def test_a_broken_promise_is_soon_told(rate: float, within: int) -> None:
    waited = [days_to(config.FALSE_ALARM, rate=rate, seed=seed, days=400) or 400 for seed in range(100)]
    assert np.median(waited) <= within


def test_evidence_by_hand() -> None:
    day = 3 * math.log(1.5) - 0.5 * 1.5 * 2.0
    assert evidence(4.0, frauds=3, promised=2.0) == pytest.approx(5.0 * math.exp(day))
    assert evidence(4.0, frauds=3, promised=2.0, burst=3.0) == pytest.approx(5.0 * math.exp(day / 3))


def test_what_was_missed_over_what_was_promised_by_hand() -> None:
    frauds, scores, weights = np.array([1.0, 0, 1]), np.array([0.05, 0.25, 0.1]), np.array([2.0, 1, 4])
    assert missed_over_promised(frauds, scores, weights) == pytest.approx((2 + 4) / (0.1 + 0.25 + 0.4))
    nothing = np.zeros(0)
    assert missed_over_promised(nothing, nothing, nothing) == 0.0


def test_evidence_has_no_end_but_a_largest_number() -> None:
    assert evidence(1e300, frauds=10**6, promised=0.0) < 1e13
    assert evidence(math.inf, frauds=0, promised=1e9) == 0


# --- ranking -------------------------------------------------------------------------------------------


def test_card_precision_by_hand() -> None:
    """Two days, two cards a day: (fraud, good), (fraud, fraud) -> (1/2 + 2/2) / 2."""
    payments = pl.DataFrame(
        {
            "card": ["a", "a", "b", "c", "a", "b", "c"],
            "at": [START] * 4 + [START + DAY] * 3,
            "fraud": [True, False, False, True, True, True, False],
        }
    )
    scores = np.array([0.1, 0.9, 0.8, 0.7, 0.9, 0.8, 0.1])  # a's best score and its fraud are two payments
    assert card_precision(payments, scores, cards=2) == 0.75
    assert card_precision(payments, scores, cards=1) == 1.0
    assert card_precision(payments, scores, cards=4) == (2 / 4 + 2 / 4) / 2  # fewer cards than asked for


def test_ranking_of_a_perfect_and_of_a_reversed_score() -> None:
    truth = BLOCK["fraud"].to_numpy().astype(float)
    assert ranking(BLOCK, truth)["average_precision"] == ranking(BLOCK, truth)["auc"] == 1.0
    assert ranking(BLOCK, -truth)["auc"] == 0.0


def test_a_block_without_frauds_has_figures_all_the_same() -> None:
    for fraud in (False, True):
        figures = ranking(BLOCK.with_columns(fraud=pl.lit(fraud)), np.arange(4.0))
        assert set(figures.values()) == {0.0}


def test_judged_is_model_and_policy_together() -> None:
    matrix, frauds = learnable(3_000, seed=1)
    model = fit(matrix, frauds, np.ones(3_000), seed=1)
    payments = pl.DataFrame(
        {
            "partition": np.arange(3_000) % config.PARTITIONS,
            "at": START + np.arange(3_000) * 120,
            "card": [f"card-{k % 500}" for k in range(3_000)],
            "cents": np.rint(matrix[:, 0] * 100).astype(int),
            "fraud": frauds == 1,
            "weight": 1.0,
        }
    )
    judged = judge(payments, model, Policy(), matrix=matrix)
    figures = judged.figures
    assert judged.actions == act(payments, model.scores(matrix).tolist(), Policy())
    assert figures["cost_per_1000"] == pytest.approx(cost(payments, judged.actions) / 3)
    assert figures["cost_per_1000"] < figures["cost_per_1000_approve_all"] / 2
    assert figures["reviews_a_day"] == judged.actions.count("review") / 5  # 3,000 times two minutes
    assert figures["reviews_a_day"] <= config.REVIEWS_A_DAY
    assert figures["cost_per_1000_approve_all"] == pytest.approx(cost(payments, ["approve"] * 3_000) / 3)
    assert figures["declined"] == judged.actions.count("decline") / 3_000
    stopped = np.array([action != "approve" for action in judged.actions])
    assert figures["recall"] == pytest.approx(stopped[frauds == 1].mean())
    assert figures["precision"] == pytest.approx(frauds[stopped].mean())


def test_what_has_no_fraud_has_nothing_to_be_caught() -> None:
    matrix, frauds = learnable(3_000, seed=1)
    honest = pl.DataFrame(
        {"partition": 0, "at": START, "card": "a", "cents": [10_00] * 20, "fraud": False, "weight": 1.0}
    )
    figures = judge(honest, fit(matrix, frauds, np.ones(3_000), seed=1), Policy(), matrix=matrix[:20]).figures
    assert (figures["recall"], figures["precision"]) == (0.0, 0.0)


def test_a_hundred_cards_a_day_are_looked_at() -> None:
    payments = pl.DataFrame(
        {"card": [f"{n:03}" for n in range(200)], "at": START, "fraud": [n < 100 for n in range(200)]}
    )
    figures = ranking(payments.with_columns(weight=1.0), np.linspace(1.0, 0.0, 200))
    assert figures["card_precision_100"] == 1.0


# --- the gate ----------------------------------------------------------------------------------------------

SURE, NONE, UNKNOWN = Interval(1.0, 2.0, 3.0), Interval(0.0, 0.0, 0.0), Interval(math.nan, 5.0, math.nan)
GOOD = {"cost_per_1000": 90.0, "average_precision": 0.7}


@pytest.mark.parametrize(
    ("gains", "why"),
    [
        (Gains(SURE), ""),
        (Gains(NONE), "is not surely cheaper than the rules alone: saves 0 to 0 EUR"),
        (Gains(UNKNOWN), "is not surely cheaper than the rules alone: saves nan to nan EUR"),
        (Gains(SURE, SURE, NONE), ""),
        (Gains(NONE, SURE, NONE), "than the rules alone: saves 0 to 0 EUR"),
        (Gains(SURE, NONE, NONE), "than the champion: saves 0 to 0 EUR"),  # its equal
        (Gains(SURE, Interval(-1.0, 40.0, 90.0), NONE), "than the champion: saves -1 to 90 EUR"),
        (Gains(SURE, UNKNOWN, NONE), "than the champion: saves nan to nan EUR"),
        (Gains(SURE, SURE, UNKNOWN), "may lose nan% of what the champion saves on older payments; 2% is the most"),
        (Gains(SURE, SURE, Interval(-0.03, 0.0, 0.03)), "may lose 3.0% of what the champion saves on older payments"),
        (Gains(SURE, SURE, Interval(-0.019, 0.0, 0.02)), ""),
        (Gains(SURE, SURE, Interval(-0.02, 0.0, 0.02)), "may lose 2.0% of what"),
        (Gains(SURE, SURE, Interval(0.001, 0.002, 0.003), debt=0.03), "may lose 0.0% of what"),
        (Gains(SURE, SURE, Interval(-0.019, 0.0, 0.02), debt=0.005), ", 0.5% was lost before; 2% is the most"),
    ],
)
def test_the_gate_says_why(gains: Gains, why: str) -> None:
    said = gate(GOOD, gains)
    assert why in said
    assert bool(said) == bool(why)


def test_a_figure_that_is_no_number_is_refused() -> None:
    assert gate(GOOD | {"brier": math.nan}, Gains(SURE)) == "no number: brier"


def test_small_permitted_losses_do_not_add_up() -> None:
    """Each release loses 0.9 % of what the one before it saves; a gain pays back."""
    lost, regained = Interval(-0.012, -0.009, -0.006), Interval(0.001, 0.006, 0.011)
    debt, refused = 0.0, []
    assert Gains(SURE, SURE, regained, 0.001).figures()["older_debt"] == 0.0, "nothing is owed, and nothing is saved up"
    for older in (lost, lost, regained, lost):
        gains = Gains(SURE, SURE, older, debt)
        refused.append(bool(gate(GOOD, gains)))
        debt = debt if refused[-1] else gains.figures()["older_debt"]
    assert refused == [False, True, False, False]
    assert debt == pytest.approx(0.012)


def test_what_is_saved_is_counted_by_the_card() -> None:
    """Four payments of one card are one surprise, so nothing is sure; of four cards, they are."""
    before, after = np.full(4, 10.0), np.zeros(4)
    saved = gain(pl.DataFrame({"card": ["a", "b", "c", "d"]}), before, after, seed=1)
    assert saved == (40, 40, 40)
    mixed = pl.DataFrame({"card": ["a", "a", "b", "b"]})
    low, value, high = gain(mixed, np.array([20.0, 20, 0, 0]), np.array([0.0, 0, 5, 5]), seed=1)
    assert (low, value, high) == (-20, 30, 80)
    assert math.isnan(gain(mixed, np.array([math.nan, 20, 0, 0]), np.zeros(4), seed=1).low)
