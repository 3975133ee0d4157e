"""Shares: undone by the confusion, covered by their intervals, and silent where there is too little."""

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from sentiment.config import AUDITS_NEEDED, DAY, HOUR, LABELS, SHARE_NEEDED
from sentiment.hours import COLUMNS
from sentiment.schema import Confusion, Report
from sentiment.shares import confusion, correcting, shares, shifted, undone
from sentiment.timeline import Part, Point, _corrected

# A classifier that is right on two posts of three, and leans to neutral.
ALPHA = np.array([[6.0, 3.0, 1.0], [1.5, 7.0, 1.5], [1.0, 3.0, 6.0]])


def world(
    rng: np.random.Generator, n: int, prior: list[float], alpha: NDArray[np.float64] = ALPHA
) -> tuple[NDArray[np.float64], list[str]]:
    """Scores and true labels of n posts."""
    truth = rng.choice(3, n, p=prior)
    return np.array([rng.dirichlet(alpha[label]) for label in truth]), [LABELS[label] for label in truth]


def test_what_a_confusion_does_is_undone() -> None:
    rows = ALPHA / ALPHA.sum(axis=1, keepdims=True)
    prior = np.array([0.6, 0.1, 0.3])
    assert undone(prior @ rows, rows) == pytest.approx(prior, abs=1e-4)


def test_the_answer_stays_on_the_simplex() -> None:
    rows = ALPHA / ALPHA.sum(axis=1, keepdims=True)
    found = undone(np.array([0.99, 0.005, 0.005]), rows)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1)


def test_a_shifted_prior_is_covered_and_the_error_shrinks() -> None:
    rng = np.random.default_rng(5)
    raw, corrected, covered = [], [], []
    for _ in range(40):
        scores, labels = world(rng, 300, [1 / 3, 1 / 3, 1 / 3])
        known = confusion(scores, labels, [10.0] * 300, seed=1)
        prior = rng.dirichlet((2, 2, 2)).tolist()
        scores, truth = world(rng, 400, prior)
        said = [LABELS[place] for place in scores.argmax(axis=1)]
        found = shares(scores, said, [f"a{n}" for n in range(400)], known)
        true = np.array([truth.count(label) for label in LABELS[: len(ALPHA)]]) / 400
        assert found.corrected is not None
        assert found.low is not None
        assert found.high is not None
        raw.append(abs(np.array(found.counted) - true).mean())
        corrected.append(abs(np.array(found.corrected) - true).mean())
        covered += list((np.array(found.low) <= true) & (true <= np.array(found.high)))
    assert np.mean(corrected) < 0.6 * np.mean(raw)
    assert 0.82 <= np.mean(covered) <= 0.99


def test_posts_that_read_otherwise_are_flagged_and_a_shifted_prior_is_not() -> None:
    rng, even = np.random.default_rng(8), [1 / 3, 1 / 3, 1 / 3]
    scores, labels = world(rng, 400, even)
    known = confusion(scores, labels, [10.0] * 400, seed=1)
    assert known is not None
    flagged = []
    for _ in range(40):
        scores, labels = world(rng, 300, rng.dirichlet((4, 4, 4)).tolist())
        fresh = confusion(scores, labels, [10.0] * 300, seed=2)
        flagged.append(fresh is not None and shifted(known, fresh) != ())
    assert sum(flagged) <= 1
    sarcastic = ALPHA.copy()
    sarcastic[0] = (3.0, 2.0, 5.0)  # what is meant badly now sounds good
    scores, labels = world(rng, 300, even, sarcastic)
    fresh = confusion(scores, labels, [10.0] * 300, seed=2)
    assert fresh is not None
    assert shifted(known, fresh) == ("negative",)


def test_days_whose_posts_read_otherwise_are_not_corrected_by_what_was_audited_before() -> None:
    scores, labels = world(np.random.default_rng(9), 200, [0.3, 0.4, 0.3])
    known = confusion(scores, labels, [1.0] * 200, seed=1)
    reports = [
        Report(
            day=day,
            posts=1_000,
            dropped={},
            version="1",
            drift={},
            drifted=(),
            audits=200,
            macro_recall=0.7,
            confusion=known,
            shifted=("negative",) if day == 7 else (),
        )
        for day in range(1, 10)
    ]
    assert sorted(correcting(reports)) == [(day, "1") for day in (2, 3, 4, 8, 9, 10)]


def test_an_author_of_many_posts_widens_the_interval() -> None:
    rng = np.random.default_rng(6)
    scores, labels = world(rng, 300, [0.4, 0.3, 0.3])
    known = confusion(scores, labels, [1.0] * 300, seed=1)
    said = [LABELS[place] for place in scores.argmax(axis=1)]
    order = np.argsort(scores[:, 0])  # each of thirty authors says the same all the time
    few = shares(scores[order], said, [f"a{n // 10}" for n in range(300)], known)
    many = shares(scores[order], said, [f"a{n}" for n in range(300)], known)
    assert few.high is not None
    assert few.low is not None
    assert many.high is not None
    assert many.low is not None
    assert few.high[0] - few.low[0] > 1.5 * (many.high[0] - many.low[0])


def test_too_few_are_said_to_be_too_few() -> None:
    rng = np.random.default_rng(7)
    scores, labels = world(rng, AUDITS_NEEDED - 1, [0.3, 0.4, 0.3])
    assert confusion(scores, labels, [1.0] * len(labels), seed=1) is None
    scores, labels = world(rng, 200, [0.3, 0.4, 0.3])
    known = confusion(scores, labels, [1.0] * 200, seed=1)
    n = SHARE_NEEDED - 1
    assert shares(scores[:n], labels[:n], [f"a{i}" for i in range(n)], known).corrected is None
    assert shares(scores, labels, [f"a{i}" for i in range(200)], None).corrected is None


def test_audits_that_were_hard_to_draw_weigh_more() -> None:
    scores = np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]] * 40 + [[0.2, 0.7, 0.1]] * 10)
    labels = ["negative", "neutral", "positive"] * 40 + ["negative"] * 10
    alike = confusion(scores, labels, [1.0] * 130, seed=1)
    weighed = confusion(scores, labels, [1.0] * 120 + [20.0] * 10, seed=1)
    assert alike is not None
    assert weighed is not None
    assert weighed.rows[0][0] < alike.rows[0][0] - 0.2


def test_brands_that_read_otherwise_widen_the_interval() -> None:
    rng, even = np.random.default_rng(9), [1 / 3, 1 / 3, 1 / 3]
    blunt = ALPHA * 0.3 + ALPHA.mean() * 0.7  # of these brands people write in a way that says less
    parts = [world(rng, 60, even, blunt if number % 2 else ALPHA) for number in range(6)]
    scores, labels = np.concatenate([part[0] for part in parts]), [label for part in parts for label in part[1]]
    brands = [f"brand-{number}" for number in range(6) for _ in range(60)]
    alike = confusion(scores, labels, [1.0] * 360, seed=1)
    apart = confusion(scores, labels, [1.0] * 360, seed=1, brands=brands)
    assert alike is not None
    assert apart is not None
    assert apart.rows == alike.rows
    assert np.std(apart.replicas, axis=0).mean() > 1.3 * np.std(alike.replicas, axis=0).mean()


# --- a day that several versions scored -----------------------------------------------------------------

R = np.array(((0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8)))
KNOWN = Confusion(tuple(map(tuple, R.tolist())), (99, 99, 99), (tuple(map(tuple, R.tolist())),) * 50)  # type: ignore[arg-type]  # three of three


def scored(rng: np.random.Generator, version: str, prior: list[float], posts: int, since: int) -> pl.DataFrame:
    """Rows of one brand, as an hour's file has them."""
    truth = rng.choice(3, posts, p=prior)
    scores = np.array([rng.dirichlet(R[label] * 30) for label in truth])
    rows = {name: [None] * posts for name in COLUMNS} | {
        "brand": ["northair"] * posts,
        "post": [f"{version}-{n}" for n in range(posts)],
        "author": [f"{version}-{n}" for n in range(posts)],
        "label": [LABELS[place] for place in scores.argmax(axis=1)],
        "model": [version] * posts,
        "at": since + rng.integers(0, 12 * HOUR, posts),
        "text": rng.integers(0, 2**50, posts),
        **dict(zip(LABELS, scores.T, strict=False)),  # these versions know three labels
    }
    return pl.DataFrame(rows, schema=COLUMNS)


def whole_day(confusions: dict[str, Confusion]) -> Point:
    """Version 1 until noon, and then version 2, of a crisis: 620 posts, a fifth negative, and 380, nine in ten."""
    rng = np.random.default_rng(1)
    rows = [scored(rng, "1", [0.2, 0.4, 0.4], 620, 0), scored(rng, "2", [0.9, 0.05, 0.05], 380, 12 * HOUR)]
    part = Part.model_validate({"view": "batch", "raw": 1_000} | dict.fromkeys(LABELS, 0))
    return _corrected(Point(at=0, until=DAY, parts=(part,)), pl.concat(rows), confusions)


def test_a_corrected_share_covers_all_versions_of_its_day() -> None:
    point = whole_day({"1": KNOWN, "2": KNOWN})
    assert point.corrected is not None
    assert point.low is not None
    assert point.high is not None
    truth = 0.62 * 0.2 + 0.38 * 0.9
    assert abs(point.corrected[0] - truth) < 0.03
    assert point.low[0] < truth < point.high[0]
    assert point.covers == 1.0


def test_a_corrected_share_says_of_what_part_it_is() -> None:
    point = whole_day({"1": KNOWN})
    assert point.corrected is not None
    assert abs(point.corrected[0] - 0.2) < 0.05, "of what version 1 scored"
    assert point.covers == 0.62
    assert whole_day({"2": KNOWN}).corrected is None, "that would be the smaller part"
    assert whole_day({}).covers is None
