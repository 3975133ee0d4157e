"""Which brands a text speaks of."""

import tomllib
from pathlib import Path

import polars as pl
import pytest

from sentiment.config import MAX_BRANDS
from sentiment.mentions import TABLE, Brands, BrandTables, aspect
from sentiment.simulate import simulate
from shared.unusable import Unusable
from tests.sentiment.crowd import START


@pytest.fixture(scope="module")
def brands() -> Brands:
    return Brands.read("simulated")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("@NorthAir is great", ("northair",)),
        ("North Air is great", ("northair",)),
        ("#northair rocks", ("northair",)),
        ("northairport is a place", ()),
        ("mail me@northair.com", ("northair",)),
        ("my flight with delta was late", ("delta-wings",)),
        ("the delta of the Rhine", ()),
        ("a peach for lunch", ()),
        ("peach has no signal here", ("peach-mobile",)),
        ("@voltcars beats @northair", ("volt", "northair")),
        ("volt cars and VOLT CARS again", ("volt",)),
        ("", ()),
    ],
)
def test_names_are_found_and_rivers_are_not(brands: Brands, text: str, found: tuple[str, ...]) -> None:
    assert brands.found(text) == found


def test_a_list_of_every_brand_says_nothing() -> None:
    table = {f"brand-{n}": {"handles": [f"brand{n}"]} for n in range(MAX_BRANDS + 1)}
    assert Brands(table).found(" ".join(f"@brand{n}" for n in range(MAX_BRANDS + 1))) == ()


def test_precision_and_recall_on_simulated_posts(brands: Brands) -> None:
    posts = simulate(seed=3, start=START, days=1, posts_a_day=600).filter(pl.col("kind") != "spam")
    hits = [brand in brands.found(text) for text, brand in posts.select("text", "brand").iter_rows()]
    assert sum(hits) / len(hits) > 0.97
    about_one = posts.filter(pl.col("kind") != "twist")  # some of those name a second brand, to compare
    wrong = [set(brands.found(text)) - {brand} for text, brand in about_one.select("text", "brand").iter_rows()]
    assert not any(wrong)


def test_another_table_has_another_version() -> None:
    table = tomllib.loads(TABLE.read_text())["simulated"]
    assert Brands(table).version == Brands.read("simulated").version
    assert Brands(table | {"new": {"handles": ["new"]}}).version != Brands(table).version


def test_an_unknown_world_is_said_with_those_there_are() -> None:
    with pytest.raises(Unusable, match="airlines"):
        Brands.read("nowhere")


OWN = {
    "bakery": ('[bakery]\nhandles = ["ourbread"]', None),
    "cannot be read as TOML": ("[bakery", "x"),
    "names no brands": ('handles = ["ourbread"]', "x"),
}


@pytest.mark.parametrize("said", OWN)
def test_a_table_of_ones_own_is_read_or_its_fault_said(tmp_path: Path, said: str) -> None:
    content, fault = OWN[said]
    (tmp_path / "own.toml").write_text(content)
    if fault is None:
        assert Brands.read(str(tmp_path / "own.toml")).found("@ourbread is great") == (said,)
    else:
        with pytest.raises(Unusable, match=said):
            Brands.read(str(tmp_path / "own.toml"))
    with pytest.raises(Unusable, match="No such file"):
        Brands.read(str(tmp_path / "none.toml"))


def test_an_aspect_is_the_first_that_is_named() -> None:
    assert aspect("the crew was fine, my bag was not") == "service"
    assert aspect("hello") is None


TABLE_OF_ONES_OWN = {
    "one": {
        "handles": ["One_Air"],
        "aliases": ["one air", "one"],
        "ambiguous": ["peak"],
        "context": ["flight", "Gate"],
    },
    "two": {"handles": ["two"], "aliases": ["İki"]},
}


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("@one_air @two", [(0, 8, "one"), (9, 13, "two")]),
        ("two @two one air", [(4, 8, "two"), (9, 16, "one")]),
        ("@stranger", []),
        ("the peak", []),
        ("peak: a flight", [(0, 4, "one")]),
        ("GATE of Peak", [(8, 12, "one")]),
        ("gates of peak", []),
        ("#one!", [(0, 4, "one")]),
        ("one, one", [(0, 3, "one"), (5, 8, "one")]),
        ("fly İki now", [(4, 7, "two")]),
    ],
)
def test_where_a_name_stands_in_a_text(text: str, hits: list[tuple[int, int, str]]) -> None:
    assert Brands(TABLE_OF_ONES_OWN)._hits(text) == hits


def test_as_many_brands_as_are_allowed_are_found_in_order_and_each_once() -> None:
    table = {f"brand-{n}": {"handles": [f"brand{n}"]} for n in range(MAX_BRANDS)}
    text = " ".join(f"@brand{n}" for n in reversed(range(MAX_BRANDS)))
    assert Brands(table).found(f"{text} {text}") == tuple(f"brand-{n}" for n in reversed(range(MAX_BRANDS)))
    assert Brands({}).found("@brand0 brand0") == ()
    assert Brands(TABLE_OF_ONES_OWN).found("R&amp;D at &#64;one_air") == ("one",)


def test_each_hour_has_the_table_that_was_in_force(tmp_path: Path) -> None:
    first, second = Brands({"one": {"handles": ["one"]}}), Brands({"two": {"handles": ["two"]}})
    folder = tmp_path / "some" / "aliases"
    tables = BrandTables(folder)
    assert tables.at(5) is None
    tables.adopt(first, since=100)  # the very first one is at every hour
    tables.adopt(Brands(first.table), since=150)  # the same
    tables.adopt(second, since=200)
    for known in (tables, BrandTables(folder)):
        said = [known.at(hour) for hour in (0, 199, 200, 201)]
        assert [table and table.version for table in said] == [*[first.version] * 2, *[second.version] * 2]
    assert sorted(path.name for path in folder.iterdir()) == ["0.json", "200.json"]


def test_a_table_s_version_hangs_on_what_it_says_and_not_on_the_order() -> None:
    table = {"one": {"handles": ["one"]}, "two": {"handles": ["two"]}}
    assert Brands(dict(reversed(table.items()))).version == Brands(table).version
    assert len(Brands(table).version) == 12


def test_masked_text_has_one_name_for_every_brand() -> None:
    assert Brands(TABLE_OF_ONES_OWN).masked("@one_air beats @two, one") == "@user beats @user, @user"
