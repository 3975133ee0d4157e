"""Candidate generation: the union of each source's best items, with the scores of all sources."""

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
    """Mark the `pool` best of each row, and what ties with the last of them, if they say anything.

    That is: if they are not minus infinity, and not the row's least.
    """
    pool = min(pool, scores.shape[1])
    last = np.partition(scores, scores.shape[1] - pool, axis=1)[:, -pool, None]
    least = scores.min(axis=1, keepdims=True, where=np.isfinite(scores), initial=np.inf)
    chosen |= (scores >= last) & (scores > least)
