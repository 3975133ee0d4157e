"""Shares: put right by audits, covered by their intervals, and silent where there is too little."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from sentiment.config import AUDITS_NEEDED, DAY, HOUR, LABELS, SHARE_NEEDED
from sentiment.history import read_file
from sentiment.hours import COLUMNS
from sentiment.mentions import Brands
from sentiment.model import Linear
from sentiment.opinions import seen
from sentiment.schema import Calibration, Final, Report
from sentiment.shares import (
    FINAL,
    Estimate,
    calibrated,
    calibration,
    confusion,
    correcting,
    final_number,
    first_number,
    shifted,
)
from sentiment.timeline import Part, Point, _corrected

# A classifier that is right on two posts of three, and leans to neutral.
ALPHA = np.array([[6.0, 3.0, 1.0], [1.5, 7.0, 1.5], [1.0, 3.0, 6.0]])


def world(
    rng: np.random.Generator, n: int, prior: list[float], alpha: NDArray[np.float64] = ALPHA
) -> tuple[NDArray[np.float64], list[str]]:
    """Scores and true labels of n posts."""
    truth = rng.choice(3, n, p=prior)
    return np.array([rng.dirichlet(alpha[label]) for label in truth]), [LABELS[label] for label in truth]


def audits(rng: np.random.Generator, *, each: int = 25) -> Calibration:
    """Of five brands and four days, each with a mood of its own."""
    parts, brands, days = list[tuple[NDArray[np.float64], list[str]]](), list[str](), list[int]()
    for brand in range(5):
        for day in range(4):
            parts.append(world(rng, each, rng.dirichlet((4, 4, 4)).tolist()))
            brands += [f"brand-{brand}"] * each
            days += [day] * each
    scores, labels = np.vstack([part[0] for part in parts]), [label for part in parts for label in part[1]]
    found = calibration(scores, labels, brands=brands, days=days)
    assert found is not None
    return found


def held(found: Estimate | None, truth: NDArray[np.float64]) -> list[bool]:
    assert found is not None
    inside = (np.array(found.low) <= truth) & (truth <= np.array(found.high))
    return [bool(one) for one in inside]


@pytest.mark.slow
@pytest.mark.parametrize("posts", [40, 100, 400])
def test_nine_in_ten_intervals_hold_what_the_crowd_thinks(posts: int, proof: bool) -> None:
    """Of a brand-day, of which up to 60 posts are audited; its mood is none that was audited before."""
    first, final = list[bool](), list[bool]()
    off, raw = list[float](), list[float]()
    for seed in range(200 if proof else 40):
        rng = np.random.default_rng(seed)
        known, mood = audits(rng), rng.dirichlet((4, 4, 4))
        scores, labels = world(rng, posts, mood.tolist())
        authors = [f"a{number}" for number in range(posts)]
        truth = {int(place): labels[place] for place in rng.choice(posts, min(60, posts), replace=False)}
        told = final_number(calibrated(scores, known), truth, authors)
        first += held(first_number([(scores, known)], authors), mood)
        final += held(told, mood)
        assert told is not None
        assert sum(told.corrected) == pytest.approx(1)
        said = [LABELS[place] for place in scores.argmax(axis=1)]
        realised, counted = (np.array([of.count(label) for label in LABELS]) / posts for of in (labels, said))
        off += abs(np.array(told.corrected) - realised).tolist()
        raw += abs(counted - realised).tolist()
    chance = 0 if proof else 0.06
    assert 0.85 - chance <= np.mean(first) <= 0.95 + chance
    assert 0.85 - chance <= np.mean(final) <= 0.95 + chance
    assert np.mean(off) < 0.75 * np.mean(raw)
    if posts <= 60:
        assert np.max(off) < 1e-9, "all of them are audited, so it is what people say"


def test_a_rare_label_has_an_interval_that_is_not_nothing() -> None:
    known = audits(np.random.default_rng(1))
    rng = np.random.default_rng(2)
    scores, labels = world(rng, 300, [0.6, 0.4, 0.0])
    told = final_number(calibrated(scores, known), dict(enumerate(labels[:60])), [f"a{n}" for n in range(300)])
    assert told is not None
    assert told.low[2] <= 0.005
    assert 0.01 < told.high[2] < 0.2


def test_the_days_own_audits_put_right_what_earlier_ones_do_not_know() -> None:
    """Posts that read otherwise today: the prediction is off, and its audited part says by how much."""
    known = audits(np.random.default_rng(1))
    sarcastic = ALPHA.copy()
    sarcastic[0] = (3.0, 2.0, 5.0)
    rng = np.random.default_rng(3)
    scores, labels = world(rng, 600, [0.5, 0.3, 0.2], sarcastic)
    authors = [f"a{number}" for number in range(600)]
    true = np.array([labels.count(label) for label in ("negative", "neutral", "positive")]) / 600
    first = first_number([(scores, known)], authors)
    final = final_number(calibrated(scores, known), dict(enumerate(labels[:60])), authors)
    assert first is not None
    assert final is not None
    assert abs(first.corrected[0] - true[0]) > 0.15
    assert abs(final.corrected[0] - true[0]) < 0.12
    assert all(held(final, true))


@pytest.mark.slow
def test_shares_of_airline_days_are_as_good_as_wanted(data: Path) -> None:
    """Real tweets, a linear model of the first two days, sixty audits of a brand and day."""
    brands = Brands.read("airlines")
    posts = read_file(data / "airline_tweets" / "airline_tweets_feb16_22.parquet").rows
    posts = posts.unique("id", keep="first", maintain_order=True)
    posts = posts.with_columns(
        seen=pl.Series([seen(text, brands) for text in posts["text"]]),
        found=pl.Series([list(brands.found(text)) for text in posts["text"]]),
        day=pl.col("at") // DAY,
    )
    start = int(posts["day"].min()) + 2  # type: ignore[arg-type]  # of integers
    past, live = posts.filter(pl.col("day") < start), posts.filter(pl.col("day") >= start)
    model = Linear.fit(past["seen"].to_list(), past["label"].to_list(), seed=1)
    live = live.with_columns(score=pl.Series([list(model.score(text)) for text in live["seen"]]))
    rng, off, covered = np.random.default_rng(1), list[float](), list[bool]()
    for _ in range(3):
        drawn = list[pl.DataFrame]()
        for (_, brand), rows in live.explode("found").drop_nulls("found").group_by("day", "found", maintain_order=True):
            order = rng.permutation(rows.height)[:60]
            drawn.append(rows[order.tolist()].with_columns(brand=pl.lit(brand)))
        audited = pl.concat(drawn)
        for (day, brand), rows in live.explode("found").group_by("day", "found", maintain_order=True):
            before = audited.filter(pl.col("day") < day)
            if rows.height < 30 or before.is_empty():
                continue
            known = calibration(
                np.array(before["score"].to_list()),
                before["label"].to_list(),
                brands=before["brand"].to_list(),
                days=before["day"].to_list(),
            )
            assert known is not None
            mine = set(audited.filter((pl.col("day") == day) & (pl.col("brand") == brand))["id"])
            truth = {place: row["label"] for place, row in enumerate(rows.iter_rows(named=True)) if row["id"] in mine}
            scores = calibrated(np.array(rows["score"].to_list()), known)
            told = final_number(scores, truth, rows["author"].to_list())
            true = np.array([(rows["label"] == label).mean() for label in LABELS])
            if told is not None:
                off += abs(np.array(told.corrected) - true).tolist()
                covered += held(told, true)
    assert np.mean(off) <= 0.035
    assert np.mean(covered) >= 0.85


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
    known = calibration(scores, labels, brands=["volt"] * 200, days=[1] * 200)
    final = Final(5, "volt", (0.2, 0.3, 0.5), (0.1, 0.2, 0.4), (0.3, 0.4, 0.6), 300, 60)
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
            confusion=None,
            calibration=known,
            finals=(final,) if day == 6 else (),
            shifted=("negative",) if day == 7 else (),
        )
        for day in range(1, 10)
    ]
    corrections = correcting(reports)
    assert sorted(corrections.known) == [(day, "1") for day in (2, 3, 4, 8, 9, 10)]
    assert corrections.finals == {(5, "volt"): final}, "a final number hangs on no earlier day"


def test_an_author_of_many_posts_widens_the_interval() -> None:
    rng = np.random.default_rng(6)
    known = audits(rng)._replace(between=(0.0, 0.0, 0.0))
    scores, _ = world(rng, 300, [0.4, 0.3, 0.3])
    scores = scores[np.argsort(scores[:, 0])]  # each of thirty authors says the same all the time
    few = first_number([(scores, known)], [f"a{n // 10}" for n in range(300)])
    many = first_number([(scores, known)], [f"a{n}" for n in range(300)])
    assert few is not None
    assert many is not None
    assert few.high[0] - few.low[0] > 1.3 * (many.high[0] - many.low[0])


def test_too_few_are_said_to_be_too_few() -> None:
    rng = np.random.default_rng(7)
    few = AUDITS_NEEDED - 1
    scores, labels = world(rng, few, [0.3, 0.4, 0.3])
    assert confusion(scores, labels, [1.0] * few, seed=1) is None
    assert calibration(scores, labels, brands=["volt"] * few, days=[1] * few) is None
    known, n = audits(rng), SHARE_NEEDED - 1
    assert first_number([(scores[:n], known)], [f"a{i}" for i in range(n)]) is None
    assert first_number([], []) is None
    assert final_number(scores, dict(enumerate(labels[: FINAL - 1])), [f"a{i}" for i in range(few)]) is None


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
# Scores are nearly certain here, so next to nothing is to be put right.
KNOWN = Calibration(((2.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 2.0)), (0.0, 0.0, 0.0), (0.0004,) * 3, 20)


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


def whole_day(known: dict[str, Calibration]) -> Point:
    """Version 1 until noon, and then version 2, of a crisis: 620 posts, a fifth negative, and 380, nine in ten."""
    rng = np.random.default_rng(1)
    rows = [scored(rng, "1", [0.2, 0.4, 0.4], 620, 0), scored(rng, "2", [0.9, 0.05, 0.05], 380, 12 * HOUR)]
    part = Part.model_validate({"view": "batch", "raw": 1_000} | dict.fromkeys(LABELS, 0))
    return _corrected(Point(at=0, until=DAY, parts=(part,)), pl.concat(rows), known)


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
