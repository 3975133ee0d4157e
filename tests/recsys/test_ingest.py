"""Topics into the lake: up to where the night froze them, each record once, what cannot be read as a dead letter."""

import json
import subprocess
from contextlib import closing
from datetime import date
from typing import Any

import polars as pl
import pytest

from recsys import config, ingest
from recsys.schema import DEAD, ERASURES, EVENTS, INPUTS, Erasure
from shared.cli import claim
from shared.eventlog.port import Consumer, Entry, LogUnavailable, Place, Position, Record
from shared.ingested_files import IngestedFiles
from shared.lake import Lake
from tests.recsys.shop import KEY, TODAY, Shop, event


def test_what_comes_after_the_freeze_waits(shop: Shop) -> None:
    before = shop.lake.read("events").height
    shop.happens(event(user="ann", at=TODAY), event(user="bob", at=TODAY))
    offsets = ingest.frozen(shop.log)
    shop.happens(event(user="ann", at=TODAY + 60))
    assert ingest.ingest(shop.log, shop.lake, offsets, key=KEY) == 2
    assert shop.lake.read("events").height == before + 2
    ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log), key=KEY)
    assert shop.lake.read("events").height == before + 3


class OneByOne:
    """A member that gives the records of one partition a poll, and now and then none although there are some."""

    def __init__(self, member: Consumer) -> None:
        self._member = member
        self._held: dict[Place, list[Record]] = {}
        self._polls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._member, name)

    @property
    def positions(self) -> dict[Place, int]:
        held = {place: records[0].offset for place, records in self._held.items() if records}
        return {**self._member.positions, **held}

    def poll(self, limit: int, timeout: float) -> list[Record]:
        for record in self._member.poll(limit, timeout):
            self._held.setdefault(Place(record.topic, record.partition), []).append(record)
        self._polls += 1
        return next((self._held.pop(place) for place in sorted(self._held)), []) if self._polls % 3 else []


def test_every_partition_is_read_up_to_its_frozen_offset_in_whatever_order_they_come(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.happens(*(event(user=f"user{n}", at=TODAY + n) for n in range(60)))
    offsets, before = ingest.frozen(shop.log), shop.lake.read("events").height
    shop.happens(*(event(user=f"user{n}", at=TODAY + n, id=f"later{n}") for n in range(60)))
    with closing(shop.log.consumer(ingest.GROUP, INPUTS, "night")) as dead:  # it had read the first partition
        dead.poll(1, 0.0)
        dead.commit([], {Place(EVENTS.name, 0): Position(offsets[EVENTS.name][0])})
    due = sum(offsets[EVENTS.name][partition] for partition in (1, 2, 3))
    join = shop.log.consumer
    monkeypatch.setattr(shop.log, "consumer", lambda *given: OneByOne(join(*given)))
    assert ingest.ingest(shop.log, shop.lake, offsets, key=KEY) == due > 0
    assert shop.lake.read("events").height == before + due


def test_records_that_do_not_come_leave_the_night_to_be_run_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "PATIENCE", 0.2)
    offsets = ingest.frozen(shop.log)
    offsets[EVENTS.name][2] += 1
    with pytest.raises(LogUnavailable, match=f"{EVENTS.name}/2"):
        ingest.ingest(shop.log, shop.lake, offsets, key=KEY)


BAD = {
    "no JSON": (b"{", "message"),
    "another key": (event(user="bob", at=TODAY).model_dump_json().encode(), "user"),
    "too far ahead": (event(at=TODAY + 2 * 86_400).model_dump_json().encode(), "at"),
    "far too late": (event(at=TODAY - config.MAX_AGE - 86_400).model_dump_json().encode(), "at"),
    "no whole cents": (json.dumps(event(at=TODAY).model_dump() | {"cents": 500.0}).encode(), "cents"),
    "no quantity": (json.dumps(event(at=TODAY).model_dump() | {"quantity": 0}).encode(), "quantity"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_becomes_a_dead_letter_and_the_rest_goes_on(shop: Shop, name: str) -> None:
    before = shop.lake.read("events").height
    value, field = BAD[name]
    shop.log.append([Entry(EVENTS, "ann", value)])
    shop.happens(event(at=TODAY))
    ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log), key=KEY)
    assert shop.lake.read("events").height == before + 1
    (letter,) = shop.letters(DEAD)
    assert letter.field == field
    assert "bob" not in letter.value, "it could be a name"


def test_who_is_killed_before_the_commit_writes_the_same_files_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.happens(*(event(user=f"u{number}", at=TODAY + number) for number in range(50)))
    offsets, before = ingest.frozen(shop.log), shop.lake.read("events").height
    consumer = shop.log.consumer("another", [EVENTS], "one")
    consumer.close()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(consumer), "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest.ingest(shop.log, shop.lake, offsets, key=KEY)
    assert shop.lake.read("events").height == before + 50
    ingest.ingest(shop.log, shop.lake, offsets, key=KEY)
    assert shop.lake.read("events").height == before + 50, "the same names, so nothing twice"


def test_a_damaged_lake_is_made_again_from_files_and_log(shop: Shop) -> None:
    shop.happens(*(event(user=f"user{n}", at=TODAY + n) for n in range(20)))
    shop.log.append([Entry(EVENTS, "ann", b"{")])
    ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log), key=KEY)
    shop.happens(event(user="later", at=TODAY + 60))  # the next night's
    before = {table: shop.lake.read(table) for table in ("events", "catalogue")}
    letters = shop.letters(DEAD)
    for path in shop.lake.folder.glob(f"events/date={date.fromtimestamp(TODAY)}/*"):
        path.write_bytes(b"PAR1")
    done = subprocess.run(shop.command("ingest", "--rebuild"), capture_output=True, text=True, check=True)
    assert "the lake is made again" in done.stdout
    assert {table: shop.lake.read(table).equals(rows) for table, rows in before.items()} == {
        "events": True,
        "catalogue": True,
    }
    assert shop.letters(DEAD) == letters
    assert ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log), key=KEY) == 1


def test_a_lake_is_not_made_again_while_a_command_writes_to_it(shop: Shop) -> None:
    with claim(shop.var, "recsys-lake", alone=False):
        done = subprocess.run(shop.command("ingest", "--rebuild"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the lake of recsys is in use" in done.stderr


def test_an_erasure_removes_the_shopper_from_what_the_lake_would_be_made_of(shop: Shop) -> None:
    files = IngestedFiles(shop.lake)
    user = shop.lake.read("events")["user"][0]
    before = Lake(shop.var / "before")
    files.restore(before)
    assert user in set(before.read("events")["user"])
    erasure = Erasure(user=user, at=shop.clock.now())
    shop.log.append([Entry(ERASURES, user, erasure.model_dump_json().encode())])
    ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log), key=KEY)
    after = Lake(shop.var / "after")
    files.restore(after)
    others = before.read("events").filter(pl.col("user") != user)
    assert after.read("events").equals(others)


def test_an_erasure_from_a_fast_clock_does_not_cover_what_is_yet_to_come(shop: Shop) -> None:
    now = shop.clock.now()
    erasure = Erasure(user="ann", at=now + 3_600)
    shop.log.append([Entry(ERASURES, "ann", erasure.model_dump_json().encode())])
    ingest.ingest(shop.log, shop.lake, ingest.frozen(shop.log), key=KEY)
    assert shop.lake.read("erasures")["at"].max() == now
