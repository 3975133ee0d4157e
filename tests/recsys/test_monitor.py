"""Days judged, alarms with their action, commands carried out."""

import threading
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from recsys import config, table
from recsys.config import DAY, HOUR
from recsys.ledger import entry
from recsys.monitor import Monitor
from recsys.schema import ALARMS, COMMANDS, DEAD, NIGHTS, REPORTS, Command, Report, in_force
from shared.clock import VirtualClock
from shared.eventlog.port import Entry
from shared.registry import Registry
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
    shop.log.append([Entry(COMMANDS, command.kind, command.model_dump_json().encode())])
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
        monitor._alarm_on(Report(day=day, lists=400, clicks=clicks, usual_clicks=1.0, **plain))
    monitor._commit({})
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
    assert wants(shop, monitor, Command(kind="rollback", who="ann", why="odd")) == []
    assert table.current(shop.tables) == first
    (said,) = wants(shop, monitor, Command(kind="rollback", who="ann"))
    assert "no table before this one" in said


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
    (said,) = wants(shop, monitor, Command(kind="promote", version=refused.version, who="ann"))
    assert "too bad" in said
    assert wants(shop, monitor, Command(kind="promote", version=refused.version, force=True, who="ann")) == []
    assert in_force(shop.ledger(), "recipe").version == refused.version  # type: ignore[union-attr]  # there is one
    (said,) = wants(shop, monitor, Command(kind="promote", version="999", who="ann"))
    assert "999" in said


def test_a_recipe_trained_by_command_is_judged_beside_the_champion(
    monitor: Monitor, shop: Shop, registry: Registry
) -> None:
    wants(shop, monitor, Command(kind="train", who="ann"))
    newest = registry.versions()[0]
    assert newest.figures["champion_ndcg"] > 0
    assert (registry.tags(newest.version)["gate"] == "passed") == (
        in_force(shop.ledger(), "recipe").version == newest.version  # type: ignore[union-attr]  # there is one
    )


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
    shop.log.append([entry(shop.ledger()[-1])])
    assert len(shop.said(REPORTS)) == 1
