"""sentiment as its README says, on the real clock and under steady traffic: from a file to the second champion."""

import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from urllib.error import HTTPError

import polars as pl
import pytest

from sentiment.config import DAY
from sentiment.grammar import LIVE
from sentiment.schema import POSTS, RELEASES, Post
from sentiment.simulate import history, simulate
from shared.clock import SystemClock, monotonic, sleep
from shared.eventlog import open_log
from shared.eventlog.port import Entry
from shared.lake import Lake
from shared.releases import Release, read_ledger
from tests.e2e.service import CommandLine

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

PAST = 5  # days of labelled posts
ARCHIVE = 500  # posts of a day that has closed, so that people are asked about it
PAUSE = 0.05  # seconds between two posts
AUDITS = 60  # people's labels, so that a second version can be judged on what the first has not seen


class Service(CommandLine):
    def in_force(self) -> str:
        with closing(open_log(f"sqlite:///{self.var}/log.db", clock=SystemClock())) as log:
            return read_ledger(log, RELEASES, Release).version()

    def promoted(self, version: str) -> bool:
        """Whether it is in force; if not, it is asked for, and counts once however often. Chance may be against it."""
        if (now := self.in_force()) != version:
            with suppress(HTTPError):  # the server has not read the ledger up to its end yet
                wanted = {"kind": "promote", "version": version, "why": "as the README says"}
                wanted |= {"expected_champion": now, "key": f"{now}-{version}"}
                self.ask("POST", "/v1/commands", wanted | {"force": True})
        return now == version


class Traffic:
    """A collector that brings the day before yesterday and then posts all the time, and a person who labels."""

    def __init__(self, service: Service) -> None:
        self._service, self._stopping = service, threading.Event()
        self._day = SystemClock().now() // DAY * DAY
        self._posts = simulate(seed=9, start=self._day, days=4, posts_a_day=2_000, grammar=LIVE)
        self.truth = dict(self._posts.select("id", "label").iter_rows())
        self.sent = 0
        self._thread = threading.Thread(target=self._go_on)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _go_on(self) -> None:
        with closing(open_log(f"sqlite:///{self._service.var}/log.db", clock=SystemClock())) as log:
            for number, row in enumerate(self._posts.iter_rows(named=True)):
                at = self._day - 2 * DAY + number * DAY // ARCHIVE
                if number >= ARCHIVE:
                    if self._stopping.wait(PAUSE):
                        return
                    at = SystemClock().now()
                one = Post(id=row["id"], author=row["author"], at=at, text=row["text"])
                log.append([Entry(POSTS, one.id, one.model_dump_json().encode())])
                self.sent += 1

    def audit(self) -> None:
        """Label what was drawn and waits."""
        for asked in self._service.ask("GET", "/v1/audits?limit=100"):
            with suppress(HTTPError):  # it has just been given
                self._service.ask(
                    "POST", "/v1/audits", {"post": asked["post"], "label": self.truth[asked["post"]] or "none"}
                )

    def audited(self, service: Service) -> bool:
        """Whether enough of it is in the lake."""
        self.audit()
        rows = Lake(service.var / "sentiment" / "lake").read("audits")
        return rows.filter(pl.col("model").is_not_null()).height >= AUDITS


def write_past(path: Path) -> None:
    """Days of labelled posts as a CSV, up to those that the collector brings."""
    end = SystemClock().now() // DAY * DAY - 3 * DAY
    rows = history(seed=7, start=end - PAST * DAY, days=PAST, posts_a_day=400)
    rows = rows.filter(~pl.col("kind").is_in(["foreign", "spam"]))
    created = pl.from_epoch("at").dt.strftime("%Y-%m-%d %H:%M:%S")
    rows.select("id", "author", "text", "label", created_at=created).write_csv(path)


def until(done: Callable[[], object], *, seconds: float = 240.0) -> None:
    end = monotonic() + seconds
    while not done():
        assert monotonic() < end, "it did not happen"
        sleep(0.2)


def test_from_a_file_to_the_second_champion_under_steady_traffic(tmp_path: Path) -> None:
    service = Service("sentiment", tmp_path / "var")
    write_past(tmp_path / "past.csv")
    assert "; 0 rows refused" in service.run("ingest", str(tmp_path / "past.csv"))
    assert "0 new of" in service.run("ingest", str(tmp_path / "past.csv"))
    told = service.run("train", "--linear")
    assert "version 1:" in told
    assert '{"kind": "promote", "version": "1", "expected_champion": "none"}' in told
    with ExitStack() as running:
        running.enter_context(service.started("serve", "--port", str(service.port)))
        running.enter_context(service.started("batch"))
        running.enter_context(service.started("monitor", "--linear"))
        until(service.ready)
        until(lambda: service.promoted("1"))
        traffic = running.enter_context(Traffic(service))
        until(lambda: any(opinion["model"] == "1" for opinion in service.ask("GET", "/v1/opinions")))
        until(lambda: traffic.audited(service))
        assert "version 2:" in service.run("train", "--linear")
        until(lambda: service.promoted("2"))
        until(lambda: service.ask("GET", "/v1/opinions?limit=1")[0]["model"] == "2")
        now = SystemClock().now()
        until(lambda: counted(service, now) >= 50)
    rows = Lake(service.var / "sentiment" / "lake").read("posts")
    assert 0 < rows.height <= traffic.sent
    assert rows["author"].str.contains("^[0-9a-f]{32}$").all()


def counted(service: Service, now: int) -> int:
    """Posts that the timeline of all brands has."""
    path = f"/v1/brands/*/timeline?from={now - DAY}&to={now + DAY}&step=hour"
    points = service.ask("GET", path)["points"]
    return sum(part["raw"] for point in points for part in point["parts"])
