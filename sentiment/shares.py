"""Shares of opinions, corrected: what a classifier gets wrong on single posts need not be wrong in the sum.

Probabilistic adjusted classify and count (PACC; Bella et al., 2010): the mean score of a window is what the
classifier's confusion makes of the true shares, so these are found by undoing it, on the simplex.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls  # type: ignore[attr-defined]  # it is public, and only its stub forgets that

from sentiment.config import AUDITS_NEEDED, LABELS, SHARE_NEEDED
from sentiment.schema import Confusion, Report, Score

Matrix = NDArray[np.float64]  # (3, 3) or (n, 3)
REPLICAS = 50  # bootstrap samples: of audits in a confusion, and of authors for each of those
SUM = 1_000.0  # weight of "shares add up to one" beside the three equations
FEWEST = 8  # audits of each label
# Nine means a day: by chance one passes four standard errors in one month of sixty. What moves by less than LEAST
# changes a share by less than its interval is wide.
ERRORS, LEAST = 4.0, 0.05
SHIFT = 2  # days of audits in which a label's posts may have begun to read otherwise


class Shares(NamedTuple):
    """Of negative, neutral and positive."""

    counted: Score  # as classified
    corrected: Score | None  # none: too few opinions, or too few audits
    low: Score | None  # the bounds hold 90 % of the bootstrap
    high: Score | None
    opinions: int
    solved: Matrix | None = None  # the shares of each sample of the bootstrap


def confusion(
    scores: Matrix, labels: Sequence[str], weights: Sequence[float], *, seed: int, brands: Sequence[str] = ()
) -> Confusion | None:
    """From audits: (n, 3) scores, their true labels, and one over the chance that each had to be drawn.

    `brands` they are of; without, all are of one.
    None when they are too few to say.
    """
    truth = np.array([LABELS.index(label) for label in labels], dtype=np.int64)
    counts = np.bincount(truth, minlength=3)
    if len(truth) < AUDITS_NEEDED or counts.min() < FEWEST:
        return None
    weighed = np.asarray(weights, dtype=np.float64)
    rng = np.random.default_rng(seed)
    _, group = np.unique(np.asarray(brands or [""] * len(truth)), return_inverse=True)
    of = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    replicas: list[tuple[Score, Score, Score]] = []
    while len(replicas) < REPLICAS:
        # [6.2] Brands first, then their audits: of one brand people say other things than of the next, so five brands
        # are five looks at the confusion, however many posts there are of each.
        drawn = np.concatenate([rng.choice(of[number], len(of[number])) for number in rng.choice(len(of), len(of))])
        if len(np.unique(truth[drawn])) == 3:  # without a label there would be no row for it
            replicas.append(_rows(scores[drawn], truth[drawn], weighed[drawn]))
    return Confusion(_rows(scores, truth, weighed), _three(counts), tuple(replicas))  # type: ignore[arg-type]  # counts, not shares


def shifted(known: Confusion, fresh: Confusion) -> tuple[str, ...]:
    """Labels whose posts are scored otherwise than they were: what PACC takes for granted has changed.

    A prior that shifts moves none: rows are by true label. Only words that mean something else now, or new ones, do.
    """
    found = []
    for number, label in enumerate(LABELS):
        before, after = (np.array(of.replicas)[:, number] for of in (known, fresh))
        error = np.sqrt(before.var(axis=0) + after.var(axis=0))
        moved = np.abs(np.array(fresh.rows[number]) - np.array(known.rows[number]))
        if (moved > np.maximum(ERRORS * error, LEAST)).any():
            found.append(label)
    return tuple(found)


def correcting(reports: Iterable[Report]) -> dict[tuple[int, str], Confusion]:
    """By day and model version: what a day is corrected by, from audits before it.

    Days whose posts turn out to have read otherwise stay as counted: no audit from before them knows what they say.
    """
    told = list(reports)
    known = {(report.day + 1, report.version): report.confusion for report in told}
    # [6.2] Audits come a day late, so two days' worth of them tell of posts up to SHIFT days before the report.
    otherwise = {
        (day, report.version) for report in told if report.shifted for day in range(report.day - SHIFT, report.day + 1)
    }
    return {(d, v): said for (d, v), said in known.items() if v and said and (d, v) not in otherwise}


def shares(scores: Matrix, labels: Sequence[str | None], authors: Sequence[str], known: Confusion | None) -> Shares:
    """Of one window: its posts' scores (n, 3), their labels as counted, and who wrote them."""
    counted = [label for label in labels if label is not None]
    raw = np.array([counted.count(label) for label in LABELS]) / max(1, len(counted))
    if len(counted) < SHARE_NEEDED or known is None:
        return Shares(_three(raw), None, None, None, len(counted))
    # [6.2] Resampled by author: one who writes forty posts is one person, and an interval that took them for forty
    # would be far too narrow.
    _, who = np.unique(np.asarray(authors), return_inverse=True)
    sums = np.zeros((who.max() + 1, 3))
    np.add.at(sums, who, scores)
    posts = np.bincount(who)
    rng = np.random.default_rng(len(counted))
    solved = []
    for rows in known.replicas:
        times = rng.multinomial(len(posts), np.full(len(posts), 1 / len(posts)))
        solved.append(undone(times @ sums / (times @ posts), np.array(rows)))
    low, high = np.quantile(np.array(solved), (0.05, 0.95), axis=0)
    estimate = undone(scores.mean(axis=0), np.array(known.rows))
    return Shares(_three(raw), _three(estimate), _three(low), _three(high), len(counted), np.array(solved))


def together(parts: Sequence[tuple[int, Shares]]) -> tuple[Score, Score, Score] | None:
    """The corrected shares of posts that several versions scored, and the bounds of their interval.

    `parts`: of each version the number of posts, and their shares, corrected by its own confusion; None without any.
    """
    weights = np.array([posts for posts, _ in parts]) / max(1, sum(posts for posts, _ in parts))
    solved = [found.solved for _, found in parts if found.solved is not None]
    estimates = [found.corrected for _, found in parts if found.corrected is not None]
    if not parts or not len(parts) == len(solved) == len(estimates):
        return None
    samples = min(map(len, solved))  # an older report may hold another number
    spread = sum(weight * of[:samples] for weight, of in zip(weights, solved, strict=True))
    low, high = np.quantile(np.asarray(spread), (0.05, 0.95), axis=0)
    return _three(weights @ np.array(estimates)), _three(low), _three(high)


def undone(mean: NDArray[np.float64], rows: Matrix) -> NDArray[np.float64]:
    """The shares whose mean score would be `mean` under the confusion `rows`: least squares on the simplex.

    >>> undone(np.array([0.5, 0.3, 0.2]), np.eye(3)).round(2).tolist()
    [0.5, 0.3, 0.2]
    """
    equations = np.vstack([rows.T, np.full((1, 3), SUM)])
    found, _ = nnls(equations, np.append(mean, SUM))
    return np.asarray(found / found.sum(), dtype=np.float64)


def _rows(scores: Matrix, truth: NDArray[np.int64], weights: NDArray[np.float64]) -> tuple[Score, Score, Score]:
    negative, neutral, positive = (
        _three(np.average(scores[truth == label], axis=0, weights=weights[truth == label])) for label in range(3)
    )
    return negative, neutral, positive


def _three(values: NDArray[np.float64] | NDArray[np.int64]) -> Score:
    negative, neutral, positive = values.tolist()
    return negative, neutral, positive
