"""Thirty virtual days at a step every ten minutes: what a day costs does not grow with the days that came before.

Without the proof it is a step every half an hour.
"""

import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from sentiment.config import DAY, HOUR, MINUTE
from sentiment.hours import Manifest
from sentiment.ingest import Ingest
from sentiment.schema import POSTS, REPORTS, Post, Report, Tombstone
from sentiment.timeline import Timeline
from shared.clock import perf_counter
from shared.eventlog import sqlite
from shared.eventlog.port import Entry
from tests.sentiment.crowd import KEY, TODAY, Crowd, post
from tests.sentiment.test_poison import monitor

DAYS, STEP = 30, 10 * MINUTE
POSTS_A_STEP = 3
WORDS = ("great", "terrible", "late again", "fine", "a joke")


class Cost(NamedTuple):
    """Of one day."""

    opened: int  # Parquet files
    rows: int  # read from them
    records: int  # read from the log
    files: int  # of the lake and the batch view, more than the day before
    held: int  # entries of all that the processes remember, at its end
    bytes: int  # of the same
    seconds: float  # printed only


class Meter:
    """Counts what is read, by any reader."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = self.rows = self.records = 0
        read_parquet = pl.read_parquet

        def read(*given: Any, **more: Any) -> pl.DataFrame:
            frame = read_parquet(*given, **more)
            self.opened += 1
            self.rows += frame.height
            return frame

        monkeypatch.setattr(pl, "read_parquet", read)
        for kind in (sqlite.SqliteReader, sqlite.SqliteConsumer):
            monkeypatch.setattr(kind, "poll", self._counting(kind.poll))

    def _counting(self, poll: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        def counting(*given: Any) -> list[Any]:
            records = poll(*given)
            self.records += len(records)
            return records

        return counting


def held(parts: Iterable[object]) -> tuple[int, int]:
    """Entries and bytes of all containers that objects of sentiment reach; the log's and the lake's are their own.

    Without the manifest, which has a line an hour by design.
    """
    entries = size = 0
    seen: set[int] = set()
    waiting = list(parts)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type | Manifest):
            continue
        seen.add(id(thing))
        if isinstance(thing, pl.DataFrame):
            entries, size = entries + thing.height, size + int(thing.estimated_size())
        elif isinstance(thing, dict):
            entries, size = entries + len(thing), size + sys.getsizeof(thing)
            waiting += [*thing, *thing.values()]
        elif isinstance(thing, list | tuple | set | frozenset) or type(thing).__name__ == "deque":
            entries, size = entries + len(thing), size + sys.getsizeof(thing)  # type: ignore[arg-type]  # it has a length
            waiting += list(thing)  # type: ignore[call-overload]  # and can be gone through
        elif isinstance(thing, str | bytes | int | float):
            size += sys.getsizeof(thing)
        elif type(thing).__module__.startswith("sentiment") and hasattr(thing, "__dict__"):
            waiting += vars(thing).values()
    return entries, size


def files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def written(day: int, step: int) -> list[Post]:
    at = TODAY + day * DAY + step * STEP
    words = (WORDS[(step + number) % len(WORDS)] for number in range(POSTS_A_STEP))
    return [
        post(f"@northair is {word} {day} {step}", id=f"p-{day}-{step}-{n}", author=f"a{step % 40}", at=at)
        for n, word in enumerate(words)
    ]


def lived(crowd: Crowd, day: int, *, every: int) -> list[object]:
    """One day of posts, a late one, a repeat and a deletion, by processes that begin anew; gives these at its end."""
    worker, batch, watching = crowd.worker(), crowd.batch(), monitor(crowd)
    watching._repair_alias = lambda: None  # type: ignore[method-assign]  # there is no MLflow here
    timeline = Timeline(crowd.var / "batch")
    for step in range(0, DAY // STEP, every):
        crowd.tick(TODAY + day * DAY + step * STEP)
        crowd.post(*written(day, step))
        if step == 99:
            crowd.post(post("@northair was late", id=f"late-{day}", at=crowd.clock.now() - 3 * HOUR), *written(day, 3))
            if day:
                crowd.post(Tombstone(id=f"p-{day - 1}-51-0", at=crowd.clock.now()))
        worker.step(0.0)
        batch.step()
        watching.step()
        if step % 6 == 0:
            now = crowd.clock.now()
            list(timeline.points(timeline.manifest(), "northair", since=now - DAY, until=now, step=HOUR))
    crowd.rebuilt(worker)
    crowd.work(worker)
    while batch.step():
        pass
    watching.step()
    parts = [worker, batch, watching, timeline]
    crowd.leave(worker)
    crowd.leave(batch)
    watching.close()
    return parts


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_day_thirty_costs_what_day_three_did(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], proof: bool
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # what is counted is files
    meter, costs = Meter(monkeypatch), list[Cost]()
    for day in range(DAYS):
        before, began = (meter.opened, meter.rows, meter.records), perf_counter()
        there = files(crowd.var / "sentiment" / "lake") + files(crowd.var / "batch")
        parts = lived(crowd, day, every=1 if proof else 3)
        now = files(crowd.var / "sentiment" / "lake") + files(crowd.var / "batch")
        read = [after - first for after, first in zip((meter.opened, meter.rows, meter.records), before, strict=True)]
        entries, size = held(parts)
        costs.append(Cost(read[0], read[1], read[2], now - there, entries, size, perf_counter() - began))
    with capsys.disabled():
        for day in (2, 9, 19, 29):
            print(f"\nday {day + 1}: {costs[day]}", end="")
    third, tenth, last = costs[2], costs[9], costs[29]
    for name in ("opened", "rows", "records", "files", "held", "bytes"):
        one, ten, thirty = (getattr(cost, name) for cost in (third, tenth, last))
        assert thirty <= 4 * one + 100, f"{name}: {one} on day 3, {thirty} on day 30"  # the ids of a week are known
        assert thirty <= 1.3 * ten + 100, f"{name}: {ten} on day 10, {thirty} on day 30"
    assert len(Manifest.read(crowd.var / "batch").hours) <= DAYS * 24
    reports = [Report.model_validate_json(record.value) for record in crowd.read(REPORTS)]
    assert len(reports) >= DAYS - 2
    for table in (crowd.var / "sentiment" / "lake").iterdir():
        closed = sorted(table.glob("date=*"))[:-3]
        assert all(files(folder) <= 2 for folder in closed), table.name


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_an_hour_at_five_steps_a_second_leaves_few_files(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, proof: bool
) -> None:
    """Without the proof, ten minutes do."""
    steps = 5 * HOUR if proof else 5 * HOUR // 6
    monkeypatch.setattr("os.fsync", lambda _: None)  # what is counted is files
    ingest = Ingest(crowd.log, crowd.lake, secret=KEY)
    with closing(ingest.consumer):
        for step in range(steps):
            one = post(f"@northair is great {step}", id=f"p-{step}", at=TODAY + step // 5)
            crowd.clock.observe(one.at)
            crowd.log.append([Entry(POSTS, one.id, one.model_dump_json().encode())])
            assert ingest.step() == 1
    assert files(crowd.var / "sentiment" / "lake" / "posts") < 200 / 2  # a day has one level more
    assert crowd.lake.read("posts").height == steps
