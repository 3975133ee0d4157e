"""What an owner remembers survives a restart, or is known to be damaged."""

import os
import tempfile
from itertools import chain
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud import dataset, snapshot
from fraud.config import DAY, PARTITIONS, REMEMBER
from fraud.schema import Cell, Event, Transaction
from fraud.snapshot import Memory, SnapshotUnusable
from fraud.terminals import Book
from fraud.windows import Card
from tests.worlds import KEY, START, Replay, bank, label, payment, troubled

FILE = "partition-2.snapshot"


def recall(memory: Memory, paid: Transaction) -> str:
    return memory.recall(paid, paid.fingerprint(KEY))


def memory(payments: int) -> Memory:
    """Partition 2 after so many payments, an hour apart."""
    made = Memory(2)
    for hour in range(payments):
        paid = payment(START + hour * 3_600, 1_00 + hour, terminal=f"shop-{hour % 3}")
        assert recall(made, paid) == "new"
        made.state.step(paid, Book())
        made.state.step(label(paid, START + hour * 3_600), Book())
        made.offset += 2
    return made


@pytest.fixture(scope="module")
def saved() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        memory(30).save(Path(folder))
        return (Path(folder) / FILE).read_bytes()


def load(folder: Path, *, until: int = 10**9) -> Memory:
    return Memory.load(folder, 2, until=until)


def state(mine: Memory) -> object:
    """All that is in it, to be compared."""
    cards = {
        name: [list(getattr(card, column)) for column in snapshot.COLUMNS] for name, card in mine.state.cards.items()
    }
    hour = (mine.state.open.hour, mine.state.open.counts)
    return mine.offset, mine.state.watermark, hour, list(mine.state.verdicts.items()), list(mine._seen.items()), cards


def test_a_save_that_is_overtaken_by_another_owner_s_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale, mine, sync = memory(10), memory(30), os.fsync

    def stopped(file: int) -> None:
        """The dead owner hangs here; the new one saves; the dead one comes back."""
        monkeypatch.setattr(os, "fsync", sync)
        mine.save(tmp_path)
        sync(file)

    monkeypatch.setattr(os, "fsync", stopped)
    stale.save(tmp_path)
    assert state(load(tmp_path)) == state(mine)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    mine = memory(30)
    mine.save(tmp_path)
    assert state(load(tmp_path)) == state(mine)


def test_every_column_of_a_card_is_kept() -> None:
    assert set(snapshot.COLUMNS) == set(Card.__slots__)


def test_two_are_kept_and_nothing_else(tmp_path: Path) -> None:
    for payments in (1, 2, 3):
        memory(payments).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["partition-2.previous", FILE]


def test_one_ahead_of_the_committed_offset_is_not_used(tmp_path: Path) -> None:
    memory(3).save(tmp_path)
    memory(5).save(tmp_path)
    assert [load(tmp_path, until=until).offset for until in (11, 10, 9, 6)] == [10, 10, 6, 6]
    with pytest.raises(SnapshotUnusable):
        load(tmp_path, until=5)


def test_without_a_snapshot_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SnapshotUnusable, match="partition 2"):
        load(tmp_path / "none")
    memory(1).save(tmp_path)
    with pytest.raises(SnapshotUnusable, match="partition 3"):
        Memory.load(tmp_path, 3, until=10**9)


@given(st.data())
def test_cut_anywhere_the_one_before_is_used(saved: bytes, data: st.DataObject) -> None:
    _damaged(saved[: data.draw(st.integers(0, len(saved) - 1))])


@given(st.data())
def test_with_a_bit_flipped_anywhere_the_one_before_is_used(saved: bytes, data: st.DataObject) -> None:
    place, bit = data.draw(st.integers(0, len(saved) - 1)), data.draw(st.integers(0, 7))
    _damaged(saved[:place] + bytes([saved[place] ^ 1 << bit]) + saved[place + 1 :])


def _damaged(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / FILE).write_bytes(content)
        with pytest.raises(SnapshotUnusable):
            load(folder)
        (folder / FILE).unlink()
        memory(3).save(folder)
        (folder / FILE).replace(folder / "partition-2.previous")
        (folder / FILE).write_bytes(content)
        assert load(folder).offset == 6


def test_one_of_another_definition_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory(3).save(tmp_path)
    monkeypatch.setattr(snapshot, "DEFINITION", "another")
    with pytest.raises(SnapshotUnusable):
        load(tmp_path)


# --- what it remembers ---------------------------------------------------------------------------


def test_the_same_content_is_a_repeat_and_other_content_a_conflict(tmp_path: Path) -> None:
    paid = payment(START)
    mine = Memory(2)
    assert [recall(mine, paid), recall(mine, paid)] == ["new", "repeat"]
    mine.save(tmp_path)
    for again in (mine, load(tmp_path)):
        assert recall(again, paid) == "repeat"
        for other in ({"cents": 1}, {"at": START + 1}, {"terminal": "t2"}, {"device": None}, {"country": "FR"}):
            assert recall(again, paid.model_copy(update=other)) == "conflict"
        assert recall(again, paid) == "repeat"  # a conflict does not take its place


def test_the_same_id_on_another_card_is_another_payment() -> None:
    mine = Memory(2)
    assert (
        recall(mine, payment(START, card="one", id="tx")) == recall(mine, payment(START, card="two", id="tx")) == "new"
    )


def test_a_payment_is_remembered_for_days_of_event_time() -> None:
    mine, first = Memory(2), payment(START, id="first")
    recall(mine, first)
    for since, known in ((0, "repeat"), (REMEMBER, "repeat"), (REMEMBER + DAY, "new")):
        mine.state.step(payment(START + since, id=f"step-{since}"), Book())
        recall(mine, payment(START + since, id=f"recall-{since}"))
        assert recall(mine, first) == known


def test_a_late_payment_is_remembered_from_its_arrival() -> None:
    mine, late = Memory(2), payment(START - 5 * DAY, id="late")
    mine.state.step(payment(START), Book())
    recall(mine, late)
    mine.state.step(payment(START + 3 * DAY), Book())
    recall(mine, payment(START + 3 * DAY))
    assert recall(mine, late) == "repeat"


# --- going on from it ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def streams() -> list[list[Event]]:
    rows: pl.DataFrame = troubled(bank(seed=8, days=20, cards=200), seed=9)
    return [list(stream) for stream in dataset.streams(rows)]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_restored_in_the_middle_it_goes_on_as_if_nothing_had_been(
    streams: list[list[Event]], share: float, tmp_path: Path
) -> None:
    undisturbed = Replay()
    for partition, events in enumerate(streams):
        undisturbed.push(partition, events)
    undisturbed.drain()
    assert not undisturbed.waiting

    before = Replay()
    for partition, events in enumerate(streams):
        before.push(partition, events[: int(len(events) * share)])
    before.drain()
    for mine in before.memories:
        mine.save(tmp_path)
    memories = [Memory.load(tmp_path, partition, until=10**9) for partition in range(PARTITIONS)]
    cells = [Cell.model_validate_json(cell.model_dump_json()) for cell in before.cells]
    after = Replay(memories, cells)
    for partition, (mine, events) in enumerate(zip(memories, streams, strict=True)):
        after.push(partition, events[mine.offset :])
    after.drain()
    assert before.seen | after.seen == undisturbed.seen
    assert not before.seen.keys() & after.seen.keys()
    assert [state(mine) for mine in after.memories] == [state(mine) for mine in undisturbed.memories]
    assert len(undisturbed.seen) == sum(event.kind == "payment" for event in chain.from_iterable(streams))
