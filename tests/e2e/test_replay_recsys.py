"""A shop's file through the nights as a user types it: what is wrong in it is said, and the figures are left behind."""

import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from recsys import simulate
from recsys.config import DAY
from shared.results import read
from tests.recsys.shop import START, lived

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(420)]


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "recsys", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)


def test_a_file_of_one_s_own(tmp_path: Path) -> None:
    shop = simulate.open_shop(seed=3, start=START, days=50, users=500, items=300)
    events = lived(shop, 50).filter(pl.col("at") < START + 50 * DAY)  # without what comes back later
    events = events.filter(pl.col("at") // DAY % 7 != 2)  # a shop that rests on Saturdays
    rows = events.select(
        user_id="user",
        item_id="item",
        event="kind",
        at=pl.from_epoch("at").dt.strftime("%Y-%m-%d %H:%M:%S"),
        price=pl.col("cents") / 100,
    )
    bad = ["u1,i1,stolen,2026-02-01 10:00:00,1", "u1,i1,purchase,yesterday,1", "u 1,i1,view,2026-02-01 10:00:00,1"]
    lines = [*rows.write_csv().splitlines(), *bad]
    (tmp_path / "my-shop.csv").write_text("\n".join(lines))
    done = run("--var", tmp_path, "replay", tmp_path / "my-shop.csv", "--days", 8)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 rows refused" in done.stdout
    for number in range(3):
        assert re.search(rf"{len(lines) - 2 + number}\s+│", done.stdout), "bad rows by line"
    assert "8 published" in done.stdout, "a day without shoppers is no broken night"
    figures = {name: figure["value"] for name, figure in read(tmp_path / "results" / "recsys.json").items()}
    ours, peers = figures["replay.my_shop.ndcg20"], ("popularity", "repeats")
    assert isinstance(ours, float)
    for peer in peers:
        theirs = figures[f"replay.my_shop.{peer}.ndcg20"]
        assert isinstance(theirs, float)
        assert ours > theirs
    assert figures["replay.my_shop.rows_refused"] == 3


def test_a_data_set_and_what_is_not_there(tmp_path: Path, data: Path, proof: bool) -> None:
    """By its name is the proof; a quarter of its items, as a file, is faster."""
    file = "retailrocket_subset"
    if not proof:
        file = str(tmp_path / "some_items.parquet")
        whole = pl.scan_parquet(data / "retailrocket_subset" / "events.parquet")
        whole.filter(pl.col("item_id") % 4 == 0).sink_parquet(file)
    done = run("--var", tmp_path, "replay", file, "--days", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 rows refused" in done.stdout
    assert f"replay.{Path(file).stem}.ndcg20" in read(tmp_path / "results" / "recsys.json")
    done = run("--var", tmp_path, "replay", "no-such-file.csv")
    assert done.returncode == 2
    assert "online_retail" in done.stderr
