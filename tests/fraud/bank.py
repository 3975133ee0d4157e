"""A tiny bank with a trained model, and what a test needs to run parts of the service on it."""

import json
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from fraud.artifact import Artifact, reference
from fraud.config import DAY, HOUR
from fraud.history import as_events, write_history
from fraud.ingest import DECIDERS
from fraud.monitor import entry
from fraud.policy import Policy
from fraud.schema import (
    BOOK,
    DEAD,
    DECISIONS,
    EVENTS,
    RELEASES,
    TOPICS,
    Cell,
    Decision,
    Outcome,
    Transaction,
    message,
)
from fraud.simulate import labels, simulate
from fraud.stream import Worker
from fraud.train import train
from shared.champion import Champion, digest_of
from shared.clock import VirtualClock, monotonic
from shared.dead_letters import DeadLetter
from shared.eventlog import open_log
from shared.eventlog.port import Entry, EventLog, Record, Topic, beginning, partition_of
from shared.lake import Lake
from shared.registry import Registry
from shared.releases import Release
from tests.run_once import run_once

START = 1_767_225_600  # 2026-01-01
HISTORY, LIVE = 60, 20  # days
TODAY = START + HISTORY * DAY
KEY = b"a key for tests, 32 bytes long.."
SEED = 1


class Trained(NamedTuple):
    """What every test may read and none may change."""

    var: Path  # the lake, MLflow, the model; a log that knows the past, with snapshots
    events: pl.DataFrame  # the live days: payments, labels, ticks, as rows of `fraud.events`
    release: Release  # of the model


@cache
def trained(var: Path) -> Trained:
    """Two months of 300 cards in the lake, a model learnt from them, a worker that has taken the past in.

    The model is trained by the first process that asks; the others use the same folder.
    """
    world = simulate(seed=SEED, start=START, days=HISTORY + LIVE, cards=300, terminals=200, payments_a_day=3.0)
    known = labels(world.with_columns(action=pl.lit("approve")), seed=SEED)
    past, verdicts = world.filter(pl.col("at") < TODAY), known.filter(pl.col("at") < TODAY)
    run_once(var, lambda: _learn(var, as_events(past, verdicts, key=KEY, ticks=(START, TODAY))))
    live = as_events(
        world.filter(pl.col("at") >= TODAY),
        known.filter(pl.col("at").is_between(TODAY, TODAY + LIVE * DAY, closed="left")),
        key=KEY,
        ticks=(TODAY + HOUR, TODAY + LIVE * DAY),
    )
    return Trained(var, live, Release.model_validate_json((var / "release.json").read_text()))


def _learn(var: Path, past: pl.DataFrame) -> None:
    """Fill `var` with a lake, a model, its release, and a log with snapshots."""
    lake = Lake(var / "fraud" / "lake")
    write_history(lake, past)
    registry = open_registry(var)
    candidate = train(lake, registry, as_of=TODAY, seed=SEED, champion=None)
    assert not candidate.refused
    version = candidate.version
    registry.fetch(version.artifact, digest=version.digest, into=var / "models")
    release = Release.promotion(version, at=TODAY, who="tests", why="the first model")
    (var / "release.json").write_text(release.model_dump_json())
    bank = Bank(var)
    bank.log.append([entry(release)])
    bank.settle(bank.worker())
    bank.close()


def open_registry(var: Path) -> Registry:
    with warnings.catch_warnings():
        # MLflow 3.17 still maps its tables in a way that SQLAlchemy 2.1 is giving up.
        warnings.filterwarnings("ignore", ".*noload.*", DeprecationWarning)
        registry = Registry(f"sqlite:///{var}/mlflow.db", "fraud")
        registry.versions()  # opens it
    return registry


def copied(trained: Trained, var: Path, *, history: bool = True, url: str = "") -> "Bank":
    """A bank of one's own on the trained world; without `history` its log is empty, and it has no snapshots.

    `url`: of its log, if that is not a file of its own.
    """
    for part in ("fraud/lake", "fraud/lake-files"):
        shutil.copytree(trained.var / part, var / part, copy_function=os.link)  # nothing is ever changed in place
    shutil.copytree(trained.var / "models", var / "models", copy_function=os.link)
    if history:
        shutil.copytree(trained.var / "snapshots", var / "snapshots")
        if not url:
            shutil.copy(trained.var / "log.db", var / "log.db")
    bank = Bank(var, url)
    if history and url:
        shutil.copy(trained.var / "log.db", var / "known.db")  # another process may copy it, too: it stays closed
        with closing(Bank(var, f"sqlite:///{var}/known.db")) as known:
            entries = [
                Entry(topic, record.key, record.value) for topic in (BOOK, RELEASES) for record in known.read(topic)
            ]
        bank.log.append(entries)
    return bank


class Bank:
    """A folder with a log, a lake and models, and hands to feed and to read them."""

    def __init__(self, var: Path, url: str = "") -> None:
        self.var, self.url = var, url or f"sqlite:///{var}/log.db"
        self.clock = VirtualClock(TODAY)
        self.log = open_log(self.url, clock=self.clock)
        self.log.create(TOPICS)
        self.lake = Lake(var / "fraud" / "lake")
        self._workers: list[Worker] = []

    def close(self) -> None:
        for worker in list(self._workers):  # those that a test let die
            self.leave(worker)
        self.log.close()

    def command(self, *words: str) -> list[str]:
        """A command of fraud on this bank's parts, as a user would type it."""
        options = ["--var", str(self.var), "--log", self.url, "--virtual", str(TODAY)]
        return [sys.executable, "-m", "fraud", *options, *words]

    # --- in ---------------------------------------------------------------------------------------

    def send(self, rows: pl.DataFrame, *, batch: int = 200) -> None:
        """Append rows of `fraud.events`; the clock goes with them."""
        columns = rows.select("partition", "card", "at", message()).iter_rows()
        entries = [
            (Entry(EVENTS, card or "tick", text.encode(), partition), at) for partition, card, at, text in columns
        ]
        for first in range(0, len(entries), batch):
            part = entries[first : first + batch]
            self.clock.observe(max(at for _, at in part))
            self.log.append([item for item, _ in part])

    def pay(self, *payments: Transaction) -> None:
        self.log.append([Entry(EVENTS, x.card, x.model_dump_json().encode()) for x in payments])

    def release(self, release: Release) -> None:
        self.log.append([entry(release)])

    def variant(
        self, release: Release, *, version: str, log_odds: float = 0.0, review_price: float | None = None
    ) -> Release:
        """The release of another version: the same trees under other odds, or with another price of a review."""
        folder = self.var / "models" / release.digest
        good = Artifact.load(folder)
        price = good.policy.review_price if review_price is None else review_price
        other = Artifact(good.model.shifted(log_odds), Policy(price))
        normal, limits = reference(folder)
        matrix = np.array([sample["features"] for sample in json.loads((folder / "golden.json").read_text())])
        made = self.var / "models" / "new"
        other.save(made, matrix=matrix, reference=normal, limits=limits)
        digest = digest_of(made)
        made.rename(self.var / "models" / digest)
        return release.model_copy(update={"version": version, "digest": digest, "artifact": "nowhere"})

    # --- at work ----------------------------------------------------------------------------------

    def worker(
        self, *, slot: int = 0, patience: float = math.inf, fetch: Callable[[str, str], Path] | None = None
    ) -> Worker:
        def gone(artifact: str, digest: str) -> Path:
            raise FileNotFoundError(f"{artifact} ({digest[:8]}) is not there")

        worker = self.worker_of(self.log, slot=slot, patience=patience, fetch=fetch or gone)
        self._workers.append(worker)
        return worker

    def worker_of(
        self,
        log: EventLog,
        *,
        fetch: Callable[[str, str], Path],
        slot: int = 0,
        patience: float = math.inf,
        models: Path | None = None,
    ) -> Worker:
        """A worker that sees another log than the bank does; the caller closes it."""
        champion = Champion(cache=models or self.var / "models", fetch=fetch, load=Artifact.load)
        return Worker(
            log,
            self.lake,
            champion,
            slot=slot,
            clock=self.clock,
            snapshots=self.var / "snapshots",
            secret=KEY,
            patience=patience,
        )

    def leave(self, worker: Worker) -> None:
        """A worker ends in good order."""
        self._workers.remove(worker)
        worker.close()

    def work(self, *workers: Worker, seconds: float = 30.0) -> None:
        """Let workers decide until nothing is left."""
        until = monotonic() + seconds
        while self.undecided():
            assert monotonic() < until, f"{self.undecided()} events are still not decided"
            for worker in workers:
                worker.step(0.0)

    def settle(self, worker: Worker) -> None:
        """A worker takes over what it owns."""
        worker.step(0.0)
        while worker.rebuilding:
            worker.step(0.0)

    def decide(self) -> None:
        """A worker comes, decides what there is, and leaves."""
        worker = self.worker()
        self.work(worker)
        self.leave(worker)

    def undecided(self) -> int:
        done = self.log.committed(DECIDERS, EVENTS)
        return sum(end - (done[p].offset if p in done else 0) for p, end in self.log.ends(EVENTS).items())

    def notes(self) -> dict[int, str]:
        """By partition: what the deciders remember of the analysts' day."""
        return {partition: position.note for partition, position in self.log.committed(DECIDERS, EVENTS).items()}

    # --- out --------------------------------------------------------------------------------------

    def read(self, topic: Topic) -> list[Record]:
        reader = self.log.reader(beginning([topic]))
        records: list[Record] = []
        while more := reader.poll(10_000, 0.0):
            records += more
        reader.close()
        return records

    def payments_sent(self) -> list[Transaction]:
        """What stands in the log to be decided, repeats included."""
        values = [record.value for record in self.read(EVENTS)]
        return [Transaction.model_validate_json(v) for v in values if json.loads(v)["kind"] == "payment"]

    def said(self) -> dict[str, bytes]:
        """The decisions as they stand in the log, by identity; each once."""
        records = [r for r in self.read(DECISIONS) if json.loads(r.value)["kind"] == "decision"]
        said = {record.key: record.value for record in records}
        assert len(said) == len(records), "a payment was decided twice"
        return said

    def decisions(self) -> dict[str, Decision]:
        return {identity: Decision.model_validate_json(value) for identity, value in self.said().items()}

    def decision(self, payment: Transaction) -> Decision:
        return self.decisions()[payment.identity]

    def outcomes(self) -> list[Outcome]:
        values = [record.value for record in self.read(DECISIONS)]
        return [Outcome.model_validate_json(v) for v in values if json.loads(v)["kind"] != "decision"]

    def letters(self) -> list[DeadLetter]:
        return [DeadLetter.model_validate_json(record.value) for record in self.read(DEAD)]

    def cells(self) -> list[Cell]:
        return [Cell.model_validate_json(record.value) for record in self.read(BOOK)]


def days(trained: Trained, first: int, last: int) -> pl.DataFrame:
    """What happens from live day `first` to the end of day `last`."""
    since, until = TODAY + first * DAY, TODAY + (last + 1) * DAY
    return trained.events.filter(pl.col("at").is_between(since, until, closed="left"))


def payments(rows: pl.DataFrame) -> list[Transaction]:
    texts = rows.filter(pl.col("kind") == "payment").select(message())["message"]
    return [Transaction.model_validate_json(text) for text in texts]


def payment(*, card: str = "card-a", id: str = "1", at: int = TODAY + HOUR, cents: int = 4_250) -> Transaction:
    return Transaction(card=card, id=id, terminal="t0001", at=at, cents=cents, country="BE", device="phone")


def neighbour(card: str) -> str:
    """Another card of the same partition."""
    place = partition_of(card, EVENTS.partitions)
    return next(name for n in range(1_000) if partition_of(name := f"neighbour-{n}", EVENTS.partitions) == place)


def once(cells: Iterable[Cell]) -> bool:
    """Whether no partition has closed an hour twice."""
    closed: Sequence[tuple[int, int]] = [(cell.partition, cell.until) for cell in cells]
    return len(set(closed)) == len(closed)
