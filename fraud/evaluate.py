"""Metrics of model and policy as they are served, and the release gate."""

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
from shared.intervals import Interval, paired_bootstrap

LOSS = 0.02  # of what a champion saves on older payments: the most that all releases together may lose of it
LEVEL = 0.9  # of the interval whose lower bound decides
# Beyond the champion: two good versions differ on some seventy cards, and with so few a bound at 90 % lets more than 5
# of 100 equals pass; this one lets 3.
STRICT = 0.95
PROMISE = 1.5  # times the frauds that a model promised among approved payments may come
WORSE = 1.5  # times as many again are what the evidence is gathered for: two days show three times the promise
ENOUGH = 1e6  # evidence; more says no more


class Judged(NamedTuple):
    """A model with its policy on one block of payments."""

    figures: dict[str, float]
    actions: list[Action]
    costs: Vector  # of each payment, EUR, by its weight


class Gains(NamedTuple):
    """What a challenger saves, with the bounds of an interval."""

    rules: Interval  # EUR, beyond the rules alone, on the newest payments
    champion: Interval | None = None  # EUR, beyond the champion, on the same
    older: Interval | None = None  # beyond the champion, on older payments, as a share of what that one saves there
    debt: float = 0.0  # as such shares: what the releases before have lost

    def figures(self) -> dict[str, float]:
        """The bounds that decide, and what the next challenger owes to older payments."""
        figures = {"gain_over_rules_low": self.rules.low}
        if self.champion is not None and self.older is not None:
            owed = max(0.0, self.debt - self.older.value)
            figures |= {"gain_low": self.champion.low, "older_gain_low": self.older.low, "older_debt": owed}
        return {name: value for name, value in figures.items() if math.isfinite(value)}


def act(payments: pl.DataFrame, scores: Sequence[Score], policy: Policy, *, share: float = 0.5) -> list[Action]:
    """What would have been done with a share of the cards' payments, in order of time, with so many of the analysts."""
    desks = [Desk(places=round(PLACES * share)) for _ in range(config.PARTITIONS)]
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
    """What actions cost by the labels in `payments`, EUR; `weight` is the inverse propensity."""
    return math.fsum(paid(payments, actions))


def paid(payments: pl.DataFrame, actions: Sequence[Action]) -> Vector:
    """The same for each payment."""
    columns = (actions, payments["cents"], payments["fraud"], payments["weight"])
    return np.array(
        [weight * realised(action, cents, fraud=fraud) for action, cents, fraud, weight in zip(*columns, strict=True)]
    )


def gain(payments: pl.DataFrame, before: Vector, after: Vector, *, seed: int, level: float = LEVEL) -> Interval:
    """EUR that the costs `after` are below those `before`; drawn again are whole cards, whose payments are alike."""
    cards = payments["card"].rank("dense").to_numpy().astype(np.int64) - 1
    saved = np.bincount(cards, weights=before - after)  # a row a card
    return paired_bootstrap(lambda weights: float(weights @ saved), np.arange(saved.size), seed=seed, level=level)


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
    total, costs = float(weights.sum()), paid(payments, actions)
    # [6.1] Approving everything has an accuracy of .99. Ranking is judged by average precision, because analysts
    # read from the top; the probability by Brier; and what decides is money, with the policy as it is served.
    figures = ranking(payments, scores) | {
        "brier": float(brier_score_loss(truth, scores, sample_weight=weights)),
        "precision": float(precision_score(truth, stopped, sample_weight=weights, zero_division=0.0)),
        "recall": float(recall_score(truth, stopped, sample_weight=weights, zero_division=0.0)),
        "cost_per_1000": 1_000 * math.fsum(costs) / total,
        "cost_per_1000_approve_all": 1_000 * cost(payments, ["approve"] * len(actions)) / total,
        "reviews_a_day": actions.count("review") / (payments["at"] // config.DAY).n_unique(),
        "missed_over_promised": missed_over_promised(truth[~stopped], scores[~stopped], weights[~stopped]),
        "declined": actions.count("decline") / len(actions),
        "payments": float(len(actions)),
    }
    return Judged(figures, actions, costs)


def missed_over_promised(frauds: Vector, scores: Vector, weights: Vector) -> float:
    """Frauds among approved payments, over the sum of their probabilities; 1 is perfect calibration below the line."""
    return float((frauds * weights).sum() / max(1e-9, (scores * weights).sum()))


def evidence(before: float, *, frauds: int, promised: float, burst: float = 1.0) -> float:
    """What speaks, after a day more, against the promise of `promised` frauds among a day's approved payments.

    Shiryaev's and Roberts' sum of likelihood ratios: while no more than PROMISE times the promised frauds come, in
    bursts of a mean of `burst` frauds, it reaches N after N days at the earliest, in the mean.
    """
    # Poisson, of bursts: several frauds with one card are one surprise.
    against = (frauds * math.log(WORSE) - (WORSE - 1) * PROMISE * promised) / burst
    return (min(before, ENOUGH) + 1) * math.exp(min(against, math.log(ENOUGH)))


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


def gate(figures: Mapping[str, float], gains: Gains) -> str:
    """Why the challenger may not be released; empty if it may. A tie goes to what is in force, and so does a NaN."""
    unknown = [name for name, value in figures.items() if not math.isfinite(value)]
    if unknown:
        return f"no number: {', '.join(unknown)}"
    for rival, saved in {"the rules alone": gains.rules, "the champion": gains.champion}.items():
        if saved is not None and not saved.low > 0:
            return f"is not surely cheaper than {rival}: saves {saved.low:,.0f} to {saved.high:,.0f} EUR"
    if gains.older is not None and not gains.older.low - gains.debt > -LOSS:
        lost, owed = max(-gains.older.low, 0.0), f", {gains.debt:.1%} was lost before" if gains.debt else ""
        return f"may lose {lost:.1%} of what the champion saves on older payments{owed}; {LOSS:.0%} is the most"
    return ""
