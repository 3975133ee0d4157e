"""Metrics of model and policy as served, and the gate that a release has to pass."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, log_loss, recall_score

from sentiment.artifact import Artifact
from sentiment.config import LABELS
from sentiment.policy import decide
from sentiment.schema import Path, Score, Text

SLACK = 0.02  # macro-recall that the transformer may lack of the linear model's: chance on a few hundred posts
BOOTSTRAP = 1_000  # samples behind an interval


class Interval(NamedTuple):
    value: float
    low: float  # 95 %
    high: float


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
    return Interval(macro_recall(truth, said), float(low), float(high))


def best(scores: NDArray[np.float64]) -> list[str]:
    """(n, 3) -> the most probable label of each: fixed beforehand, not tuned to a split's prior."""
    return [LABELS[place] for place in scores.argmax(axis=1)]


def judge(
    texts: Sequence[Text], labels: Sequence[str], artifact: Artifact, *, path: Path | None = None
) -> dict[str, float]:
    """Figures of an artifact as served, a post a call."""
    by = path or artifact.path
    scores: list[Score] = [artifact.score(text, by) for text in texts]
    matrix = np.array(scores).reshape(-1, 3)
    said = best(matrix)
    verdicts = [decide(score, artifact.policy) for score in scores]
    recalls = recall_score(labels, said, labels=list(LABELS), average=None, zero_division=0.0)
    return {
        "macro_recall": macro_recall(labels, said),
        "accuracy": float(accuracy_score(labels, said)),
        "log_loss": float(log_loss([LABELS.index(x) for x in labels], matrix, labels=[0, 1, 2])),
        "abstained": sum(verdict.label is None for verdict in verdicts) / max(1, len(verdicts)),
        "posts": float(len(texts)),
        **{f"recall_{label}": float(value) for label, value in zip(LABELS, recalls, strict=True)},
    }


def gate(
    challenger: Mapping[str, float], champion: Mapping[str, float] | None, linear: Mapping[str, float] | None, bias: str
) -> str:
    """Why the challenger may not be released, judged on the same posts; empty if it may.

    `linear`: the baseline that came with it, if it is more than that; `bias`: what the test of names says.
    """
    # [5.1] A retrain is deployed by this and by nobody's look at samples: three bounds, on posts that neither version
    # has learnt from, of the files as they will be served. A person can go past it, and the ledger says who.
    if bias:
        return bias
    ours = challenger["macro_recall"]
    if linear is not None and ours < linear["macro_recall"] - SLACK:
        return f"macro-recall {ours:.3f}, the linear model beside it {linear['macro_recall']:.3f}"
    if champion is not None and ours < champion["macro_recall"]:
        return f"macro-recall {ours:.3f}, the champion's is {champion['macro_recall']:.3f}"
    return ""
