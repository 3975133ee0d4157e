"""Quantification: shares of opinions, corrected by audits for the errors of the classifier.

The first number is the mean of calibrated probabilities, from audits of earlier days. A day later the day's own audits
are known, and the final number is prediction-powered (Angelopoulos et al., 2023): the mean over all posts, and what the
audited ones say beyond it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression

from sentiment.config import AUDITS_NEEDED, LABELS, SHARE_NEEDED
from sentiment.schema import Calibration, Confusion, Final, Report, Score

Matrix = NDArray[np.float64]  # (labels, labels) or (n, labels)
Vector = NDArray[np.float64]
REPLICAS = 50  # bootstrap samples of audits in a confusion
FEWEST = 8  # audits of each label
# Nine means a day: by chance one passes four standard errors in one month of sixty. What moves by less than LEAST
# changes a share by less than its interval is wide.
ERRORS, LEAST = 4.0, 0.05
SHIFT = 2  # days of audits in which a label's posts may have begun to read otherwise
LEVEL = 0.9  # of the intervals
GROUP = 5  # audits of a brand and day, at least, that tell how far calibrated shares are off between brands
USUAL_BETWEEN, PRIOR_GROUPS = 0.0025, 3  # a share is off by .05 where little is known, as if so many groups said it
FINAL = 15  # audits of a brand and day, at least, for a final number


class Estimate(NamedTuple):
    """Shares of negative, neutral and positive, and the bounds of their intervals."""

    corrected: Score
    low: Score
    high: Score


class Corrections(NamedTuple):
    """What shares are corrected by, as far as it is known."""

    known: dict[tuple[int, str], Calibration] = {}  # noqa: RUF012  # by event day and model version; never changed
    finals: dict[tuple[int, str], Final] = {}  # noqa: RUF012  # by event day and brand


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


def correcting(reports: Iterable[Report]) -> Corrections:
    """From audits of the days before a day its first number, and from the day's own audits its final one.

    Days whose posts turn out to have read otherwise have no first number: no audit from before knows what they say.
    """
    told = list(reports)
    known = {(report.day + 1, report.version): report.calibration for report in told}
    # [6.2] Audits come a day late, so two days' worth of them tell of posts up to SHIFT days before the report.
    otherwise = {
        (day, report.version) for report in told if report.shifted for day in range(report.day - SHIFT, report.day + 1)
    }
    first = {(d, v): said for (d, v), said in known.items() if v and said and (d, v) not in otherwise}
    return Corrections(first, {(final.day, final.brand): final for report in told for final in report.finals})


def calibration(
    scores: Matrix, labels: Sequence[str], *, brands: Sequence[str], days: Sequence[int]
) -> Calibration | None:
    """From audits: (n, labels) scores, true labels, and which brand and day they are of. None if they are too few."""
    every, count = np.array([LABELS.index(label) for label in labels], dtype=np.int64), scores.shape[1]
    kept = every < count  # the others are labels that the version does not know
    scores, truth, names = scores[kept], every[kept], np.asarray(brands)[kept]
    if len(truth) < AUDITS_NEEDED or np.bincount(truth, minlength=count).min() < FEWEST:
        return None
    weights, bias = _fit(scores, truth)
    # [6.2] Of one brand people say other things than of the next: what is said of a brand is judged by the audits of
    # the others, and how far their shares are off from day to day is what an interval has to hold.
    off = np.eye(count)[truth] - _probabilities(scores, weights, bias)
    for name in np.unique(names):
        others = names != name
        if np.bincount(truth[others], minlength=count).min() >= FEWEST:
            of_others = _fit(scores[others], truth[others])
            off[~others] = np.eye(count)[truth[~others]] - _probabilities(scores[~others], *of_others)
    _, group = np.unique([*zip(names, np.asarray(days)[kept], strict=True)], axis=0, return_inverse=True)
    groups = [mine for number in range(group.max() + 1) if len(mine := off[group == number]) >= GROUP]
    between = [mine.mean(axis=0) ** 2 - mine.var(axis=0, ddof=1) / len(mine) for mine in groups]
    between += [np.full(count, USUAL_BETWEEN)] * PRIOR_GROUPS
    spread = np.maximum(np.mean(between, axis=0), USUAL_BETWEEN / 10)
    return Calibration(tuple(map(tuple, weights.tolist())), tuple(bias.tolist()), tuple(spread.tolist()), len(groups))


def calibrated(scores: Matrix, known: Calibration) -> Matrix:
    """Probabilities as the audits have them: a multinomial logistic regression on the logarithms of the scores."""
    return _probabilities(scores, np.array(known.weights), np.array(known.bias))


def _probabilities(scores: Matrix, weights: Matrix, bias: Vector) -> Matrix:
    logits = np.log(np.clip(scores, 1e-6, 1.0)) @ weights + bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def first_number(parts: Sequence[tuple[Matrix, Calibration]], authors: Sequence[str]) -> Estimate | None:
    """Of a window whose posts one version or several have scored, each calibrated by its own audits of earlier days.

    None of fewer than SHARE_NEEDED posts.
    """
    if len(authors) < SHARE_NEEDED or not parts:
        return None
    said = np.vstack([calibrated(scores, known) for scores, known in parts])
    share = said.mean(axis=0)
    posts = np.array([len(scores) for scores, _ in parts]) / len(said)
    between = posts @ np.array([known.between for _, known in parts])
    alone = (said * (1 - said)).sum(axis=0) / len(said) ** 2  # what people say beyond what the model sees
    error = np.sqrt(between + _clustered(said, authors) + alone)
    reach = float(student.ppf((1 + LEVEL) / 2, max(2, min(known.groups for _, known in parts) - 1)))
    return Estimate(
        _three(share), _three(np.clip(share - reach * error, 0, 1)), _three(np.clip(share + reach * error, 0, 1))
    )


def final_number(said: Matrix, truth: dict[int, str], authors: Sequence[str]) -> Estimate | None:
    """Of a brand-day: `said` are its posts' probabilities, `truth` the labels of those that were audited at random.

    The interval is for what the crowd thinks, of which the day's posts are a sample. None of fewer than FINAL audits.
    """
    audited = np.array(sorted(truth), dtype=np.int64)
    if len(audited) < FINAL:
        return None
    posts, audits, count = len(said), len(audited), said.shape[1]
    labels = np.eye(count)[[LABELS.index(truth[place]) for place in audited]]
    ours = said[audited]
    # As much of the prediction is used as it explains (power tuning); one factor for all labels keeps their sum at one.
    around = ours - ours.mean(axis=0)
    trust = float(np.clip((around * labels).sum() / max(1e-9, (around**2).sum()), 0, 1))
    share = np.clip(labels.mean(axis=0) + trust * (said.mean(axis=0) - ours.mean(axis=0)), 0, 1)
    share /= share.sum()
    beyond = (labels - trust * ours).var(axis=0, ddof=1)
    alike = np.maximum(1.0, _clustered(said, authors) * posts / np.maximum(1e-9, said.var(axis=0)))
    variance = (1 - audits / posts) * beyond / audits + alike * share * (1 - share) / posts
    return Estimate(_three(share), *_wilson(share, variance, posts, audits))


def _wilson(share: Vector, variance: Vector, posts: int, audits: int) -> tuple[Score, Score]:
    """The bounds by Wilson, of as many posts as the variance is worth: those by Wald are too near at small shares."""
    inner = np.clip(share, 1 / (audits + 2), 1 - 1 / (audits + 2))
    worth = np.clip(inner * (1 - inner) / np.maximum(variance, 1e-9), 1, min(posts, 4 * audits))
    reach = float(student.ppf((1 + LEVEL) / 2, audits - 1)) ** 2
    middle = (share + reach / (2 * worth)) / (1 + reach / worth)
    half = np.sqrt(reach * share * (1 - share) / worth + reach**2 / (4 * worth**2)) / (1 + reach / worth)
    return _three(np.clip(middle - half, 0, 1)), _three(np.clip(middle + half, 0, 1))


def _clustered(said: Matrix, authors: Sequence[str]) -> Vector:
    """The variance of a mean over posts: one who writes forty posts is one person."""
    _, who = np.unique(np.asarray(authors), return_inverse=True)
    sums = np.zeros((who.max() + 1, said.shape[1]))
    np.add.at(sums, who, said - said.mean(axis=0))
    return np.asarray((sums**2).sum(axis=0) / len(said) ** 2)


def _fit(scores: Matrix, truth: NDArray[np.int64]) -> tuple[Matrix, Vector]:
    found: Any = LogisticRegression(C=1.0, max_iter=300)  # type: ignore[no-untyped-call]
    found.fit(np.log(np.clip(scores, 1e-6, 1.0)), truth)
    return found.coef_.T, found.intercept_


def _rows(scores: Matrix, truth: NDArray[np.int64], weights: NDArray[np.float64]) -> tuple[Score, Score, Score]:
    negative, neutral, positive = (
        _three(np.average(scores[truth == label], axis=0, weights=weights[truth == label])) for label in range(3)
    )
    return negative, neutral, positive


def _three(values: NDArray[np.float64] | NDArray[np.int64]) -> Score:
    negative, neutral, positive = values.tolist()
    return negative, neutral, positive
