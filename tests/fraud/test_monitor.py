"""The monitor, in process, on a real log, lake and registry: what it notices, what it does, what it says once only."""

import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import polars as pl
import pytest

from fraud import config, evaluate, monitor, train
from fraud.config import DAY, HOUR, MATURITY
from fraud.monitor import GUARD_COUNT, Monitor, entry
from fraud.schema import ALARMS, COMMANDS, DEAD, HEARTBEATS, RELEASES, REPORTS, Action, Alarm, Command, Report
from fraud.stream import Worker
from shared.clock import sleep
from shared.eventlog.port import Entry
from shared.registry import Unavailable, Version
from shared.releases import Ledger, Release
from tests.fraud.bank import LIVE, SEED, TODAY, Bank, Trained, days, open_registry, payment
from tests.fraud.test_serve import eventually

# MLflow 3.17 still maps its tables in a way that SQLAlchemy 2.1 is giving up.
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")
FIRST = TODAY // DAY  # the first live day, since the epoch


class Room:
    """Where the monitor sits: a bank, a registry of its own, and what has been said so far."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.registry = open_registry(bank.var)
        self.fetch: Callable[[str, str], Path] = self.at_hand_or_from_the_registry
        self.dead: list[Monitor] = []
        self.worker: Worker | None = None
        self.monitor = self.enter()

    def at_hand_or_from_the_registry(self, artifact: str, digest: str) -> Path:
        folder = self.bank.var / "models" / digest
        return folder if folder.is_dir() else self.registry.fetch(artifact, digest=digest, into=folder.parent)

    def enter(self) -> Monitor:
        bank, pages = self.bank, self.bank.var / "fraud" / "reports"
        return Monitor(bank.log, bank.lake, self.registry, clock=bank.clock, seed=SEED, fetch=self.fetch, pages=pages)

    def die(self) -> None:
        """The monitor falls silent, and another one comes."""
        self.dead.append(self.monitor)
        self.monitor = self.enter()

    def close(self) -> None:
        for one in (*self.dead, self.monitor):
            one.close()

    def restart(self) -> None:
        self.monitor.close()
        self.monitor = self.enter()

    def watch(self) -> None:
        while self.monitor.step():
            pass

    def settle(self, steps: int) -> None:
        """So many steps, for what never comes to an end."""
        for _ in range(steps):
            self.monitor.step()
            sleep(0.01)

    def day(self, rows: pl.DataFrame) -> None:
        """A day passes: sent, decided, judged."""
        self.bank.send(rows)
        self.worker = self.worker or self.bank.worker()
        self.bank.work(self.worker)
        self.watch()

    def ask(
        self, kind: str, *, version: str | None = None, force: bool = False, expected: str = "", key: str = ""
    ) -> str:
        """An operator's command on what is in force now, unless another champion is `expected`; gives its key."""
        seen = {"expected_champion": expected or Ledger(self.lines).version(), "key": key or uuid4().hex}
        command = Command.model_validate({"kind": kind, "version": version, "force": force, "who": "operator"} | seen)
        self.bank.log.append([Entry(COMMANDS, kind, command.model_dump_json().encode())])
        return seen["key"]

    def command(self, kind: str, *, version: str | None = None, force: bool = False) -> None:
        """The same, until it is carried out."""
        self.ask(kind, version=version, force=force)
        self.watch()

    @property
    def alarms(self) -> list[Alarm]:
        return [Alarm.model_validate_json(record.value) for record in self.bank.read(ALARMS)]

    @property
    def lines(self) -> list[Release]:
        return [Release.model_validate_json(record.value) for record in self.bank.read(RELEASES)]

    @property
    def releases(self) -> list[Release]:
        return Ledger(self.lines).lines

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
    room.close()


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


def test_what_a_monitor_remembers_is_bounded(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "REMEMBERED", 3)
    for number in range(8):
        room.ask("promote", version="1", expected="none", key=f"key-{number}")
        room.watch()
        room.bank.clock.observe(TODAY + number * DAY)
        room.monitor._alarm_daily("registry", f"message {number}", action="tried again")
    assert list(room.monitor._handled) == ["key-5", "key-6", "key-7"]
    assert list(room.monitor._alarmed_at) == [("registry", "message 7")]
    before = len(room.alarms)
    room.ask("promote", version="1", expected="none", key="key-7")
    room.watch()
    assert len([alarm for alarm in room.alarms[before:] if alarm.kind == "command"]) == 0


@pytest.mark.slow
def test_drift_is_an_alarm_on_the_second_day_in_a_row_and_is_said_once(room: Room, world: Trained) -> None:
    room.day(moved(days(world, 0, 0)))
    room.day(days(world, 1, 1))
    room.day(days(world, 2, 2))  # one odd day was no alarm
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
    pages = room.bank.var / "fraud" / "reports"  # of the monitor before the restart, which was not waited for
    eventually(
        lambda: [b"<html" in x.read_bytes()[:1_000].lower() for x in pages.glob("drift-*.html")] == [True], seconds=60
    )


@pytest.mark.slow
def test_frauds_that_were_not_promised_are_an_alarm_once_their_labels_are_complete(room: Room, world: Trained) -> None:
    """The same trees, which promise a twentieth of the frauds: what they let through is more than that."""
    mild = room.register(world.release, gate="skipped", log_odds=-3.0)
    room.command("promote", version=mild.version, force=True)
    for number in range(LIVE - 1):
        room.day(days(world, number, number))
        if number == 10:
            room.restart()
    (alarm,) = [alarm for alarm in room.alarms if alarm.kind == "quality"]
    told = [report for report in room.reports if (report.evidence or 0) >= config.FALSE_ALARM]
    assert alarm.at == (told[0].day + 1) * DAY
    assert alarm.retrain_on is not None
    assert alarm.retrain_on <= told[0].day + monitor.LEARNABLE - MATURITY // DAY  # its scores have drifted, too
    assert "frauds in a week's approved payments" in alarm.message
    assert [report.evidence for report in room.reports[: MATURITY // DAY]] == [None] * (MATURITY // DAY)


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


@pytest.mark.slow
def test_a_retraining_that_is_no_better_leaves_the_champion(room: Room) -> None:
    room.command("retrain")
    (alarm,) = room.alarms
    assert (alarm.kind, alarm.action) == ("gate", "the champion goes on")
    assert alarm.message.startswith("version 2 refused: ")
    assert alarm.version == "2"
    assert {"cost_per_1000", "champion_cost_per_1000"} <= alarm.figures.keys()
    assert len(room.releases) == 1


@pytest.mark.slow
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
    shutil.rmtree(bank.var / "fraud" / "lake")
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
    room.watch()
    assert room.registry.alias("champion") == "1"
    room.bank.log.append([entry(Release.promotion(new, at=TODAY, who="x", why="y"))])
    room.restart()
    room.watch()
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


# --- releases ---------------------------------------------------------------------------------------


def versions(room: Room, world: Trained, number: int) -> list[str]:
    """So many good versions, each promoted after the other."""
    made = [room.register(world.release, gate="passed", log_odds=0.01 * (n + 1)).version for n in range(number)]
    for version in made:
        room.command("promote", version=version)
    return made


def ledger(room: Room) -> list[tuple[str, str]]:
    return [(line.action, line.version) for line in room.releases]


def test_a_rollback_that_is_sent_twice_rolls_back_once(room: Room, world: Trained) -> None:
    two, three = versions(room, world, 2)
    key = room.ask("rollback", expected=three)
    room.ask("rollback", expected=three, key=key)  # the retry of a request that got no answer
    room.ask("rollback", expected=three)  # a double click
    room.watch()
    room.restart()
    room.ask("rollback", expected=three, key=key)
    room.watch()
    assert ledger(room)[3:] == [("rollback", two)]
    assert room.alarms[-1].message == f"expected_champion is {three}, but version {two} is in force"


def test_a_rollback_never_goes_to_a_version_that_was_taken_back(room: Room, world: Trained) -> None:
    two, three = versions(room, world, 2)
    room.command("rollback")  # 3 -> 2
    new = room.register(world.release, gate="passed", log_odds=0.5).version
    room.command("promote", version=new)
    room.command("rollback")  # 4 -> 2, and not to 3
    room.command("rollback")  # 2 -> 1
    assert ledger(room)[3:] == [("rollback", two), ("promote", new), ("rollback", two), ("rollback", "1")]
    room.command("promote", version=three)
    assert "rolled back or withdrawn" in room.alarms[-1].message
    room.command("promote", version=three, force=True)
    assert ledger(room)[-1] == ("promote", three)


def test_promoting_the_champion_changes_nothing_and_the_guardrail_goes_on_counting(room: Room, world: Trained) -> None:
    room.day(days(world, 0, 0))
    bad = room.register(world.release, gate="skipped", log_odds=5.0).version
    for _ in range(2):
        room.command("promote", version=bad, force=True)
    for number, part in enumerate(days(world, 1, 1).iter_slices(300)):
        room.day(part)
        if number == 1:
            room.ask("promote", version=bad, force=True)
    assert ledger(room) == [("promote", "1"), ("promote", bad), ("rollback", "1")]
    assert room.releases[-1].key == f"guardrail-{room.releases[1].key}"


def test_withdrawn_is_the_rules_until_a_version_is_promoted(room: Room, world: Trained) -> None:
    room.command("withdraw")
    room.bank.pay(first := payment(id="first"))
    room.bank.decide()
    said = room.bank.decision(first)
    assert (said.path, said.mark, said.model) == ("rules", "no-model", None)
    assert ledger(room)[-1] == ("withdraw", "1")
    assert room.registry.alias("champion") is None
    room.command("rollback")
    assert len(room.releases) == 2
    new = room.register(world.release, gate="passed", log_odds=0.1).version
    room.command("promote", version=new)
    room.bank.pay(second := payment(id="second"))
    room.bank.decide()
    assert room.bank.decision(second).model == new


@pytest.mark.parametrize("kind", ["promote", "rollback", "withdraw"])
@pytest.mark.parametrize("lacks", ["key", "expected_champion"])
def test_a_command_without_key_or_expectation_changes_nothing(
    room: Room, world: Trained, kind: str, lacks: str
) -> None:
    versions(room, world, 1)
    asked = {"kind": kind, "version": "1" if kind == "promote" else None, "who": "op", "key": "k"}
    asked |= {"expected_champion": "2"}
    room.bank.log.append([Entry(COMMANDS, kind, json.dumps(asked | {lacks: None}).encode())])
    room.watch()
    assert len(room.releases) == 2
    assert (room.alarms[-1].kind, room.alarms[-1].action) == ("command", "nothing changed")


class Killed(BaseException):
    """kill -9."""


@pytest.mark.parametrize("after", ["intent", "switch"])
@pytest.mark.parametrize("kind", ["promote", "rollback", "withdraw"])
def test_a_change_that_died_half_way_is_finished_once(
    room: Room, world: Trained, monkeypatch: pytest.MonkeyPatch, kind: str, after: str
) -> None:
    versions(room, world, 1)
    new = room.register(world.release, gate="passed", log_odds=0.3).version
    before = ledger(room)
    real = Monitor._prepare

    def die(monitor: Monitor, line: Release) -> None:
        if after == "switch":
            real(monitor, line)
        raise Killed

    room.ask(kind, version=new if kind == "promote" else None, expected="2")
    monkeypatch.setattr(Monitor, "_prepare", die)
    monkeypatch.setattr(room.monitor._manager, "_switch", lambda line: die(room.monitor, line))
    with pytest.raises(Killed):
        room.watch()
    assert ledger(room) == before
    monkeypatch.setattr(Monitor, "_prepare", real)
    for _ in range(2):
        room.die()
        room.watch()
    assert ledger(room)[2:] == [(kind, {"promote": new, "rollback": "1", "withdraw": "2"}[kind])]


# --- work beside the loop ---------------------------------------------------------------------------


@pytest.mark.slow
def test_while_it_trains_it_obeys_an_operator_and_tells_what_it_does(
    room: Room, world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions(room, world, 1)
    goes_on = threading.Event()
    real = train.train

    def slow(*given: Any, **about: Any) -> Any:
        goes_on.wait(60)
        return real(*given, **about)

    monkeypatch.setattr(train, "train", slow)
    room.ask("retrain")
    room.settle(5)
    room.ask("rollback")
    room.ask("retrain")
    room.settle(10)
    assert ledger(room)[-1] == ("rollback", "1")
    assert room.alarms[-1].message == "a training is under way already"
    (*_, beat) = room.bank.read(HEARTBEATS)
    assert json.loads(beat.value)["doing"] == "training"
    room.bank.send(days(world, 0, 1))
    room.bank.decide()
    room.settle(5)
    assert room.reports == []  # what comes of the training must not depend on how long it takes
    goes_on.set()
    room.watch()
    assert len(room.reports) == 1
    assert len(room.releases) == 3  # 2 is not in force any more, so nothing replaces it unseen


def test_a_training_that_died_with_the_monitor_is_begun_again(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, over = [], threading.Event()

    def never(*_: Any, **about: Any) -> Any:
        begun.append(about["as_of"])
        if len(begun) == 1:
            over.wait(60)
        raise train.NotEnough("a test")

    monkeypatch.setattr(train, "train", never)
    key = room.ask("retrain")
    room.settle(5)
    room.ask("retrain", key=key)  # while it is under way
    room.settle(5)
    assert room.alarms == []
    room.die()
    over.set()  # the dead one's thread ends, as it would with its process; what it made is lost
    room.watch()
    assert len(begun) == 2
    room.restart()
    room.ask("retrain", key=key)  # sent again
    room.watch()
    assert len(begun) == 2


# --- files that are gone ------------------------------------------------------------------------------


def lose_files(room: Room, *versions: Version | Release) -> list[str]:
    """The registry answers, and the files of these versions cannot be had; gives the digests that were asked for."""
    real, asked = room.fetch, list[str]()
    lost = {version.digest for version in versions}

    def fetch(artifact: str, digest: str) -> Path:
        asked.append(digest)
        if digest in lost:
            raise Unavailable(f"{artifact} cannot be downloaded")
        return real(artifact, digest)

    room.monitor.close()
    room.fetch = fetch
    room.monitor = room.enter()
    return asked


def test_a_promotion_whose_files_are_gone_is_refused_and_the_next_is_carried_out(
    room: Room, world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "RETRY", 0.0)
    gone, good = (room.register(world.release, gate="passed", log_odds=odds) for odds in (0.1, 0.2))
    lose_files(room, gone)
    room.ask("promote", version=gone.version)
    room.ask("promote", version=good.version)
    room.settle(40)
    assert ledger(room) == [("promote", "1"), ("promote", good.version)]
    assert any(f"version {gone.version} not promoted: its files cannot be had" in x.message for x in room.alarms)
    assert room.registry.alias("champion") == good.version


@pytest.mark.slow
def test_an_errand_that_fails_does_not_hold_the_others_up(
    room: Room, world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "RETRY", 0.0)
    stuck, good = (room.register(world.release, gate="passed", log_odds=odds) for odds in (0.1, 0.2))
    real = room.registry.tags

    def tags(version: str) -> dict[str, str]:
        if version == stuck.version:
            raise Unavailable("no answer")
        return real(version)

    monkeypatch.setattr(room.registry, "tags", tags)
    room.ask("promote", version=stuck.version)
    room.ask("promote", version=good.version)
    room.settle(60)
    assert ledger(room) == [("promote", "1"), ("promote", good.version)]
    assert room.registry.alias("champion") == good.version


def test_a_rollback_looks_only_for_the_files_that_it_needs(room: Room, world: Trained) -> None:
    versions(room, world, 3)
    asked = lose_files(room)
    room.watch()
    asked.clear()
    room.command("rollback")
    assert ledger(room)[-1] == ("rollback", "3")
    assert set(asked) <= {line.digest for line in room.releases if line.version == "3"}


def test_a_champion_whose_files_are_gone_does_not_prevent_a_retraining(
    room: Room, world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def learn(*_: Any, **about: Any) -> Any:
        given.append(about["champion"])
        raise train.NotEnough("a test")

    lose_files(room, world.release)
    result = room.monitor._train
    monkeypatch.setattr(train, "train", learn)
    with pytest.raises(train.NotEnough):
        result(TODAY, world.release)
    assert given == [None]
    monkeypatch.setattr(room.registry, "versions", lambda: (_ for _ in ()).throw(Unavailable("away")))
    with pytest.raises(Unavailable, match="away"):  # the gate does not go without a comparison for an hour's outage
        result(TODAY, world.release)


# --- what the guardrail remembers ---------------------------------------------------------------------


def test_an_alarm_about_another_version_leaves_the_champion_guarded(room: Room, world: Trained) -> None:
    """A worker goes on with an old version that declines far too much; the champion is guarded all the same."""
    room.day(days(world, 0, 0))
    bad = [room.register(world.release, gate="skipped", log_odds=odds) for odds in (5.0, 5.1)]
    for version in bad:
        room.command("promote", version=version.version, force=True)
    (first, second) = (next(x for x in room.releases if x.version == version.version) for version in bad)
    room.bank.clock.observe(room.bank.clock.now() + 60)
    room.monitor._take_back(first, why="declines too much")
    room.watch()
    assert room.releases[-1].version == second.version
    room.restart()
    room.watch()
    assert room.monitor._guarded_against == {first.version}
    for part in days(world, 1, 1).iter_slices(300):
        room.day(part)
    assert (room.releases[-1].action, room.releases[-1].who) == ("rollback", "monitor")
    assert [alarm.kind for alarm in room.alarms].count("guardrail") == 2


# --- the positions of the commands ----------------------------------------------------------------------


def forget_commands(room: Room) -> None:
    room.monitor.close()
    with closing(sqlite3.connect(room.bank.var / "log.db", isolation_level=None)) as db:
        for table in ("claims", "members"):
            db.execute(f"DELETE FROM {table} WHERE grp = 'fraud-monitor'")
    room.monitor = room.enter()


def test_commands_are_not_carried_out_again_when_their_positions_are_lost(room: Room, world: Trained) -> None:
    two, three = versions(room, world, 2)
    for expected in (three, two):
        record = {"kind": "rollback", "who": "op", "key": f"of-{expected}", "expected_champion": expected}
        room.bank.log.append([Entry(COMMANDS, "rollback", json.dumps(record).encode())])
    forget_commands(room)
    room.watch()
    assert ledger(room)[-1] == ("promote", three)
    (alarm,) = said = room.alarms
    assert (alarm.kind, "positions of the commands were lost" in alarm.message) == ("command", True)
    assert "before offset 4" in alarm.message
    room.restart()
    room.command("rollback")
    assert ledger(room)[-1] == ("rollback", two)
    assert [x.message for x in room.alarms] == [*(x.message for x in said), "asked for"]  # the loss is told once


def test_the_first_command_ever_is_carried_out_although_markers_stand_in_the_topics(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Kafka, where who joins a group leaves one in every topic, also in one without a record."""
    ends = room.bank.log.ends
    monkeypatch.setattr(room.bank.log, "ends", lambda topic: {p: end + 1 for p, end in ends(topic).items()})
    room.ask("withdraw")
    forget_commands(room)
    room.watch()
    assert ledger(room)[-1] == ("withdraw", "1")
    assert not [alarm for alarm in room.alarms if "were lost" in alarm.message]


def test_the_first_command_ever_is_carried_out_although_there_were_reports(room: Room, world: Trained) -> None:
    room.day(days(world, 0, 0))
    room.day(days(world, 1, 1))
    assert room.reports
    room.monitor.close()
    room.ask("withdraw")
    room.monitor = room.enter()
    room.watch()
    assert ledger(room)[-1] == ("withdraw", "1")


def test_a_command_that_was_refused_behind_an_unfinished_one_stays_refused_after_a_crash(
    room: Room, world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is read again, what it expected has become true."""
    monkeypatch.setattr(monitor, "RETRY", 0.0)
    versions(room, world, 1)
    new = room.register(world.release, gate="passed", log_odds=0.4)
    with monkeypatch.context() as patch:
        patch.setattr(room.registry, "tags", lambda _: (_ for _ in ()).throw(Unavailable("no answer")))
        room.ask("promote", version=new.version)
        room.settle(5)
        room.ask("rollback", expected=new.version)
        room.settle(5)
        assert "expected_champion is 3" in room.alarms[-1].message
        for _ in range(2):
            room.die()
            room.settle(3)
    room.watch()
    room.die()
    room.watch()
    assert ledger(room) == [("promote", "1"), ("promote", "2"), ("promote", new.version)]
    place = room.bank.log.committed("fraud-monitor", COMMANDS)[0]
    assert place.offset == room.bank.log.ends(COMMANDS)[0]
