"""A tiny shop with a recipe, and what a test needs to run parts of the service on it."""

import importlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import polars as pl

from recsys import simulate
from recsys.batch import Nights
from recsys.config import DAY, HOUR
from recsys.history import EVENT_COLUMNS, hidden, write_history
from recsys.monitor import Monitor
from recsys.releases import RECIPE
from recsys.schema import COMMANDS, EVENTS, RELEASES, TOPICS, Alarm, Command, Event, Interactions, Night, Release, entry
from recsys.shelf import Shelf
from recsys.simulate import Shop as Truth
from recsys.train import train
from shared.clock import VirtualClock
from shared.dead_letters import DeadLetter
from shared.eventlog import open_log
from shared.eventlog.port import Entry, Record, Topic, beginning
from shared.lake import Lake
from shared.privacy import pseudonymised
from shared.registry import Registry
from shared.releases import Ledger, read_ledger
from tests.run_once import run_once

START = 1_767_225_600  # 2026-01-01
HISTORY, LIVE = 70, 8  # days
TODAY = START + HISTORY * DAY
MIDNIGHT = "2026-03-12"  # the date of TODAY
KEY = b"a key for tests, 32 bytes long.."
SEED = 1
USERS, ITEMS = 300, 150


class Trained(NamedTuple):
    """What every test may read and none may change."""

    var: Path
    truth: Truth
    live: list[pl.DataFrame]  # events by day, with pseudonyms
    release: Release  # of the recipe


@cache
def trained(var: Path) -> Trained:
    """Ten weeks of 300 shoppers in the lake, and a recipe learnt from them.

    The recipe is trained by the first process that asks; the others use the same folder.
    """
    truth = simulate.open_shop(seed=SEED, start=START, days=HISTORY + LIVE, users=USERS, items=ITEMS)
    truth = truth._replace(visits=(truth.visits * 1.5).clip(0, 0.9))
    events = lived(truth, HISTORY + LIVE)
    run_once(var, lambda: _learn(var, truth, events.filter(pl.col("at") < TODAY)))
    named = hidden(events.filter(pl.col("at") >= TODAY), key=KEY)
    live = [named.filter((named["at"] - TODAY) // DAY == day) for day in range(LIVE)]
    return Trained(var, truth, live, Release.model_validate_json((var / "release.json").read_text()))


def _learn(var: Path, truth: Truth, past: pl.DataFrame) -> None:
    """Fill `var` with a lake, a recipe and its release."""
    lake = Lake(var / "recsys" / "lake")
    write_history(lake, past, catalogue(truth, HISTORY), key=KEY)
    registry = open_registry(var)
    candidate = train(lake, registry, as_of=TODAY, seed=SEED, champion=None)
    version = candidate.version
    registry.fetch(version.artifact, digest=version.digest, into=var / "recipes")
    release = Release.promotion(version, at=TODAY, who="tests", why="the first", key="the-first", subject=RECIPE)
    (var / "release.json").write_text(release.model_dump_json())


def lived(truth: Truth, days: int) -> pl.DataFrame:
    """The events of a shop's first days, with names and without recommendations, in order of time."""
    life, parts = simulate.born(truth), []
    for day in range(days):
        luck = simulate.chances(truth, day)
        parts.append(simulate.events(truth, day, luck, simulate.live(truth, life, day, luck, None)))
    return pl.concat(parts).sort("at", maintain_order=True)


def catalogue(truth: Truth, days: int) -> pl.DataFrame:
    """What the shop's catalogue says in these days: all of it once, then what changes."""
    changes = [simulate.products(truth, day, since=day - 1) for day in range(1, days)]
    return pl.concat([simulate.products(truth, 0), *changes])


def open_registry(var: Path) -> Registry:
    with warnings.catch_warnings():
        # MLflow 3.17 still maps its tables in a way that SQLAlchemy 2.1 is giving up.
        warnings.filterwarnings("ignore", ".*noload.*", DeprecationWarning)
        importlib.import_module("mlflow.store.tracking.sqlalchemy_store")  # a registry would import it later
        return Registry(f"sqlite:///{var}/mlflow.db", "recsys")


def copied(trained: Trained, var: Path, *, url: str = "", recipe: bool = True) -> "Shop":
    """A shop of one's own on the trained world; without `recipe` the plain blend ranks."""
    for part in ("recsys/lake", "recsys/lake-files"):
        shutil.copytree(trained.var / part, var / part, copy_function=os.link)  # nothing is ever changed in place
    shutil.copytree(trained.var / "recipes", var / "recipes", copy_function=os.link)
    shop = Shop(var, url)
    if recipe:
        shop.log.append([entry(trained.release)])
    return shop


class Shop:
    """A folder with a log, a lake and tables, and hands to feed and to read them."""

    def __init__(self, var: Path, url: str = "") -> None:
        self.var, self.url = var, url or f"sqlite:///{var}/log.db"
        self.clock = VirtualClock(TODAY + 2 * HOUR)
        self.log = open_log(self.url, clock=self.clock)
        self.log.create(TOPICS)
        self.lake = Lake(var / "recsys" / "lake")
        self.tables = var / "tables"
        self._shelves: list[Shelf] = []

    def close(self) -> None:
        for shelf in self._shelves:
            shelf.close()
        self.log.close()

    def command(self, *words: str) -> list[str]:
        """A command of recsys on this shop's parts, as a user would type it."""
        options = ["--var", str(self.var), "--log", self.url, "--virtual", str(self.clock.now())]
        return [sys.executable, "-m", "recsys", *options, *words]

    def nights(self, reached: Callable[[str], None] = lambda _: None) -> Nights:
        def fetch(artifact: str, digest: str) -> Path:
            raise FileNotFoundError(f"{artifact} ({digest[:8]}) is not there")

        return Nights(
            self.log, self.lake, clock=self.clock, var=self.var, seed=SEED, key=KEY, fetch=fetch, reached=reached
        )

    def night(self, date: str = MIDNIGHT) -> Night:
        return self.nights().run(date)

    def shelf(self) -> Shelf:
        shelf = Shelf(self.log, self.tables, key=KEY)
        self._shelves.append(shelf)
        shelf.follow()
        return shelf

    def monitor(self, registry: Registry, *, weekly: bool = False) -> Monitor:
        return Monitor(
            self.log,
            self.lake,
            lambda: registry,
            self.nights(),
            clock=self.clock,
            seed=SEED,
            fetch=lambda artifact, digest: registry.fetch(artifact, digest=digest, into=self.var / "recipes"),
            pages=self.var / "recsys" / "reports",
            weekly=weekly,
        )

    def send(self, rows: pl.DataFrame) -> None:
        """Append rows of `recsys.events`; the clock goes with them."""
        dicts = rows.select(list(EVENT_COLUMNS)).iter_rows(named=True)
        texts = [(row["user"], json.dumps({k: v for k, v in row.items() if v is not None})) for row in dicts]
        if not rows.is_empty():
            self.clock.observe(int(rows["at"].max()))  # type: ignore[arg-type]  # of integers
        self.log.append([Entry(EVENTS, user, text.encode()) for user, text in texts])

    def happens(self, *events: Event) -> None:
        self.log.append([Entry(EVENTS, event.user, event.model_dump_json().encode()) for event in events])

    def say(self, command: Command) -> None:
        self.log.append([Entry(COMMANDS, command.kind, command.model_dump_json().encode())])

    def read(self, topic: Topic) -> list[Record]:
        reader = self.log.reader(beginning([topic]))
        records: list[Record] = []
        while more := reader.poll(10_000, 0.0):
            records += more
        reader.close()
        return records

    def said(self, topic: Topic) -> list[dict[str, object]]:
        return [json.loads(record.value) for record in self.read(topic)]

    def letters(self, topic: Topic) -> list[DeadLetter]:
        return [DeadLetter.model_validate_json(record.value) for record in self.read(topic)]

    def alarms(self, topic: Topic) -> list[Alarm]:
        return [Alarm.model_validate_json(record.value) for record in self.read(topic)]

    def ledger(self) -> Ledger[Release]:
        return read_ledger(self.log, RELEASES, Release)

    def roll_back(self, *, why: str = "a test", version: str | None = None) -> str:
        """From the table in force, as `python -m recsys rollback` does; gives where to."""
        releases = self.nights().releases
        expected, key = releases.ledger().version("table"), uuid4().hex
        return releases.roll_back(who="ann", why=why, key=key, expected=expected, version=version).version


def named(user: str) -> str:
    """The pseudonym of a shopper."""
    return pseudonymised(user, KEY)


def event(
    kind: str = "purchase", *, user: str = "ann", item: str = "pen", at: int = TODAY, id: str = "", quantity: int = 1
) -> Event:
    given = {"kind": kind, "user": named(user), "item": item, "at": at, "id": id or f"{kind}-{item}-{at}"}
    return Event.model_validate(given | {"quantity": quantity, "cents": 500})


def known(
    deeds: Sequence[tuple[int, int, float]], *, users: int, items: int, cut: int = TODAY, category: Sequence[str] = ()
) -> Interactions:
    """Interactions of (user, item, days ago)."""
    rows = [(user, item, cut - int(ago * DAY), 500, 1, f"o{n}") for n, (user, item, ago) in enumerate(deeds)]
    columns = {
        **dict.fromkeys(("user", "item", "at", "cents", "quantity"), pl.Int64),
        "order": pl.String,
    }
    names = [f"i{number:03}" for number in range(items)]
    return Interactions(
        cut=cut,
        users=[f"u{number:03}" for number in range(users)],
        items=names,
        bought=pl.DataFrame(rows, schema=columns, orient="row").sort("user", "item", "at"),
        seen=pl.DataFrame(schema={"user": pl.Int64, "item": pl.Int64, "at": pl.Int64, "kind": pl.String}),
        products=pl.DataFrame(
            {
                "title": [f"thing {name}" for name in names],
                "category": list(category) or [""] * items,
                "family": [""] * items,
                "seller": [""] * items,
                "small": [False] * items,
                "cents": [500] * items,
                "in_stock": [True] * items,
                "since": [cut - 100 * DAY] * items,
            }
        ),
    )
