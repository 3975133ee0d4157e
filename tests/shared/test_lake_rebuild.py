"""A lake is made again from files and log, and from the old one for what the log has let go of."""

import shutil
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from shared.clock import VirtualClock
from shared.eventlog.port import Entry, Place, Position, Topic
from shared.eventlog.sqlite import SqliteLog
from shared.ingested_files import IngestedFiles
from shared.lake import Lake
from shared.lake_rebuild import rebuild, taken_records

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
    lake = Lake(tmp_path / "lake")
    IngestedFiles(lake).add("events", BY_FILE)
    lake.write("events", GONE, batch="0-000")
    lake.write("events", LOGGED, batch="0-002")
    return lake


def take(new: Lake) -> int:
    new.write("events", LOGGED, batch="0-002")
    return LOGGED.height


STARTS = {"events": {0: 2, 1: 1}}


def whole(lake: Lake) -> None:
    assert_frame_equal(lake.read("events"), pl.concat([BY_FILE, GONE, LOGGED]).sort("partition", "offset"))
    assert sorted(path.name for path in lake.folder.parent.iterdir()) == ["lake", "lake-files"]


def test_rows_come_from_the_files_the_log_and_the_old_lake(lake: Lake) -> None:
    done = rebuild(lake, take, starts=STARTS)
    assert done == (2, 4, 3, 0)
    assert str(done) == (
        "the lake is made again: 2 rows of files, 4 records of the log,"
        " 3 rows of the old lake that the log has let go of"
    )
    whole(lake)
    rebuild(lake, take, starts=STARTS)
    whole(lake)


def test_damaged_wrong_and_missing_rows_are_right_afterwards(lake: Lake) -> None:
    lake.write("events", rows((0, 2), value="wrong"), batch="0-002")
    next(lake.folder.glob("events/*/history-*")).unlink()
    next(lake.folder.glob(f"events/date={'1970-01-02'}/0-002*")).write_bytes(b"PAR1 and no more")
    assert rebuild(lake, take, starts=STARTS).lost == 1
    whole(lake)


def test_a_lake_that_is_gone_is_made_of_files_and_log(lake: Lake) -> None:
    shutil.rmtree(lake.folder)
    assert rebuild(lake, take, starts=STARTS) == (2, 4, 0, 0)
    assert_frame_equal(lake.read("events"), pl.concat([BY_FILE, LOGGED]).sort("partition", "offset"))


def test_a_file_that_only_the_old_lake_had_and_that_cannot_be_read_is_counted(lake: Lake) -> None:
    next(lake.folder.glob("events/date=1970-01-02/0-000*")).write_bytes(b"")
    done = rebuild(lake, take, starts=STARTS)
    assert (done.lake, done.lost) == (2, 1)
    assert str(done).endswith("; 1 files of the old lake cannot be read, and what only they had is lost")


@pytest.mark.parametrize("death", range(1, 3))
def test_a_rebuild_that_dies_is_run_again(lake: Lake, monkeypatch: pytest.MonkeyPatch, death: int) -> None:
    renames, real = 0, Path.rename

    def dies(path: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == death:
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as dying:
        dying.setattr(Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            rebuild(lake, take, starts=STARTS)
    rebuild(lake, take, starts=STARTS)
    whole(lake)


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
