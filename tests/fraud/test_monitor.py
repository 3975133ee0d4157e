"""The monitor, in process, on a real log, lake and registry: what it notices, what it does, what it says once only."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import polars as pl
import pytest

from fraud import evaluate
from fraud.config import DAY, HOUR, MATURITY
from fraud.monitor import GUARD_COUNT, Monitor, entry, promotion
from fraud.schema import ALARMS, COMMANDS, DEAD, RELEASES, REPORTS, Action, Alarm, Command, Release, Report
from shared.eventlog.port import Entry
from shared.registry import Version
from tests.fraud.bank import SEED, TODAY, Bank, Trained, days, open_registry

# MLflow 3.17 still maps its tables in a way that SQLAlchemy 2.1 is giving up.
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")
FIRST = TODAY // DAY  # the first live day, since the epoch


class Room:
    """Where the monitor sits: a bank, a registry of its own, and what has been said so far."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.registry = open_registry(bank.var)
        self.monitor = self.enter()

    def enter(self) -> Monitor:
        def fetch(artifact: str, digest: str) -> Path:
            return self.registry.fetch(artifact, digest=digest, into=self.bank.var / "models")

        bank, pages = self.bank, self.bank.var / "reports"
        return Monitor(bank.log, bank.lake, self.registry, clock=bank.clock, seed=SEED, fetch=fetch, pages=pages)

    def restart(self) -> None:
        self.monitor.close()
        self.monitor = self.enter()

    def watch(self) -> None:
        while self.monitor.step():
            pass

    def day(self, rows: pl.DataFrame) -> None:
        """A day passes: sent, decided, judged."""
        self.bank.send(rows)
        self.bank.decide()
        self.watch()

    def command(self, kind: str, *, version: str | None = None, force: bool = False) -> None:
        command = Command.model_validate({"kind": kind, "version": version, "force": force, "who": "operator"})
        self.bank.log.append([Entry(COMMANDS, kind, command.model_dump_json().encode())])
        self.watch()

    @property
    def alarms(self) -> list[Alarm]:
        return [Alarm.model_validate_json(record.value) for record in self.bank.read(ALARMS)]

    @property
    def releases(self) -> list[Release]:
        return [Release.model_validate_json(record.value) for record in self.bank.read(RELEASES)]

    @property
    def reports(self) -> list[Report]:
        return [Report.model_validate_json(record.value) for record in self.bank.read(REPORTS)]

    def register(self, release: Release, *, gate: str, log_odds: float = 0.0) -> Version:
        """Another version, as it comes out of a training that the gate has judged."""
        made = self.bank.variant(release, version="new", log_odds=log_odds)
        folder = self.bank.var / "models" / made.digest
        return self.registry.register(folder, params={}, figures=release.figures, tags={"gate": gate})


@pytest.fixture
def room(bank: Bank, world: Trained) -> Iterator[Room]:
    shutil.copy(world.var / "mlflow.db", bank.var / "mlflow.db")
    room = Room(bank)
    yield room
    room.monitor.close()


# --- judging ----------------------------------------------------------------------------------------


def test_every_closed_day_is_reported_once_and_a_quiet_one_raises_nothing(room: Room, world: Trained) -> None:
    for number in range(9):
        room.day(days(world, number, number))
        if number == 4:
            room.restart()
    reports = room.reports
    assert [report.day for report in reports] == list(range(FIRST, FIRST + 8))  # the ninth is not over
    said = room.bank.decisions().values()
    for report in reports:
        today = [x.action for x in said if x.at // DAY == report.day]
        assert report.payments == len(today)
        assert report.actions == {action: today.count(action) for action in get_args(Action)}
        assert report.version == "1"
        assert report.drift
    matured = [report.matured_day for report in reports]
    assert matured == [None] * (MATURITY // DAY) + [FIRST]  # labels come in within a week
    last = reports[-1]
    assert last.average_precision is not None
    assert 0.3 < last.average_precision <= 1
    assert last.frauds_promised is not None
    assert [alarm for alarm in room.alarms if alarm.kind == "drift"] == []


def moved(rows: pl.DataFrame) -> pl.DataFrame:
    """The same day by tills that tell the time in steps of three hours: nothing that a window would remember."""
    paid = pl.col("kind") == "payment"
    return rows.with_columns(at=pl.when(paid).then(pl.col("at") - pl.col("at") % (3 * HOUR)).otherwise(pl.col("at")))


def test_drift_is_an_alarm_on_the_second_day_in_a_row_and_is_said_once(room: Room, world: Trained) -> None:
    room.day(moved(days(world, 0, 0)))
    room.day(days(world, 1, 1))
    room.day(days(world, 2, 2))  # one odd day was nobody's alarm
    assert room.alarms == []
    room.day(moved(days(world, 3, 3)))
    room.day(moved(days(world, 4, 4)))  # closes day 3
    assert room.alarms == []
    room.day(days(world, 5, 5))  # closes day 4
    (alarm,) = room.alarms
    assert (alarm.kind, alarm.at) == ("drift", TODAY + 5 * DAY)
    assert "hour" in alarm.message
    assert alarm.retrain_on is not None
    assert alarm.action.startswith("retrain on 2026-")
    room.restart()
    room.day(moved(days(world, 6, 6)))
    room.day(moved(days(world, 7, 7)))
    assert room.alarms == [alarm]
    room.monitor.close()  # waits for the page
    (page,) = (room.bank.var / "reports").glob("drift-*.html")
    assert b"<html" in page.read_bytes()[:1_000].lower()
    room.monitor = room.enter()


def test_a_release_that_declines_far_too_much_is_taken_back_once(room: Room, world: Trained) -> None:
    room.day(days(world, 0, 0))
    bad = room.register(world.release, gate="skipped", log_odds=5.0)
    room.command("promote", version=bad.version, force=True)
    assert room.releases[-1].version == bad.version
    for part in days(world, 1, 1).iter_slices(300):
        room.day(part)
    taken_back = room.releases[-1]
    assert (taken_back.action, taken_back.version, taken_back.who) == ("rollback", "1", "monitor")
    assert taken_back.digest == world.release.digest
    by_bad = [x for x in room.bank.decisions().values() if x.model == bad.version]
    assert GUARD_COUNT <= len(by_bad) < GUARD_COUNT + 600
    room.restart()
    for part in days(world, 2, 2).iter_slices(300):
        room.day(part)
    assert len(room.releases) == 3  # and stays taken back
    assert [alarm.kind for alarm in room.alarms] == ["guardrail"]
    assert room.registry.alias("champion") == "1"


# --- commands ---------------------------------------------------------------------------------------


def test_what_the_gate_refused_is_promoted_by_force_only(room: Room, world: Trained) -> None:
    new = room.register(world.release, gate="costs too much", log_odds=0.1)
    room.command("promote", version=new.version)
    (alarm,) = room.alarms
    assert (alarm.kind, alarm.action) == ("command", "nothing changed")
    assert alarm.message == f"version {new.version} not promoted: costs too much"
    assert len(room.releases) == 1
    room.command("promote", version=new.version, force=True)
    assert (room.releases[-1].version, room.releases[-1].who) == (new.version, "operator")


def test_a_rollback_goes_to_the_version_before_and_ends_at_the_first(room: Room, world: Trained) -> None:
    versions = [room.register(world.release, gate="passed", log_odds=odds) for odds in (0.1, 0.2)]
    for version in versions:
        room.command("promote", version=version.version)
    room.command("rollback")
    room.restart()
    room.command("rollback")
    ledger = [(x.action, x.version) for x in room.releases]
    assert ledger[-2:] == [("rollback", versions[0].version), ("rollback", "1")]
    assert room.releases[-1].digest == world.release.digest
    room.command("rollback")
    assert len(room.releases) == len(ledger)
    assert "no earlier version" in room.alarms[-1].message


def test_an_unknown_version_changes_nothing_and_says_which_there_are(room: Room) -> None:
    room.command("promote", version="99", force=True)
    assert "no version 99; it has 1" in room.alarms[-1].message
    assert len(room.releases) == 1


def test_a_retraining_that_is_no_better_leaves_the_champion(room: Room) -> None:
    room.command("retrain")
    (alarm,) = room.alarms
    assert (alarm.kind, alarm.action) == ("gate", "the champion goes on")
    assert alarm.message.startswith("version 2 refused: ")
    assert alarm.version == "2"
    assert {"cost_per_1000", "champion_cost_per_1000"} <= alarm.figures.keys()
    assert len(room.releases) == 1


def test_a_due_retraining_that_is_refused_is_tried_again_a_week_later_and_not_on_every_restart(
    room: Room, world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "gate", lambda *_: "no better")
    due = Alarm(kind="drift", at=TODAY + 1, message="moved", action="retrain", retrain_on=FIRST)
    room.bank.log.append([entry(due)])
    room.restart()
    room.day(days(world, 0, 1))
    *_, refused = room.alarms
    assert (refused.kind, refused.retrain_on) == ("gate", FIRST + 7)
    assert "the champion goes on; retrain on 20" in refused.action
    versions = len(room.registry.versions())
    for number in (2, 3):
        room.restart()
        room.day(days(world, number, number))
    assert len(room.registry.versions()) == versions


def test_a_damaged_file_of_the_lake_costs_a_day_its_judgement_and_no_more(room: Room, world: Trained) -> None:
    room.day(days(world, 0, 0))
    file = next((room.bank.lake.folder / "decisions").rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    room.day(days(world, 1, 1))
    (alarm,) = room.alarms
    assert (alarm.kind, str(file) in alarm.message, "is not judged" in alarm.action) == ("lake", True, True)
    file.unlink()
    room.day(days(world, 2, 2))
    assert [(report.day, report.payments > 0) for report in room.reports] == [(FIRST, False), (FIRST + 1, True)]


def test_a_retraining_on_too_little_is_an_alarm(bank: Bank, world: Trained) -> None:
    shutil.copy(world.var / "mlflow.db", bank.var / "mlflow.db")
    shutil.rmtree(bank.var / "lake")
    room = Room(bank)
    room.command("retrain")
    assert room.alarms[-1].message.startswith("not retrained: no events from ")
    room.monitor.close()


@pytest.mark.parametrize("value", [b"{", b'{"kind": "explode", "who": "x"}', b'{"kind": "rollback"}'])
def test_a_command_that_cannot_be_read_is_a_dead_letter_and_the_next_is_carried_out(room: Room, value: bytes) -> None:
    room.bank.log.append([Entry(COMMANDS, "x", value)])
    room.command("promote", version="99")
    assert [letter.topic for letter in room.bank.letters()] == [COMMANDS.name]
    assert len(room.alarms) == 1


# --- what is known ----------------------------------------------------------------------------------


def test_the_ledger_is_the_truth_and_the_alias_is_repaired_from_it(room: Room, world: Trained) -> None:
    new = room.register(world.release, gate="passed", log_odds=0.1)
    room.registry.point("champion", new.version)
    room.restart()
    assert room.registry.alias("champion") == "1"
    room.bank.log.append([entry(promotion(new, at=TODAY, who="x", why="y"))])
    room.restart()
    assert room.registry.alias("champion") == new.version


def test_a_restart_says_nothing_twice(room: Room, world: Trained) -> None:
    room.command("promote", version="99")
    room.day(days(world, 0, 1))

    def said() -> list[int]:
        return [len(room.bank.read(topic)) for topic in (ALARMS, RELEASES, REPORTS, DEAD)]

    before = said()
    for _ in range(3):
        room.restart()
        room.watch()
    assert said() == before == [1, 1, 1, 0]
