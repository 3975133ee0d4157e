"""Metrics of lists as served, and the gates of recipe and table."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from recsys import config
from recsys.schema import Interactions, Ints
from shared.drift import Array

AT = 20
RESAMPLES = 1_000
WORSE = 0.97  # of the champion's nDCG: a challenger may lose this much, by chance


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
    """What lists show, whoever buys: coverage, novelty, diversity, popularity bias, small sellers' share."""
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


def lower_bound(ours: Array, theirs: Array, *, seed: int, level: float = 0.95) -> float:
    """Of the mean difference by user: the one-sided bound of a paired bootstrap over users."""
    rng, difference = np.random.default_rng(seed), ours - theirs
    means = [float(difference[rng.integers(difference.size, size=difference.size)].mean()) for _ in range(RESAMPLES)]
    return float(np.quantile(means, (1 - level) / 2))


def gate(figures: Mapping[str, float], champion: Mapping[str, float] | None) -> str:
    """Why a recipe may not be released, judged on a later period than it learnt from; empty if it may.

    Trees have to beat the best single source surely. A blend of the sources is what is left where trees are no better;
    it may be one source alone, so it must only not be surely below the best one.
    """
    if figures.get("trees") == 0:
        if figures["lift_high"] < 0:
            return (
                f"nDCG {figures['ndcg']:.4f} of a blend is surely below the best source's {figures['best_single']:.4f}"
            )
    elif figures["lift_low"] <= 0:
        return f"nDCG {figures['ndcg']:.4f} is not surely above the best single source's {figures['best_single']:.4f}"
    if champion is not None and figures["ndcg"] < WORSE * champion["ndcg"]:
        return f"nDCG {figures['ndcg']:.4f}, the champion's is {champion['ndcg']:.4f}"
    return ""


def gate_table(figures: Mapping[str, float]) -> str:
    """Why a table may not be published; empty if it may. Without a yesterday nothing is compared with it."""
    if figures["users"] < 1 or figures["stored"] < 1:
        return "the table is empty"
    if figures.get("users_yesterday", 0) * config.MIN_USERS > figures["users"]:
        return f"{figures['users']:.0f} users, yesterday {figures['users_yesterday']:.0f}"
    if figures["fallbacks"] > config.MAX_FALLBACKS:
        return f"{figures['fallbacks']:.0%} of what is stored was filled up from popularity"
    if figures.get("overlap", 1.0) < config.MIN_OVERLAP:
        return f"only {figures['overlap']:.0%} of yesterday's first ten are among today's"
    if figures.get("shift", 0.0) > config.MAX_SHIFT:
        return f"the scores moved by {figures['shift']:.2f} since yesterday (Jensen-Shannon)"
    if figures["input"] < config.MIN_INPUT * figures.get("input_usual", 0.0):
        return f"{figures['input']:,.0f} events since yesterday, {figures['input_usual']:,.0f} are usual"
    return ""
