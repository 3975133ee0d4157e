"""What a month costs: files, files opened, rows read and bytes held follow the traffic of a day, not the past."""

import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, cast

import polars as pl
import pytest

from recsys import config, ingest
from recsys.batch import date_of
from recsys.config import DAY, HOUR
from recsys.schema import CATALOGUE, EVENTS, IMPRESSIONS, REPORTS, Event, Impression, Product
from shared import lake as lake_module
from shared.clock import perf_counter
from shared.eventlog.port import Entry, Place, Record, Topic, partition_of
from shared.lake import MERGED, Lake
from shared.registry import Registry
from tests.recsys.shop import ITEMS, KEY, TODAY, USERS, Shop, Trained, copied, event, named
from tests.recsys.test_monitor import work

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DAYS, STEP, WINDOW = 30, 600, 14 * DAY  # of the test: its past is longer than the window
FEW = 2.5  # times as much on day 30 as on day 3, at most: by then seven tables are kept, and three were there
FILES_A_DAY = 200  # of a table and date


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What survives a power cut is not the question here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Reads:
    """Counts the files of the lake that are opened, and their rows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files = self.rows = 0
        read: Callable[[Path], pl.DataFrame] = lake_module.read_parquet

        def counted(path: Path) -> pl.DataFrame:
            rows = read(path)
            self.files += 1
            self.rows += rows.height
            return rows

        monkeypatch.setattr(lake_module, "read_parquet", counted)

    def taken(self) -> tuple[int, int]:
        """Since the last time."""
        files, rows = self.files, self.rows
        self.files = self.rows = 0
        return files, rows


class Cost(NamedTuple):
    """Of one night and of the report that follows it."""

    files: int  # opened by the night
    rows: int
    judged_files: int
    judged_rows: int
    held: int  # bytes below var but for the log and the lake


def held(var: Path) -> int:
    paths = [path for path in var.rglob("*") if path.is_file() and not path.name.startswith("log.")]
    return sum(path.stat().st_size for path in paths if "lake" not in path.relative_to(var).parts)


def files_by_date(lake: Lake) -> Counter[str]:
    return Counter(str(path.parent.relative_to(lake.folder)) for path in lake.folder.rglob("*.parquet"))


def traffic(draw: random.Random, now: int, number: int) -> list[tuple[Topic, str, Event | Impression | Product]]:
    """What happens in ten minutes: a list, a click, now and then a purchase, a price, a phone that was offline."""
    user, item = named(f"u{draw.randrange(USERS):06}"), f"i{draw.randrange(ITEMS):05}"
    shown = {"list_id": f"l{number}", "user": user, "at": now, "version": "v", "path": "table"}
    kind = draw.choice(["click", "purchase"])
    said: list[tuple[Topic, str, Event | Impression | Product]] = [
        (IMPRESSIONS, user, Impression.model_validate(shown | {"items": (item,), "sources": ("als",)})),
        (EVENTS, user, event(kind, user=user, item=item, at=now, id=f"e{number}")),
    ]
    if number % 20 == 0:
        late = event(user=user, item=item, at=now - draw.randrange(5 * DAY), id=f"late{number}")
        said += [(EVENTS, user, late), (CATALOGUE, item, Product(item=item, at=now, title=item, cents=500))]
    return said


def live_a_day(shop: Shop, draw: random.Random, day: int) -> None:
    """From one night to the next, with an ingest after each step."""
    begin = TODAY + day * DAY + 2 * HOUR
    for now in range(begin, begin + DAY, STEP):
        shop.clock.observe(now)
        said = traffic(draw, now, now // STEP)
        shop.log.append([Entry(topic, key, message.model_dump_json().encode()) for topic, key, message in said])
        ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log), key=KEY)
    shop.clock.observe(begin + DAY)


def test_a_night_of_day_30_costs_what_one_of_day_3_does(
    shop_world: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "WINDOW", WINDOW)
    draw, reads, costs, began = random.Random(1), Reads(monkeypatch), list[Cost](), perf_counter()
    with (
        closing(copied(shop_world, tmp_path / "var", recipe=False)) as shop,
        closing(shop.monitor(cast(Registry, None))) as monitor,
    ):
        for day in range(DAYS):
            live_a_day(shop, draw, day)
            reads.taken()
            night = shop.night(date_of(shop.clock.now()))
            assert night.refused == "", night
            opened = reads.taken()
            work(monitor)
            assert len(shop.said(REPORTS)) == day + 1
            costs.append(Cost(*opened, *reads.taken(), held(shop.var)))
        files = files_by_date(shop.lake)
    early, late = costs[2], costs[DAYS - 1]
    print(f"{perf_counter() - began:.0f} s for {DAYS} days; day 3: {early}, day {DAYS}: {late}")
    for name in Cost._fields:
        assert getattr(late, name) <= FEW * getattr(early, name), name
    assert max(files.values()) < FILES_A_DAY
    closed = f"events/date={date_of(TODAY + (DAYS - 7) * DAY)}"  # phones that were offline have reported by then
    assert max(count for date, count in files.items() if f"events/date={date_of(TODAY)}" <= date < closed) <= MERGED


def test_an_hour_of_five_steps_a_second_leaves_few_files(tmp_path: Path, proof: bool) -> None:
    """Each step writes a file of its own, and their number follows the rows; without the proof, ten minutes do."""
    lake, most, began = Lake(tmp_path / "lake"), 0, perf_counter()
    steps = 5 * HOUR if proof else 5 * HOUR // 6
    for number in range(steps):
        now = TODAY + number // 5
        deed = event("click", user=f"u{number % USERS}", at=now, id=f"e{number}")
        place = Place(EVENTS.name, partition_of(deed.user, config.PARTITIONS))
        ingest._write(lake, [Record(*place, number, deed.user, deed.model_dump_json().encode(), now)], key=KEY)
        if number % 100 == 0:
            most = max([most, *files_by_date(lake).values()])
    print(f"{perf_counter() - began:.0f} s; at most {most} files")
    assert most < FILES_A_DAY / 2, "a day has 24 times as many writes, which are one more level of merging"
    assert lake.read("events").height == steps
