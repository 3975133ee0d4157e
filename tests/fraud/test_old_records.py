"""Today's code goes on in a folder that an older version left (tests/fixtures/fraud)."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from fraud import config, dataset
from fraud.artifact import Artifact
from fraud.config import DAY
from fraud.monitor import Monitor
from fraud.schema import ALARMS, COMMANDS, REPORTS, Alarm, Report
from shared.eventlog.port import Entry
from shared.old_lake import take_over
from tests.fraud.bank import SEED, TODAY, Bank, open_registry, payments
from tests.fraud.test_serve import PAYMENT, edge, eventually, working

FIXTURE = Path(__file__).parents[1] / "fixtures" / "fraud"
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")


def found(var: Path) -> Bank:
    """A bank on a copy of what the old version left."""
    shutil.copytree(FIXTURE, var)
    take_over(var, var / "fraud" / "lake", config.LAKE)
    return Bank(var)


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Bank]:
    with closing(found(tmp_path / "var")) as bank:
        bank.clock.observe(TODAY + DAY)
        yield bank


@pytest.fixture
def later() -> pl.DataFrame:
    """What happens after the old version has ended."""
    return pl.read_parquet(FIXTURE / "later.parquet")


def watch(bank: Bank) -> None:
    registry = open_registry(bank.var)

    def fetch(_: str, digest: str) -> Path:
        return bank.var / "models" / digest

    with closing(
        Monitor(bank.log, bank.lake, registry, clock=bank.clock, seed=SEED, fetch=fetch, pages=bank.var / "pages")
    ) as monitor:
        while monitor.step():
            pass


def test_the_worker_takes_up_where_the_old_one_stopped(
    old: Bank, later: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before, cells = old.said(), len(old.cells())
    old.decide()
    assert (old.said(), len(old.cells())) == (before, cells)  # nothing twice
    assert "rebuilding" not in caplog.text  # from the old snapshots
    old.send(later)
    old.decide()
    new = [said for identity, said in old.decisions().items() if identity not in before]
    assert {said.id for said in new} == {x.id for x in payments(later)}
    assert {(said.path, said.mark, said.model) for said in new} == {("model", None, "1")}
    assert [x.kind for x in old.outcomes()] == ["repeat", "conflict"]
    assert old.read(ALARMS)[-1:] == [record for record in old.read(ALARMS) if b"no earlier version" in record.value]


def test_without_its_snapshots_it_rebuilds_the_same(old: Bank, later: pl.DataFrame, tmp_path: Path) -> None:
    with closing(found(tmp_path / "other")) as other:
        shutil.rmtree(other.var / "snapshots")
        for bank in (old, other):
            bank.send(later)
            bank.decide()
        assert other.said() == old.said()


def test_monitor_and_ingest_go_on(old: Bank, later: pl.DataFrame) -> None:
    old.send(later)
    old.decide()
    old.log.append([Entry(COMMANDS, "rollback", b'{"kind": "rollback", "who": "op"}')])  # as the old page sends it
    watch(old)
    reports = [Report.model_validate_json(record.value) for record in old.read(REPORTS)]
    assert [report.day for report in reports] == [TODAY // DAY, TODAY // DAY + 1]
    assert reports[-1].version == "1"
    alarms = [Alarm.model_validate_json(record.value) for record in old.read(ALARMS)]
    assert "has no key" in [alarm for alarm in alarms if alarm.kind == "command"][-1].message
    assert dataset.decisions(old.lake).height == len(old.said())
    rows = dataset.events(old.lake, as_of=TODAY + 3 * DAY)
    assert rows.filter(pl.col("offset") >= 0, pl.col("kind") == "payment").height == len(old.said())
    assert len(old.letters()) == 2


def test_the_gateway_is_ready_and_answers(old: Bank) -> None:
    before = old.said()
    with working(old), edge(old) as client:
        eventually(lambda: client.get("/health/ready").json() == {"status": "ready", "warnings": []})
        identity, said = next(iter(before.items()))
        assert client.get(f"/v1/decisions/{identity}").content == said
        assert client.get("/v1/model").json()["champion"]["version"] == "1"
        known = json.loads(said)
        explained = client.get(f"/v1/decisions/{identity}/explanation")
        assert (explained.status_code, explained.json()["model"]) == (200, known["model"])
        answer = client.post("/v1/decisions", json=PAYMENT | {"at": TODAY + DAY}).json()
        assert (answer["path"], answer["model"]) == ("model", "1")


def test_the_bundle_of_the_old_version_is_loaded(old: Bank) -> None:
    (folder,) = (old.var / "models").iterdir()
    assert Artifact.load(folder).policy.review_price > 0
