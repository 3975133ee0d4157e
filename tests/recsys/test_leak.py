"""Whatever stands after the cut in a raw file, nothing that is learnt before it changes by a byte.

From the file to the table, as a replay goes: cleaning, ids, catalogue, features, recipe, table.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys import dataset, simulate, table, train
from recsys.config import DAY
from recsys.features import Facts
from recsys.history import read_file, write_history
from recsys.recipe import Recipe
from recsys.sources import Parameters, fit
from recsys.table import Manifest
from recsys.topk import DEEP, arranged, latest, nearest
from shared.lake import Lake
from shared.public_data import load
from tests.recsys.shop import KEY, START, lived

SMALL = Parameters(factors=8, iterations=2, pool=20)
DAYS, LEARNT = 70, 56
CUT = START + LEARNT * DAY
RETAIL_CUT = 1_299_542_400  # 2011-03-08: fourteen weeks


def cooked(path: Path, folder: Path, *, cut: int, horizon: int) -> dict[str, object]:
    """Everything that is made of a file as of the cut, by name."""
    past, lake = read_file(path), Lake(folder / "lake")
    write_history(lake, past.events, past.products, key=KEY)
    early, late = (
        train.period(lake, Recipe(SMALL), cut=cut - back * horizon * DAY, horizon=horizon, seed=1, most=200)
        for back in (2, 1)
    )
    recipe, _ = train.learn(early, late, SMALL, seed=1)
    recipe.save(folder / "recipe", matrix=late.matrix, reference=pl.DataFrame(), limits={})
    known = dataset.interactions(lake, cut=cut)
    sources, facts = fit(known, SMALL, seed=1), Facts.of(known)
    users = np.arange(min(400, len(known.users)))
    pairs, matrix = recipe.candidates(facts, sources, users)
    ranked = recipe.rank(facts, sources, users, most=DEEP)
    top, scores, extras = arranged(known, recipe.policy, sources, ranked, date="2026-01-01")
    made = table.write(
        folder / "table",
        Manifest(date="2026-01-01", cut=cut, recipe="", recipe_digest="", offsets={}, tables={}, files={}, samples={}),
        users=known.users,
        top=top,
        history=latest(known),
        scores=scores,
        neighbours=nearest(sources),
        extras=extras,
    )
    usual, limits = train.normal(lake, as_of=cut)
    return {
        "users": known.users,
        "items": known.items,
        "purchases": known.bought.to_dicts(),
        "looks": known.seen.to_dicts(),
        "catalogue": known.products.to_dicts(),
        "candidates": (pairs.items.tobytes(), pairs.scores.tobytes()),
        "features": matrix.tobytes(),
        "ranker": (folder / "recipe" / "model.txt").read_bytes(),
        "recipe": ((folder / "recipe" / "recipe.json").read_text(), (folder / "recipe" / "model.json").read_text()),
        "drift": (usual.to_dicts(), limits),
        "table": made.version,
    }


def changed(one: dict[str, object], other: dict[str, object]) -> list[str]:
    return [name for name in one if one[name] != other[name]]


# --- a file of one's own ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """A CSV of ten weeks in order of time, its header first."""
    shop = simulate.open_shop(seed=4, start=START, days=DAYS, users=200, items=100)
    shop = shop._replace(visits=(shop.visits * 1.5).clip(0, 0.9))
    about = simulate.products(shop, DAYS - 1).select("item", "title", "category")
    events = lived(shop, DAYS).join(about, on="item", how="left", maintain_order="left")
    raw = events.select(
        user_id="user",
        item_id="item",
        event="kind",
        at=pl.from_epoch("at").dt.strftime("%Y-%m-%d %H:%M:%S"),
        quantity="quantity",
        price=pl.col("cents") / 100,
        order_id="order",
        title="title",
        category="category",
    )
    return raw.write_csv().splitlines()


@pytest.fixture(scope="module")
def whole(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "shop.csv").write_text("\n".join(lines))
    return cooked(folder / "shop.csv", folder, cut=CUT, horizon=14)


def before(lines: list[str]) -> list[str]:
    return [line for line in lines if line.split(",")[3] < "2026-02-26"]  # day LEARNT; keeps the header out


def moved(lines: list[str]) -> list[str]:
    """Everything done before is done again, by others, with other titles and prices; and half of it is taken back."""
    out = []
    for number, line in enumerate(lines[1:1_001]):
        user, item, kind, _, *_ = line.split(",")
        taken = f"{user},{item},cancel,2026-02-27 00:00:{number % 60:02},5,1,,lies,lies"
        made = f"new-{number},{item},{kind},2026-02-28 01:00:00,3,99,o-{number},other title,other category"
        out += [taken, made]
    return out


BAD = ["x,y,z", "\ufffd" * 50, ",,,,,,,,", "u1,i1,purchase,2026-13-45 00:00:00,1,1,,,"]
BAD += ["u1,i1,purchase,2026-03-01 00:00:00,NaN,1,,,", "u1,i1,stolen,2026-03-01 00:00:00,1,-5,,,"]
NEW = [f"u{n},a-new-{n % 9},purchase,2026-03-0{1 + n % 9} 00:00:00,1,5,o,new,new" for n in range(300)]
AFTER: dict[str, Callable[[list[str]], list[str]]] = {
    "deleted": lambda _: [],
    "what cannot be read": lambda _: BAD,
    "other deeds, much taken back, new items": lambda lines: moved(lines) + NEW,
}


@pytest.mark.parametrize("kind", AFTER)
def test_nothing_after_the_cut_changes_anything_before_it(
    lines: list[str], whole: dict[str, object], tmp_path: Path, kind: str
) -> None:
    kept = before(lines)
    assert 1_000 < len(kept) < len(lines) - 500
    (tmp_path / "shop.csv").write_text("\n".join([lines[0], *kept, *AFTER[kind](lines)]))
    assert changed(whole, cooked(tmp_path / "shop.csv", tmp_path, cut=CUT, horizon=14)) == []


def test_what_stands_before_the_cut_does_change_it(lines: list[str], whole: dict[str, object], tmp_path: Path) -> None:
    more = [line.replace("2026-02-2", "2026-02-1") for line in moved(lines)]
    (tmp_path / "shop.csv").write_text("\n".join([lines[0], *before(lines), *more]))
    told = changed(whole, cooked(tmp_path / "shop.csv", tmp_path, cut=CUT, horizon=14))
    assert {"users", "purchases", "features", "ranker", "drift", "table"} <= set(told)


# --- a public one ----------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_the_same_of_online_retail(data: Path, tmp_path: Path) -> None:
    raw = pl.read_parquet(load("online_retail", data)).filter(pl.col("invoice_ts") < pl.datetime(2011, 3, 20))
    late = pl.col("invoice_ts") >= pl.datetime(2011, 3, 8)
    assert raw.filter(late).height > 5_000
    garbage = raw.filter(late).with_columns(
        pl.col("customer_id").reverse(),
        pl.col("stock_code").shuffle(seed=1),
        pl.lit("garbage").alias("description"),
        pl.lit("C1").alias("invoice_no"),
        pl.col("unit_price") * 100,
    )
    made = []
    for name, after in (("deleted", raw.head(0)), ("garbage", garbage)):
        folder = tmp_path / name
        folder.mkdir()
        pl.concat([raw.filter(~late), after]).write_parquet(folder / "retail.parquet")
        made.append(cooked(folder / "retail.parquet", folder, cut=RETAIL_CUT, horizon=21))
    assert changed(made[0], made[1]) == []


def test_a_cancellation_takes_effect_at_its_own_time(data: Path, tmp_path: Path) -> None:
    """588 pairs of shopper and item that were bought before 16 November are cancelled after it."""
    past, lake = read_file(load("online_retail", data)), Lake(tmp_path)
    write_history(lake, past.events, past.products, key=KEY)
    cut = 1_321_401_600  # 2011-11-16
    back = past.events.filter((pl.col("kind") == "cancel") & (pl.col("at") >= cut)).select("user", "item").unique()
    bought = dataset.interactions(lake, cut=cut).bought.height
    early = past.events.filter(pl.col("at") < cut)
    assert bought == dataset.standing(early.sort("at", "user", "item", "id")).height
    pairs = early.filter(pl.col("kind") == "purchase").select("user", "item").unique()
    assert pairs.join(back, on=["user", "item"], how="semi").height >= 500
