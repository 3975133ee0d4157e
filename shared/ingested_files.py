"""What came into the lake by file, kept beside it just as it went in, so that the lake can be made again.

The rows of one file are one Parquet file, `<lake>-files/<table>/history-<digest of the source>-<digest of the rows>`.
It begins with a dot until the lake has all of its rows, so that a command that died goes on where it was.
"""

import hashlib
import shutil
from io import BytesIO
from pathlib import Path

import polars as pl

from shared.lake import HISTORY, Lake, read_parquet, write_parquet


class IngestedFiles:
    """The files of one lake."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self.folder = lake.folder.with_name(f"{lake.folder.name}-files")

    def finish(self) -> None:
        """Complete what a command that died has begun; call it before asking the lake what it has of files."""
        for pending in sorted(self.folder.glob(f"*/.{HISTORY}-*.parquet")):
            self._enter(pending)

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

    def erase(self, table: str, gone: pl.Expr) -> None:
        """Write the files of a table without the rows for which `gone` holds."""
        for path in sorted((self.folder / table).glob("*.parquet")):
            rows = read_parquet(path)
            left = rows.filter(~gone)
            if left.height < rows.height:  # an empty one stays, so that it is not taken over from the lake
                write_parquet(path, left)

    def restore(self, into: Lake) -> int:
        """Write all to another lake; gives the number of rows. What an older version did not keep is copied."""
        self.finish()
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

    def _enter(self, pending: Path) -> None:
        batch = pending.stem.removeprefix(".")
        self._lake.write(pending.parent.name, read_parquet(pending), batch=batch)
        pending.rename(pending.with_name(f"{batch}.parquet"))


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
