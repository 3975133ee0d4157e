"""The bench of what is shown: its lake has every row, and its arms differ in what they are named after alone."""

from pathlib import Path

import polars as pl

from recsys import config, simulate
from recsys.history import hidden
from shared.lake import Lake
from tests.bench import coverage as bench


def test_the_lake_of_the_bench_has_every_row(tmp_path: Path) -> None:
    shop = simulate.open_shop(seed=11, start=bench.START, days=7, users=400, items=80)
    lake, life, days = Lake(tmp_path / "lake"), simulate.born(shop), 6
    for day in range(days):
        bench.live(shop, life, lake, day, None)
    again, lived = simulate.born(shop), []
    for day in range(days):
        luck = simulate.chances(shop, day)
        lived.append(simulate.events(shop, day, luck, simulate.live(shop, again, day, luck, None)))
    expected = hidden(pl.concat(lived), key=bench.KEY).select("user", "id", "kind", "item", "at")
    found = lake.read("events").select(expected.columns)
    assert expected.height > 500
    assert found.sort("user", "id").equals(expected.sort("user", "id"))
    products = sum(simulate.products(shop, day, since=day - 1 if day else None).height for day in range(days))
    assert lake.read("catalogue").height == products


def test_the_arms_add_one_thing_each() -> None:
    (plain, nothing), (seats, none), (both, shuffled) = bench.ARMS.values()
    assert plain._replace(small_sellers=seats.small_sellers, newcomers=seats.newcomers) == seats == both
    assert seats.newcomers > 0 == plain.newcomers
    assert (nothing, none) == (0.0, 0.0)
    assert shuffled == config.EXPLORED > 0
