"""Money and ranking against counts by hand, and the gate's reasons."""

from functools import partial

import numpy as np
import polars as pl
import pytest

from fraud import config, dataset, evaluate
from fraud.config import DAY
from fraud.evaluate import act, card_precision, caught, cost, gate, judge, ranking
from fraud.model import fit
from fraud.policy import Policy, decide
from fraud.schema import Action
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
    assert figures["declined"] == judged.actions.count("decline") / 3_000
    stopped = np.array([action != "approve" for action in judged.actions])
    assert figures["recall"] == pytest.approx(stopped[frauds == 1].mean())
    assert figures["precision"] == pytest.approx(frauds[stopped].mean())


# --- the gate ----------------------------------------------------------------------------------------------


def figures(*, cost: float, precision: float = 0.7) -> dict[str, float]:
    return {"cost_per_1000": cost, "average_precision": precision}


@pytest.mark.parametrize(
    ("challenger", "champion", "why"),
    [
        (figures(cost=90), None, ""),
        (figures(cost=100), None, "costs 100 per 1,000 payments, the rules alone 100"),
        (figures(cost=90), figures(cost=95), ""),
        (figures(cost=90), figures(cost=90), "costs 90 per 1,000 payments, the champion 90"),
        (figures(cost=89.5), figures(cost=90), "the champion 90"),  # by less than a hundredth
        (figures(cost=50, precision=0.65), figures(cost=90), "average precision 0.650, the champion's is 0.700"),
        (figures(cost=50, precision=0.69), figures(cost=90), ""),
        (figures(cost=110), figures(cost=120), "the rules alone 100"),
    ],
)
def test_the_gate_says_why(challenger: dict[str, float], champion: dict[str, float] | None, why: str) -> None:
    said = gate(challenger, champion, 100)
    assert said.endswith(why)
    assert bool(said) == bool(why)
