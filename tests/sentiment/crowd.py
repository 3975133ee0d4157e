"""A small crowd with a trained model, and what a test needs to run parts of the service on it."""

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import polars as pl
from pydantic import ValidationError

from sentiment.artifact import Artifact
from sentiment.batch import Batch
from sentiment.config import DAY, HOUR, POST_PARTITIONS
from sentiment.grammar import LIVE
from sentiment.history import write_labels
from sentiment.hours import Manifest, read_hour
from sentiment.ingest import Ingest
from sentiment.mentions import Brands
from sentiment.monitor import entry
from sentiment.opinions import Reader
from sentiment.recipe import Recipe
from sentiment.report import Judge
from sentiment.schema import (
    AUDITS,
    DEAD,
    MENTION,
    MENTIONS,
    MINUTES,
    OPINIONS,
    POSTS,
    RELEASES,
    TOPICS,
    Audit,
    Mention,
    Minute,
    Opinion,
    Post,
    Tick,
    Tombstone,
)
from sentiment.simulate import history, simulate
from sentiment.stream import WORKERS, Worker
from sentiment.timeline import Speed, Timeline
from sentiment.train import train
from shared.champion import Champion
from shared.clock import VirtualClock, monotonic
from shared.dead_letters import DeadLetter
from shared.eventlog import open_log
from shared.eventlog.port import Entry, Record, Topic, beginning
from shared.lake import Lake
from shared.registry import Registry
from shared.releases import Ledger, Release, read_ledger
from tests.run_once import run_once

START = 1_767_225_600  # 2026-01-01
HISTORY, LIVING = 5, 2  # days
TODAY = START + HISTORY * DAY
KEY = b"a key for tests, 32 bytes long.."
SEED = 1
BRANDS = Brands.read("simulated")


class Trained(NamedTuple):
    """What every test may read and none may change."""

    var: Path
    posts: pl.DataFrame  # of the live days, in order of arrival, as `simulate` gives them
    release: Release


@cache
def trained(var: Path, *, posts_a_day: int = 500, recipe: Recipe | None = None) -> Trained:
    """A few days of labelled posts in the lake, and what is learnt from them; without a recipe a linear model alone.

    The model is trained by the first process that asks; the others use the same folder.
    """
    run_once(var, lambda: _learn(var, posts_a_day, recipe))
    live = simulate(seed=SEED + 1, start=TODAY, days=LIVING, posts_a_day=400, grammar=LIVE)
    return Trained(var, live, Release.model_validate_json((var / "release.json").read_text()))


def _learn(var: Path, posts_a_day: int, recipe: Recipe | None) -> None:
    """Fill `var` with a lake, a model and its release."""
    past = history(seed=SEED, start=START, days=HISTORY, posts_a_day=posts_a_day)
    lake, registry = Lake(var / "sentiment" / "lake"), open_registry(var)
    write_labels(lake, past, known_at=TODAY - HOUR)
    candidate = train(lake, registry, BRANDS, as_of=TODAY, seed=SEED, champion=None, recipe=recipe)
    assert not candidate.refused, candidate.refused
    version = candidate.version
    registry.fetch(version.artifact, digest=version.digest, into=var / "models")
    release = Release.promotion(version, at=TODAY, who="tests", why="the first model")
    (var / "release.json").write_text(release.model_dump_json())


def open_registry(var: Path) -> Registry:
    with warnings.catch_warnings():
        # MLflow 3.17 still maps its tables in a way that SQLAlchemy 2.1 is giving up.
        warnings.filterwarnings("ignore", ".*noload.*", DeprecationWarning)
        return Registry(f"sqlite:///{var}/mlflow.db", "sentiment")


class Crowd:
    """A folder with a log, a lake, models and a batch view, and hands to feed and to read them."""

    def __init__(self, world: Trained, var: Path, url: str = "", *, released: bool = True) -> None:
        self.world, self.var, self.url = world, var, url or f"sqlite:///{var}/log.db"
        shutil.copytree(world.var / "models", var / "models", copy_function=os.link)
        self.clock = VirtualClock(TODAY)
        self.log = open_log(self.url, clock=self.clock)
        self.log.create(TOPICS)
        self.lake = Lake(var / "sentiment" / "lake")
        self.reader = Reader(BRANDS, secret=KEY)
        self._open: list[Worker | Batch] = []
        if released:
            self.log.append([entry(world.release)])

    def close(self) -> None:
        for part in list(self._open):  # those that a test let die
            self.leave(part)
        self.log.close()

    def command(self, *words: str) -> list[str]:
        """A command of sentiment on this crowd's parts, as a user would type it."""
        options = ["--var", str(self.var), "--log", self.url, "--virtual", str(TODAY)]
        return [sys.executable, "-m", "sentiment", *options, *words]

    # --- in ---------------------------------------------------------------------------------------

    def send(self, posts: pl.DataFrame, *, batch: int = 100) -> None:
        """Append posts as `simulate` gives them; the clock goes with their arrival."""
        for part in posts.iter_slices(batch):
            self.clock.observe(part["sent"][-1])
            self.post(*(as_post(row) for row in part.iter_rows(named=True)))

    def post(self, *events: Post | Tombstone) -> None:
        self.log.append([Entry(POSTS, event.id, event.model_dump_json().encode()) for event in events])

    def tick(self, at: int) -> None:
        """Every partition learns the time."""
        self.clock.observe(at)
        message = Tick(at=at).model_dump_json().encode()
        self.log.append([Entry(POSTS, "tick", message, number) for number in range(POST_PARTITIONS)])

    # --- at work ----------------------------------------------------------------------------------

    def champion(self) -> Champion[Artifact]:
        def gone(artifact: str, digest: str) -> Path:
            raise FileNotFoundError(f"{artifact} ({digest[:8]}) is not there")

        return Champion(cache=self.var / "models", fetch=gone, load=Artifact.load)

    def worker(self, *, slot: int = 0) -> Worker:
        worker = Worker(self.log, self.champion(), self.reader, slot=slot, clock=self.clock)
        self._open.append(worker)
        return worker

    def batch(self) -> Batch:
        batch = Batch(self.log, self.lake, self.champion(), self.reader, self.var / "batch")
        self._open.append(batch)
        return batch

    def leave(self, part: Worker | Batch) -> None:
        """A part ends in good order."""
        self._open.remove(part)
        part.close()

    def work(self, *workers: Worker, seconds: float = 60.0) -> None:
        """Let workers read and count until nothing is left."""
        until = monotonic() + seconds
        while self.unread():
            assert monotonic() < until, f"{self.unread()} records are still not read"
            for worker in workers:
                worker.step(0.0)

    def stream(self) -> None:
        """A worker comes, counts what there is, and leaves."""
        worker = self.worker()
        self.rebuilt(worker)
        self.work(worker)
        self.told(worker)
        self.leave(worker)

    def rebuilt(self, *workers: Worker) -> None:
        """Let workers take over what they own."""
        for worker in workers:
            worker.step(0.0)
            while worker.rebuilding:
                worker.step(0.0)

    def told(self, worker: Worker) -> None:
        """Open minutes are told as if a second had passed."""
        worker._emitted = 0.0
        worker.step(0.0)

    def publish(self) -> Manifest:
        """The batch view comes up to date."""
        batch = self.batch()
        while batch.step():
            pass
        manifest = batch.manifest
        self.leave(batch)
        return manifest

    def asked(self, day: int) -> list[Audit]:
        """Of which posts of a closed day people are asked."""
        timeline, since = self.timeline(), day * DAY
        judge = Judge(self.lake, BRANDS, fetch=lambda _, digest: self.var / "models" / digest)

        def voting(brand: str) -> pl.DataFrame:
            return timeline.voting(timeline.manifest(), brand, since=since, until=since + DAY)

        return judge.questions(day, voting, secret=KEY)

    def unread(self) -> int:
        """Posts not yet read; when there are none, whether mentions are. In Kafka a step's end takes an offset, too."""
        done = self.log.committed(WORKERS, POSTS)
        posts = sum(end - (done[p].offset if p in done else 0) for p, end in self.log.ends(POSTS).items())
        if posts:
            return posts
        done = self.log.committed(WORKERS, MENTIONS)
        start = {
            place: done[place.partition].offset if place.partition in done else 0 for place in beginning([MENTIONS])
        }
        reader = self.log.reader(start)
        left = len(reader.poll(1, 0.0 if self.url.startswith("sqlite") else 0.5))
        reader.close()
        return left

    # --- out --------------------------------------------------------------------------------------

    def read(self, topic: Topic) -> list[Record]:
        reader = self.log.reader(beginning([topic]))
        records: list[Record] = []
        while more := reader.poll(10_000, 0.0):
            records += more
        reader.close()
        return records

    def opinions(self) -> list[Opinion]:
        return readable(Opinion.model_validate_json, self.read(OPINIONS))

    def opinion(self, id: str) -> Opinion:
        return next(opinion for opinion in self.opinions() if opinion.id == id)

    def mentions(self) -> list[Mention]:
        found = readable(MENTION.validate_json, self.read(MENTIONS))
        return [message for message in found if isinstance(message, Mention)]

    def letters(self) -> list[DeadLetter]:
        return readable(DeadLetter.model_validate_json, self.read(DEAD))

    def speed(self) -> Speed:
        speed = Speed()
        speed.take(self.read(MINUTES))
        return speed

    def timeline(self) -> Timeline:
        timeline = Timeline(self.var / "batch")
        timeline.speed.take(self.read(MINUTES))
        return timeline

    def minutes(self) -> dict[tuple[str, int], tuple[object, ...]]:
        """The speed view, whole: by brand and minute the counts."""
        found: dict[tuple[str, int], Minute] = {}
        for record in self.read(MINUTES):
            if b'"minute"' in record.value:
                minute = Minute.model_validate_json(record.value)
                key = minute.brand, minute.at
                if key not in found or found[key].revision <= minute.revision:
                    found[key] = minute
        return {key: (minute.counts, minute.shed, minute.model) for key, minute in found.items()}

    def published(self) -> dict[int, pl.DataFrame]:
        """The batch view, whole: each hour's rows."""
        manifest = Manifest.read(self.var / "batch")
        return {hour: read_hour(self.var / "batch", hour, line.version) for hour, line in manifest.hours.items()}

    def ingest(self) -> None:
        ingest = Ingest(self.log, self.lake, secret=KEY)
        ingest.catch_up()
        ingest.consumer.close()

    def audits(self) -> list[Record]:
        return self.read(AUDITS)

    def ledger(self) -> Ledger[Release]:
        return read_ledger(self.log, RELEASES, Release)

    def releases(self) -> list[Release]:
        """Those that are done, oldest first."""
        return self.ledger().lines


Said = TypeVar("Said")


def readable(read: Callable[[bytes], Said], records: Iterable[Record]) -> list[Said]:
    """What records say; those that a test has spoilt are left out."""
    found = []
    for record in records:
        with suppress(ValidationError):
            found.append(read(record.value))
    return found


def as_post(row: dict[str, object]) -> Post:
    return Post.model_validate({name: row[name] for name in ("id", "author", "at", "text")})


def post(text: str = "@northair is great", *, id: str = "p-1", at: int = TODAY + 60, author: str = "anna") -> Post:
    return Post(id=id, author=author, at=at, text=text)


def quiet(posts: pl.DataFrame) -> pl.DataFrame:
    """Without what only one of the two views sees to: late posts."""
    return posts.filter(pl.col("sent") - pl.col("at") < 600)


def counts(posts: Iterable[Post]) -> int:
    return len({post.id for post in posts})
