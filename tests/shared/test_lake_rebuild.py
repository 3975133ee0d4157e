"""A lake is made again from files and log, and from the old one for what the log has let go of."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from shared.cli import Runtime
from shared.clock import VirtualClock
from shared.eventlog.port import Entry, Place, Position, Topic
from shared.eventlog.sqlite import SqliteLog
from shared.ingested_files import IngestedFiles
from shared.lake import Lake
from shared.lake_rebuild import Rebuilt, rebuild, taken_records
from shared.unusable import Unusable
from tests.retention import shorten

DAY = 86_400
TOPIC = Topic("events", 2)


def rows(*places: tuple[int, int], value: str = "right") -> pl.DataFrame:
    return pl.DataFrame(
        [(partition, offset, abs(offset) % 3 * DAY, value) for partition, offset in places],
        schema={"partition": pl.Int64, "offset": pl.Int64, "at": pl.Int64, "value": pl.String},
        orient="row",
    )


BY_FILE = rows((0, -2), (1, -1))
GONE = rows((0, 0), (0, 1), (1, 0))  # in the lake only
LOGGED = rows((0, 2), (0, 3), (1, 1), (1, 2))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "shop" / "lake")
    IngestedFiles(lake).add("events", BY_FILE)
    lake.write("events", GONE, batch="0-000")
    lake.write("events", LOGGED, batch="0-002")
    return lake


def take(new: Lake) -> int:
    new.write("events", LOGGED, batch="0-002")
    return LOGGED.height


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    """It has let go of GONE."""
    with closing(SqliteLog(str(tmp_path / "log" / "log.db"), clock=VirtualClock(0))) as log:
        log.create([TOPIC])
        log.append([Entry(TOPIC, "k", b"", partition) for partition in (0, 0, 0, 0, 1, 1, 1)])
        shorten(log, TOPIC, {0: 2, 1: 1})
        yield log


def again(log: SqliteLog, lake: Lake) -> Rebuilt:
    return rebuild(log, lake, take, tables={"events": TOPIC})


def whole(lake: Lake) -> None:
    assert_frame_equal(lake.read("events"), pl.concat([BY_FILE, GONE, LOGGED]).sort("partition", "offset"))
    assert sorted(path.name for path in lake.folder.parent.glob("lake*")) == ["lake", "lake-files"]


def test_rows_come_from_the_files_the_log_and_the_old_lake(log: SqliteLog, lake: Lake) -> None:
    done = again(log, lake)
    assert done == (2, 4, 3, 0)
    assert str(done) == (
        "the lake is made again: 2 rows of files, 4 records of the log,"
        " 3 rows of the old lake that the log may have let go of"
    )
    whole(lake)
    again(log, lake)
    whole(lake)


def test_damaged_wrong_and_missing_rows_are_right_afterwards(log: SqliteLog, lake: Lake) -> None:
    lake.write("events", rows((0, 2), value="wrong"), batch="0-002")
    next(lake.folder.glob("events/*/history-*")).unlink()
    next(lake.folder.glob(f"events/date={'1970-01-02'}/0-002*")).write_bytes(b"PAR1 and no more")
    assert again(log, lake).lost == 1
    whole(lake)


def test_a_lake_that_is_gone_is_made_of_files_and_log(log: SqliteLog, lake: Lake) -> None:
    shutil.rmtree(lake.folder)
    assert again(log, lake) == (2, 4, 0, 0)
    assert_frame_equal(lake.read("events"), pl.concat([BY_FILE, LOGGED]).sort("partition", "offset"))


def test_a_file_that_only_the_old_lake_had_and_that_cannot_be_read_is_counted(log: SqliteLog, lake: Lake) -> None:
    next(lake.folder.glob("events/date=1970-01-02/0-000*")).write_bytes(b"")
    done = again(log, lake)
    assert (done.lake, done.lost) == (2, 1)
    assert str(done).endswith("; 1 files of the old lake cannot be read, and what only they had is lost")


def dying(monkeypatch: pytest.MonkeyPatch, log: SqliteLog, lake: Lake, *, death: int) -> None:
    """A rebuild that is killed at one of its renames."""
    renames, real = 0, Path.rename

    def dies(path: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == death:
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            again(log, lake)


@pytest.mark.parametrize("death", range(1, 3))
def test_a_rebuild_that_dies_is_run_again(
    log: SqliteLog, lake: Lake, monkeypatch: pytest.MonkeyPatch, death: int
) -> None:
    lake.folder.rename(lake.folder.with_name("lake-old"))  # as if one before had died, too
    dying(monkeypatch, log, lake, death=death + 1)
    again(log, lake)
    whole(lake)


def test_a_rebuild_that_dies_while_it_removes_the_old_lake_is_run_again(
    log: SqliteLog, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.rmtree

    def dies(folder: Path, *, ignore_errors: bool) -> None:
        if folder.name == "lake-gone" and folder.exists():
            raise KeyboardInterrupt
        real(folder, ignore_errors=ignore_errors)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            again(log, lake)
    again(log, lake)
    whole(lake)


def test_who_writes_to_a_lake_whose_rebuild_died_finds_the_old_one_in_its_place(
    log: SqliteLog, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying(monkeypatch, log, lake, death=2)
    assert not lake.folder.exists()
    runtime = Runtime("shop", [TOPIC], var=lake.folder.parent.parent, log="", virtual=None)
    with runtime.using_lake() as found:
        assert_frame_equal(found.read("events"), pl.concat([BY_FILE, GONE, LOGGED]).sort("partition", "offset"))


def test_an_old_lake_beside_another_is_never_removed(log: SqliteLog, lake: Lake) -> None:
    old = lake.folder.with_name("lake-old")
    Lake(old).write("events", GONE, batch="0-000")
    with pytest.raises(Unusable, match="lake-old is left of a rebuild"):
        again(log, lake)
    assert Lake(old).read("events").height == GONE.height
    assert lake.read("events").height == BY_FILE.height + GONE.height + LOGGED.height


def test_a_table_of_a_compacted_topic_keeps_what_the_log_has_only_the_newest_of(tmp_path: Path, lake: Lake) -> None:
    topic = TOPIC._replace(compacted=True)
    with closing(SqliteLog(str(tmp_path / "other" / "log.db"), clock=VirtualClock(0))) as log:
        log.create([topic])
        log.append([Entry(topic, "k", b"", partition) for partition in (0, 0, 0, 0, 1, 1, 1)])
        rebuild(log, lake, take, tables={"events": topic})
    whole(lake)


def test_what_the_log_lets_go_of_while_the_lake_is_made_again_is_taken_over(log: SqliteLog, lake: Lake) -> None:
    def late(new: Lake) -> int:
        shorten(log, TOPIC, {0: 3, 1: 2})
        left = LOGGED.filter((pl.col("partition") + pl.col("offset")) >= 3)
        new.write("events", left, batch="0-003")
        return left.height

    assert rebuild(log, lake, late, tables={"events": TOPIC}) == (2, 2, 5, 0)
    whole(lake)


def test_a_lake_is_not_made_again_from_a_log_that_does_not_have_its_records(tmp_path: Path, lake: Lake) -> None:
    before = lake.read("events")
    with closing(SqliteLog(str(tmp_path / "empty" / "log.db"), clock=VirtualClock(0))) as log:
        log.create([TOPIC])
        with pytest.raises(Unusable, match="events of the lake has record 0 of partition 0"):
            again(log, lake)
    assert_frame_equal(lake.read("events"), before)


def test_only_what_the_group_has_taken_and_the_log_still_has_is_read(tmp_path: Path) -> None:
    log = SqliteLog(str(tmp_path / "log.db"), clock=VirtualClock(0))
    log.create([TOPIC])
    log.append([Entry(TOPIC, "k", str(n).encode(), n % 2) for n in range(20)])
    with log._connection.write():
        log._connection.remove_before(log._connection.streams(TOPIC.name)[0], 3)
    member = log.consumer("ingest", [TOPIC], "a")
    member.poll(100, 0.0)
    member.commit([], {Place(TOPIC.name, 0): Position(7), Place(TOPIC.name, 1): Position(2)})
    member.close()
    found = [(r.partition, r.offset) for records in taken_records(log, "ingest", [TOPIC]) for r in records]
    assert sorted(found) == [(0, 3), (0, 4), (0, 5), (0, 6), (1, 0), (1, 1)]
    assert list(taken_records(log, "strangers", [TOPIC])) == []
    log.close()
