"""The small decisions of training: what would be shown, what a day looks like, how far it is from the usual one."""

from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
import pytest

from recsys.config import DAY, HOUR
from recsys.evaluate import Truth
from recsys.policy import Policy, Rules
from recsys.schema import Candidates, Ranked
from recsys.train import BLOCK, REFERENCE_DAYS, Period, moved, shown, watched
from tests.recsys.shop import TODAY, event

PRODUCTS = pl.DataFrame(
    {"item": ["pen", "ink", "pen"], "category": ["old", "wet", "dry"], "small": [False, False, True]}
)


def bought(*ats: int, item: str = "pen", list_id: str | None = None) -> pl.DataFrame:
    rows = [event(item=item, at=at).model_dump() | {"list_id": list_id} for at in ats]
    return pl.DataFrame(rows, schema_overrides={"list_id": pl.String}, infer_schema_length=None)


def test_what_is_shown_is_the_first_twenty_of_each_and_nothing_to_whom_nothing_was_ranked() -> None:
    users = np.array([0] * 30 + [2] * 3)
    items = np.array([*range(59, 29, -1), 7, 5, 6])
    ranked = Ranked(users, items, np.zeros(33, np.float32), np.zeros(33, np.int64))
    plain = Rules(list(range(60)), [-1] * 60, [False] * 60, [item == 31 for item in range(60)])
    lists = shown(ranked, np.array([0, 1, 2]), plain, None)
    assert lists[0].tolist() == list(range(59, 39, -1))
    assert lists[1].tolist() == [-1] * 20
    assert lists[2].tolist() == [7, 5, 6, *[-1] * 17]
    seated = shown(ranked, np.array([0, 1, 2]), plain, Policy())
    assert seated[0, :10].tolist() == [*range(59, 50, -1), 31], "a newcomer from behind has its seat"
    assert seated[1:].tolist() == lists[1:].tolist()


def test_what_a_list_sold_is_no_label_and_everything_else_is() -> None:
    none: Any = None
    pairs = Candidates(np.array([0, 0, 3, 3]), np.array([1, 2, 1, 2]), np.zeros((4, 5), np.float32))
    truth, matrix = Truth(np.array([0, 3]), np.array([1, 1]), count=10), np.arange(4, dtype=np.float32)[:, None]
    taught = Period(none, none, none, truth, truth.users, none, np.array([3 * 10 + 2]), pairs, matrix).labelled
    assert (taught.pairs.users.tolist(), taught.pairs.items.tolist()) == ([0, 0, 3], [1, 2, 1])
    assert taught.bought.tolist() == [True, False, True]
    assert taught.matrix.ravel().tolist() == [0, 1, 2]


def test_a_day_is_seen_by_the_hour_the_weekday_and_what_the_catalogue_last_said() -> None:
    rows = pl.concat(
        [
            bought(TODAY, TODAY + 14 * HOUR - 1),
            bought(TODAY + 14 * HOUR, item="ink"),
            bought(TODAY + DAY - 1, item="unknown"),
        ]
    )
    seen = watched(rows, PRODUCTS)
    assert seen["hour"].to_list() == [0, 13, 14, 23]
    assert seen["weekday"].to_list() == [3, 3, 3, 3], "a Thursday; Monday is 0"
    assert seen["small"].to_list() == [1, 1, 0, 0]
    assert seen["category"].to_list() == [crc32(b"dry"), crc32(b"dry"), crc32(b"wet"), None]
    assert seen["price"].to_list() == [500] * 4
    week = [watched(bought(TODAY + day * DAY), PRODUCTS)["weekday"].item() for day in range(7)]
    assert week == [3, 4, 5, 6, 0, 1, 2]


def test_neither_looks_nor_what_a_list_sold_are_watched() -> None:
    looked = bought(TODAY).with_columns(kind=pl.lit("view"))
    rows = pl.concat([looked, bought(TODAY + 2 * HOUR, list_id="a list"), bought(TODAY + 5 * HOUR)])
    assert watched(rows, PRODUCTS)["hour"].to_list() == [5]
    assert watched(rows.head(2), PRODUCTS).is_empty()


def test_of_a_busy_day_a_block_is_taken_from_all_of_it() -> None:
    rows = bought(*range(TODAY, TODAY + 24 * 100)).with_columns(at=TODAY + (pl.col("at") - TODAY) * HOUR // 100)
    seen = watched(rows[::-1], PRODUCTS)
    assert seen.height == BLOCK
    counts = seen["hour"].value_counts(sort=True)["count"].to_list()
    assert len(counts) == 24, "from the first hour to the last"
    assert max(counts) - min(counts) <= 1
    few = watched(rows.head(3).with_columns(cents=pl.Series([1, 2, 3])), PRODUCTS)
    assert few["price"].to_list() == [1, 2, 3], "each row once where there are few"
    ends = rows.with_columns(cents=pl.arange(0, pl.len()))
    assert watched(ends, PRODUCTS)["price"].to_list()[:: BLOCK - 1] == [0, 2_399], "the first and the last"


def usual(*, shift: float = 0.0, rows: int = 400, weekday: int = 3) -> pl.DataFrame:
    values = np.random.default_rng(rows).normal(shift, 1, rows)
    return pl.DataFrame({"price": values, "weekday": np.full(rows, weekday)})


def test_a_day_is_compared_with_its_own_weekday() -> None:
    reference = pl.concat([usual(rows=8 * 400), usual(shift=5, rows=8 * 401, weekday=4)])
    today = usual()
    assert moved(today, reference)["price"] < 0.1
    assert moved(today.with_columns(weekday=4), reference)["price"] > 0.5
    assert set(moved(today, reference)) == {"price"}, "the weekday is what is compared, not how it moved"
    assert moved(today.with_columns(weekday=5), reference) == {}
    assert moved(today.head(0), reference) == {}
    assert moved(today, reference.head(0)) == {}


def test_fewer_rows_are_further_away_by_chance_and_are_counted_down() -> None:
    """A day is usual if it has as many rows as one of the weekdays of the reference."""
    assert REFERENCE_DAYS // 7 == 8
    reference = usual(rows=8 * 100)
    far = pl.DataFrame({"price": np.full(400, 9.0), "weekday": np.full(400, 3)})
    full = moved(far.head(100), reference)["price"]
    assert full == pytest.approx(moved(far, reference)["price"]), "more rows than usual are not further away"
    assert moved(far.head(25), reference)["price"] == pytest.approx(full / 2)
    assert moved(far.head(1), reference)["price"] == pytest.approx(full / 10)
