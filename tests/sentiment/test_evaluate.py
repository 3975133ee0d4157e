"""The gate: ties go to the champion, chance lets next to nothing through, and small losses do not add up."""

from math import log
from typing import Any

import numpy as np
import pytest

from sentiment import evaluate
from sentiment.config import LABELS
from sentiment.evaluate import NO_NUMBER, Evidence, Pair, best, gate, interval, judge, macro_recall, owed
from sentiment.policy import Policy

CHALLENGERS = 200
NEWEST, OLDER = 300, 1_300


def block(rng: np.random.Generator, posts: int, *, gain: float = 0.0, flips: float = 0.1, differ: bool = True) -> Pair:
    """Two versions that are right on seven posts of ten; each says otherwise of some authors, whose posts are alike.

    `gain`: what ours is better by.
    """
    _, authors = np.unique(np.sort(rng.integers(posts // 2, size=posts)), return_inverse=True)
    truth = rng.choice(3, posts, p=(0.4, 0.35, 0.25))
    both = rng.random(posts) < 0.7

    def answers(accuracy: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        own = (rng.random(authors.max() + 1) < flips)[authors]
        right = np.where(own, rng.random(posts) < accuracy, both)
        return np.where(right, truth, (truth + 1) % 3)

    ours, theirs = answers(0.7 + gain / flips), answers(0.7)
    return Pair(truth, ours, theirs if differ else ours, authors)


def released(*, gain: float, older: float, seed: int = 1) -> float:
    """The share of challengers that are released."""
    rng = np.random.default_rng(seed)
    told = [
        gate(Evidence(None, block(rng, NEWEST, gain=gain, flips=0.2), block(rng, OLDER, gain=older)))
        for _ in range(CHALLENGERS)
    ]
    return told.count("") / CHALLENGERS


@pytest.mark.slow
def test_of_equal_challengers_next_to_none_is_released_and_of_better_ones_most() -> None:
    assert released(gain=0.0, older=0.0) <= 0.05
    assert released(gain=0.06, older=0.02) >= 0.7


def test_a_tie_goes_to_the_champion() -> None:
    rng = np.random.default_rng(2)
    tie, better = block(rng, NEWEST, differ=False), block(rng, OLDER, gain=0.05)
    assert "on 300 new posts" in gate(Evidence(None, tie, better))
    assert gate(Evidence(None, better, tie)) == ""


def test_what_is_better_on_new_posts_and_worse_on_older_ones_is_refused() -> None:
    rng = np.random.default_rng(3)
    assert "older posts" in gate(
        Evidence(None, block(rng, NEWEST, gain=0.15, flips=0.3), block(rng, OLDER, gain=-0.02))
    )


def test_a_score_that_is_no_number_is_refused() -> None:
    rng = np.random.default_rng(4)
    good = block(rng, OLDER, gain=0.09)
    spoilt = good._replace(ours=np.append(good.ours[:-1], NO_NUMBER))
    for evidence in (Evidence(None, spoilt, good), Evidence(None, good, spoilt), Evidence(spoilt)):
        assert gate(evidence) == "a score is no number"
    empty = Pair(*(np.zeros(0, dtype=np.int64) for _ in range(4)))
    assert gate(Evidence(None, good, empty)) != "", "nothing to judge on is no evidence"
    assert gate(Evidence(None, good, good)) == ""


def test_losses_that_are_allowed_once_do_not_add_up() -> None:
    rng, debt, lost = np.random.default_rng(5), 0.0, 0.0
    newest = block(rng, NEWEST, gain=0.15, flips=0.3)
    for _ in range(12):
        older = block(rng, 3_000, gain=-0.004, flips=0.04)
        if gate(Evidence(None, newest, older, debt)) == "":
            debt, lost = owed(older, debt), lost - older.gain().value
    assert 0 < lost <= evaluate.LOSS * 0.7


def test_who_loses_against_the_linear_model_beside_it_is_refused() -> None:
    rng = np.random.default_rng(6)
    assert "the linear model" in gate(Evidence(block(rng, OLDER, gain=-0.05)))
    assert gate(Evidence(block(rng, OLDER, gain=0.05))) == ""


def pair(truth: list[int], ours: list[int], theirs: list[int]) -> Pair:
    """Versions on posts of one author, of whom nothing can be drawn otherwise."""
    return Pair(np.array(truth), np.array(ours), np.array(theirs), np.zeros(len(truth), dtype=np.int64))


def test_gain_and_loss_by_hand() -> None:
    both = pair([0, 0, 0, 0, 2], [0, 0, 0, 1, 1], [0, 1, 1, 1, 2])
    assert both.gain() == pytest.approx([((3 / 4 + 0) - (1 / 4 + 1)) / 2] * 3)
    assert both.loss() == pytest.approx(0.02 * (1 / 4 + 1) / 2)
    nothing = pair([], [], [])
    assert nothing.loss() == 0.0
    assert np.isnan(nothing.gain().value)


def test_a_loss_as_large_as_is_allowed_is_refused() -> None:
    lost = pair([0] * 50, [1] + [0] * 49, [0] * 50)
    less = pair([0] * 51, [1] + [0] * 50, [0] * 51)
    better = pair([0] * 50, [0] * 50, [1] + [0] * 49)
    assert gate(Evidence(lost)) == "against the linear model beside it macro-recall -0.020 (-0.020 to -0.020)"
    assert gate(Evidence(less)) == ""
    assert gate(Evidence(None, better, lost)).endswith("on 50 older posts")
    assert gate(Evidence(None, better, less)) == ""
    assert gate(Evidence(None, better, less, 0.01)).endswith("on 51 older posts, after 0.010 lost before it")


def test_what_is_owed_is_never_less_than_nothing() -> None:
    better = pair([0] * 50, [0] * 50, [1] * 10 + [0] * 40)
    assert owed(better, 0.05) == 0.0
    assert owed(better, 0.3) == pytest.approx(0.1)


class Scores:
    """An artifact that says by heart what it was told to."""

    def __init__(self, **scores: tuple[float, float, float]) -> None:
        self.policy, self.path, self.labels = Policy(sure=0.45), "transformer", LABELS[:3]
        self.asked: list[str] = []
        self._scores = scores

    def score(self, text: str, path: str) -> tuple[float, float, float]:
        self.asked.append(path)
        return self._scores[text]


def test_judged_by_hand() -> None:
    artifact: Any = Scores(a=(0.7, 0.2, 0.1), b=(0.4, 0.35, 0.25), c=(0.1, 0.1, 0.8), d=(0.0, 0.5, 0.5))
    texts: Any = ["a", "b", "c", "d"]
    figures, said = judge(texts, ["negative", "negative", "positive", "negative"], artifact)
    assert said.tolist() == [0, 0, 2, 1]
    assert figures == {
        "macro_recall": pytest.approx((2 / 3 + 1) / 2),
        "accuracy": 3 / 4,
        "log_loss": pytest.approx(-(log(0.7) + log(0.4) + log(0.8) + log(1e-15)) / 4),
        "abstained": 1 / 4,
        "posts": 4.0,
        "recall_negative": pytest.approx(2 / 3),
        "recall_positive": 1.0,
        "posts_negative": 3.0,
        "posts_positive": 1.0,
    }
    assert artifact.asked == ["transformer"] * 4
    judge(texts, ["negative"] * 4, artifact, path="linear")
    assert artifact.asked[4:] == ["linear"] * 4


def test_a_score_that_is_no_number_is_no_label() -> None:
    artifact: Any = Scores(a=(float("nan"), 0.2, 0.8), b=(0.1, 0.8, 0.1))
    texts: Any = ["a", "b"]
    figures, said = judge(texts, ["positive", "neutral"], artifact)
    assert said.tolist() == [-1, 1]
    assert (figures["recall_positive"], figures["log_loss"]) == (0.0, 1e9)


def test_the_best_label_is_the_most_probable_one() -> None:
    assert best(np.array([[0.2, 0.3, 0.5], [0.5, 0.3, 0.2]])) == ["positive", "negative"]


def test_macro_recall_by_hand() -> None:
    truth, said = ["negative"] * 4 + ["neutral"], ["negative"] * 3 + ["positive", "neutral"]
    assert macro_recall(truth, said) == pytest.approx((3 / 4 + 1) / 2)  # a label without posts has no recall
    assert macro_recall(truth, said, [1, 1, 1, 3, 5]) == pytest.approx((3 / 6 + 1) / 2)


def test_an_interval_of_macro_recall_has_the_value_in_it_and_shrinks_with_the_posts() -> None:
    rng = np.random.default_rng(1)

    def width(posts: int) -> float:
        truth = rng.choice(["negative", "neutral", "positive"], posts)
        said = np.where(rng.random(posts) < 0.7, truth, "neutral")
        found = interval(truth.tolist(), said.tolist())
        assert found.low < macro_recall(truth.tolist(), said.tolist()) < found.high
        return found.high - found.low

    assert width(1_600) == pytest.approx(width(400) / 2, rel=0.25)
