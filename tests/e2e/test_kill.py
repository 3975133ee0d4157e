"""kill -9 of workers and of the edge, under load: the decisions are those of a run that nothing happened to."""

import http.client
import json
import random
import subprocess
import threading
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import polars as pl
import pytest

from fraud import dataset
from fraud.config import DAY
from fraud.ingest import DECIDERS, Ingest
from fraud.schema import DECISIONS, EVENTS
from shared.clock import monotonic, sleep
from tests.e2e.test_commands import PAYMENT, Service, decided_by_model, serving
from tests.fraud.bank import KEY, LIVE, TODAY, Bank, Trained, days, once, payments

pytestmark = [pytest.mark.kill, pytest.mark.e2e, pytest.mark.timeout(900)]

DAYS = 3  # of traffic; six are the proof
BATCH = 20  # events an append
PATIENCE = 60.0  # seconds until a test gives up


@contextmanager
def worker(bank: Bank, slot: int = 0) -> Iterator["subprocess.Popen[bytes]"]:
    """`python -m fraud worker`, as a user would start it; killed without warning at the end."""
    with (bank.var / "worker.log").open("a") as log:
        command = bank.command("worker", "--slot", str(slot), "--patience", "inf")
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


def same(killed: Bank, undisturbed: Bank) -> None:
    """Each payment decided once, and as it would have been without all that, feature by feature; the book, too."""
    expected, got = undisturbed.said(), killed.said()
    assert got.keys() == expected.keys()
    assert [key for key in expected if got[key] != expected[key]] == []
    assert killed.notes() == undisturbed.notes()
    assert once(killed.cells())
    assert {x.model_dump_json() for x in killed.cells()} == {x.model_dump_json() for x in undisturbed.cells()}
    assert [*killed.letters(), *killed.outcomes()] == []


@pytest.mark.slow
def test_a_worker_killed_again_and_again_decides_what_an_undisturbed_one_does(
    bank: Bank, world: Trained, open_bank: Callable[..., Bank], request: pytest.FixtureRequest, proof: bool
) -> None:
    kills, chance = int(request.config.getoption("--kills")), random.Random(7)
    rows = days(world, 0, (6 if proof else DAYS) - 1)
    killed = open_bank(history=False)
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

    bank.send(rows, batch=BATCH)
    bank.decide()
    assert killed.said().keys() == {x.identity for x in payments(rows)}
    same(killed, bank)

    ingest = Ingest(killed.log, killed.lake)
    ingest.step()  # dies before its commit
    ingest.consumer.close()
    ingest = Ingest(killed.log, killed.lake)
    ingest.catch_up()
    ingest.consumer.close()
    taken = dataset.events(killed.lake, as_of=TODAY + LIVE * DAY).filter(pl.col("offset") >= 0)
    assert taken.height == rows.height
    assert killed.lake.read("decisions").height == len(payments(rows))


@pytest.mark.slow
def test_of_two_workers_one_is_killed_under_load_and_the_other_takes_over(
    bank: Bank, world: Trained, open_bank: Callable[..., Bank]
) -> None:
    """And gives back what is not its own when the dead one returns. Prints how long no payment was decided."""
    rows, shared = days(world, 0, 3), open_bank()
    (shared.var / "pseudonym_key.secret").write_bytes(KEY)
    first, second, third = (rows.slice(n * (rows.height // 3 + 1), rows.height // 3 + 1) for n in range(3))
    with worker(shared, 0) as survivor:
        with worker(shared, 1) as victim:
            until_owned(shared, 2)
            for batch in first.iter_slices(BATCH):
                shared.send(batch)
                sleep(0.002)
            victim.kill()
            shared.send(second, batch=BATCH)
            killed_at = monotonic()
            until_decided(shared, first.height + second.height, survivor)
            print(f"all decided {monotonic() - killed_at:.1f} s after the kill, on {shared.url.partition(':')[0]}")
        with worker(shared, 1) as returned:
            shared.send(third, batch=BATCH)
            until_decided(shared, rows.height, returned)
    bank.send(rows, batch=BATCH)
    bank.decide()
    same(shared, bank)


def until_owned(bank: Bank, members: int) -> None:
    """Wait until so many workers have said in their log that they own partitions."""
    until = monotonic() + PATIENCE
    while (bank.var / "worker.log").read_text().count(": owns [") < members:
        assert monotonic() < until, (bank.var / "worker.log").read_text()[-2_000:]
        sleep(0.02)


def test_an_edge_killed_with_requests_in_flight_has_answered_what_the_log_says(
    any_bank: Bank, pytestconfig: pytest.Config
) -> None:
    """Who got no answer asks again, as a till does, and gets the decision that was made, if one was."""
    answers: dict[str, dict[str, object]] = {}
    unanswered: list[dict[str, object]] = []
    numbers = iter(range(10_000))
    lock = threading.Lock()

    def ask(service: Service, payment: dict[str, object]) -> None:
        try:
            answer = service.post(payment)
        except (urllib.error.URLError, OSError, http.client.HTTPException):
            with lock:
                unanswered.append(payment)
            return
        with lock:
            previous = answers.setdefault(str(payment["id"]), answer)
        assert answer == previous

    def send(service: Service) -> None:
        while service.child.poll() is None:
            with lock:
                number = next(numbers)
            ask(service, PAYMENT | {"card": f"c{number % 40}", "id": f"in-flight-{number}"})

    with ThreadPoolExecutor(8) as pool:
        for _ in range(int(pytestconfig.getoption("--kills")) // 2):
            with serving(any_bank) as service:
                senders = [pool.submit(send, service) for _ in range(8)]
                sleep(1.5)
                service.child.kill()
                for sender in senders:
                    sender.result()
    assert unanswered, "nothing was in flight"
    with serving(any_bank) as service:
        decided_by_model(service)
        again, unanswered = unanswered, []
        for payment in again:
            ask(service, payment)
    assert unanswered == []
    first: dict[str, dict[str, object]] = {}
    for record in any_bank.read(DECISIONS):
        word = json.loads(record.value)
        if word["kind"] == "decision":
            first.setdefault(word["id"], word)
    assert [name for name in answers if first[name] != answers[name]] == []
    assert answers.keys() == {f"in-flight-{number}" for number in range(next(numbers))}
