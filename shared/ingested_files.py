"""Keeps what came into the lake by file, so that the lake can be rebuilt.

The rows of one file are one Parquet file, `<lake>-files/<table>/history-<digest of the source>-<digest of the rows>`.
It begins with a dot until the lake has all of its rows, so that a command that died goes on where it was.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import polars as pl

from shared.lake import HISTORY, Lake, read_parquet, write_parquet
from shared.unusable import Unusable

BEGINNING = -(2**53)  # offset of what would have happened at second 0, before there was a log
A_SECOND = 2**20  # offsets that a second of event time has in a partition


class IngestedFiles:
    """The files of one lake."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self.folder = lake.folder.with_name(f"{lake.folder.name}-files")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold this from asking what the lake has of files until all is added; others wait, on this machine.

        What a command that died has begun is completed first.

        Raises:
            Unusable: an older version has taken in files, whose rows cannot be told from those of another file.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._finish()
            kept = {path.stem for path in self.folder.glob("*/*.parquet")}
            for path in self._lake.folder.glob(f"*/date=*/{HISTORY}*.parquet"):
                if path.stem not in kept:
                    raise Unusable(
                        f"{self._lake.folder} has rows that an older version took from files ({path.name}), and they"
                        " cannot be told from those of another file: ingest all files into a new lake (another --var)"
                    )
            yield

    def add_new(
        self, table: str, rows: pl.DataFrame, *, known_by: Sequence[str | pl.Expr], source: str = ""
    ) -> pl.DataFrame:
        """Add those rows that no earlier file has brought, and give them. Rows: `partition`, `at`, the table's own.

        The offsets lie below the log's. They follow from the event time, so neither the order of the files nor what
        comes later changes them. Only the dates of the rows are read.
        """
        known = self._known(table, rows)
        new = rows.join(known, on=list(known_by), how="anti", nulls_equal=True, maintain_order="left")
        latest = known.filter(pl.col("offset") < BEGINNING // 2).group_by("partition", "at").agg(pl.max("offset"))
        first = pl.coalesce(pl.col("offset") + 1, BEGINNING + A_SECOND * pl.col("at"))
        place = pl.int_range(pl.len(), dtype=pl.Int64).over("partition", "at")
        placed = new.join(latest, on=["partition", "at"], how="left", maintain_order="left")
        placed = placed.with_columns(offset=first + place)
        self.add(table, placed, source=source)
        return placed

    def _known(self, table: str, rows: pl.DataFrame) -> pl.DataFrame:
        """What earlier files have brought on the dates of the rows."""
        none = rows.clear().with_columns(offset=pl.lit(0, pl.Int64))
        if rows.is_empty():
            return none
        span = rows.select(pl.min("at"), last=pl.max("at")).row(0)
        first, last = (datetime.fromtimestamp(at, UTC).date() for at in span)
        known = self._lake.read(table, since=first, until=last + timedelta(days=1), batch=HISTORY)
        return pl.concat([none, known], how="diagonal_relaxed")

    def add(self, table: str, rows: pl.DataFrame, *, source: str = "") -> None:
        """Keep rows (as for `Lake.write`), and write them to the lake. `source`: the digest of their file, if any."""
        if rows.is_empty():
            return
        content = BytesIO()
        rows.write_parquet(content)
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        folder = self.folder / table
        folder.mkdir(parents=True, exist_ok=True)
        pending = folder / f".{HISTORY}-{(source or digest)[:16]}-{digest[:8]}.parquet"
        write_parquet(pending, rows)
        self._enter(pending)

    def erase(self, table: str, names: Collection[str], *, column: str, gone: pl.Expr | None = None) -> None:
        """Write the files of a table without the rows whose `column` is one of the names, if `gone` holds for them."""
        if not self.folder.exists():
            return
        wanted, erased = pl.Series(names, dtype=pl.String), pl.col(column).is_in(names)
        with self._locked():
            for path in sorted((self.folder / table).glob("*.parquet")):
                if not _hashes(path, column).is_in(wanted.hash().implode()).any():
                    continue
                rows = read_parquet(path)
                left = rows.remove(erased if gone is None else erased & gone)
                if left.height < rows.height:  # an empty one stays, so that it is not taken over from the lake
                    write_parquet(path, left)

    def restore(self, into: Lake) -> int:
        """Write all to another lake; gives the number of rows. What an older version did not keep is copied."""
        self._finish()
        kept, count = set[tuple[str, str]](), 0
        for path in sorted(self.folder.glob("*/*.parquet")):
            rows = read_parquet(path)
            into.write(path.parent.name, rows, batch=path.stem)
            kept.add((path.parent.name, path.stem))
            count += rows.height
        for path in sorted(self._lake.folder.glob(f"*/date=*/{HISTORY}-*.parquet")):
            table, date = path.parent.parent.name, path.parent.name
            if (table, path.stem) not in kept:
                count += read_parquet(path).height
                copy = into.folder / table / date / path.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy)
        return count

    @contextmanager
    def _locked(self) -> Iterator[None]:
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # released when it is closed
            yield
        finally:
            os.close(folder)

    def _finish(self) -> None:
        """Complete what a command that died has begun."""
        for pending in sorted(self.folder.glob(f"*/.{HISTORY}-*.parquet")):
            self._enter(pending)

    def _enter(self, pending: Path) -> None:
        batch = pending.stem.removeprefix(".")
        self._lake.write(pending.parent.name, read_parquet(pending), batch=batch)
        pending.rename(pending.with_name(f"{batch}.parquet"))


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1_000)
def _hashes(path: Path, column: str) -> pl.Series:
    """The hashes of a file's names, so that one without those that are erased is read once. It gets no further ones."""
    return read_parquet(path)[column].unique().hash()
