"""A month of the bank, and an hour of small steps: what is held and what is read follows the state, not the history.

Time is virtual, a step is ten minutes. The log keeps three days, so that retention is at work from the first week on.
"""

import math
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from prometheus_client import CollectorRegistry

from fraud.config import DAY, HOUR, MINUTE
from fraud.edge import Edge
from fraud.ingest import Ingest
from fraud.report import Judge, date_of
from fraud.schema import BOOK, DECISIONS, EVENTS, TOPICS
from shared import lake
from shared.clock import monotonic, perf_counter, sleep
from shared.eventlog.port import Place, Position, partition_of
from shared.lake import MERGED
from shared.store.sqlite import SqliteStore
from tests.fraud.bank import KEY, TODAY, Bank, Trained, payment
from tests.fraud.test_monitor import Room

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # MLflow 3.17 still maps its tables in a way that SQLAlchemy 2.1 is giving up.
    pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning"),
]
EARLY, LATE = 3, 29  # days, counted from 0, that are compared
FULL = 17  # the first day whose report has a whole week of decisions with labels, and a fortnight of events
KEPT = 3  # days that the log keeps
STEP = 10 * MINUTE
A_DAY = 5 * DAY  # steps of the ingest


class Read(NamedTuple):
    """What was read of a table of the lake."""

    files: int
    rows: int


class Reads:
    """The files of the lake that are opened, and their rows, by table."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._opened: list[tuple[str, int]] = []  # several threads read
        read = lake.read_parquet

        def noted(path: Path) -> pl.DataFrame:
            rows = read(path)
            self._opened.append((path.parent.parent.name, rows.height))
            return rows

        monkeypatch.setattr(lake, "read_parquet", noted)

    def take(self) -> dict[str, Read]:
        """What was read since this was asked last."""
        opened, self._opened = self._opened, []
        tables = {table for table, _ in opened}
        rows = {table: [height for name, height in opened if name == table] for table in tables}
        return {table: Read(len(heights), sum(heights)) for table, heights in rows.items()}


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What survives a power cut is not the question here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def a_month(world: Trained) -> pl.DataFrame:
    """Thirty days of every fifth card: the live days, and ten of them again, two weeks later."""
    some = world.events.filter((pl.col("kind") == "tick") | (pl.col("card").hash(seed=0) % 5 == 0))
    day = (pl.col("at") - TODAY) // DAY
    again = some.filter(day.is_between(6, 15)).with_columns(pl.col("at") + 14 * DAY, pl.col("id") + "-2")
    return pl.concat([some.filter(day < 20), again]).with_columns(day=day, step=pl.col("at") // STEP)


class Month:
    """The bank and its monitor, live day by live day; what they hold and read."""

    def __init__(self, room: Room, store: SqliteStore, edge: Edge, reads: Reads) -> None:
        self.room, self.store, self.edge, self.reads = room, store, edge, reads
        self.reports: list[dict[str, Read]] = []  # what each report has read

    def live(self, rows: pl.DataFrame) -> None:
        """A day in steps of ten minutes."""
        room, bank = self.room, self.room.bank
        room.worker = room.worker or bank.worker()
        for part in rows.partition_by("step", maintain_order=True):
            bank.send(part)
            bank.work(room.worker)
            room.monitor.step()
        room.watch()
        until = monotonic() + 30
        while any(self.edge._positions.get(Place("fraud.decisions", p), 0) < end for p, end in self.decided().items()):
            assert monotonic() < until, self.edge.needed.ready()
            sleep(0.01)

    def decided(self) -> dict[int, int]:
        return self.room.bank.log.ends(DECISIONS)

    def held(self) -> dict[str, int]:
        """What there is in the log, in the view and in memory: records, bytes, entries."""
        monitor, worker = self.room.monitor, self.room.worker
        assert worker is not None
        memories = worker._memories.values()
        query = "SELECT count(*), sum(length(value)) FROM records JOIN streams USING (stream) WHERE topic = ?"
        held: dict[str, int] = {}
        with closing(sqlite3.connect(self.room.bank.var / "log.db")) as db:
            for topic in (EVENTS, DECISIONS, BOOK):
                held[f"{topic.name} records"], held[f"{topic.name} bytes"] = db.execute(query, (topic.name,)).fetchone()
        (held["rows of the view"],) = self.store._db.execute("SELECT count(*) FROM dated_rows").fetchone()
        held["payments remembered"] = sum(len(memory._seen) for memory in memories)
        held["cards"] = sum(len(memory.state.cards) for memory in memories)
        held["verdicts"] = sum(len(memory.state.verdicts) for memory in memories)
        held["terminals"] = len(worker._book._terminals)
        held["cells that wait"] = len(worker._book._waiting)
        held["records that wait"] = len(monitor._ingest._held) + len(worker._order)
        held["alarms remembered"] = len(monitor._alarmed_at)
        return held


@pytest.fixture
def month(bank: Bank, world: Trained, monkeypatch: pytest.MonkeyPatch) -> Iterator[Month]:
    monkeypatch.setattr("shared.eventlog.sqlite.TIDY", 16)  # there are few records, so it looks more often
    bank.log.create([topic._replace(days=topic.days and KEPT) for topic in TOPICS])
    shutil.copy(world.var / "mlflow.db", bank.var / "mlflow.db")
    reads = Reads(monkeypatch)
    with closing(Room(bank)) as room, closing(store_of(bank)) as store:
        edge = Edge(bank.log, store, secret=KEY, clock=bank.clock, metrics=CollectorRegistry())
        edge.needed.start()
        month = Month(room, store, edge, reads)
        judge = Judge.judge

        def judged(self: Judge, *arguments: Any, **options: Any) -> Any:
            reads.take()
            answer = judge(self, *arguments, **options)
            month.reports.append(reads.take())
            return answer

        monkeypatch.setattr(Judge, "judge", judged)
        yield month
        edge.needed.stop()


def store_of(bank: Bank) -> SqliteStore:
    return SqliteStore(str(bank.var / "store.db"), clock=bank.clock, keep=KEPT * DAY)


def files(bank: Bank, table: str) -> list[int]:
    """Of each live day, oldest first: how many files it has."""
    first = f"date={date_of(TODAY // DAY)}"
    folders = sorted(folder for folder in (bank.lake.folder / table).glob("date=*") if folder.name >= first)
    return [len(list(folder.glob("*.parquet"))) for folder in folders]


def test_a_month_later_a_day_costs_what_it_cost(month: Month, world: Trained) -> None:
    rows, bank = a_month(world), month.room.bank
    held: dict[int, dict[str, int]] = {}
    for day, of_day in enumerate(rows.partition_by("day", maintain_order=True)):
        began = perf_counter()
        month.live(of_day)
        held[day] = month.held()
        print(f"day {day}: {perf_counter() - began:.1f} s; read {month.reports[-1:]}, held {held[day]}")
    assert [report.day for report in month.room.reports] == list(range(TODAY // DAY, TODAY // DAY + LATE))
    more = {name: (held[EARLY][name], now) for name, now in held[LATE].items() if now > 1.5 * held[EARLY][name]}
    assert more == {}
    for table in ("events", "decisions"):
        *closed, yesterday, today = files(bank, table)
        assert len(closed) == LATE - 1
        assert max(closed) <= 2  # what the live days have left, and what came by file
        assert max(yesterday, today) <= 2 * MERGED
    # A report reads its own day, the last week whose labels have all come, and the events from then on.
    a_day = max(bank.lake.read("decisions").group_by(pl.col("at") // DAY).len()["len"])
    assert all(read["decisions"].rows <= 8 * a_day for read in month.reports)
    early, late = month.reports[FULL], month.reports[-1]
    for table, read in late.items():
        assert read.rows <= 1.2 * early[table].rows
        assert read.files <= 15 + 4 * MERGED  # a fortnight's, and those of the two days that are not merged yet


def test_an_hour_of_five_steps_a_second_leaves_few_files(bank: Bank, proof: bool) -> None:
    """A step takes one payment and one decision in, as at the quietest; without the proof, ten minutes do."""
    minutes = 60 if proof else 10
    worker, ingest = bank.worker(), Ingest(bank.log, bank.lake)
    bank.settle(worker)
    ingest.catch_up()
    ids = (str(n) for n in count() if partition_of(f"card-a.{n}", DECISIONS.partitions) == 0)
    steps, most = 0, 0
    for minute in range(minutes):
        bank.pay(*(payment(id=next(ids), at=TODAY + HOUR + MINUTE * minute + n // 5) for n in range(5 * MINUTE)))
        bank.work(worker)
        positions: dict[Place, Position] = {}
        while (taken := ingest.step(limit=1)).positions:
            positions |= taken.positions
            steps += 1
        ingest.consumer.commit([], positions)
        most = max(most, *files(bank, "events"), *files(bank, "decisions"))
    ingest.consumer.close()
    assert 5 * MINUTE * minutes <= steps <= (5 * MINUTE + 1) * minutes, "events are final a step after their decisions"
    assert bank.lake.read("decisions").height == 5 * MINUTE * minutes
    assert most <= levels(steps) * (MERGED - 1)
    assert levels(A_DAY) * (MERGED - 1) < 200


def levels(writes: int) -> int:
    """Of files that are merged so many at a time."""
    return math.ceil(math.log(writes, MERGED))
