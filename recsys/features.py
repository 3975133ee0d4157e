"""Candidates -> Floats. Features of the ranker: scores, ranks, and what was known of shopper and item at the cut.

Pure, and ONE definition: training builds it at past cuts, the night at its own. No raw factor of ALS is in it:
they rotate with every fit, and a ranker is kept for weeks.
"""

import hashlib
from typing import NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys import config
from recsys.schema import SOURCES, Candidates, Floats, Interactions, Ints

RECENT, EARLIER = 7, 28  # days of a trend
FAR = 400.0  # days: never, or longer ago than is remembered

MEANING = 2  # of these names: goes up when a feature is computed otherwise, so that no older ranker reads it
NAMES = (
    *SOURCES,  # over the user's spread; missing where the source has no score
    *(f"{source}_rank" for source in SOURCES),  # 1 for the user's best; the same for tied scores
    *("item_popularity", "item_trend", "item_age", "item_price", "item_gap"),
    *("user_activity", "user_since", "user_price", "user_items"),
    *("pair_times", "pair_since", "pair_due", "pair_looked", "pair_price", "pair_category"),
)


class Facts(NamedTuple):
    """Of a cut, computed once for all candidates; degrees as percentiles, because they grow from night to night."""

    cut: int
    items: Floats  # (items, 5)
    users: Floats  # (users, 4)
    price: Floats  # (items,) log
    spends: Floats  # (users,) mean log price
    keys: Ints  # (pairs,) user · items + item, ascending
    pairs: Floats  # (pairs, 2) times bought, days since
    looked: Ints  # (pairs,) keys of what was looked at in the last RECENT days
    category: Ints  # (items,)
    leaning: Floats  # (users, categories) shares of purchases

    @classmethod
    def of(cls, known: Interactions) -> Self:
        bought = known.bought.with_columns(age=(known.cut - pl.col("at")) / config.DAY, day=pl.col("at") // config.DAY)
        count, people = len(known.items), len(known.users)
        once = bought.unique(["user", "item"], keep="last", maintain_order=True)
        days = bought.unique(["user", "item", "day"], keep="first", maintain_order=True)
        item = bought["item"].to_numpy()
        age = bought["age"].to_numpy()
        recent = np.bincount(item[age <= RECENT], minlength=count) / RECENT
        earlier = np.bincount(item[age <= EARLIER], minlength=count) / EARLIER
        price = np.log1p(known.products["cents"].to_numpy()).astype(np.float32)
        since = (known.cut - known.products["since"].to_numpy()) / config.DAY
        times = (
            days.group_by("user", "item")
            .agg(pl.len(), first=pl.col("at").min(), last=pl.col("at").max())
            .sort("user", "item")
        )
        gaps = times.filter(pl.col("len") > 1).with_columns(
            gap=(pl.col("last") - pl.col("first")) / config.DAY / (pl.col("len") - 1)
        )
        typical = gaps.group_by("item").agg(pl.col("gap").median())
        gap = np.full(count, FAR, dtype=np.float32)
        gap[typical["item"].to_numpy()] = typical["gap"].to_numpy()
        user = bought["user"].to_numpy()
        last = np.full(people, FAR)
        np.minimum.at(last, user, age)
        spends = np.bincount(user, price[item], people) / np.maximum(np.bincount(user, minlength=people), 1)
        baskets = bought.unique(["user", "order"]).group_by("user").len()
        size = np.zeros(people)
        size[baskets["user"].to_numpy()] = baskets["len"].to_numpy()
        category = known.products["category"].rank("dense").cast(pl.Int64).to_numpy() - 1
        leaning = np.zeros((people, category.max(initial=0) + 1), dtype=np.float32)
        np.add.at(leaning, (user, category[item]), 1.0)
        looked = known.seen.filter(pl.col("at") > known.cut - RECENT * config.DAY)
        return cls(
            cut=known.cut,
            items=_columns(
                _percentile(np.bincount(once["item"].to_numpy(), minlength=count)),
                np.log((recent + 0.05) / (earlier + 0.05)),
                np.minimum(since, FAR),
                _percentile(price),
                gap,
            ),
            users=_columns(
                _percentile(np.bincount(once["user"].to_numpy(), minlength=people)),
                np.minimum(last, FAR),
                spends,
                np.bincount(user, minlength=people) / np.maximum(size, 1),
            ),
            price=price,
            spends=spends.astype(np.float32),
            keys=times["user"].to_numpy() * count + times["item"].to_numpy(),
            pairs=_columns(times["len"].to_numpy(), (known.cut - times["last"].to_numpy()) / config.DAY),
            looked=np.unique(looked["user"].to_numpy() * count + looked["item"].to_numpy()),
            category=category,
            leaning=leaning / np.maximum(leaning.sum(axis=1, keepdims=True), 1.0),
        )

    def matrix(self, pairs: Candidates) -> Floats:
        """(n, features) in the order of NAMES."""
        starts = np.flatnonzero(np.diff(pairs.users, prepend=-1))
        sizes = np.diff(starts, append=pairs.users.size)
        keys = pairs.users * len(self.items) + pairs.items
        times, since = self._pair(keys)
        gap = self.items[pairs.items, 4]
        out = np.empty((pairs.users.size, len(NAMES)), dtype=np.float32)
        for place in range(len(SOURCES)):
            column = pairs.scores[:, place]
            scored = np.isfinite(column) & (column != 0)
            out[:, place] = np.where(scored, _scaled(column, starts, sizes), np.nan)
            out[:, len(SOURCES) + place] = np.where(scored, _ranks(column, pairs.users, starts, sizes), np.nan)
        at = 2 * len(SOURCES)
        out[:, at : at + 5] = self.items[pairs.items]
        out[:, at + 5 : at + 9] = self.users[pairs.users]
        out[:, at + 9] = times
        out[:, at + 10] = since
        out[:, at + 11] = np.minimum(since / gap, 10.0)
        out[:, at + 12] = _among(keys, self.looked)
        out[:, at + 13] = self.price[pairs.items] - self.spends[pairs.users]
        out[:, at + 14] = self.leaning[pairs.users, self.category[pairs.items]]
        return out

    def _pair(self, keys: Ints) -> tuple[Floats, Floats]:
        """Times bought and days since, of each key; 0 and FAR for what never was."""
        times, since = np.zeros(keys.size, np.float32), np.full(keys.size, FAR, np.float32)
        if self.keys.size:
            found = np.minimum(np.searchsorted(self.keys, keys), self.keys.size - 1)
            known = self.keys[found] == keys
            times[known], since[known] = self.pairs[found[known]].T
        return times, since


def _columns(*columns: NDArray[np.generic]) -> Floats:
    return np.stack([column.astype(np.float32) for column in columns], axis=1)


def _percentile(values: NDArray[np.generic]) -> Floats:
    """The share of values below, with ties in the middle."""
    order = np.sort(values)
    below = np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right")
    return (below / (2 * max(1, values.size))).astype(np.float32)


def _scaled(column: Floats, starts: Ints, sizes: Ints) -> Floats:
    """Over the user's spread, in which no score is 0; not centred, so that 0 goes on meaning that."""
    finite = np.where(np.isfinite(column), column, 0.0).astype(np.float64)
    mean, square = (np.add.reduceat(finite**power, starts) / sizes for power in (1, 2))
    spread = np.sqrt(np.maximum(0.0, square - mean**2))
    spread = np.where(spread > 1e-3 * np.sqrt(square), spread, np.sqrt(square))  # all alike
    return np.asarray(finite / np.repeat(np.maximum(spread, 1e-9), sizes), dtype=np.float32)


def _ranks(column: Floats, users: Ints, starts: Ints, sizes: Ints) -> Floats:
    """1 for the user's best; tied scores share the rank of the first of them."""
    order = np.lexsort((-column, users))
    place = np.arange(column.size)
    first = np.ones(column.size, dtype=bool)
    scores, owners = column[order], users[order]
    first[1:] = (scores[1:] != scores[:-1]) | (owners[1:] != owners[:-1])
    ranks = np.empty(column.size, dtype=np.float32)
    ranks[order] = np.maximum.accumulate(np.where(first, place, 0)) - np.repeat(starts, sizes) + 1
    return ranks


def _among(keys: Ints, sorted_keys: Ints) -> NDArray[np.bool_]:
    if not sorted_keys.size:
        return np.zeros(keys.size, dtype=bool)
    found = np.minimum(np.searchsorted(sorted_keys, keys), sorted_keys.size - 1)
    return np.asarray(sorted_keys[found] == keys)


DEFINITION = hashlib.sha256(repr((NAMES, MEANING, RECENT, EARLIER, FAR)).encode()).hexdigest()[:12]
