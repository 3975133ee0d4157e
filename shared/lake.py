"""The data lake: Parquet by event date, written atomically; each row keeps its partition and offset."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date
from pathlib import Path

import polars as pl

PLACE = ("partition", "offset")
LISTINGS = 3  # times that a folder is listed, at most, when files go away while they are read


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
            folder = self.folder / table / f"date={day}"
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f".{batch}.{os.getpid()}"
            part.drop("date").write_parquet(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(folder / f"{batch}.parquet")

    def dates(self, table: str) -> list[date]:
        """The event dates that the table has, in order."""
        return sorted({_date(path) for path in self._files(table)})

    def read(
        self, table: str, *, since: date | None = None, until: date | None = None, batch: str = ""
    ) -> pl.DataFrame:
        """The rows of event dates since <= date < until, each place once, in order of partition and offset.

        `batch`: of this batch only.

        Raises:
            LakeCorrupt: naming the file that holds no table.
            OSError: the disk or the mount does not give a file now; the same call may succeed later.
        """
        for _ in range(LISTINGS - 1):
            with suppress(FileNotFoundError):  # replaced by another one, since the folder was listed
                return self._read(table, since, until, batch)
        return self._read(table, since, until, batch)

    def _read(self, table: str, since: date | None, until: date | None, batch: str) -> pl.DataFrame:
        wanted = [
            path
            for path in sorted(self._files(table))
            if (since is None or since <= _date(path)) and (until is None or _date(path) < until)
            if batch in ("", path.stem)
        ]
        with ThreadPoolExecutor() as pool:  # a file takes its time to be opened, not to be read
            frames = list(pool.map(_read, wanted))
        if not frames:
            return pl.DataFrame(schema=dict.fromkeys((*PLACE, "at"), pl.Int64))
        rows = pl.concat(frames, how="diagonal_relaxed")
        return rows.unique(PLACE, keep="first", maintain_order=True).sort(PLACE)

    def _files(self, table: str) -> Iterator[Path]:
        return self.folder.glob(f"{table}/date=*/*.parquet")


def _date(path: Path) -> date:
    return date.fromisoformat(path.parent.name.removeprefix("date="))


def _read(path: Path) -> pl.DataFrame:
    content = path.read_bytes()  # by itself, so that an error of the disk is never taken for one of the content
    try:
        return pl.read_parquet(content, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise LakeCorrupt(f"{path} cannot be read ({error}): delete it and ingest its source again") from error
