"""kill -9 of the worker and of batch, under load: the timeline is that of a run that nothing happened to."""

import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import polars as pl
import pytest

from sentiment.account import seam
from sentiment.config import DAY, HOUR
from sentiment.hours import Manifest
from shared.checklist import ROOT
from shared.clock import monotonic, sleep
from tests.sentiment.conftest import crowd, open_crowd, world
from tests.sentiment.crowd import KEY, TODAY, Crowd, Trained
from tests.sentiment.test_stream import everything

__all__ = ["crowd", "open_crowd", "world"]
pytestmark = [pytest.mark.kill, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE = 120.0  # seconds until a test gives up
LAST = TODAY // HOUR + 24


@contextmanager
def child(crowd: Crowd, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A command of sentiment, as a user would start it; killed without warning at the end."""
    with (crowd.var / f"{words[0]}.log").open("a") as log:
        process = subprocess.Popen(crowd.command(*words), stdout=log, stderr=log, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(crowd: Crowd, done: Callable[[], bool], *children: "subprocess.Popen[bytes]") -> None:
    end = monotonic() + PATIENCE
    while not done():
        said = {path.name: path.read_text()[-1_000:] for path in crowd.var.glob("*.log")}
        assert all(process.poll() is None for process in children), said
        assert monotonic() < end, said
        sleep(0.01)


def test_stream_and_batch_killed_at_random_moments_end_in_the_same_timeline(
    crowd: Crowd, world: Trained, open_crowd: Callable[[], Crowd], request: pytest.FixtureRequest
) -> None:
    kills = int(request.config.getoption("--kills"))
    killed = open_crowd()
    kill(killed, world.posts.filter(pl.col("at") < TODAY + DAY), kills)
    compare(killed, crowd, world.posts.filter(pl.col("at") < TODAY + DAY))


def kill(killed: Crowd, posts: pl.DataFrame, kills: int) -> None:
    """The posts, and a night after them, while worker or batch are killed so many times."""
    chance = random.Random(11)
    (killed.var / "pseudonym_key.secret").write_bytes(KEY)  # audits are drawn with it
    parts = list(posts.iter_slices(posts.height // (kills + 1) + 1))
    for number in range(kills):
        part = parts.pop(0) if parts else posts.head(0)
        before = killed.unread()
        with child(killed, "worker", "--slot", "0") as worker, child(killed, "batch") as batch:
            killed.send(part.head(part.height // 2), batch=10)
            if number % 2:  # not while they start, every other time
                until(killed, lambda before=before: killed.unread() <= before, worker, batch)  # type: ignore[misc]  # mypy infers no type of a default
            killed.send(part.tail(part.height - part.height // 2), batch=10)
            sleep(chance.uniform(0.0, 2.0))
            chance.choice([worker, batch]).kill()
            sleep(chance.uniform(0.0, 0.5))
    for part in parts:
        killed.send(part)
    killed.tick(TODAY + DAY + 2 * HOUR)
    with child(killed, "worker", "--slot", "0") as worker, child(killed, "batch") as batch:
        until(killed, lambda: not killed.unread(), worker, batch)
        until(killed, lambda: LAST in Manifest.read(killed.var / "batch").hours, worker, batch)
        killed.tick(TODAY + 2 * DAY + HOUR)  # a night: what came late is taken in
        until(killed, lambda: Manifest.read(killed.var / "batch").night == TODAY // DAY + 2, worker, batch)
        until(killed, lambda: not killed.unread(), worker, batch)


def compare(killed: Crowd, crowd: Crowd, posts: pl.DataFrame) -> None:
    """With a run of the same posts to which nothing happens: both views, hour by hour, and nothing refused."""
    crowd.send(posts)
    crowd.tick(TODAY + DAY + 2 * HOUR)
    crowd.stream()
    crowd.publish()
    crowd.tick(TODAY + 2 * DAY + HOUR)
    crowd.stream()
    crowd.publish()
    assert everything(killed) == everything(crowd)
    expected, got = crowd.published(), killed.published()
    assert got.keys() == expected.keys()
    hidden = ["offset"]
    assert [hour for hour in expected if not got[hour].drop(hidden).equals(expected[hour].drop(hidden))] == []
    assert seam(killed.timeline(), killed.log)[1] == 0
    assert killed.letters() == []
