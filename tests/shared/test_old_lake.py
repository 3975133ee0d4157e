"""A service takes its tables out of the lake that older versions had for all services."""

from pathlib import Path

import polars as pl

from shared.ingested_files import IngestedFiles
from shared.lake import Lake
from shared.old_lake import take_over

TABLES = {"orders": "shop", "events": "shop"}


def rows(*offsets: int, **more: str) -> pl.DataFrame:
    count = len(offsets)
    return pl.DataFrame({"partition": [0] * count, "offset": list(offsets), "at": [0] * count}).with_columns(
        **{name: pl.lit(value) for name, value in more.items()}
    )


def test_a_service_takes_its_tables_and_their_files_and_leaves_those_of_others(tmp_path: Path) -> None:
    old, new = Lake(tmp_path / "lake"), Lake(tmp_path / "mine" / "lake")
    IngestedFiles(old).add("orders", rows(-1, shop="a"))
    old.write("orders", rows(0, 1, shop="a"), batch="0-0")
    old.write("events", rows(0, 1, bank="b"), batch="0-0")  # of the same name, and another service's
    old.write("posts", rows(0, text="t"), batch="0-0")
    for _ in range(2):
        take_over(tmp_path, new.folder, TABLES)
        assert new.read("orders")["offset"].to_list() == [-1, 0, 1]
        assert IngestedFiles(new).restore(Lake(tmp_path / "restored")) == 1
    assert [old.read(table).height for table in ("orders", "events", "posts")] == [0, 2, 1]
    take_over(tmp_path, tmp_path / "bank" / "lake", {"events": "bank"})
    assert Lake(tmp_path / "bank" / "lake").read("events").height == 2


def test_a_lake_of_its_own_stays_as_it_is(tmp_path: Path) -> None:
    old, new = Lake(tmp_path / "lake"), Lake(tmp_path / "mine" / "lake")
    old.write("orders", rows(0, shop="old"), batch="0-0")
    new.write("orders", rows(0, shop="new"), batch="0-0")
    take_over(tmp_path, new.folder, TABLES)
    assert new.read("orders")["shop"].to_list() == ["new"]
    assert old.read("orders").height == 1


def test_nothing_is_made_where_there_was_no_lake(tmp_path: Path) -> None:
    take_over(tmp_path, tmp_path / "mine" / "lake", TABLES)
    assert list(tmp_path.iterdir()) == []
