"""The shop's truth: the same luck whatever is shown, nothing sold that is not there, and shapes as in a real shop."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recsys import config, dataset, simulate
from recsys.config import DAY
from recsys.history import read_file, write_history
from recsys.schema import SOURCES
from recsys.simulate import Shop
from recsys.sources import Parameters, fit
from shared.lake import Lake
from shared.public_data import load
from tests.recsys.shop import KEY, START, catalogue, lived

WEEKS = 12


@pytest.fixture(scope="module")
def shop() -> Shop:
    return simulate.open_shop(seed=5, start=START, days=WEEKS * 7, users=600, items=300)


def test_a_seed_is_a_world(shop: Shop) -> None:
    again = simulate.open_shop(seed=5, start=START, days=WEEKS * 7, users=600, items=300)
    assert_frame_equal(lived(shop, 3), lived(again, 3))
    other = simulate.open_shop(seed=6, start=START, days=WEEKS * 7, users=600, items=300)
    assert not lived(shop, 3).equals(lived(other, 3))


def test_an_empty_list_changes_nothing(shop: Shop) -> None:
    luck, life = simulate.chances(shop, 3), simulate.born(shop)
    without = simulate.live(shop, life.copy(), 3, luck, None)
    empty = simulate.live(shop, life.copy(), 3, luck, np.full((luck.users.size, 10), -1))
    assert without.bought.tolist() == empty.bought.tolist()
    assert empty.clicked.size == 0


def test_a_good_list_earns_more_than_a_bad_one(shop: Shop) -> None:
    """Common random numbers: what differs is the list's doing."""
    earned = {"none": 0.0, "worst": 0.0, "oracle": 0.0}
    for day in range(5):
        luck, life = simulate.chances(shop, day), simulate.born(shop)
        best = simulate.best(shop, life, day, luck.users, 290)
        for name, shown in (("none", None), ("worst", best[:, -30:-20]), ("oracle", best[:, :10])):
            earned[name] += simulate.margin(shop, simulate.live(shop, life.copy(), day, luck, shown))
    assert earned["oracle"] > 1.2 * earned["none"]
    assert earned["oracle"] - earned["none"] > 5 * abs(earned["worst"] - earned["none"])


def test_nothing_is_bought_that_cannot_be_had(shop: Shop) -> None:
    number = {str(name): place for place, name in enumerate(simulate.item_names(shop))}
    bought = lived(shop, 30).filter(kind="purchase")
    day = ((bought["at"] - 300 - START) // DAY).to_numpy()
    items = np.array([number[item] for item in bought["item"]])
    assert not shop.out[day, items].any()
    assert (shop.launched[items] <= day).all()
    assert (shop.launched[items] > 0).any(), "new items do sell"


def test_what_comes_back_was_bought_some_days_before(shop: Shop) -> None:
    events = lived(shop, 20)
    back = events.filter(kind="cancel").join(events.filter(kind="purchase"), on=["user", "item"], suffix="_bought")
    days = (back["at"] - back["at_bought"]) / DAY
    assert events.filter(kind="cancel").height > 20
    assert set(events.filter(kind="cancel")["user"]) <= set(back["user"])
    assert days.filter(days > 0).min() >= 2.9  # type: ignore[operator]  # of numbers


def shape(events: pl.DataFrame) -> dict[str, float]:
    """Of purchases, each item once a shopper and day."""
    lines = events.filter(kind="purchase").with_columns(day=pl.col("at") // DAY).unique(["user", "item", "day"])
    again = lines.sort("at").select(pl.int_range(pl.len()).over(["user", "item"]) > 0).to_series()
    basket = lines.group_by("user", "day").len()["len"].to_numpy()
    return {
        "repeats": float(again.mean()),  # type: ignore[arg-type]  # of numbers
        "gini of items": gini(lines.group_by("item").len()["len"].to_numpy()),
        "gini of shoppers": gini(lines.group_by("user").len()["len"].to_numpy()),
        "tail of baskets": float(np.quantile(basket, 0.9) / basket.mean()),
    }


def gini(counts: np.ndarray) -> float:
    ordered, n = np.sort(counts), counts.size
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))


# How far the demo's shop may be from twelve weeks of the real one. Baskets only by their tail: the real shop sells
# by the carton to shops, 26 lines at a time; this one sells to persons, 1.7.
TOLERANCE = {"repeats": 0.06, "gini of items": 0.1, "gini of shoppers": 0.1, "tail of baskets": 0.5}


def test_shapes_are_those_of_online_retail(data: Path) -> None:
    real = read_file(load("online_retail", data)).events
    real = real.filter(pl.col("at") >= real["at"].max() - WEEKS * 7 * DAY)  # type: ignore[operator]  # of numbers
    truth = simulate.open_shop(seed=7, start=START, days=WEEKS * 7, users=1_000, items=2_000)
    here, there = shape(lived(truth, WEEKS * 7)), shape(real)
    far = {name: (here[name], there[name]) for name in TOLERANCE if abs(here[name] - there[name]) > TOLERANCE[name]}
    assert far == {}


@pytest.mark.slow
def test_content_finds_buyers_of_what_is_new(shop: Shop, tmp_path: Path) -> None:
    """Recall at 20 of purchases of items launched in the last two weeks; the other sources have hardly seen these."""
    lake = Lake(tmp_path)
    write_history(lake, lived(shop, WEEKS * 7 - 1), catalogue(shop, WEEKS * 7 - 1), key=KEY)
    found: dict[str, list[bool]] = {name: [] for name in SOURCES}
    for week in range(6, 12):
        known = dataset.interactions(lake, cut=START + week * 7 * DAY)
        after = dataset.bought_after(lake, known, until=known.cut + 7 * DAY)
        after = after.filter((pl.col("user") >= 0) & (pl.col("item") >= 0))
        new = (known.products["since"] > known.cut - config.NEW).to_numpy()
        after = after.filter(pl.Series(new[after["item"].to_numpy()]))
        users, items = after["user"].to_numpy(), after["item"].to_numpy()
        for name, scores in zip(SOURCES, fit(known, Parameters(), seed=1).scores(users), strict=True):
            own = scores[np.arange(users.size), items]
            found[name] += (((scores > own[:, None]).sum(axis=1) < 20) & (own > 0)).tolist()
    recall = {name: float(np.mean(hits)) for name, hits in found.items()}
    assert len(found["content"]) > 60
    assert recall["content"] > 0.35, recall
    assert recall["content"] > 2 * max(recall[name] for name in SOURCES if name != "content"), recall
