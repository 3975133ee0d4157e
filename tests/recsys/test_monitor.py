"""Days judged, alarms with their action, commands carried out."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext

import polars as pl
import pytest

from recsys import config, table
from recsys.config import DAY, HOUR
from recsys.monitor import GROUP, WEEK_OVER, Monitor, Task
from recsys.schema import (
    ALARMS,
    COMMANDS,
    DEAD,
    HEARTBEATS,
    IMPRESSIONS,
    NIGHTS,
    RELEASES,
    REPORTS,
    Command,
    Impression,
    Night,
    Report,
    entry,
)
from recsys.train import Candidate
from shared.background_job import Heartbeat
from shared.clock import VirtualClock, monotonic
from shared.eventlog.port import Entry, Place
from shared.registry import Registry, Unavailable
from tests.recsys.operations import Crash
from tests.recsys.shop import TODAY, Shop, Trained, open_registry

DAY_NUMBER = TODAY // DAY


@pytest.fixture(scope="session")
def registry(shop_world: Trained) -> Registry:
    return open_registry(shop_world.var)


@pytest.fixture
def monitor(shop: Shop, registry: Registry) -> Iterator[Monitor]:
    monitor = shop.monitor(registry)
    yield monitor
    monitor.close()


def work(monitor: Monitor) -> None:
    while monitor.step():
        pass


def wants(shop: Shop, monitor: Monitor, command: Command) -> list[str]:
    """Gives the alarms raised."""
    before = len(shop.alarms(ALARMS))
    shop.say(command)
    work(monitor)
    return [alarm.message for alarm in shop.alarms(ALARMS)[before:]]


def test_each_night_brings_the_report_of_the_day_before(shop: Shop, shop_world: Trained, monitor: Monitor) -> None:
    shop.night()
    shop.send(shop_world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    shop.night("2026-03-13")
    work(monitor)
    reports = [Report.model_validate(said) for said in shop.said(REPORTS)]
    assert [report.day for report in reports] == [DAY_NUMBER - 1, DAY_NUMBER]
    assert reports[1].purchases == shop_world.live[0].filter(shop_world.live[0]["kind"] == "purchase").height
    assert set(reports[1].drift) == {"category", "price", "small", "hour"}
    assert shop.alarms(ALARMS) == []


def test_few_clicks_on_as_many_lists_raise_one_alarm(monitor: Monitor, shop: Shop) -> None:
    plain = {"version": "v", "purchases": 5, "drift": {}, "drifted": ()}
    for day, clicks in ((1, 390), (2, 200), (3, 200), (9, 200)):
        monitor._alarm_on(None, Report(day=day, lists=400, clicks=clicks, usual_clicks=1.0, **plain))
    assert [(alarm.kind, "roll back" in alarm.action) for alarm in shop.alarms(ALARMS)] == [("clicks", True)] * 2


def test_an_old_table_raises_one_alarm(monitor: Monitor, shop: Shop) -> None:
    shop.night()
    work(monitor)
    shop.clock.observe(shop.clock.now() + config.STALE)
    work(monitor)
    assert shop.alarms(ALARMS) == []
    shop.clock.observe(shop.clock.now() + 1)
    work(monitor)
    work(monitor)
    assert [alarm.kind for alarm in shop.alarms(ALARMS)] == ["table"]


def test_an_altered_table_is_noticed(monitor: Monitor, shop: Shop) -> None:
    version = shop.night().version
    file = shop.tables / version / "main" / "sources.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\7")
    work(monitor)
    (alarm,) = shop.alarms(ALARMS)
    assert "sources.npy" in alarm.message
    assert "roll back" in alarm.action


def test_a_night_and_a_rollback_by_command(monitor: Monitor, shop: Shop, shop_world: Trained) -> None:
    assert wants(shop, monitor, Command(kind="night", who="ann")) == []
    first = table.current(shop.tables)
    shop.send(shop_world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    wants(shop, monitor, Command(kind="night", who="ann"))
    assert table.current(shop.tables) != first
    second = table.current(shop.tables)
    back = Command(kind="rollback", who="ann", why="odd", expected_champion=second, key="back")
    assert wants(shop, monitor, back) == []
    assert table.current(shop.tables) == first
    assert wants(shop, monitor, back) == [], "the same command again"
    (said,) = wants(shop, monitor, back.model_copy(update={"expected_champion": first, "key": "further"}))
    assert "no earlier version that is good to go back to" in said


def test_a_command_waits_for_the_night_that_is_at_work(
    monitor: Monitor, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with table.sole(shop.tables):
        timer = threading.Timer(0.5, lambda: monkeypatch.setattr(table, "sole", nullcontext))
        timer.start()  # as if it had ended: a lock is of a file handle, and this one is held here
        assert wants(shop, monitor, Command(kind="night", who="ann")) == []
        timer.join()
        assert table.current(shop.tables) is not None


def test_a_command_that_had_to_wait_runs_no_night_that_is_over(
    monitor: Monitor, shop: Shop, shop_world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.night()
    command = Command(kind="night", who="ann")
    shop.log.append([Entry(COMMANDS, command.kind, command.model_dump_json().encode())])
    shop.send(shop_world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    shop.night("2026-03-13")
    monkeypatch.setattr(monitor, "_clock", VirtualClock(TODAY))  # it has seen nothing of all that
    work(monitor)
    assert str(table.current(shop.tables)).startswith("2026-03-13")
    assert [night["date"] for night in shop.said(NIGHTS)] == ["2026-03-12", "2026-03-13", "2026-03-13"]


def test_a_command_does_not_wait_for_ever(monitor: Monitor, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.monitor.PATIENCE", 0.2)
    with table.sole(shop.tables):
        (said,) = wants(shop, monitor, Command(kind="night", who="ann"))
    assert "another night or rollback is at work" in said
    assert table.current(shop.tables) is None


def test_what_the_gate_refused_is_promoted_by_force_only(
    monitor: Monitor, shop: Shop, registry: Registry, shop_world: Trained
) -> None:
    folder = shop.var / "recipes" / shop_world.release.digest
    refused = registry.register(folder, params={}, figures={"ndcg": 0.1}, tags={"gate": "too bad"})
    promote = Command(kind="promote", version=refused.version, who="ann", expected_champion="1", key="k1")
    (said,) = wants(shop, monitor, promote)
    assert "too bad" in said
    assert wants(shop, monitor, promote.model_copy(update={"force": True, "key": "k2"})) == []
    assert shop.ledger().version("recipe") == refused.version
    other = {"version": "999", "expected_champion": refused.version, "key": "k3"}
    (said,) = wants(shop, monitor, promote.model_copy(update=other))
    assert "999" in said


@pytest.mark.parametrize(("why", "alarms"), [(WEEK_OVER, 0), ("the shop has changed", 1), ("asked for", 1)])
def test_a_weekly_recipe_that_is_no_better_is_no_alarm(
    monitor: Monitor, shop: Shop, registry: Registry, why: str, alarms: int
) -> None:
    record, version = shop.read(RELEASES)[0], registry.versions()[0]
    task = Task(record, Night(date="2026-03-13", at=TODAY), again=0.0)
    assert monitor._learnt(task, Candidate(version, "a tie"), "", "1", "monitor", why, "train-day-1")
    assert len(task.out) == alarms
    assert len(shop.ledger().lines) == 1, "nothing is released"


def test_a_recipe_trained_by_command_is_judged_beside_the_champion(
    monitor: Monitor, shop: Shop, registry: Registry
) -> None:
    wants(shop, monitor, Command(kind="train", who="ann"))
    newest = registry.versions()[0]
    assert newest.figures["champion_ndcg"] > 0
    assert (registry.tags(newest.version)["gate"] == "passed") == (shop.ledger().version("recipe") == newest.version)


def test_a_command_that_cannot_be_read_becomes_a_dead_letter(monitor: Monitor, shop: Shop) -> None:
    shop.log.append([Entry(COMMANDS, "x", b'{"kind": "explode", "who": "ann"}')])
    work(monitor)
    assert [letter.field for letter in shop.letters(DEAD)] == ["kind"]


def test_a_monitor_that_comes_back_judges_no_day_twice(shop: Shop, registry: Registry) -> None:
    shop.night()
    for _ in range(2):
        monitor = shop.monitor(registry)
        work(monitor)
        monitor.close()
    shop.log.append([entry(shop.ledger().lines[-1])])
    assert len(shop.said(REPORTS)) == 1


# --- what is away, and what takes long --------------------------------------------------------------------


def waits(monitor: Monitor, done: Callable[[], object]) -> None:
    until = monotonic() + 60
    while not done():
        assert monotonic() < until, "it did not happen"
        monitor.step()


def second_night(shop: Shop, world: Trained) -> tuple[str, str]:
    first = shop.night().version
    shop.send(world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    return first, shop.night("2026-03-13").version


def test_a_registry_that_is_away_holds_neither_start_nor_rollback_up(
    shop: Shop, shop_world: Trained, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = second_night(shop, shop_world)
    away = True

    def opened() -> Registry:
        if away:
            raise Unavailable("MLflow does not answer")
        return registry

    monitor = shop.monitor(registry)
    monitor._open_registry = opened
    shop.say(Command(kind="promote", version="1", who="ann", expected_champion="1", key="p", force=True))
    shop.say(Command(kind="rollback", who="ann", expected_champion=second, key="r"))
    work(monitor)
    assert table.current(shop.tables) == first
    assert len(shop.said(REPORTS)) == 2
    monkeypatch.setattr("recsys.monitor.RETRY", 0.0)
    for task in monitor._tasks:
        task.again = 0.0
    waits(monitor, lambda: not monitor._working)
    assert ["MLflow does not answer" in alarm.message for alarm in shop.alarms(ALARMS)] == [True], "said once"
    away = False
    waits(monitor, lambda: not monitor._tasks)
    assert "in force already" in shop.alarms(ALARMS)[-1].message
    away, monitor._registry = True, None
    shop.clock.observe(TODAY + 9 * DAY)
    shop.say(Command(kind="promote", version="1", who="ann", expected_champion="1", key="again", force=True))
    waits(monitor, lambda: sum("MLflow does not answer" in alarm.message for alarm in shop.alarms(ALARMS)) == 2)
    monitor.close()


def test_while_a_recipe_is_trained_commands_are_obeyed_and_days_wait(
    shop: Shop, shop_world: Trained, monitor: Monitor, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shop.night().version
    waits(monitor, lambda: shop.said(REPORTS))
    release, version = threading.Event(), registry.version(shop_world.release.version)

    def slow(*_: object, **__: object) -> Candidate:
        assert release.wait(60)
        return Candidate(version, "not good enough")

    monkeypatch.setattr("recsys.train.train", slow)
    shop.say(Command(kind="train", who="ann", key="t"))
    waits(monitor, lambda: monitor._working)
    shop.send(shop_world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    second = shop.night("2026-03-13").version
    shop.say(Command(kind="rollback", who="ann", expected_champion=second, key="r"))
    waits(monitor, lambda: table.current(shop.tables) == first)
    assert len(shop.said(REPORTS)) == 1, "no day is judged meanwhile"
    beat = Heartbeat.model_validate(shop.said(HEARTBEATS)[-1])
    assert (beat.process, beat.doing) == ("monitor", "training a recipe")
    release.set()
    work(monitor)
    assert len(shop.said(REPORTS)) == 2
    assert Heartbeat.model_validate(shop.said(HEARTBEATS)[-1]).doing == ""
    assert ["not good enough" in alarm.message for alarm in shop.alarms(ALARMS)] == [True]


def test_a_training_that_dies_is_begun_again_and_a_command_that_is_done_is_not(
    shop: Shop, registry: Registry, shop_world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.version(shop_world.release.version)
    began: list[str] = []

    def dying(*_: object, **__: object) -> Candidate:
        began.append("training")
        if len(began) == 1:
            raise Crash
        return Candidate(version, "not good enough")

    monkeypatch.setattr("recsys.train.train", dying)
    monitor = shop.monitor(registry)
    shop.say(Command(kind="train", who="ann", key="t"))
    shop.say(Command(kind="withdraw", who="ann", expected_champion="1", key="w"))
    with pytest.raises(Crash):
        work(monitor)
    monitor.close()
    for _ in range(2):
        for _ in range(2):
            shop.say(Command(kind="train", who="ann", key="t"))  # a client that sends it again
        monitor = shop.monitor(registry)
        work(monitor)
        monitor.close()
    assert len(began) == 2
    assert [line.action for line in shop.ledger().lines] == ["promote", "withdraw"]


@pytest.mark.slow
def test_another_definition_of_the_features_stops_nothing(
    shop: Shop, registry: Registry, shop_world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.night()
    monkeypatch.setattr("recsys.model.DEFINITION", "anotherdef12")  # as if the code had one feature more
    shop.send(shop_world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    assert shop.night("2026-03-13").recipe == "none"
    monitor = shop.monitor(registry)
    assert wants(shop, monitor, Command(kind="train", who="ann", key="t"))[-1].count("not judged beside the champion")
    newest = registry.versions()[0]
    assert shop.ledger().version("recipe") == newest.version
    monitor.close()
    shop.send(shop_world.live[1])
    shop.clock.observe(TODAY + 2 * DAY + 2 * HOUR)
    nights = shop.nights()
    monkeypatch.setattr(nights._champion, "_fetch", monitor._fetch)
    assert nights.run("2026-03-14").recipe == newest.version


def test_what_is_damaged_is_said_once_and_the_day_is_judged_when_it_is_whole(
    shop: Shop, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.monitor.RETRY", 0.0)
    version = shop.night().version
    (shop.tables / version / "manifest.json").write_text("{")
    file = max(shop.lake.folder.glob("events/*/*.parquet"))
    whole = file.read_bytes()
    file.unlink()  # a link to the world of all tests
    file.write_bytes(b"PAR1")
    for _ in range(5):
        monitor.step()
    assert sorted(alarm.kind for alarm in shop.alarms(ALARMS)) == ["table"] * 2
    file.write_bytes(whole)
    waits(monitor, lambda: shop.said(REPORTS))
    assert ["manifest.json" in alarm.message for alarm in shop.alarms(ALARMS)].count(True) == 1
    assert wants(shop, monitor, Command(kind="night", who="ann", key="n")) == [] or table.current(shop.tables)


@pytest.mark.parametrize("damage", ["no weekday", "no file", "no Parquet"])
def test_a_reference_that_is_missing_or_damaged_costs_the_drift_and_not_the_report(
    shop: Shop, monitor: Monitor, shop_world: Trained, damage: str
) -> None:
    second_night(shop, shop_world)
    file = shop.var / "recipes" / shop_world.release.digest / "reference.parquet"
    weekday = (DAY_NUMBER + 3) % 7
    rest = pl.read_parquet(file).filter(pl.col("weekday") != weekday)
    file.unlink()
    if damage == "no weekday":
        rest.write_parquet(file)
    elif damage == "no Parquet":
        file.write_bytes(b"PAR1")
    monitor._fetch = lambda _, digest: shop.var / "recipes" / digest  # whatever its digest is
    work(monitor)
    reports = [Report.model_validate(said) for said in shop.said(REPORTS)]
    assert reports[1].drift == {}
    assert reports[1].purchases > 0


def without_position(shop: Shop) -> None:
    """As if the group's position of the commands had been lost."""
    with closing(sqlite3.connect(shop.var / "log.db")) as connection, connection:
        connection.execute(
            "DELETE FROM claims WHERE grp = ? AND stream IN (SELECT stream FROM streams WHERE topic = ?)",
            (GROUP, COMMANDS.name),
        )


@pytest.mark.parametrize("known_by", ["ledger", "reports"])
def test_without_its_positions_a_monitor_repeats_no_command(
    shop: Shop, shop_world: Trained, registry: Registry, known_by: str
) -> None:
    _, second = second_night(shop, shop_world)
    with closing(shop.monitor(registry)) as monitor:
        if known_by == "ledger":
            monitor._consumer.close()
            monitor._consumer = shop.log.consumer(GROUP, [COMMANDS], "monitor")
            back = Command(kind="rollback", who="ann", expected_champion=second, key="r")
            assert wants(shop, monitor, back) == []
        else:
            work(monitor)
            assert shop.said(REPORTS)
    without_position(shop)
    shop.say(Command(kind="withdraw", who="ann", expected_champion="1", key="earlier"))
    end = shop.log.ends(COMMANDS)[0]
    for _ in range(2):
        with closing(shop.monitor(registry)) as monitor:
            work(monitor)
    (said,) = [alarm.message for alarm in shop.alarms(ALARMS) if alarm.kind == "command"]
    assert f"commands before offset {end} are not carried out" in said
    assert shop.ledger().version("recipe") == "1"
    with closing(shop.monitor(registry)) as monitor:
        assert wants(shop, monitor, Command(kind="withdraw", who="ann", expected_champion="1", key="w")) == []
    assert shop.ledger().version("recipe") == "none"


def test_the_first_command_is_carried_out_however_long_a_monitor_had_none(
    shop: Shop, shop_world: Trained, registry: Registry
) -> None:
    first, second = second_night(shop, shop_world)
    with closing(shop.monitor(registry)) as monitor:
        work(monitor)
    assert shop.said(REPORTS)
    shop.say(Command(kind="rollback", who="ann", expected_champion=second, key="r"))
    with closing(shop.monitor(registry)) as monitor:
        work(monitor)
    assert table.current(shop.tables) == first
    assert shop.alarms(ALARMS) == []


def test_only_the_monitor_that_owns_the_commands_tells_what_it_does(shop: Shop, registry: Registry) -> None:
    with closing(shop.monitor(registry)) as monitor:
        work(monitor)
        beats = len(shop.read(HEARTBEATS))
        assert beats > 0
        monitor._consumer.owned.pop(Place(COMMANDS.name, 0))  # type: ignore[attr-defined]  # as another has it now
        monitor._heart._next = 0.0
        monitor._consumer.poll = lambda *_: []  # type: ignore[method-assign]
        monitor.step()
        assert len(shop.read(HEARTBEATS)) == beats


def test_after_a_withdrawal_no_version_bears_the_alias(shop: Shop, monitor: Monitor, registry: Registry) -> None:
    waits(monitor, lambda: registry.alias("champion") == "1")
    wants(shop, monitor, Command(kind="withdraw", who="ann", expected_champion="1", key="w"))
    waits(monitor, lambda: registry.alias("champion") is None)


def test_a_day_is_judged_by_the_table_that_its_lists_came_from(
    shop: Shop, shop_world: Trained, monitor: Monitor
) -> None:
    shown = shop.night().version
    releases = shop.nights().releases
    releases.withdraw(who="ann", why="bad", key="w", expected="1")
    shop.send(shop_world.live[0])
    noon = TODAY + 12 * HOUR
    shop.clock.observe(noon)
    for number, version in enumerate([shown, shown, "2026-03-11-0000abcd"]):
        given = {"list_id": f"l{number}", "user": "ann", "at": noon, "version": version, "path": "table"}
        list_ = Impression.model_validate(given | {"items": ("i00001",), "sources": ("als",)})
        shop.log.append([Entry(IMPRESSIONS, "ann", list_.model_dump_json().encode())])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    assert shop.night("2026-03-13").recipe == "none"
    work(monitor)
    report = Report.model_validate(shop.said(REPORTS)[-1])
    assert (report.day, report.version, report.lists) == (DAY_NUMBER, shown, 3)
    assert set(report.drift) == {"category", "price", "small", "hour"}, (
        "against the reference of the recipe that ranked"
    )


def test_a_monitor_that_comes_back_repeats_no_alarm(shop: Shop, registry: Registry) -> None:
    version = shop.night().version
    (shop.tables / version / "manifest.json").write_text("{")
    for _ in range(3):
        monitor = shop.monitor(registry)
        work(monitor)
        monitor.close()
    assert [alarm.kind for alarm in shop.alarms(ALARMS)] == ["table"]


def test_a_recipe_that_no_longer_replaces_what_was_in_force_is_not_promoted(
    shop: Shop, monitor: Monitor, registry: Registry, shop_world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.version(shop_world.release.version)._replace(version="7")

    def withdrawn_meanwhile(*_: object, **__: object) -> Candidate:
        shop.nights().releases.withdraw(who="ann", why="bad", key="w", expected="1")
        return Candidate(version, "")

    monkeypatch.setattr("recsys.train.train", withdrawn_meanwhile)
    (said,) = wants(shop, monitor, Command(kind="train", who="ann", key="t"))
    assert "recipe 7 not promoted" in said
    assert shop.ledger().version("recipe") == "none"
