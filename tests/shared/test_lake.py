"""Each place of the log stands in the lake once, under the day of its event."""

import errno
import threading
from datetime import date
from itertools import islice
from pathlib import Path

import polars as pl
import pytest

from shared import lake as lake_module
from shared.dependencies import DEPENDENCY_ERRORS
from shared.lake import MERGED, Lake, LakeCorrupt

DAY = 86_400
FIRST = date(1970, 1, 1)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def rows(*places: tuple[int, int, int], value: str = "v") -> pl.DataFrame:
    """Rows of (partition, offset, at)."""
    frame = pl.DataFrame(places, schema={"partition": pl.Int64, "offset": pl.Int64, "at": pl.Int64}, orient="row")
    return frame.with_columns(value=pl.lit(value))


def places(frame: pl.DataFrame) -> list[tuple[int, int]]:
    return list(zip(frame["partition"], frame["offset"], strict=True))


def test_a_table_never_written_is_empty_and_has_the_places(lake: Lake) -> None:
    frame = lake.read("events")
    assert frame.is_empty()
    assert {"partition", "offset", "at"} <= set(frame.columns)
    assert lake.dates("events") == []


def test_the_same_batch_written_twice_counts_once(lake: Lake) -> None:
    for _ in range(2):
        lake.write("events", rows((0, 0, 5), (0, 1, DAY)), batch="0-2")
    assert places(lake.read("events")) == [(0, 0), (0, 1)]
    assert len(list(lake.folder.rglob("*.parquet"))) == 2


def test_a_batch_written_again_takes_the_place_of_the_first(lake: Lake) -> None:
    lake.write("events", rows((0, 0, 5), value="half done"), batch="0-1")
    lake.write("events", rows((0, 0, 5), value="done"), batch="0-1")
    assert lake.read("events")["value"].to_list() == ["done"]


def test_a_place_in_two_batches_counts_once(lake: Lake) -> None:
    lake.write("events", rows((0, 0, 5), (0, 1, 5)), batch="0-2")
    lake.write("events", rows((0, 1, 5), (0, 2, 5)), batch="1-3")
    assert places(lake.read("events")) == [(0, 0), (0, 1), (0, 2)]


def test_rows_come_in_order_of_partition_and_offset_not_of_time(lake: Lake) -> None:
    lake.write("events", rows((1, 0, 5), (0, 1, 3 * DAY), (0, -2, 7)), batch="b")
    lake.write("events", rows((0, 2, 1), (0, 10, 2)), batch="a")
    assert places(lake.read("events")) == [(0, -2), (0, 1), (0, 2), (0, 10), (1, 0)]


def test_a_row_stands_under_the_day_of_its_event_in_utc(lake: Lake) -> None:
    lake.write("events", rows((0, 0, DAY - 1), (0, 1, DAY)), batch="b")
    assert lake.dates("events") == [FIRST, date(1970, 1, 2)]
    second = pl.read_parquet(lake.folder / "events" / "date=1970-01-02" / "b.parquet", hive_partitioning=False)
    assert places(second) == [(0, 1)]


def test_since_is_included_and_until_is_not(lake: Lake) -> None:
    lake.write("events", rows(*((0, n, n * DAY) for n in range(5))), batch="b")
    days = lake.dates("events")
    assert places(lake.read("events", since=days[1], until=days[3])) == [(0, 1), (0, 2)]
    assert places(lake.read("events", since=days[3])) == [(0, 3), (0, 4)]
    assert places(lake.read("events", until=days[1])) == [(0, 0)]
    assert lake.read("events", since=date(2000, 1, 1)).is_empty()


def test_what_was_written_is_read_back_unchanged(lake: Lake) -> None:
    written = rows((0, 0, 5), (0, 1, DAY)).with_columns(amount=pl.Series([1.5, None]), card=pl.Series(["a", "b"]))
    lake.write("events", written, batch="b")
    assert lake.read("events").equals(written)


def test_batches_with_more_columns_than_before_are_read_together(lake: Lake) -> None:
    lake.write("events", rows((0, 0, 5)), batch="a")
    lake.write("events", rows((0, 1, 5)).with_columns(new=pl.lit(1)), batch="b")
    assert lake.read("events")["new"].to_list() == [None, 1]


def test_tables_are_apart(lake: Lake) -> None:
    lake.write("events", rows((0, 0, 5)), batch="b")
    assert lake.read("decisions").is_empty()
    assert lake.dates("decisions") == []


def broken(patch: pytest.MonkeyPatch, error: OSError) -> None:
    """Opening a Parquet file raises."""

    def raises(*_: object, **__: object) -> None:
        raise error

    patch.setattr("polars.read_parquet", raises)
    patch.setattr(Path, "read_bytes", raises)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_cut_short_is_named(lake: Lake, share: float) -> None:
    lake.write("events", rows((0, 0, 5)), batch="good")
    lake.write("events", rows((0, 1, 5)), batch="bad")
    (bad,) = lake.folder.rglob("bad.parquet")
    whole = bad.read_bytes()
    bad.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(LakeCorrupt, match=str(bad)):
        lake.read("events")


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), PermissionError(errno.EACCES, "Permission denied")]
)
def test_a_disk_that_does_not_answer_is_a_dependency_and_no_corrupt_file(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    lake.write("events", rows((0, 0, 5)), batch="b")
    with monkeypatch.context() as away:
        broken(away, error)
        with pytest.raises(type(error)) as raised:
            lake.read("events")
    assert isinstance(raised.value, DEPENDENCY_ERRORS)
    assert places(lake.read("events")) == [(0, 0)]


def test_a_file_that_is_merged_while_it_is_read_is_looked_for_again(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.write("events", rows((0, 0, 5)), batch="small")
    real = lake_module.read_parquet

    def read(path: Path) -> pl.DataFrame:
        if path.stem == "small":
            path.rename(path.with_stem("whole"))
        return real(path)

    monkeypatch.setattr(lake_module, "read_parquet", read)
    assert places(lake.read("events")) == [(0, 0)]


def test_files_that_go_away_at_every_look_are_an_error_of_the_disk(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.write("events", rows((0, 0, 5)), batch="b")

    def gone(path: Path) -> pl.DataFrame:
        raise FileNotFoundError(path)

    monkeypatch.setattr(lake_module, "read_parquet", gone)
    with pytest.raises(FileNotFoundError):
        lake.read("events")


def test_a_corrupt_day_does_not_hide_the_others(lake: Lake) -> None:
    lake.write("events", rows((0, 0, 5), (0, 1, DAY)), batch="b")
    (lake.folder / "events" / "date=1970-01-01" / "b.parquet").write_bytes(b"garbage")
    assert places(lake.read("events", since=date(1970, 1, 2))) == [(0, 1)]


def test_what_a_writer_that_died_left_behind_is_not_read(lake: Lake) -> None:
    lake.write("events", rows((0, 0, 5)), batch="b")
    for day in ("1970-01-01", "1970-01-02"):
        folder = lake.folder / "events" / f"date={day}"
        folder.mkdir(exist_ok=True)
        (folder / ".other.4711").write_bytes(b"half a file")
    assert places(lake.read("events")) == [(0, 0)]
    assert lake.dates("events") == [FIRST]


def test_a_write_leaves_nothing_but_whole_batches(lake: Lake) -> None:
    lake.write("events", rows((0, 0, 5), (0, 1, DAY)), batch="b")
    assert {path.name for path in lake.folder.rglob("*") if path.is_file()} == {"b.parquet"}


# --- the number of files ----------------------------------------------------------------------------


def files(lake: Lake, day: str = "1970-01-01") -> list[str]:
    return sorted(path.name for path in (lake.folder / "events" / f"date={day}").glob("*.parquet"))


def test_the_number_of_files_follows_the_rows_and_not_the_writes(lake: Lake) -> None:
    for n in range(1_000):
        lake.write("events", rows((0, n, n)), batch=f"0-{n:012d}")
    assert places(lake.read("events")) == [(0, n) for n in range(1_000)]
    assert len(files(lake)) < 3 * MERGED


def test_a_day_becomes_one_file_when_the_day_after_next_begins(lake: Lake) -> None:
    for day in range(4):
        for n in range(3):
            lake.write("events", rows((0, 10 * day + n, day * DAY + n)), batch=f"{day}-{n}")
    assert [len(files(lake, f"1970-01-0{day + 1}")) for day in range(4)] == [1, 1, 3, 3]
    assert places(lake.read("events")) == [(0, 10 * day + n) for day in range(4) for n in range(3)]


def test_old_dates_become_one_file_of_what_is_kept(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_odd(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.filter(pl.col("offset") % 2 == 0)

    lake.write("events", rows((0, -1, 5 * DAY)), batch="history")
    for day in range(1, 10):
        lake.write("events", rows((0, day, day * DAY)), batch=f"0-{day}")
    for before, left in ((6, [-1, 2, 4, 6, 7, 8, 9]), (6, [-1, 2, 4, 6, 7, 8, 9]), (8, [-1, 2, 4, 6, 8, 9])):
        lake.fold("events", before=date(1970, 1, 1 + before), keep=without_odd)
        assert places(lake.read("events")) == [(0, offset) for offset in left]
        assert len(files(lake)) == 1
    assert files(lake, "1970-01-06") == ["history.parquet"]

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(Path, "unlink", dies)
        with pytest.raises(KeyboardInterrupt):
            lake.fold("events", before=date(1970, 1, 10), keep=without_odd)
    assert lake.read("events")["offset"].to_list() == [-1, 2, 4, 6, 8, 9]
    lake.fold("events", before=date(1970, 1, 11), keep=without_odd)
    assert lake.read("events")["offset"].to_list() == [-1, 2, 4, 6, 8]
    assert len(list(lake.folder.rglob("*.parquet"))) == 2


def test_who_reads_while_old_dates_become_one_file_misses_nothing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in range(6):
        lake.write("events", rows((0, day, day * DAY)), batch=f"0-{day}")
    real = lake_module._read_day

    def fold_then_read(folder: Path, *, batch: str) -> list[pl.DataFrame]:
        if folder.name == "date=1970-01-03":
            lake.fold("events", before=date(1970, 1, 6), keep=lambda rows: rows)
        return real(folder, batch=batch)

    monkeypatch.setattr(lake_module, "_read_day", fold_then_read)
    assert places(lake.read("events")) == [(0, day) for day in range(6)]


def test_a_batch_written_again_after_it_was_merged_still_takes_the_place_of_the_first(lake: Lake) -> None:
    for n in range(MERGED):
        lake.write("events", rows((0, n, n), value="first"), batch=f"z-{n:02}")
    assert len(files(lake)) == 1
    lake.write("events", rows((0, 3, 3), value="again"), batch="z-03")
    assert lake.read("events")["value"].to_list().count("again") == 1
    for n in range(MERGED, 2 * MERGED):
        lake.write("events", rows((0, n, n), value="first"), batch=f"z-{n:02}")
    for n in range(2 * MERGED, MERGED * MERGED):
        lake.write("events", rows((0, n, n), value="first"), batch=f"z-{n:02}")
    assert lake.read("events").filter(pl.col("offset") == 3)["value"].to_list() == ["again"]
    assert lake.read("events").height == MERGED * MERGED


def test_a_batch_written_again_and_merged_again_loses_nothing_of_what_it_was_merged_with(lake: Lake) -> None:
    first = rows((0, 0, 0))
    for n in range(MERGED):
        lake.write("events", first if n == 0 else rows((0, n, n)), batch=f"0-{n:02}")
    lake.write("events", first.with_columns(value=pl.lit("again")), batch="0-00")  # its commit had failed
    for n in range(MERGED, 2 * MERGED):
        lake.write("events", rows((0, n, n)), batch=f"0-{n:02}")
    assert places(lake.read("events")) == [(0, n) for n in range(2 * MERGED)]
    assert lake.read("events")["value"][0] == "again"
    merged = next(lake.folder.rglob("level-1+0-00.parquet"))
    merged.write_bytes(b"garbage")
    for n in range(MERGED):
        lake.write("events", first if n == 0 else rows((0, n, n)), batch=f"0-{n:02}")
    with pytest.raises(LakeCorrupt, match="level-1"):  # and is not written over
        lake.read("events")


def test_a_batch_from_a_file_is_never_merged(lake: Lake) -> None:
    lake.write("events", rows((0, -1, 5)), batch="history")
    for n in range(MERGED):
        lake.write("events", rows((0, n, n)), batch=f"0-{n}")
    assert files(lake)[0] == "history.parquet"
    assert places(lake.read("events", batch="history")) == [(0, -1)]


def test_a_damaged_file_is_left_alone_and_the_others_are_merged(lake: Lake) -> None:
    lake.write("events", rows((0, 0, 0)), batch="bad")
    next(lake.folder.rglob("bad.parquet")).write_bytes(b"garbage")
    for n in range(1, MERGED):
        lake.write("events", rows((0, n, n)), batch=f"0-{n}")
    assert len(files(lake)) == 2
    with pytest.raises(LakeCorrupt, match="bad"):
        lake.read("events")


def test_a_disk_that_takes_no_merged_file_loses_nothing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    real = lake_module.write_parquet

    def full(path: Path, rows: pl.DataFrame) -> None:
        if path.stem.startswith("level-"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, rows)

    with monkeypatch.context() as away:
        away.setattr(lake_module, "write_parquet", full)
        for n in range(MERGED + 3):
            lake.write("events", rows((0, n, n)), batch=f"0-{n}")
    assert lake.read("events").height == MERGED + 3
    lake.write("events", rows((0, 99, 99)), batch="0-99")
    assert len(files(lake)) == 1
    assert lake.read("events").height == MERGED + 4


@pytest.mark.parametrize("dies", ["before the merged file", "before the small ones go"])
def test_a_merge_that_dies_loses_nothing_and_doubles_nothing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    real = lake_module.write_parquet
    with monkeypatch.context() as dying:
        if dies == "before the small ones go":
            dying.setattr(Path, "unlink", die)
        else:
            dying.setattr(
                lake_module, "write_parquet", lambda path, rows: die() if "level" in path.stem else real(path, rows)
            )
        for n in range(MERGED - 1):
            lake.write("events", rows((0, n, n)), batch=f"0-{n:02}")
        with pytest.raises(KeyboardInterrupt):
            lake.write("events", rows((0, MERGED - 1, 0)), batch=f"0-{MERGED - 1}")
    assert places(lake.read("events")) == [(0, n) for n in range(MERGED)]
    for n in range(MERGED, 3 * MERGED):
        lake.write("events", rows((0, n, n)), batch=f"0-{n:02}")
    assert places(lake.read("events")) == [(0, n) for n in range(3 * MERGED)]
    assert len(files(lake)) < 2 * MERGED


def test_two_writers_and_a_reader_at_once_lose_nothing(lake: Lake) -> None:
    failed: list[BaseException] = []

    def write(partition: int) -> None:
        try:
            for n in range(150):
                lake.write("events", rows((partition, n, n)), batch=f"{partition}-{n:012d}")
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(partition,)) for partition in range(2)]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        height = lake.read("events").height
        assert height >= seen
        seen = height
    for writer in writers:
        writer.join()
    assert failed == []
    assert lake.read("events").height == 300


def test_a_reader_comes_to_its_end_while_a_writer_merges_at_every_turn(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = iter(range(10_000))
    rank = lake_module._rank

    def write_until_it_merges() -> None:
        for n in islice(batches, MERGED):
            lake.write("events", rows((0, n, n)), batch=f"0-{n:06}")

    def rank_while_another_writes(path: Path) -> tuple[int, int]:
        if threading.current_thread().name != "writer":
            writer = threading.Thread(target=write_until_it_merges, name="writer")
            writer.start()
            writer.join()
        return rank(path)

    write_until_it_merges()
    lake.write("events", rows((0, 10_000, 0)), batch="0-010000")
    monkeypatch.setattr(lake_module, "_rank", rank_while_another_writes)
    assert lake.read("events").height >= MERGED + 1
