"""The data lake: Parquet by event date, written atomically; each row keeps its partition and offset.

A stream writes a few rows at a time. So that the number of files follows the number of rows and not the number of
writes, files are merged as in a log-structured merge tree: MERGED files of one level become one of the next, and a
date becomes one file when the date after next begins.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import polars as pl

PLACE = ("partition", "offset")
LISTINGS = 10  # times that a table is read, at most, when its old dates are folded meanwhile
MERGED = 16  # files of a level that become one of the next; 432,000 writes a day then leave at most 75 files
LEVEL = "level-"  # begins the name of a merged file; the level follows, and the name of its first part
FOLDED = f"{LEVEL}99+"  # begins the name of a file of many dates
EPOCH = date(1970, 1, 1)
HISTORY = "history"  # begins the name of a batch that came from a file; it stays as it is

logger = logging.getLogger(__name__)


class LakeCorrupt(Exception):
    """A file of the lake holds something else than a whole table; reading it again does not help."""


class Lake:
    """Tables under one folder: `<table>/date=YYYY-MM-DD/<batch>.parquet`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, table: str, rows: pl.DataFrame, *, batch: str) -> None:
        """Add rows (columns `partition`, `offset`, `at` in seconds, and the table's own).

        The same batch written again takes the place of the first; so an ingest that died between
        writing and committing does no harm.
        """
        dated = rows.with_columns(date=pl.from_epoch("at", time_unit="s").dt.date())
        for (day,), part in dated.group_by("date", maintain_order=True):
            folder = self._day(table, day)
            begins = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            write_parquet(folder / f"{batch}.parquet", part.drop("date"))
            try:
                _merge_levels(folder)
                if begins and (closed := self._day(table, day - timedelta(days=2))).exists():
                    with _merging(closed):
                        _merge(_mergeable(closed))
            except BlockingIOError:
                pass  # another writer does it
            except OSError as error:  # the rows are written, and the next write tries again
                logger.warning("files of %s are not merged now: %s", folder, error)

    def dates(self, table: str) -> list[date]:
        """The event dates that the table has, in order."""
        return [_date(folder) for folder in self._days(table, None, None) if next(folder.glob("*.parquet"), None)]

    def read(
        self, table: str, *, since: date | None = None, until: date | None = None, batch: str = ""
    ) -> pl.DataFrame:
        """The rows of event dates since <= date < until, each place once, in order of partition and offset.

        `batch`: only of batches whose name begins so; they must be some that came from a file.

        Raises:
            LakeCorrupt: naming the file that holds no table.
            OSError: the disk or the mount does not give a file now; the same call may succeed later.
        """
        for _ in range(LISTINGS):
            folded = self._folded(table)
            with ThreadPoolExecutor() as pool:  # a file takes its time to be opened, not to be read
                days = list(pool.map(partial(_read_day, batch=batch), self._days(table, since, until)))
            if folded == self._folded(table):
                break  # else rows have moved to a folder that may have been read before
        frames = [frame for day in days for frame in day]
        if not frames:
            return pl.DataFrame(schema=dict.fromkeys((*PLACE, "at"), pl.Int64))
        return _together(frames).sort(PLACE)

    def fold(self, table: str, *, before: date, keep: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
        """Make one file of all dates before one, of the rows that `keep` leaves; what came by file stays as it is.

        It stands under the first date there can be. A crash in between leaves rows in two files, which count once.
        """
        paths = [path for day in self._days(table, None, before) for path in _mergeable(day)]
        if len(paths) < 2:
            return
        first = self._day(table, EPOCH)
        first.mkdir(exist_ok=True)
        folded = first / f"{FOLDED}{before}.parquet"
        write_parquet(folded, keep(_together([read_parquet(path) for path in sorted(paths, key=_rank)])))
        for path in paths:
            if path != folded:
                path.unlink(missing_ok=True)

    def _folded(self, table: str) -> list[tuple[Path, int]]:
        """The files of many dates, and when they were written."""
        paths = self._day(table, EPOCH).glob(f"{FOLDED}*.parquet")
        with suppress(FileNotFoundError):
            return [(path, path.stat().st_mtime_ns) for path in sorted(paths)]
        return []

    def _day(self, table: str, day: date) -> Path:
        return self.folder / table / f"date={day}"

    def _days(self, table: str, since: date | None, until: date | None) -> list[Path]:
        """The folders of the dates, in order."""
        days = sorted((self.folder / table).glob("date=*"))
        return [day for day in days if (since is None or since <= _date(day)) and (until is None or _date(day) < until)]


def write_parquet(path: Path, rows: pl.DataFrame) -> None:
    """Write a file whole or not at all; it is durable afterwards."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}")
    rows.write_parquet(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _merge_levels(folder: Path) -> None:
    with _merging(folder):
        level = 0
        while len(paths := [path for path in _mergeable(folder) if _level(path) == level]) >= MERGED:
            _merge(paths)
            level += 1


@contextmanager
def _merging(folder: Path) -> Iterator[None]:
    """Raises BlockingIOError while another thread or process merges the files of the folder, or holds them."""
    with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, how)  # released when it is closed
        yield
    finally:
        os.close(lock)


def _mergeable(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.parquet") if not path.stem.startswith(HISTORY)]


def _merge(paths: Sequence[Path]) -> None:
    """Make one file of several; a reader meanwhile sees rows in both, and takes each place once."""
    parts = _readable(sorted(paths, key=_rank))
    if len(parts) < 2:
        return
    first = min(parts, key=lambda path: path.stem.rpartition("+")[2])
    name = f"{LEVEL}{max(map(_level, parts)) + 1}+{first.stem.rpartition('+')[2]}"
    merged = first.with_name(f"{name}.parquet")
    if merged.exists():  # its first batch was merged before, and written again
        if not (before := _readable([merged])):
            return
        parts |= before
    write_parquet(merged, _together(list(parts.values())))
    for path in parts.keys() - {merged}:
        path.unlink(missing_ok=True)


def _readable(paths: Sequence[Path]) -> dict[Path, pl.DataFrame]:
    tables = {}
    for path in paths:
        try:
            tables[path] = read_parquet(path)
        except LakeCorrupt as error:  # readers of the date are told
            logger.warning("not merged: %s", error)
    return tables


def _together(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Each place once: as the first of the frames has it."""
    return pl.concat(frames, how="diagonal_relaxed").unique(PLACE, keep="first", maintain_order=True)


def _level(path: Path) -> int:
    return int(path.stem.removeprefix(LEVEL).partition("+")[0]) if path.stem.startswith(LEVEL) else 0


def _rank(path: Path) -> tuple[int, int]:
    """What was written last comes first: a batch that is written again counts, and not its merged first self."""
    return _level(path), -path.stat().st_mtime_ns


def _date(folder: Path) -> date:
    return date.fromisoformat(folder.name.removeprefix("date="))


def _read_day(folder: Path, *, batch: str) -> list[pl.DataFrame]:
    """The files of a date, or those of batches whose name begins so."""
    with suppress(FileNotFoundError):  # merged since the folder was listed, and a busy writer may do so each time
        return _read_files(folder, batch)
    with _locked(folder, fcntl.LOCK_SH):  # writers go on, and merge later
        return _read_files(folder, batch)


def _read_files(folder: Path, batch: str) -> list[pl.DataFrame]:
    return [read_parquet(path) for path in sorted(folder.glob("*.parquet"), key=_rank) if path.stem.startswith(batch)]


def read_parquet(path: Path) -> pl.DataFrame:
    """The table in a file. Raises LakeCorrupt, or OSError."""
    content = path.read_bytes()  # by itself, so that an error of the disk is never taken for one of the content
    try:
        return pl.read_parquet(content, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise LakeCorrupt(f"{path} cannot be read ({error}): delete it and ingest its source again") from error
