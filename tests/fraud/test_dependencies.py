"""What the service depends on is away, slow or lost: an alarm, another attempt, and nothing is decided twice."""

import json
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import polars as pl
import pytest
from mlflow.exceptions import MlflowException

from fraud import dataset, monitor, train
from fraud.artifact import Artifact, reference
from fraud.config import DAY
from fraud.ingest import DECIDERS
from fraud.schema import ALARMS, DECISIONS, EVENTS
from fraud.stream import Worker
from shared.champion import digest_of
from shared.clock import sleep
from shared.eventlog import sqlite
from shared.eventlog.port import Entry, Fenced, Place, Position
from shared.lake import Lake
from shared.registry import Registry, Unavailable
from tests.fraud.bank import TODAY, Bank, Trained, copied, days, payments
from tests.fraud.test_monitor import FIRST, Room, room
from tests.fraud.test_serve import eventually
from tests.fraud.test_stream import BAD

__all__ = ["room"]
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")


# --- the registry -----------------------------------------------------------------------------------


class Away:
    """A registry whose server does not answer, whatever it is asked; `there` is the one that comes back."""

    def __init__(self, error: Exception, there: Registry) -> None:
        self.error, self.there = error, there

    def __getattr__(self, name: str) -> Callable[..., object]:
        def ask(*_: object, **__: object) -> object:
            raise self.error

        return ask


ERRORS = {"ours": Unavailable("connection refused"), "MLflow's": MlflowException("connection refused")}


@pytest.fixture(params=ERRORS)
def away(request: pytest.FixtureRequest, room: Room, monkeypatch: pytest.MonkeyPatch) -> Away:
    """The room's registry is away from now on."""
    monkeypatch.setattr(monitor, "RETRY", 0.0)
    room.monitor.close()
    away = Away(ERRORS[request.param], room.registry)
    room.registry = cast(Registry, away)
    room.monitor = room.enter()
    return away


def back(room: Room, away: Away) -> None:
    room.registry = room.monitor._registry = away.there


def test_without_the_registry_days_are_judged_and_a_rollback_is_carried_out(
    room: Room, world: Trained, away: Away
) -> None:
    """Said once, also over restarts; the alias follows when it is back."""
    room.bank.release(room.bank.variant(world.release, version="2", log_odds=0.1))
    room.settle(5)
    for number in (0, 1):
        room.bank.send(days(world, number, number))
        room.bank.decide()
        room.settle(5)
    room.restart()
    room.ask("rollback")
    room.settle(20)
    assert [report.day for report in room.reports] == [FIRST]
    assert (room.releases[-1].action, room.releases[-1].version) == ("rollback", "1")
    told = [alarm.at // DAY for alarm in room.alarms if alarm.kind == "registry"]
    assert told
    assert len(told) == len(set(told))  # once a day
    back(room, away)
    room.watch()
    assert room.registry.alias("champion") == "1"


def test_a_promotion_waits_for_the_registry_and_does_not_hold_others_up(room: Room, world: Trained, away: Away) -> None:
    back(room, away)
    new = room.register(world.release, gate="passed", log_odds=0.1)
    room.registry = cast(Registry, away)
    room.restart()
    room.ask("promote", version=new.version)
    room.settle(10)
    room.ask("promote", version="1", expected="7")  # wrong: is told at once
    room.settle(10)
    assert "expected_champion is 7" in room.alarms[-1].message
    assert len(room.releases) == 1
    room.restart()  # what was not finished is begun again
    room.settle(10)
    back(room, away)
    room.watch()
    assert [(line.action, line.version) for line in room.releases] == [("promote", "1"), ("promote", new.version)]
    room.restart()
    room.watch()
    assert len(room.releases) == 2


def test_a_retraining_without_the_registry_is_tried_again_the_next_day(
    room: Room, away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "train", lambda _, registry, **__: registry.register())
    room.ask("retrain")
    room.settle(30)
    (alarm,) = [alarm for alarm in room.alarms if alarm.kind == "gate"]
    assert alarm.message.startswith("not retrained: ")
    if isinstance(away.error, Unavailable):
        assert alarm.retrain_on == FIRST


def test_a_version_that_another_program_registered_is_not_promoted_and_ends_nothing(room: Room) -> None:
    client = room.registry._client
    if client is None:
        room.registry.versions()
        client = room.registry._client
    assert client is not None
    run = client.search_runs([x.experiment_id for x in client.search_experiments()])[0].info.run_id
    client.create_model_version("fraud", "file:///nowhere", run_id=run)
    room.command("promote")  # the newest: that is ours
    room.command("promote", version="2")
    assert len(room.releases) == 1
    assert "2" in room.alarms[-1].message


# --- files of the champion --------------------------------------------------------------------------


def test_files_that_are_gone_cost_drift_and_not_the_day(room: Room, world: Trained) -> None:
    def gone(artifact: str, _: str) -> Path:
        raise Unavailable(f"{artifact} cannot be downloaded")

    room.monitor.close()
    room.fetch = gone
    room.monitor = room.enter()
    for number in range(3):
        room.day(days(world, number, number))
    reports = room.reports
    assert [report.day for report in reports] == [FIRST, FIRST + 1]
    assert all(report.payments and not report.drift for report in reports)
    told = [alarm.message for alarm in room.alarms if alarm.kind == "model"]
    assert told
    assert all("cannot be downloaded" in message for message in told)
    assert len(told) <= len(reports)


def test_a_weekday_that_the_reference_lacks_is_told_and_not_judged(room: Room, world: Trained) -> None:
    """The shop was closed on that weekday of the fortnight."""
    bank = room.bank
    folder = bank.var / "models" / world.release.digest
    without = bank.var / "models" / "new"
    shutil.copytree(folder, without)
    normal, _ = reference(folder)
    first_day = (FIRST + 3) % 7
    normal.filter(pl.col("weekday") != first_day).write_parquet(without / "reference.parquet")
    digest = digest_of(without)
    without.rename(without.with_name(digest))
    bank.release(world.release.model_copy(update={"version": "2", "digest": digest, "artifact": "nowhere"}))
    room.restart()
    for number in range(3):
        room.day(days(world, number, number))
    first, second = room.reports
    assert (first.version, first.drift, second.version) == ("2", {}, "2")
    assert second.drift
    assert "has no " in room.alarms[-1].message


@pytest.mark.slow
def test_a_closed_weekday_does_not_end_a_training(world: Trained) -> None:
    rows = dataset.events(Lake(world.var / "fraud" / "lake"), as_of=TODAY)
    until = TODAY - 7 * DAY
    sunday = (pl.col("at") // DAY + 3) % 7 == 6
    fortnight = pl.col("at").is_between(until - 14 * DAY, until)
    rows = rows.filter(~(sunday & fortnight & (pl.col("kind") == "payment")))
    known = train.folded(rows, dataset.decisions(Lake(world.var / "fraud" / "lake")))
    model = Artifact.load(world.var / "models" / world.release.digest).model
    usual, limits = train.normal(known, model, until=until)
    assert 6 not in usual["weekday"]
    assert limits


@pytest.mark.slow
def test_the_monitor_judges_the_version_that_decides_and_not_the_ledgers(room: Room, world: Trained) -> None:
    """A worker that cannot load a release goes on with the one before, and says so."""
    room.bank.release(world.release.model_copy(update={"version": "2", "digest": "0" * 64, "artifact": "nowhere"}))
    room.restart()
    for number in range(9):
        room.day(days(world, number, number))
    last = room.reports[-1]
    assert {report.version for report in room.reports} == {"1"}
    assert last.drift
    assert last.frauds_promised
    assert "1" in room.monitor._counts
    assert any("version 2" in alarm.message and alarm.action == "version 1 goes on" for alarm in room.alarms)


# --- the lake ---------------------------------------------------------------------------------------


def test_a_lake_that_takes_nothing_is_an_alarm_and_loses_nothing(
    room: Room, world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "RETRY", 0.0)
    lake = room.bank.lake.folder
    elsewhere = lake.rename(lake.with_name("elsewhere"))
    lake.touch()  # a file where the folder should be
    room.bank.send(days(world, 0, 0))
    worker = room.bank.worker()
    room.bank.work(worker)
    room.bank.leave(worker)
    room.settle(5)
    assert [alarm.kind for alarm in room.alarms] == ["lake"]
    lake.unlink()
    elsewhere.rename(lake)
    room.watch()
    taken = dataset.events(room.bank.lake, as_of=TODAY + 9 * DAY).filter(pl.col("offset") >= 0)
    assert taken.height == days(world, 0, 0).height


# --- positions that are lost ------------------------------------------------------------------------


def test_positions_that_are_lost_decide_nothing_twice(open_bank: Callable[..., Bank], world: Trained) -> None:
    """As by a holiday longer than the broker keeps offsets: dead letters are behind it, too."""
    bank = open_bank()
    rows = days(world, 0, 1)
    for part in rows.head(1_200).iter_slices(400):
        bank.send(part)
        bank.log.append([Entry(EVENTS, "card-a", value) for value, _ in list(BAD.values())[:3]])
        bank.decide()
    before = bank.said(), bank.notes(), bank.cells(), bank.letters()
    lose_positions(bank)
    bank.decide()
    assert (bank.said(), bank.notes(), bank.cells(), bank.letters()) == before
    lose_positions(bank)
    for file in (bank.var / "snapshots").iterdir():
        file.unlink()
    bank.send(rows.tail(-1_200))
    bank.decide()
    assert set(bank.said()) == {x.identity for x in payments(rows)}
    assert not bank.outcomes()
    assert bank.letters() == before[3]


def lose_positions(bank: Bank) -> None:
    if bank.url.startswith("sqlite"):
        with closing(sqlite3.connect(bank.var / "log.db", isolation_level=None)) as db:
            db.execute("DELETE FROM claims WHERE grp = ?", (DECIDERS,))
            db.execute("DELETE FROM members WHERE grp = ?", (DECIDERS,))
    else:
        log: Any = bank.log  # Kafka's

        def gone() -> bool:
            log._admin.delete_groups([log.prefix + DECIDERS])  # refused until its last member has left
            return not log.committed(DECIDERS, EVENTS)

        eventually(gone, seconds=60)


def test_positions_set_back_by_hand_decide_nothing_twice(bank: Bank, world: Trained) -> None:
    bank.send(days(world, 0, 0).head(300))
    bank.decide()
    before = bank.said(), len(bank.read(DECISIONS))
    consumer = bank.log.consumer(DECIDERS, [EVENTS], "operator")
    while not consumer.owned:
        consumer.poll(0, 0.1)
    consumer.commit([], {Place(EVENTS.name, n): Position(1) for n in range(EVENTS.partitions)})
    consumer.close()
    bank.decide()
    assert (bank.said(), len(bank.read(DECISIONS))) == before


# --- long rebuilds ----------------------------------------------------------------------------------


class Slow(Lake):
    """A lake that takes longer to read than a lease, or the session of a member of Kafka, lasts."""

    def __init__(self, folder: Path, *, seconds: float) -> None:
        super().__init__(folder)
        self.seconds = seconds

    def read(self, table: str, **about: object) -> pl.DataFrame:
        sleep(self.seconds)
        return super().read(table, **about)  # type: ignore[arg-type]  # as given


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LEASE", 1.0)


@pytest.mark.usefixtures("short_leases")
def test_two_workers_whose_rebuild_outlasts_a_lease_make_progress(
    open_bank: Callable[..., Bank], world: Trained
) -> None:
    bank = open_bank(history=False)
    seconds = 8.0 if bank.url.startswith("kafka") else 2.0
    rows = days(world, 0, 0).head(400)
    bank.release(world.release)
    bank.send(rows)
    stopping, fenced, failed = threading.Event(), [0, 0], []

    def run(slot: int) -> None:
        own = Bank(bank.var, bank.url)
        own.lake = Slow(bank.var / "fraud" / "lake", seconds=seconds)
        while not stopping.is_set():
            worker: Worker = own.worker(slot=slot, patience=0.4)
            try:
                while not stopping.is_set():
                    worker.step(0.25)
            except Fenced:
                fenced[slot] += 1
            except Exception as error:
                failed.append(error)
                return
        own.close()

    threads = [threading.Thread(target=run, args=(slot,)) for slot in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: failed or not bank.undecided(), seconds=60)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert set(bank.said()) == {x.identity for x in payments(rows)}
    assert sum(fenced) <= 2


def test_a_rebuild_that_dies_goes_on_with_the_partitions_that_are_not_done(world: Trained, tmp_path: Path) -> None:
    bank = copied(world, tmp_path / "var", history=False)
    worker = bank.worker()
    for _ in range(3):
        worker.step(0.0)  # never closed
    done = {p for p, position in bank.log.committed(DECIDERS, EVENTS).items() if position.note}
    assert len(done) == 3
    assert {int(file.stem.rpartition("-")[2]) for file in (bank.var / "snapshots").iterdir()} == done
    again = bank.worker()
    bank.settle(again)
    bank.leave(again)
    bank.close()


# --- positions and files that cannot be true --------------------------------------------------------


def alarms(bank: Bank) -> list[str]:
    return [json.loads(record.value)["message"] for record in bank.read(ALARMS)]


def set_positions(bank: Bank, positions: dict[int, Position]) -> None:
    consumer = bank.log.consumer(DECIDERS, [EVENTS], "operator")
    while not consumer.owned:
        consumer.poll(0, 0.1)
    consumer.commit([], {Place(EVENTS.name, n): position for n, position in positions.items()})
    consumer.close()


@pytest.mark.timeout(60)
def test_a_position_behind_the_end_of_the_log_is_given_up_with_an_alarm(bank: Bank, world: Trained) -> None:
    rows = days(world, 0, 0).head(300)
    bank.send(rows)
    bank.decide()
    before, ends = bank.said(), bank.log.ends(EVENTS)
    partition = max(ends, key=lambda n: ends[n])
    set_positions(bank, {partition: Position(10**9, "[1, 2]")})
    with pytest.raises(Fenced):
        bank.settle(bank.worker())
    bank.send(days(world, 0, 0).slice(300, 300))
    bank.decide()
    said = bank.said()
    assert before.items() <= said.items()
    assert set(said) == {x.identity for x in payments(days(world, 0, 0).head(600))}
    assert any("behind the end of the log" in message for message in alarms(bank))


@pytest.mark.timeout(60)
def test_a_decision_that_names_an_absurd_offset_does_not_hang_a_rebuild(bank: Bank, world: Trained) -> None:
    rows = days(world, 0, 0)
    bank.send(rows.head(300))
    bank.decide()
    record = next(record for record in bank.read(DECISIONS) if json.loads(record.value)["kind"] == "decision")
    forged = json.dumps(json.loads(record.value) | {"offset": 2**62}).encode()
    bank.log.append([Entry(DECISIONS, record.key, forged)])
    bank.send(rows.slice(300, 300))
    lose_positions(bank)
    bank.decide()
    decided = {json.loads(record.value)["id"] for record in bank.read(DECISIONS)}
    assert decided == {x.id for x in payments(rows.head(600))}
    assert any("name an offset behind the end of the log" in message for message in alarms(bank))


@pytest.mark.parametrize("note", ["[20000, 3, 7]", '{"day": 3}', "[]", "?"])
def test_a_note_of_a_newer_version_does_not_end_the_worker(bank: Bank, world: Trained, note: str) -> None:
    bank.send(days(world, 0, 0).head(100))
    bank.decide()
    positions = bank.log.committed(DECIDERS, EVENTS)
    set_positions(bank, {n: Position(position.offset, note) for n, position in positions.items()})
    bank.decide()
    assert set(bank.said()) == {x.identity for x in payments(days(world, 0, 0).head(100))}


@pytest.mark.parametrize("batch", ["live", "history"])
def test_a_damaged_file_of_the_lake_does_not_keep_a_partition_from_being_rebuilt(
    world: Trained, tmp_path: Path, batch: str
) -> None:
    with closing(copied(world, tmp_path / "var", history=False)) as bank:
        bank.release(world.release)
        file = sorted((bank.var / "fraud" / "lake" / "events").rglob("history-*.parquet"))[-1]
        if batch == "history":
            file.unlink()  # the lake of the trained bank has the same file
        file.with_name(f"{batch}.parquet").write_bytes(b"PAR1 and no more")
        bank.send(days(world, 0, 0).head(50))
        bank.work(worker := bank.worker(patience=0.0))  # the book lacks the hours of the past
        bank.leave(worker)
        assert len(bank.said()) == len(payments(days(world, 0, 0).head(50)))
        assert len(alarms(bank)) == 1
