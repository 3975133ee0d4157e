"""Today's code on what an older version has written (tests/fixtures/recsys): it goes on, and does nothing twice."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from recsys import config, table
from recsys.config import DAY, HOUR
from recsys.ingest import frozen, ingest
from recsys.schema import ALARMS, DEAD, EVENTS, NIGHTS, REPORTS
from recsys.table import Table
from shared.eventlog.port import Entry
from shared.old_lake import take_over
from shared.registry import Registry, Unavailable
from shared.releases import NONE
from tests.recsys.shop import KEY, TODAY, Shop, event
from tests.recsys.test_monitor import work
from tests.recsys.test_serve import client, until

FIXTURES = Path(__file__).parents[1] / "fixtures" / "recsys"
FIRST, SECOND = "2026-03-12", "2026-03-13"  # dates of the nights


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Shop]:
    for archive in FIXTURES.glob("*.tar.gz"):
        shutil.unpack_archive(archive, tmp_path, filter="data")
    take_over(tmp_path, tmp_path / "recsys" / "lake", config.LAKE)
    with closing(Shop(tmp_path)) as shop:
        shop.clock.observe(TODAY + DAY + 3 * HOUR)
        yield shop


def away() -> Registry:
    raise Unavailable("MLflow does not answer")


def test_its_tables_are_served_and_rolled_back(old: Shop) -> None:
    second = str(table.current(old.tables))
    with client(old) as asking:
        until(lambda: asking.get("/health/ready").status_code == 200)

        def named() -> set[str]:
            return {warning.split("/")[0] for warning in asking.get("/health/ready").json()["warnings"]}

        until(lambda: named() <= {EVENTS.name})  # the bad record that the fixture holds
        assert asking.get("/v1/table").json()["version"] == second
        assert asking.get("/v1/table").json()["recipe"] == "1"
        user = next(iter(Table.open(old.tables / second).manifest.samples))
        assert asking.get(f"/v1/shoppers/{user}?by=pseudonym").json()["path"] == "table"
        told = asking.get("/v1/watch").json()["told"]
        assert len(told["nights"]) == 2
        assert told["alarms"]
        assert told["back_to"].startswith(FIRST)
    assert old.roll_back().startswith(FIRST)
    assert old.ledger().known_bad("table") == {second}


def test_its_night_run_again_publishes_the_same_and_the_next_one_goes_on(old: Shop) -> None:
    second, lines = table.current(old.tables), len(old.ledger().lines)
    rows, letters = old.lake.read("events").height, len(old.read(DEAD))
    assert old.night(SECOND).version == second
    assert (len(old.ledger().lines), len(old.read(DEAD))) == (lines, letters)
    assert old.lake.read("events").height == rows, "the day that came since is the next night's"
    old.clock.observe(TODAY + 2 * DAY + 2 * HOUR)
    night = old.night("2026-03-14")
    assert night.version == table.current(old.tables) != second
    manifest = Table.open(old.tables / night.version).manifest
    assert (night.recipe, manifest.bundle) == (NONE, NONE), "its ranker reads features of an older definition"
    assert old.lake.read("events").height > rows


def test_its_monitor_s_days_are_not_judged_again(old: Shop) -> None:
    alarms = old.said(ALARMS)
    monitor = old.monitor(cast(Registry, None))
    monitor._open_registry = away
    monitor._fetch = lambda _, digest: old.var / "recipes" / digest
    work(monitor)
    old.clock.observe(TODAY + 2 * DAY + 2 * HOUR)
    old.night("2026-03-14")
    work(monitor)
    monitor.close()
    days = [said["day"] for said in old.said(REPORTS)]
    assert days == [TODAY // DAY, TODAY // DAY + 1], "the first was judged then, and is not again"
    kinds = [said["kind"] for said in old.said(ALARMS)[len(alarms) :]]
    assert kinds == ["recipe"], "of features that have changed since; the command that was refused is not refused again"
    assert len(old.said(NIGHTS)) == 3


def test_what_comes_to_its_log_is_taken_in_behind_what_was(old: Shop) -> None:
    before = ingest(old.log, old.lake, frozen(old.log), key=KEY)
    assert before > 0
    old.happens(event(user="ann", at=old.clock.now()))
    old.log.append([Entry(EVENTS, "ann", b"{")])
    assert ingest(old.log, old.lake, frozen(old.log), key=KEY) == 2
