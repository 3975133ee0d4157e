"""Metrics of model and policy as they are served, and the release gate."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import recall_score

from sentiment.artifact import Artifact
from sentiment.config import LABELS
from sentiment.policy import decide
from sentiment.schema import Path, Score, Text
from shared.intervals import Interval, paired_bootstrap

Places = NDArray[np.int64]  # (n,)

LOSS = 0.02  # of macro-recall, relative: what a release may lose on older posts, or against the linear model
NO_NUMBER = -1  # a label's place when the score is NaN
BOOTSTRAP = 1_000  # samples behind an interval


def macro_recall(truth: Sequence[str], said: Sequence[str], weights: Sequence[float] | None = None) -> float:
    """The mean of the labels' recalls: what TweetEval ranks by, as it counts labels alike, however rare."""
    present = [label for label in LABELS if label in set(truth)]
    return float(recall_score(truth, said, labels=present, average="macro", sample_weight=weights, zero_division=0.0))


def interval(truth: Sequence[str], said: Sequence[str], *, seed: int = 0) -> Interval:
    """Macro-recall with a bootstrap interval over posts."""
    names = np.array(LABELS)
    t, s = (np.searchsorted(names, np.asarray(x)) for x in (truth, said))
    rng, found = np.random.default_rng(seed), []
    for _ in range(BOOTSTRAP):
        drawn = rng.integers(len(t), size=len(t))
        found.append(np.mean([(s[drawn][t[drawn] == k] == k).mean() for k in range(3) if (t[drawn] == k).any()]))
    low, high = np.quantile(found, (0.025, 0.975))
    return Interval(float(low), macro_recall(truth, said), float(high))


def places(labels: Sequence[str]) -> Places:
    """Of labels in LABELS."""
    return np.array([LABELS.index(label) for label in labels], dtype=np.int64)


def best(scores: NDArray[np.float64]) -> list[str]:
    """(n, 3) -> the most probable label of each: fixed beforehand, not tuned to a split's prior."""
    return [LABELS[place] for place in scores.argmax(axis=1)]


class Judged(NamedTuple):
    """What an artifact, as served, makes of labelled posts."""

    figures: dict[str, float]
    said: Places  # by post, a place in LABELS; NO_NUMBER where the score is none


def judge(texts: Sequence[Text], labels: Sequence[str], artifact: Artifact, *, path: Path | None = None) -> Judged:
    """Score each post in a call of its own, as serving does."""
    by = path or artifact.path
    scores: list[Score] = [artifact.score(text, by) for text in texts]
    matrix = np.array(scores).reshape(-1, 3)
    finite = np.isfinite(matrix).all(axis=1)
    said = np.where(finite, matrix.argmax(axis=1), NO_NUMBER)
    truth = places(labels)
    verdicts = [decide(score, artifact.policy) for score in scores]
    recalls = [float((said[truth == label] == label).mean()) for label in range(3) if (truth == label).any()]
    present = [LABELS[label] for label in range(3) if (truth == label).any()]
    given = np.clip(matrix[np.arange(len(truth)), truth], 1e-15, 1.0)  # the probability of the true label
    figures = {
        "macro_recall": float(np.mean(recalls)),
        "accuracy": float((said == truth).mean()),
        "log_loss": float(-np.log(given).mean()) if finite.all() else 1e9,
        "abstained": float(np.mean([verdict.label is None for verdict in verdicts])),
        "posts": float(len(texts)),
        **{f"recall_{label}": value for label, value in zip(present, recalls, strict=True)},
        **{f"posts_{label}": float((truth == LABELS.index(label)).sum()) for label in present},
    }
    return Judged(figures, said)


class Pair(NamedTuple):
    """What two versions say of the same posts, by post."""

    truth: Places
    ours: Places
    theirs: Places
    authors: Places  # numbered from 0 on

    def gain(self) -> Interval:
        """Our macro-recall less theirs, drawn by author."""
        of = [self.truth == label for label in np.unique(self.truth)]
        better = (self.ours == self.truth).astype(float) - (self.theirs == self.truth)

        def difference(weights: NDArray[np.float64]) -> float:
            known = [(weights[mine], better[mine]) for mine in of]
            return float(np.mean([w @ b / w.sum() for w, b in known if w.sum()])) if known else float("nan")

        return paired_bootstrap(difference, self.authors, seed=0)

    def loss(self) -> float:
        """What may be lost: LOSS of their macro-recall."""
        recalls = [(self.theirs[self.truth == label] == label).mean() for label in np.unique(self.truth)]
        return LOSS * float(np.mean(recalls)) if recalls else 0.0


class Evidence(NamedTuple):
    """What the gate decides on. Versions are compared on posts that neither has learnt from."""

    linear: Pair | None  # with the baseline that came with it, if it is more than that
    newest: Pair | None = None  # with the champion, if there is one
    older: Pair | None = None
    debt: float = 0.0  # the macro-recall on older posts that the champion has lost against the best before it
    bias: str = ""  # what the test of names says


def gate(evidence: Evidence) -> str:
    """Why the challenger may not be released; empty if it may."""
    # [5.1] This gate deploys a retrain, and not a person who looks at samples. It judges the files that will be served.
    # A tie goes to the champion, because a release has a cost: the challenger has to be better on new posts by more
    # than chance, and may lose next to nothing on older ones, counted from the best version so far. An operator can
    # override the gate, and the ledger says who did.
    linear, newest, older, debt, bias = evidence
    if any(pair is not None and (pair.ours == NO_NUMBER).any() for pair in (linear, newest, older)):
        return "a score is no number"
    if bias:
        return bias
    if linear is not None and not (gain := linear.gain()).low > -linear.loss():
        return f"against the linear model beside it {_said(gain)}"
    if newest is not None and not (gain := newest.gain()).low > 0:
        return f"against the champion {_said(gain)} on {len(newest.truth)} new posts"
    if older is not None and not (gain := older.gain()).low - debt > -older.loss():
        lost = f", after {debt:.3f} lost before it" if debt else ""
        return f"against the champion {_said(gain)} on {len(older.truth)} older posts{lost}"
    return ""


def owed(older: Pair, debt: float) -> float:
    """The macro-recall on older posts that is lost against the best version so far, if this one is released."""
    return max(0.0, debt - older.gain().value)


def _said(gain: Interval) -> str:
    return f"macro-recall {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
