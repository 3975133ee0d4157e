"""What is known at a cut, and nothing that came after it."""

from pathlib import Path

import polars as pl

from recsys import dataset
from recsys.config import DAY
from recsys.history import write_history
from recsys.schema import Event
from shared.lake import Lake
from tests.recsys.shop import TODAY, event

NO_PRODUCTS = pl.DataFrame(
    schema=dict.fromkeys(("item", "title", "category", "family", "seller"), pl.String)
    | dict.fromkeys(("at", "cents"), pl.Int64)
    | dict.fromkeys(("small", "in_stock"), pl.Boolean)
)


def rows(*events: Event) -> pl.DataFrame:
    return pl.DataFrame([x.model_dump() for x in events], infer_schema_length=None).sort("at")


def lines(frame: pl.DataFrame) -> list[int]:
    return dataset.standing(frame)["quantity"].to_list()


def test_a_cancellation_takes_back_the_latest_purchase_before_it() -> None:
    first, second = event(at=TODAY, quantity=1), event(at=TODAY + 10, quantity=2)
    assert lines(rows(first, second, event("cancel", at=TODAY + 20, quantity=2))) == [1]
    assert lines(rows(first, second, event("cancel", at=TODAY + 20, quantity=3))) == []
    assert lines(rows(first, second, event("cancel", at=TODAY + 20, quantity=1))) == [1, 2], "in part: it stands"
    assert lines(rows(first, event("cancel", at=TODAY + 5), second)) == [2], "what comes later is another purchase"
    assert lines(rows(first, event("cancel", item="ink", at=TODAY + 5))) == [1], "another item"


def test_a_cancellation_after_the_cut_is_not_known(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    write_history(lake, rows(event(at=TODAY), event("cancel", at=TODAY + DAY)), NO_PRODUCTS, key=b"k")
    assert dataset.interactions(lake, cut=TODAY + DAY).bought.height == 1
    assert dataset.interactions(lake, cut=TODAY + DAY + 1).bought.height == 0


def test_a_repeat_counts_once_and_ids_are_a_shopper_s_own(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    once = event(id="1")
    write_history(lake, rows(once, once, event(user="bob", id="1")), NO_PRODUCTS, key=b"k")
    assert dataset.interactions(lake, cut=TODAY + 1).bought.height == 2


def test_numbers_are_places_in_sorted_names() -> None:
    names, known = pl.Series("item", ["c", "a", "x"]), pl.Series("item", ["a", "b", "c"])
    assert dataset.number(names, known).to_list() == [2, 0, -1]
    assert dataset.number(names, known.head(0)).to_list() == [-1, -1, -1]


def test_what_was_bought_after_the_cut_is_numbered_as_before_it(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    events = rows(event(item="b", at=TODAY), event(item="a", at=TODAY + 5), event(item="b", at=TODAY + 6))
    write_history(lake, events, NO_PRODUCTS, key=b"k")
    known = dataset.interactions(lake, cut=TODAY + 1)
    after = dataset.bought_after(lake, known, until=TODAY + DAY)
    assert known.items == ["b"]
    assert sorted(after["item"].to_list()) == [-1, 0], "a was not there yet: it can only be missed"
