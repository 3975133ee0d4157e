"""What is in force, however often it is asked for and whatever dies in between: tables, recipes and the way back."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from recsys import batch, table
from recsys.__main__ import app
from recsys.config import DAY, HOUR
from recsys.schema import ALARMS, COMMANDS, NIGHTS, Alarm, Command, Night, Release
from recsys.table import Table, TableCorrupt
from shared.cli import claim
from shared.eventlog.port import Entry, LogUnavailable, Record, Topic, beginning
from shared.releases import NONE
from tests.recsys.operations import Crash, Operations
from tests.recsys.shop import TODAY, Shop, Trained, copied

DIGITS = iter(range(1_000_000))


@pytest.fixture
def operations(tmp_path: Path) -> Iterator[Operations]:
    """A shop whose nights publish prepared tables; recipe 1 is in force."""
    with closing(Operations(tmp_path / "var", f"sqlite:///{tmp_path}/log.db")) as operations:
        change(operations, "promote", version="1")
        yield operations


def change(operations: Operations, kind: str, *, version: str | None = None, key: str = "") -> None:
    """A command that knows what is in force."""
    expected = operations.ledger().version("table" if kind == "rollback" else "recipe")
    operations.command(kind, version=version, expected=expected, key=key or f"key-{next(DIGITS)}")
    operations.run()


def night(operations: Operations, kind: str = "night") -> str:
    operations.step(kind)
    return operations.in_force("table")


def read(operations: Operations, topic: Topic) -> list[Record]:
    with closing(operations._real.reader(beginning([topic]))) as reader:
        return reader.poll(10_000, 0.0)


def last_night(operations: Operations) -> Night:
    return Night.model_validate_json(read(operations, NIGHTS)[-1].value)


def alarms(operations: Operations) -> list[str]:
    return [Alarm.model_validate_json(record.value).message for record in read(operations, ALARMS)]


def manifest(operations: Operations) -> table.Manifest:
    return Table.open(operations._folder / "tables" / operations.in_force("table")).manifest


# --- tables ------------------------------------------------------------------------------------------


def test_a_night_run_again_does_not_undo_a_rollback_and_says_so(operations: Operations) -> None:
    first, second = night(operations), night(operations)
    change(operations, "rollback")
    assert night(operations, "rerun") == first
    assert f"{second} was rolled back" in last_night(operations).refused
    third = night(operations)
    assert third not in (first, second)


def test_a_night_by_command_undoes_a_rollback_only_by_force(operations: Operations) -> None:
    first, second = night(operations), night(operations)
    change(operations, "rollback")
    change(operations, "night")
    assert (operations.in_force("table"), last_night(operations).refused[: len(second)]) == (first, second)
    operations._clock.observe(operations._clock.now() + 1)
    operations._log.append(
        [Entry(COMMANDS, "night", Command(kind="night", who="ann", force=True).model_dump_json().encode())]
    )
    operations.run()
    assert operations.in_force("table") not in (first, second)


def test_a_rollback_never_goes_to_a_table_that_was_rolled_back(operations: Operations) -> None:
    first = night(operations)
    night(operations)
    change(operations, "rollback")
    night(operations)
    change(operations, "rollback")
    assert operations.in_force("table") == first


def test_an_older_night_does_not_take_the_place_of_a_newer_table(operations: Operations) -> None:
    night(operations)
    newer = night(operations)
    assert night(operations, "older") == newer
    assert f"a newer table, {newer}, is in force" in last_night(operations).refused


def test_a_night_that_was_begun_earlier_and_ends_later_does_not_either(operations: Operations) -> None:
    night(operations)
    folder = operations._folder / "nights" / operations._dates[-1]
    frozen = json.loads((folder / "frozen.json").read_text())
    newer = night(operations)
    late = operations._folder / "nights" / operations._dates[-1]
    (late / "frozen.json").write_text(json.dumps(frozen))
    assert night(operations, "rerun") == newer
    assert "a newer table" in last_night(operations).refused


# --- recipes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["intent", "switch", "done"])
def test_a_rollback_that_dies_is_finished_with_its_recipe(operations: Operations, after: str) -> None:
    first = night(operations)
    change(operations, "promote", version="2")
    second = night(operations)
    operations.crash(after)
    change(operations, "rollback", key="back")
    operations.restart()
    operations.run()
    operations.run()
    ledger = operations.ledger()
    assert (operations.in_force("table"), ledger.version("table"), ledger.version("recipe")) == (first, first, "1")
    assert [line.subject for line in ledger.lines if line.key == "back"] == ["recipe", "table"]
    assert ledger.intents() == []
    night(operations)
    assert manifest(operations).recipe == "1"
    assert second in ledger.known_bad("table")


@pytest.mark.parametrize("then", ["rollback", "night"])
def test_a_pointer_that_cannot_be_written_changes_nothing(
    operations: Operations, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    night(operations)
    change(operations, "promote", version="2")
    second = night(operations)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    releases = operations._nights().releases
    with monkeypatch.context() as patch:
        patch.setattr(table, "point", full)
        with pytest.raises(OSError, match="no space"):
            releases.roll_back(who="ann", why="bad recipe", key="back", expected=second)
        ledger = operations.ledger()
        assert (operations.in_force("table"), ledger.version("table"), ledger.version("recipe")) == (
            second,
            second,
            "2",
        )
        if then == "rollback":  # of another key: it gives the first one up while the disk is full
            with pytest.raises(OSError, match="no space"):
                releases.roll_back(who="ann", why="bad recipe", key="other", expected=second)
            assert operations.ledger().version("recipe") == "2"
    if then == "night":
        night(operations)
        assert [line.subject for line in operations.ledger().lines if line.key == "back"] == ["recipe", "table"]


def test_a_log_that_goes_away_within_a_rollback_leaves_nothing_by_half(
    operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = night(operations)
    change(operations, "promote", version="2")
    night(operations)
    releases = operations._nights().releases
    real, seen = operations._real.append, []

    def away(entries: list[Entry]) -> list[tuple[int, int]]:
        seen.append(entries)
        if len(seen) > 1:
            raise LogUnavailable("the broker is away")
        return real(entries)

    with monkeypatch.context() as patch:
        patch.setattr(operations._log, "append", away, raising=False)
        expected = operations.in_force("table")
        with pytest.raises(LogUnavailable):
            releases.roll_back(who="ann", why="bad recipe", key="back", expected=expected)
    night(operations)
    ledger = operations.ledger()
    lines = [(line.subject, line.action, line.version) for line in ledger.lines if line.key == "back"]
    assert lines == [("recipe", "rollback", "1"), ("table", "rollback", first)]
    assert manifest(operations).recipe == "1"


def test_one_command_rolls_back_once_though_the_monitor_dies_before_it_is_committed(
    operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(operations)
    second = night(operations)
    night(operations)
    monitor = operations._monitor
    assert monitor is not None

    def dies(_: list[Entry]) -> None:
        raise Crash

    monkeypatch.setattr(monitor, "_commit", dies)
    change(operations, "rollback", key="once")
    assert operations.in_force("table") == second
    operations.restart()
    operations.run()
    assert operations.in_force("table") == second
    assert [line.key for line in operations.ledger().lines].count("once") == 1


def test_a_withdrawn_recipe_ranks_no_more_and_the_table_stays(operations: Operations) -> None:
    first = night(operations)
    assert manifest(operations).bundle == "1"
    change(operations, "withdraw")
    assert (operations.in_force("table"), operations.in_force("recipe")) == (first, NONE)
    night(operations)
    assert (manifest(operations).bundle, manifest(operations).recipe, last_night(operations).recipe) == (NONE,) * 3
    change(operations, "promote", version="1")
    assert "rolled back or withdrawn" in alarms(operations)[-1]
    change(operations, "promote", version="2")
    night(operations)
    assert manifest(operations).bundle == "2"


def test_a_night_that_was_begun_with_a_recipe_since_withdrawn_begins_again_without_it(operations: Operations) -> None:
    night(operations)
    operations.crash("intent")
    night(operations)  # dies before its table is in force
    change(operations, "withdraw")
    operations.restart()
    night(operations, "rerun")
    assert (manifest(operations).date, manifest(operations).bundle) == (operations._dates[-1], NONE)


def test_a_rollback_to_a_table_of_the_hand_blend_takes_the_recipe_away(operations: Operations) -> None:
    change(operations, "withdraw")
    night(operations)
    change(operations, "promote", version="2")
    night(operations)
    change(operations, "rollback")
    assert operations.in_force("recipe") == NONE


def test_promoting_the_recipe_in_force_changes_nothing(operations: Operations) -> None:
    before = len(operations.ledger().lines)
    change(operations, "promote", version="1")
    assert len(operations.ledger().lines) == before
    assert "in force already" in alarms(operations)[-1]


@pytest.mark.parametrize("kind", ["promote", "rollback", "withdraw"])
def test_a_command_that_does_not_say_what_it_replaces_or_has_no_key_changes_nothing(
    operations: Operations, kind: str
) -> None:
    night(operations)
    night(operations)
    before = len(operations.ledger().lines)
    current = operations.in_force("table" if kind == "rollback" else "recipe")
    for given in ({"key": "k1"}, {"key": "k2", "expected_champion": "another"}, {"expected_champion": current}):
        command = Command.model_validate({"kind": kind, "who": "ann", "version": None, **given})
        operations._real.append([Entry(COMMANDS, kind, command.model_dump_json().encode())])
    operations.run()
    assert len(operations.ledger().lines) == before
    assert len(alarms(operations)) == 3


# --- nights that go wrong ------------------------------------------------------------------------------


def second_night(shop: Shop, world: Trained) -> str:
    first = shop.night().version
    shop.send(world.live[0])
    shop.clock.observe(TODAY + DAY + 2 * HOUR)
    return first


def test_a_recipe_that_cannot_be_had_on_the_second_night_is_not_said_to_have_ranked(
    shop: Shop, shop_world: Trained
) -> None:
    second_night(shop, shop_world)
    recipes = shop.var / "recipes"
    recipes.rename(shop.var / "away")
    night = shop.night("2026-03-13")
    assert [alarm.kind for alarm in shop.alarms(ALARMS)] == ["recipe"]
    found = Table.open(shop.tables / night.version).manifest
    assert (night.recipe, found.recipe, found.bundle, found.recipe_digest) == (NONE, NONE, NONE, "")
    (shop.var / "away").rename(recipes)
    shop.send(shop_world.live[1])
    shop.clock.observe(TODAY + 2 * DAY + 2 * HOUR)
    assert shop.night("2026-03-14").recipe == shop_world.release.version


def stopped_at(step: str) -> Callable[[str], None]:
    def reached(name: str) -> None:
        if name == step:
            raise Crash

    return reached


def test_what_a_crash_has_damaged_is_made_again(shop: Shop, shop_world: Trained) -> None:
    second_night(shop, shop_world)
    folder = shop.var / "nights" / "2026-03-13"
    with pytest.raises(Crash):
        shop.nights(stopped_at("gate")).run("2026-03-13")
    whole = Table.open(folder / "table").version
    for file in ("sources.npz", "ranked.npz", "table/main/items.npy"):
        (folder / file).write_bytes((folder / file).read_bytes()[:-50])
    (folder / ".table").mkdir()
    (folder / "published").write_text("2026-03-13-00000000")
    assert shop.night("2026-03-13").version == whole
    shutil.rmtree(shop.tables / whole / "main")  # even what was published
    assert shop.night("2026-03-13").version == whole
    assert Table.open(shop.tables / whole)
    (folder / "frozen.json").write_text('{"cut": 1')
    assert shop.night("2026-03-13").version


def test_a_step_that_fails_leaves_yesterday_s_table_and_is_begun_again(
    shop: Shop, shop_world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = second_night(shop, shop_world)

    def broken(*_: object, **__: object) -> None:
        raise FloatingPointError("the factors are no numbers")

    with monkeypatch.context() as patch:
        patch.setattr(batch, "fit", broken)
        night = shop.night("2026-03-13")
    assert "step sources failed" in night.refused
    assert "no numbers" in night.refused
    assert shop.said(NIGHTS)[-1]["refused"] == night.refused
    assert [alarm.kind for alarm in shop.alarms(ALARMS)] == ["night"]
    assert table.current(shop.tables) == first
    begun = (shop.var / "nights" / "2026-03-13" / "frozen.json").read_text()
    assert shop.night("2026-03-13").version
    assert (shop.var / "nights" / "2026-03-13" / "frozen.json").read_text() == begun


def test_a_night_with_yesterday_s_table_damaged_is_published_uncompared(shop: Shop, shop_world: Trained) -> None:
    first = second_night(shop, shop_world)
    (shop.tables / first / "manifest.json").write_text("{")
    night = shop.night("2026-03-13")
    assert night.version == table.current(shop.tables)
    assert "overlap" not in night.figures
    assert {alarm.kind for alarm in shop.alarms(ALARMS)} == {"table"}


def command(shop: Shop, *words: str) -> tuple[int, str]:
    options = ["--var", str(shop.var), "--log", shop.url, "--virtual", str(shop.clock.now())]
    said = CliRunner().invoke(app, [*options, *words], env={"COLUMNS": "400"})
    assert said.exception is None or isinstance(said.exception, SystemExit), said.exception
    return said.exit_code, said.stderr


def test_the_command_says_in_a_sentence_why_nothing_was_published(shop: Shop) -> None:
    file = next((shop.var / "recsys" / "lake").rglob("*.parquet"))
    whole = file.read_bytes()
    file.unlink()  # a link to the world of all tests
    file.write_bytes(b"PAR1")
    code, said = command(shop, "night")
    assert (code, "nothing is published: step sources failed" in said) == (1, True)
    assert file.name in said
    file.write_bytes(whole)
    (shop.var / "nights").rename(shop.var / "elsewhere")
    (shop.var / "nights").touch()  # a disk that cannot be written to
    code, said = command(shop, "night")
    assert (code, "The night is not over" in said) == (1, True)
    assert "Traceback" not in said
    assert command(shop, "night", "--date", "tomorrow")[0] == 2


def test_a_second_monitor_on_a_machine_is_refused_in_a_sentence(shop: Shop) -> None:
    with claim(shop.var, "recsys-monitor"):
        code, said = command(shop, "monitor")
    assert (code, "recsys-monitor is already running on this machine" in said) == (2, True)


def test_the_command_rolls_back_only_what_it_names(shop: Shop, shop_world: Trained) -> None:
    first = second_night(shop, shop_world)
    second = shop.night("2026-03-13").version
    code, said = command(shop, "rollback")
    assert (code, f"--expected {second}" in said) == (2, True)
    code, said = command(shop, "rollback", "--expected", first)
    assert (code, "but version" in said) == (2, True)
    assert table.current(shop.tables) == second
    assert command(shop, "rollback", "--expected", second)[0] == 0
    assert table.current(shop.tables) == first


def test_a_manifest_of_before_has_the_version_that_it_had(shop: Shop) -> None:
    version = shop.night().version
    folder = shop.tables / version
    known = json.loads((folder / "manifest.json").read_text())
    older = {name: value for name, value in known.items() if name != "bundle"}
    for other in (older, known | {"canary": 1}):
        text = json.dumps(other, sort_keys=True, indent=1)
        target = shop.tables / table.version_of(other["date"], text.encode())
        shutil.copytree(folder, target, copy_function=os.link)
        (target / "manifest.json").unlink()
        (target / "manifest.json").write_text(text)
        made = Table.open(target)
        assert made.version == target.name
        assert np.array_equal(made.first_ten()[1], Table.open(folder).first_ten()[1])


def test_a_pointer_that_was_put_back_by_hand_does_not_bring_a_bad_table_back(operations: Operations) -> None:
    first, second = night(operations), night(operations)
    change(operations, "rollback")
    table.point(operations._folder / "tables", second)
    with operations._nights().releases.changing():
        pass
    assert operations.in_force("table") == first


def test_a_pointer_that_is_gone_is_written_again(operations: Operations) -> None:
    night(operations)
    (operations._folder / "tables" / "CURRENT").unlink()
    published = night(operations, "rerun")
    assert (published, operations.in_force("table")) == (published, operations.ledger().version("table"))


def test_a_command_that_was_refused_stays_refused_when_it_is_read_again(operations: Operations) -> None:
    """Its answer names its key, since the position may stand before a command that still waits."""
    operations.command("withdraw", version=None, expected="7", key="refused")
    operations.run()
    answers = [Alarm.model_validate_json(record.value) for record in read(operations, ALARMS)]
    assert [alarm.key for alarm in answers if alarm.kind == "command"] == ["refused"]
    operations.restart()
    with closing(operations._new_monitor()) as monitor:
        assert "refused" in monitor._keys


@pytest.mark.parametrize("date", ["1970-01-01", "1969-12-31", "0001-01-01", "9999-12-31"])
def test_a_night_of_a_date_that_has_no_day_before_it_cannot_be_read(date: str) -> None:
    with pytest.raises(ValueError, match="1970-01-02 to 2105-12-31"):
        Night(date=date, at=TODAY)


def test_what_another_process_is_changing_is_left_alone(shop: Shop, shop_world: Trained) -> None:
    other = copied(shop_world, shop.var / "other")
    with table.sole(shop.tables), pytest.raises(table.Busy):
        shop.roll_back()
    other.close()
    assert isinstance(shop.ledger().champion("recipe"), Release)


@pytest.mark.parametrize("where", ["../elsewhere/", "{tables}/../elsewhere/"])
def test_a_table_of_another_folder_is_never_in_force(operations: Operations, where: str) -> None:
    """A line in the ledger must not choose what is shown from all that is on the disk."""
    first, second = night(operations), night(operations)
    tables = operations._folder / "tables"
    (operations._folder / "elsewhere").mkdir()
    (tables / first).rename(operations._folder / "elsewhere" / first)
    releases = operations._nights().releases
    line = releases.ledger().champion("table")
    assert line is not None
    hostile = line.model_copy(update={"version": where.format(tables=tables) + first, "key": "hostile"})
    with pytest.raises(TableCorrupt, match="no table"):
        releases._switch(hostile)
    assert operations.in_force("table") == second == table.current(tables)
