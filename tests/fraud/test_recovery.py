"""A partition is rebuilt from snapshot, lake and log, whatever the log still holds, and decides as before."""

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from prometheus_client import CollectorRegistry

from fraud.config import PARTITIONS
from fraud.edge import Edge
from fraud.ingest import DECIDERS, GROUP, Ingest, check_past
from fraud.schema import ALARMS, BOOK, DECISIONS, EVENTS, Alarm, Cell, Decision
from fraud.stream import entries_of
from fraud.terminals import Book
from shared.clock import monotonic, sleep
from shared.eventlog.port import MAX_RECORD
from shared.lake import HISTORY
from shared.store import open_store
from shared.unusable import Unusable
from tests.fraud.bank import KEY, Bank, Trained, copied, days, payments
from tests.retention import shorten


def take_in(bank: Bank) -> None:
    """All that has been decided; a member has to be given its partitions first."""
    ingest, until = Ingest(bank.log, bank.lake), monotonic() + 30
    with closing(ingest.consumer):
        while offsets(bank, GROUP) != offsets(bank, DECIDERS):
            ingest.catch_up()
            assert monotonic() < until


def offsets(bank: Bank, group: str) -> dict[int, int]:
    return {n: position.offset for n, position in bank.log.committed(group, EVENTS).items()}


def messages(bank: Bank, kind: str) -> list[str]:
    alarms = [Alarm.model_validate_json(record.value) for record in bank.read(ALARMS)]
    return [alarm.message for alarm in alarms if alarm.kind == kind]


@pytest.fixture(scope="module")
def undisturbed(world: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Decision]:
    """The decisions of two live days by a worker to which nothing happens."""
    with closing(copied(world, tmp_path_factory.mktemp("undisturbed") / "var")) as bank:
        bank.send(days(world, 0, 1))
        bank.decide()
        return bank.decisions()


def parts(world: Trained) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    rows = days(world, 0, 1)
    third = rows.height // 3
    return rows.head(third), rows.slice(third, third), rows.slice(2 * third)


def seen(decisions: dict[str, Decision]) -> dict[str, object]:
    """All but the place in the log, which a broker numbers in another way."""
    return {identity: decision.model_copy(update={"offset": 0}) for identity, decision in decisions.items()}


@pytest.mark.parametrize("snapshot", ["none", "older than the log"])
def test_what_the_log_has_let_go_of_comes_from_the_lake(
    any_bank: Bank, world: Trained, undisturbed: dict[str, Decision], snapshot: str
) -> None:
    bank = any_bank
    first, second, third = parts(world)
    bank.send(first)
    bank.decide()
    take_in(bank)
    taken = offsets(bank, GROUP)
    bank.send(second)  # this is decided, and stands in the log only
    bank.decide()
    shutil.rmtree(bank.var / "snapshots")
    if snapshot != "none":
        shutil.copytree(world.var / "snapshots", bank.var / "snapshots")  # it knows what was before the log
    shorten(bank.log, EVENTS, taken)
    bank.send(third)
    bank.decide()
    assert seen(bank.decisions()) == seen(undisturbed)
    assert messages(bank, "positions") == []


def test_records_that_are_in_neither_are_an_alarm_and_the_worker_goes_on(bank: Bank, world: Trained) -> None:
    first, second, _ = parts(world)
    bank.send(first)
    bank.decide()
    shutil.rmtree(bank.var / "snapshots")
    shorten(bank.log, EVENTS, bank.log.ends(EVENTS))
    bank.send(second)
    bank.decide()
    assert {x.identity for x in payments(second)} <= set(bank.decisions())
    assert len(messages(bank, "positions")) == PARTITIONS
    assert all("are in neither log nor lake" in message for message in messages(bank, "positions"))


def test_a_worker_whose_undecided_events_have_gone_goes_on_with_what_is_left(any_bank: Bank, world: Trained) -> None:
    bank = any_bank
    first, second, third = parts(world)
    bank.send(first)
    bank.decide()
    bank.send(second)
    shorten(bank.log, EVENTS, bank.log.ends(EVENTS))
    bank.send(third)
    bank.decide()
    assert set(bank.decisions()) == {x.identity for x in payments(pl.concat([first, third]))}
    assert any("went before they were decided" in message for message in messages(bank, "positions"))


def test_a_gateway_with_an_empty_view_answers_from_the_decisions_that_are_left(any_bank: Bank, world: Trained) -> None:
    bank = any_bank
    first, second, _ = parts(world)
    bank.send(first)
    bank.decide()
    shorten(bank.log, DECISIONS, bank.log.ends(DECISIONS))
    bank.send(second)
    bank.decide()
    edge = Edge(
        bank.log,
        open_store(f"sqlite:///{bank.var}/empty.db", clock=bank.clock),
        secret=KEY,
        clock=bank.clock,
        metrics=CollectorRegistry(),
    )
    edge.needed.start()
    try:
        until = monotonic() + 20
        while not edge.needed.caught_up:
            assert monotonic() < until, edge.needed.ready()
            sleep(0.01)
        assert all(edge.decision(x.identity) is not None for x in payments(second))
        assert edge.decision(payments(first)[0].identity) is None
    finally:
        edge.needed.stop()


# --- an hour of very many terminals --------------------------------------------------------------------------------


def hour_of(terminals: int, hour: int = 500_000) -> Cell:
    counts = {f"{n:064}": (n % 9 + 1, n % 2) for n in range(terminals)}
    return Cell(partition=3, hour=hour, until=hour, counts=counts)


def test_an_hour_of_40_000_terminals_is_several_records_and_one_cell(any_bank: Bank) -> None:
    entries = entries_of(hour_of(40_000))
    assert len(entries) == len({entry.key for entry in entries}) == 4
    assert max(len(entry.value) for entry in entries) < MAX_RECORD
    any_bank.log.append(entries)
    records = any_bank.read(BOOK)[-4:]
    whole, split = Book(), Book()
    whole.add([hour_of(40_000)])
    for record in records[:3] * 2:  # a part that is read again changes nothing
        split.add([Cell.model_validate_json(record.value)])
        assert split.closed[3] == -1
    split.add([Cell.model_validate_json(records[3].value)])
    assert split.closed == whole.closed
    assert split._waiting == whole._waiting


def test_an_hour_whose_first_parts_have_gone_from_the_log_does_not_hold_up_the_next() -> None:
    book = Book()
    lost, following = entries_of(hour_of(25_000)), entries_of(hour_of(25_000, 500_001))
    for entry in [*lost[1:], *following]:
        book.add([Cell.model_validate_json(entry.value)])
    assert book.closed[3] == 500_001
    assert [len(cell.counts) for cell in book._waiting[500_001]] == [25_000]


def test_an_hour_without_or_with_few_terminals_is_one_record() -> None:
    assert [entry.key for entry in entries_of(hour_of(0))] == ["3:500000"]
    assert [entry.key for entry in entries_of(hour_of(10_000))] == ["3:500000"]


# --- the lake, made again ------------------------------------------------------------------------------------------


def test_a_damaged_lake_is_made_again_from_files_and_log(any_bank: Bank, world: Trained) -> None:
    bank = any_bank
    first, second, _ = parts(world)
    bank.send(first)
    bank.decide()
    take_in(bank)
    shorten(bank.log, EVENTS, {n: end // 2 for n, end in bank.log.ends(EVENTS).items()})
    bank.send(second)
    bank.decide()
    take_in(bank)
    tables = ("events", "decisions", "refusals")
    before = {table: bank.lake.read(table) for table in tables}
    next(path for path in bank.lake.folder.glob("events/*/*.parquet") if not path.stem.startswith(HISTORY)).unlink()
    assert bank.lake.read("events").height < before["events"].height
    done = subprocess.run(bank.command("ingest", "--rebuild"), capture_output=True, text=True, check=True)
    assert "the lake is made again" in done.stdout
    for table in tables:
        assert_frame_equal(bank.lake.read(table), before[table])
    take_in(bank)  # goes on where it was
    assert_frame_equal(bank.lake.read("events"), before["events"])


def test_a_file_is_not_ingested_behind_the_back_of_workers_that_remember(bank: Bank, tmp_path: Path) -> None:
    snapshots = bank.var / "snapshots"
    check_past(bank.log, tmp_path / "none")  # before they begin, and when they have forgotten
    bank.decide()
    with pytest.raises(Unusable, match=f"delete the folder {snapshots}, ingest the file, and start the service"):
        check_past(bank.log, snapshots)
    shutil.rmtree(snapshots)
    check_past(bank.log, snapshots)
