"""recsys as its README says, on the real clock and under steady traffic: from a file to the second champion."""

import random
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from urllib.error import HTTPError, URLError

import polars as pl
import pytest

from recsys import simulate
from recsys.config import DAY
from recsys.schema import RELEASES, Release
from shared.clock import SystemClock, monotonic, sleep
from shared.eventlog import open_log
from shared.releases import Ledger, read_ledger
from tests.e2e.service import CommandLine
from tests.recsys.shop import lived

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

PAST, SHOPPERS, ITEMS = 70, 300, 150  # days, and the size of the shop
PAUSE = 0.05  # seconds between two visits


def write_past(path: Path) -> None:
    """Ten weeks of a shop as a CSV, up to this moment."""
    now = SystemClock().now()
    begin = now // DAY * DAY - PAST * DAY
    shop = simulate.open_shop(seed=1, start=begin, days=PAST + 1, users=SHOPPERS, items=ITEMS)
    shop = shop._replace(visits=(shop.visits * 1.5).clip(0, 0.9))
    rows = lived(shop, PAST + 1).filter(pl.col("at") < now)
    rows.select(
        user_id="user",
        item_id="item",
        event="kind",
        at=pl.from_epoch("at").dt.strftime("%Y-%m-%d %H:%M:%S"),
        price=pl.col("cents") / 100,
    ).write_csv(path)


class Service(CommandLine):
    def ledger(self) -> Ledger[Release]:
        with closing(open_log(f"sqlite:///{self.var}/log.db", clock=SystemClock())) as log:
            return read_ledger(log, RELEASES, Release)

    def in_force(self, subject: str) -> str:
        return self.ledger().version(subject)

    def promoted(self, version: str) -> bool:
        """Whether the recipe is in force; if not, it is asked for, and counts once however often."""
        if (now := self.in_force("recipe")) != version:
            with suppress(HTTPError):  # the server has not read the ledger up to its end yet
                wanted = {"kind": "promote", "version": version, "expected_champion": now, "key": f"{now}-{version}"}
                # Of little traffic chance may be against it.
                self.ask("POST", "/v1/commands", wanted | {"why": "as the README says", "force": True})
        return now == version


class Visits:
    """Shoppers that come all the time, look at their list, and click or buy; what fails is kept."""

    def __init__(self, service: Service) -> None:
        self._service, self._draw, self._stopping = service, random.Random(1), threading.Event()
        self.versions: list[str] = []  # of the tables that lists came from
        self.failures: list[str] = []
        self._thread = threading.Thread(target=self._go_on)

    def __enter__(self) -> "Visits":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._stopping.wait(PAUSE):
            try:
                self._visit(f"u{self._draw.randrange(SHOPPERS):06}", number=len(self.versions))
            except (URLError, OSError) as error:
                self.failures.append(str(error))

    def _visit(self, user: str, *, number: int) -> None:
        shown = self._service.ask("GET", f"/v1/recommendations/{user}?k=5")
        self.versions.append(shown["version"])
        place = self._draw.randrange(5)
        deed = {"kind": self._draw.choice(["click", "purchase"]), "id": f"d{number}", "user": user, "cents": 500}
        deed |= {"item": shown["items"][place]["item"], "list_id": shown["list_id"], "position": place + 1}
        self._service.ask("POST", "/v1/events", deed)


def until(done: Callable[[], object], *, seconds: float = 120.0) -> None:
    end = monotonic() + seconds
    while not done():
        assert monotonic() < end, "it did not happen"
        sleep(0.1)


def test_from_a_file_to_the_second_champion_under_steady_traffic(tmp_path: Path) -> None:
    service = Service("recsys", tmp_path / "var")
    write_past(tmp_path / "past.csv")
    assert "0 rows refused" in service.run("ingest", str(tmp_path / "past.csv"))
    assert "0 new of" in service.run("ingest", str(tmp_path / "past.csv"))
    told = service.run("train")
    assert "recipe 1:" in told
    assert '{"kind": "promote", "version": "1", "expected_champion": "none"}' in told
    with ExitStack() as running:
        running.enter_context(service.started("serve", "--port", str(service.port)))
        running.enter_context(service.started("monitor"))
        until(lambda: (service.var / "operator_key.secret").exists())
        until(lambda: "Connection refused" not in health(service))
        until(lambda: service.promoted("1"))
        service.run("night")
        until(service.ready)
        visits = running.enter_context(Visits(service))
        until(lambda: len(visits.versions) >= 100)
        assert int(service.run("ingest").split()[0].replace(",", "")) >= 200, "lists and events"
        told = service.run("train")
        assert "the recipe in force" in told
        second = told.split(":")[0].removeprefix("recipe ")  # on a Monday the monitor has trained one, too
        until(lambda: service.promoted(second))
        old = service.in_force("table")
        service.ask("POST", "/v1/commands", {"kind": "night"})
        until(lambda: service.in_force("table") != old)
        new = service.ledger().champion("table")
        assert new is not None
        assert new.recipe == second != "1"
        until(lambda: visits.versions[-1] == new.version)
        until(lambda: visits.versions.count(new.version) >= 20)
    assert visits.failures == []
    assert set(visits.versions) == {old, new.version}


def health(service: Service) -> str:
    try:
        return str(service.ask("GET", "/health/live"))
    except (URLError, OSError) as error:
        return str(error)
