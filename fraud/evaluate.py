"""Metrics of model and policy as served, and the gate that a release has to pass."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from sklearn.metrics import average_precision_score, brier_score_loss, precision_score, recall_score, roc_auc_score

from fraud import config
from fraud.model import Matrix, Model, Vector
from fraud.policy import PLACES, Desk, Policy, decide, realised
from fraud.schema import Action, Score

AP_SLACK = 0.02  # a challenger may rank this much worse if it is cheaper
WORTH = 0.99  # and must cost at most this share of what the champion costs


class Judged(NamedTuple):
    """A model with its policy on one block of payments."""

    figures: dict[str, float]
    actions: list[Action]


def act(payments: pl.DataFrame, scores: Sequence[Score], policy: Policy) -> list[Action]:
    """What would have been done with half of the cards' payments, in order of time, with half of the analysts."""
    desks = [Desk(places=PLACES // 2) for _ in range(config.PARTITIONS)]
    actions: list[Action] = []
    columns = (payments["partition"], payments["at"], payments["cents"], scores)
    for partition, at, cents, score in zip(*columns, strict=True):
        desk = desks[partition]
        verdict = decide(score, cents, policy, free=desk.free(at), draw=lambda: 1.0)
        if verdict.action == "review":
            desk.take()
        actions.append(verdict.action)
    return actions


def meant(payments: pl.DataFrame) -> list[Action]:
    """The actions that the policy wanted: what passed at random stands for payments that were declined."""
    wanted = pl.when("explored").then(pl.lit("decline")).otherwise("action")
    return payments.select(wanted).to_series().to_list()


def cost(payments: pl.DataFrame, actions: Sequence[Action]) -> float:
    """What actions cost by the labels in `payments`, EUR; `weight` undoes what nobody could see."""
    columns = (actions, payments["cents"], payments["fraud"], payments["weight"])
    return math.fsum(
        weight * realised(action, cents, fraud=fraud) for action, cents, fraud, weight in zip(*columns, strict=True)
    )


def caught(payments: pl.DataFrame) -> float | None:
    """The share of the frauds known by now that were stopped, as far as labels can tell; None without any.

    A declined payment has no label, so what was let through at random stands for those declined.
    """
    frauds = payments.filter(pl.col("fraud") & (pl.col("weight") > 0))
    total = float(frauds["weight"].sum())
    missed = float(frauds.filter((pl.col("action") == "approve") & (pl.col("weight") == 1))["weight"].sum())
    return 1 - missed / total if total else None


def judge(payments: pl.DataFrame, model: Model, policy: Policy, *, matrix: Matrix) -> Judged:
    """Model and policy on labelled payments (columns partition, at, card, cents, fraud, weight) in order of time."""
    scores = model.scores(matrix)
    actions = act(payments, scores.tolist(), policy)
    truth, weights = payments["fraud"].to_numpy(), payments["weight"].to_numpy()
    stopped = np.array([action != "approve" for action in actions])
    total = float(weights.sum())
    # [6.1] Accuracy is .99 for whoever approves everything. Ranking is judged by average precision, because analysts
    # read from the top; the probability by Brier; and what decides is money, with the policy as it is served.
    figures = ranking(payments, scores) | {
        "brier": float(brier_score_loss(truth, scores, sample_weight=weights)),
        "precision": float(precision_score(truth, stopped, sample_weight=weights, zero_division=0.0)),
        "recall": float(recall_score(truth, stopped, sample_weight=weights, zero_division=0.0)),
        "cost_per_1000": 1_000 * cost(payments, actions) / total,
        "cost_per_1000_approve_all": 1_000 * cost(payments, ["approve"] * len(actions)) / total,
        "reviews_a_day": actions.count("review") / max(1, (payments["at"] // config.DAY).n_unique()),
        "missed_over_promised": missed_over_promised(truth[~stopped], scores[~stopped], weights[~stopped]),
        "declined": actions.count("decline") / max(1, len(actions)),
        "payments": float(len(actions)),
    }
    return Judged(figures, actions)


def missed_over_promised(frauds: Vector, scores: Vector, weights: Vector) -> float:
    """Frauds among approved payments, over the sum of their probabilities; 1 is perfect calibration below the line."""
    return float((frauds * weights).sum() / max(1e-9, (scores * weights).sum()))


def ranking(payments: pl.DataFrame, scores: Vector) -> dict[str, float]:
    """Average precision, AUC and card precision at 100; NaN-free: 0 where a block has no fraud."""
    truth, weights = payments["fraud"].to_numpy(), payments["weight"].to_numpy()
    if not truth.any() or truth.all():
        return {"average_precision": 0.0, "auc": 0.0, "card_precision_100": 0.0}
    return {
        "average_precision": float(average_precision_score(truth, scores, sample_weight=weights)),
        "auc": float(roc_auc_score(truth, scores, sample_weight=weights)),
        "card_precision_100": card_precision(payments, scores, cards=100),
    }


def card_precision(payments: pl.DataFrame, scores: Vector, *, cards: int) -> float:
    """The share of fraud among the `cards` highest-scored cards of a day, mean over days (the Handbook, ch. 4.4)."""
    by_card = (
        payments.select("card", "fraud", day=pl.col("at") // config.DAY, score=pl.Series(scores))
        .group_by("day", "card")
        .agg(pl.col("score").max(), pl.col("fraud").any())
    )
    top = by_card.sort("score", "card", descending=[True, False]).group_by("day", maintain_order=True).head(cards)
    by_day = top.group_by("day", maintain_order=True)  # else the mean's last bits depend on the threads
    return float(by_day.agg(pl.col("fraud").sum() / cards)["fraud"].mean() or 0.0)  # type: ignore[arg-type]  # a mean of numbers


def gate(challenger: Mapping[str, float], champion: Mapping[str, float] | None, rules: float) -> str:
    """Why the challenger may not be released, judged on the same block; empty if it may.

    `rules`: what the rules alone cost on that block, per 1,000 payments.
    """
    if challenger["cost_per_1000"] >= rules:
        return f"costs {challenger['cost_per_1000']:.0f} per 1,000 payments, the rules alone {rules:.0f}"
    if champion is None:
        return ""
    if challenger["average_precision"] < champion["average_precision"] - AP_SLACK:
        ours, theirs = challenger["average_precision"], champion["average_precision"]
        return f"average precision {ours:.3f}, the champion's is {theirs:.3f}"
    if challenger["cost_per_1000"] > champion["cost_per_1000"] * WORTH:
        return (
            f"costs {challenger['cost_per_1000']:.0f} per 1,000 payments, the champion {champion['cost_per_1000']:.0f}"
        )
    return ""
