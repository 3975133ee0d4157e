"""Builds the rows that are stored: policy, backfill with popular items, and the shuffled share for exploration."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys import config, table
from recsys.model import lists
from recsys.policy import Policy, Rules, compose
from recsys.schema import SOURCES, Floats, Interactions, Ints, Ranked, TopK
from recsys.sources import Sources
from recsys.table import Extras, drawn

DEEP = 150  # ranked items a user that the policy may choose from
SCORED = 10  # first scores of each row that tomorrow's gate compares


def arranged(
    known: Interactions, policy: Policy, sources: Sources, ranked: Ranked, *, date: str
) -> tuple[TopK, Floats, Extras]:
    """Policy, filling up, exploration: what is stored of each user; their first scores; and the extras."""
    rules = Rules.of(known)
    count, k = len(known.users), config.STORED
    items, origins = np.full((count, k), -1, np.int32), np.full((count, k), SOURCES.index("popular"), np.int8)
    scores = np.zeros((count, SCORED), np.float32)
    explored, filled = np.zeros(count, bool), np.zeros(count, np.int16)
    popular = _popular(known, sources, rules, policy)
    by_user = lists(ranked)
    places = np.flatnonzero(np.diff(ranked.users, prepend=-1))
    for place, user in zip(places.tolist(), ranked.users[places].tolist(), strict=True):
        found, origin = by_user[user]
        chosen = compose(found.tolist(), rules, policy)
        items[user, : len(chosen)] = found[chosen]
        origins[user, : len(chosen)] = origin[chosen]
        first = ranked.scores[place : place + SCORED][: found.size]
        scores[user, : first.size] = first
    for user in range(count):
        there = int((items[user] >= 0).sum())
        if there < k:
            mine = set(items[user, :there].tolist())
            had = sources.bought.indices[sources.bought.indptr[user] : sources.bought.indptr[user + 1]]
            owned = set(had[~sources.again[had]].tolist())  # what there is of it comes last, so that no list is short
            rest = sorted((item for item in popular[""] if item not in mine), key=lambda item: item in owned)
            more = rest[: k - there]
            items[user, there : there + len(more)] = more
            filled[user] = len(more)
        if (draw := drawn(known.users[user], date)) is not None:
            explored[user] = True
            shuffled = int((items[user, : config.PERMUTED] >= 0).sum())
            order = draw.permutation(shuffled)
            items[user, :shuffled], origins[user, :shuffled] = items[user, order], origins[user, order]
    extras = Extras(known.items, popular, *rules, titles=known.products["title"].to_list())
    return TopK(items, origins, explored, filled), scores, extras


def _popular(known: Interactions, sources: Sources, rules: Rules, policy: Policy) -> dict[str, list[int]]:
    order = np.argsort(-sources.popular, kind="stable")
    order = order[~sources.closed[order]]
    names = known.products["category"].to_numpy()[order]
    found = {"": order[: 3 * config.STORED]}
    found |= {name: order[names == name][: config.STORED] for name in np.unique(names) if name}
    return {
        name: [int(items[place]) for place in compose(items.tolist(), rules, policy, most=2 * config.STORED)]
        for name, items in found.items()
    }


def nearest(sources: Sources) -> NDArray[np.int32]:
    """(items, NEIGHBOURS) what goes with each item, or is like it; -1 where there is no more."""
    mixed = (sources.linear + sources.content * np.float32(1e-3)).tocsr()
    out = np.full((mixed.shape[0], config.NEIGHBOURS), -1, np.int32)
    for item in range(mixed.shape[0]):
        a, b = mixed.indptr[item], mixed.indptr[item + 1]
        best = np.lexsort((mixed.indices[a:b], -mixed.data[a:b]))[: config.NEIGHBOURS]
        out[item, : best.size] = mixed.indices[a:b][best]
    return out


def latest(known: Interactions) -> Ints:
    """(users, HISTORY) the items last bought, newest first; -1 where there are fewer."""
    rows = known.bought.sort("user", "at", "item").group_by("user", maintain_order=True)
    last = rows.agg(pl.col("item").reverse().unique(maintain_order=True).head(table.HISTORY))
    out = np.full((len(known.users), table.HISTORY), -1)
    for user, items in last.iter_rows():
        out[user, : len(items)] = items
    return out
