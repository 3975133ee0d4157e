"""The union of each source's best, with every source's score for every one of them."""

import numpy as np
from numpy.typing import NDArray

from recsys.schema import Candidates, Floats, Ints
from recsys.sources import Sources

BLOCK = 512  # users at a time: their scores of all items fit into the cache of a core, more or less


def candidates(sources: Sources, users: Ints, *, pool: int) -> Candidates:
    """For a block of users: the `pool` best of each source, and what all the others think of these."""
    scores = sources.scores(users)
    chosen = np.zeros(scores[0].shape, dtype=bool)
    for source in scores:
        mark_best(source, pool, chosen)
    rows, items = np.nonzero(chosen)
    return Candidates(users[rows], items, np.stack([source[rows, items] for source in scores], axis=1))


def mark_best(scores: Floats, pool: int, chosen: NDArray[np.bool_]) -> None:
    """Mark the `pool` best of each row that say anything: not minus infinity, and not the row's least."""
    pool = min(pool, scores.shape[1])
    best = np.argpartition(scores, scores.shape[1] - pool, axis=1)[:, -pool:]
    found = np.take_along_axis(scores, best, axis=1)
    says = found > np.maximum(np.where(np.isfinite(scores), scores, np.inf).min(axis=1, keepdims=True), -1e30)
    rows, places = np.nonzero(says)
    chosen[rows, best[rows, places]] = True
