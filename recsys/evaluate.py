"""Metrics of lists as they are served, and the gates of model and table."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from recsys import config
from recsys.schema import Interactions, Ints
from shared.drift import Array
from shared.intervals import Interval, paired_bootstrap

AT = 20
LEVEL = 0.9  # of intervals in gates: in one of twenty ties the lower bound is above 0
OLDER_LOSS = 0.02  # of the champion's nDCG on older data, which all versions since may have lost together


class Truth:
    """What users bought after the cut, as (user, item) keys."""

    def __init__(self, users: Ints, items: Ints, *, count: int) -> None:
        self.count = count
        kept = items >= 0  # what was not there yet cannot be hit; it counts among what was to be found
        self.keys = np.unique(users[kept] * count + items[kept])
        self.users, self.sizes = np.unique(users[users >= 0], return_counts=True)

    def hits(self, lists: Ints) -> NDArray[np.bool_]:
        """(judged users, k): `lists` are theirs, in the order of `users`; -1 where a list is short."""
        keys = self.users[:, None] * self.count + lists
        return np.isin(keys, self.keys) & (lists >= 0)


def ndcg(hits: NDArray[np.bool_], sizes: Ints) -> Array:
    """(users,) binary gains; the ideal list holds min(k, what there was to find)."""
    discounts = 1 / np.log2(np.arange(hits.shape[1]) + 2)
    ideal = np.cumsum(discounts)[np.minimum(sizes, hits.shape[1]) - 1]
    return np.asarray(hits @ discounts / ideal)


def recall(hits: NDArray[np.bool_], sizes: Ints) -> Array:
    """(users,) the share found of all there was."""
    return np.asarray(hits.sum(axis=1) / sizes)


def average_precision(hits: NDArray[np.bool_], sizes: Ints) -> Array:
    """(users,) mean precision at the hits, over min(k, what there was to find)."""
    precision = np.cumsum(hits, axis=1) / (np.arange(hits.shape[1]) + 1)
    return np.asarray((precision * hits).sum(axis=1) / np.minimum(sizes, hits.shape[1]))


def judge(truth: Truth, lists: Ints) -> dict[str, float]:
    """Of (judged users, k) lists, means over users."""
    # [6.1] nDCG, as the first places are those that are looked at; recall for what the list could find at all.
    # Neither says what the shop earns: that is the simulator's, or an experiment's, to tell.
    hits = truth.hits(lists[:, :AT])
    if not len(hits):
        return {"ndcg": 0.0, "recall": 0.0, "map": 0.0, "users": 0.0}
    values = {"ndcg": ndcg, "recall": recall, "map": average_precision}
    return {name: float(of(hits, truth.sizes).mean()) for name, of in values.items()} | {"users": float(len(hits))}


def breadth(lists: Ints, known: Interactions) -> dict[str, float]:
    """What lists show, whatever is bought: coverage, novelty, diversity, popularity bias, small sellers' share."""
    lists = lists[:, :AT]
    shown = lists[lists >= 0]
    count = len(known.items)
    buyers = known.bought.unique(["user", "item"])["item"].to_numpy()
    popular = np.bincount(buyers, minlength=count)
    chance = (popular + 1) / (popular.sum() + count)
    by_rank = np.argsort(np.argsort(popular, kind="stable"), kind="stable") / max(1, count - 1)
    category = known.products["category"].rank("dense").to_numpy().astype(np.int64)
    kinds = [len(set(category[row[row >= 0][:10]])) for row in lists]
    return {
        "coverage": np.unique(shown).size / max(1, count),
        "novelty": float(-np.log2(chance[shown]).mean()),  # bits
        "diversity": float(np.mean(kinds)),  # categories among the first ten
        "popularity_bias": float(by_rank[shown].mean() - 0.5),
        "small_sellers": float(known.products["small"].to_numpy()[shown].mean()),
    }


def gain(ours: Array, theirs: Array, *, seed: int) -> Interval:
    """Mean of `ours` over that of `theirs`, less 1, with an interval; one value a shopper, who are resampled whole."""

    def over(weights: Array) -> float:
        peer = float(weights @ theirs)
        return float(weights @ ours) / peer - 1 if peer > 0 else float("nan")

    return paired_bootstrap(over, np.arange(ours.size), seed=seed, level=LEVEL)


def gate(figures: Mapping[str, float], champion: Mapping[str, float] | None) -> str:
    """Why a recipe may not be released, judged on a later period than it learnt from; empty if it may.

    Trees have to beat the best single source surely, and the hand blend, too. A blend of the sources is what is left
    where trees are no better; it may be one source alone, so it must only not be surely below the best one. What is no
    number passes nothing.

    `champion`: what the one in force reaches, and `gain_low`, the lower bound of the gain on it; on older data
    `older_gain_low`, and in `loss` what its line of versions has lost there already. A tie goes to the champion.
    """
    ndcg, best = figures["ndcg"], figures["best_single"]
    if figures.get("trees") == 0:
        if not figures["lift_high"] >= 0:
            return f"nDCG {ndcg:.4f} of a blend is surely below the best source's {best:.4f}"
    elif not figures["lift_low"] > 0:
        return f"nDCG {ndcg:.4f} is not surely above the best single source's {best:.4f}"
    elif not figures["blend_low"] > 0:
        return f"nDCG {ndcg:.4f} is not surely above the hand blend's {figures['ndcg_blend']:.4f}"
    if champion is None:
        return ""
    if not champion["gain_low"] > 0:
        low = f"{champion['gain_low']:+.1%}"
        return f"nDCG {ndcg:.4f} is not surely above the champion's {champion['ndcg']:.4f}: the gain may be {low}"
    older, loss = champion.get("older_gain_low", 0.0), champion.get("loss", 0.0)
    if not older + loss > -OLDER_LOSS:
        lost = f"{older:+.1%} after {loss:+.1%} of versions before"
        return f"on older data it may lose more than {OLDER_LOSS:.0%} of the champion's nDCG: {lost}"
    return ""


def gate_table(figures: Mapping[str, float]) -> str:
    """Why a table may not be published; empty if it may. Without a yesterday nothing is compared with it."""
    if broken := [name for name, value in figures.items() if not math.isfinite(value)]:
        return f"no number: {', '.join(broken)}"
    if figures["users"] < 1 or figures["stored"] < 1:
        return "the table is empty"
    if figures["users"] < config.MIN_USERS * figures.get("users_yesterday", figures["users"]):
        return f"{figures['users']:.0f} users, yesterday {figures['users_yesterday']:.0f}"
    for name, what in (("for_sale", "items for sale"), ("titled", "items with a title")):
        now = figures[name]
        if now < config.MIN_CATALOGUE * (yesterday := figures.get(f"{name}_yesterday", now)):
            return f"{now:.0f} {what}, yesterday {yesterday:.0f}"
    # The first table of a sparse shop has little but popularity to show; one that always had more has lost something.
    most = max(config.MAX_FALLBACKS, figures.get("fallbacks_yesterday", 0.0) + config.MORE_FALLBACKS)
    if "users_yesterday" in figures and figures["fallbacks"] > most:
        return f"{figures['fallbacks']:.0%} of what is shown was filled up from popularity"
    if figures.get("overlap", config.MIN_OVERLAP) < config.MIN_OVERLAP:
        return f"only {figures['overlap']:.0%} of yesterday's first ten are among today's"
    if figures.get("shift", config.MAX_SHIFT) > config.MAX_SHIFT:
        return f"the scores moved by {figures['shift']:.2f} since yesterday (Jensen-Shannon)"
    if figures["input"] < config.MIN_INPUT * figures["input_usual"]:
        return f"{figures['input']:,.0f} events since yesterday, {figures['input_usual']:,.0f} are usual"
    return ""
