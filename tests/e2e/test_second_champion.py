"""fraud as its README says, on the real clock and under steady traffic: from a file to the second champion."""

import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import polars as pl
import pytest

from fraud.config import DAY
from fraud.history import COLUMNS
from fraud.schema import RELEASES
from fraud.simulate import simulate
from shared.children import ready
from shared.clock import SystemClock, monotonic, sleep
from shared.eventlog import open_log
from shared.releases import Ledger, Release, read_ledger
from tests.e2e.service import CommandLine

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

FIRST, SECOND = 45, 33  # days of the two files; in the second one fraudsters have new tactics
PAUSE = 0.05  # seconds between two payments


def write_files(first: Path, second: Path) -> None:
    """Eleven weeks of a small bank up to this moment, as two CSV files with the Handbook's columns."""
    now = SystemClock().now()
    begin = now // DAY * DAY - (FIRST + SECOND - 1) * DAY
    payments = simulate(
        seed=1, start=begin, days=FIRST + SECOND, cards=300, terminals=200, payments_a_day=3.0, tactics_from=FIRST
    )
    payments = payments.filter(pl.col("at") < now)
    rows = payments.with_columns(pl.col("cents") / 100, pl.from_epoch("at").dt.strftime("%Y-%m-%d %H:%M:%S"))
    rows = rows.with_columns(pl.col("fraud").cast(pl.Int64))
    for path, part in (
        (first, payments["at"] < begin + FIRST * DAY),
        (second, payments["at"] >= begin + FIRST * DAY),
    ):
        rows.filter(part).select(pl.col(column.name).alias(column.headings[0]) for column in COLUMNS).write_csv(path)


class Service(CommandLine):
    def in_force(self) -> str:
        with closing(open_log(f"sqlite:///{self.var}/log.db", clock=SystemClock())) as log:
            ledger: Ledger[Release] = read_ledger(log, RELEASES, Release)
        return ledger.version()

    def command(self, **wanted: str) -> bool:
        """Whether the command was taken; it counts once, however often it is sent."""
        with suppress(HTTPError):  # the server has not read the ledger up to its end yet
            self.ask("POST", "/v1/commands", wanted)
            return True
        return False


class Till:
    """Payments that come all the time, and what was decided on each."""

    def __init__(self, service: Service) -> None:
        self._service, self._stopping = service, threading.Event()
        self.decisions: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self._thread = threading.Thread(target=self._go_on)

    def __enter__(self) -> "Till":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def models(self) -> list[str | None]:
        return [decision["model"] for decision in self.decisions]

    def _go_on(self) -> None:
        number = 0
        while not self._stopping.wait(PAUSE):
            number += 1
            payment: dict[str, Any] = {
                "card": f"c{number % 300:05}",
                "id": f"live-{number}",
                "terminal": f"t{number % 200:04}",
            }
            payment |= {"at": SystemClock().now(), "cents": 1_000 + number % 5_000, "country": "BE", "device": "d1a"}
            try:
                self.decisions.append(self._decision(payment))
            except (URLError, OSError) as error:
                self.failures.append(str(error))

    def _decision(self, payment: dict[str, Any]) -> dict[str, Any]:
        """As a till does, it asks once more after a 503."""
        try:
            return dict(self._service.ask("POST", "/v1/decisions", payment))
        except HTTPError as error:
            if error.code != 503:
                raise
            sleep(1.0)
            return dict(self._service.ask("POST", "/v1/decisions", payment))


def until(done: Callable[[], object], *, seconds: float = 150.0) -> None:
    end = monotonic() + seconds
    while not done():
        assert monotonic() < end, "it did not happen"
        sleep(0.1)


def test_from_a_file_to_the_second_champion_under_steady_traffic(tmp_path: Path) -> None:
    service = Service("fraud", tmp_path / "var")
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    write_files(first, second)
    assert "0 rows refused" in service.run("ingest", str(first))
    assert "0 new of" in service.run("ingest", str(first))
    told = service.run("train")
    assert "version 1:" in told
    assert '{"kind": "promote", "version": "1", "expected_champion": "none"}' in told
    assert " 0 new of" not in f" {service.run('ingest', str(second)).splitlines()[-1]}"
    with ExitStack() as running:
        running.enter_context(service.started("serve", "--port", str(service.port)))
        running.enter_context(service.started("monitor"))
        until(lambda: ready(service.url))
        till = running.enter_context(Till(service))
        until(lambda: len(till.decisions) >= 20)
        until(lambda: service.command(kind="promote", version="1", expected_champion="none", key="the-first"))
        until(lambda: till.models()[-1] == "1")
        for decision in till.decisions[:20]:
            verdict = {"payment": f"{decision['card']}.{decision['id']}", "fraud": False, "source": "analyst"}
            service.ask("POST", "/v1/labels", verdict)
        until(lambda: service.command(kind="retrain", key="the-second"))
        until(lambda: service.in_force() == "2")
        until(lambda: till.models().count("2") >= 20)
    assert till.failures == []
    assert {decision["mark"] for decision in till.decisions} <= {"no-model", "owner-late", None}
    by_model = [version for version in till.models() if version is not None]
    assert by_model == sorted(by_model)
    assert set(by_model) == {"1", "2"}
