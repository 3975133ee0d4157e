"""kill -9 of the worker under load: the decisions are those of a run that nothing happened to."""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import polars as pl
import pytest

from fraud import dataset
from fraud.config import DAY
from fraud.ingest import DECIDERS, Ingest
from fraud.schema import EVENTS
from shared.clock import monotonic, sleep
from tests.fraud.bank import KEY, LIVE, TODAY, Bank, Trained, copied, days, once, payments

DAYS = 6  # of traffic
BATCH = 20  # events an append
PATIENCE = 60.0  # seconds until a test gives up


@contextmanager
def worker(bank: Bank) -> Iterator["subprocess.Popen[bytes]"]:
    """`python -m fraud worker`, as a user would start it; killed without warning at the end."""
    options = ["--var", str(bank.var), "--virtual", str(TODAY)]
    with (bank.var / "worker.log").open("a") as log:
        command = [sys.executable, "-m", "fraud", *options, "worker", "--patience", "inf"]
        child = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def done(bank: Bank) -> int:
    return sum(position.offset for position in bank.log.committed(DECIDERS, EVENTS).values())


def until_decided(bank: Bank, wanted: int, child: "subprocess.Popen[bytes]") -> None:
    until = monotonic() + PATIENCE
    while done(bank) < wanted:
        assert child.poll() is None, (bank.var / "worker.log").read_text()[-2_000:]
        assert monotonic() < until, f"{wanted - done(bank)} events are still not decided"
        sleep(0.002)


@pytest.mark.kill
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_worker_killed_again_and_again_decides_what_an_undisturbed_one_does(
    bank: Bank, world: Trained, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kills, chance = int(request.config.getoption("--kills")), random.Random(7)
    rows = days(world, 0, min(DAYS, LIVE) - 1)
    killed = copied(world, tmp_path / "killed", history=False)
    killed.release(world.release)
    (killed.var / "pseudonym_key.secret").write_bytes(KEY)  # exploration is drawn with it
    parts = list(rows.iter_slices(rows.height // (kills + 1) + 1))
    for number in range(kills):
        part = parts.pop(0) if parts else rows.head(0)
        batches = list(part.iter_slices(BATCH))
        before = done(killed)
        if number % 3 == 0:  # while it starts: reads the past, loads a snapshot, replays
            with worker(killed):
                killed.send(part, batch=BATCH)
                sleep(chance.uniform(0.5, 3.0))
            continue
        with worker(killed) as child:
            killed.send(pl.concat(batches[:2]), batch=BATCH)
            until_decided(killed, before + 1, child)
            last = chance.randrange(2, len(batches))
            for batch in batches[2:last]:  # under load
                killed.send(batch)
                sleep(chance.uniform(0.0, 0.004))
            child.kill()
            killed.send(pl.concat([*batches[last:], part.head(0)]), batch=BATCH)
        if number % 3 == 2:
            file = chance.choice(sorted((killed.var / "snapshots").iterdir()))
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    for part in parts:
        killed.send(part)
    with worker(killed) as child:
        until_decided(killed, sum(killed.log.ends(EVENTS).values()), child)

    with closing(bank):
        bank.send(rows, batch=BATCH)
        bank.decide()
        expected, got = bank.said(), killed.said()  # each once
        assert got.keys() == expected.keys() == {x.identity for x in payments(rows)}
        assert [key for key in expected if got[key] != expected[key]] == []  # feature by feature
        assert killed.notes() == bank.notes()
        assert once(killed.cells())
        assert {x.model_dump_json() for x in killed.cells()} == {x.model_dump_json() for x in bank.cells()}
        assert [*killed.letters(), *killed.outcomes()] == []

    ingest = Ingest(killed.log, killed.lake)
    ingest.step()  # dies before its commit
    ingest.consumer.close()
    ingest = Ingest(killed.log, killed.lake)
    ingest.catch_up()
    ingest.consumer.close()
    taken = dataset.events(killed.lake, as_of=TODAY + LIVE * DAY).filter(pl.col("offset") >= 0)
    assert taken.height == rows.height
    assert killed.lake.read("decisions").height == len(expected)
    killed.close()
