"""A file or a folder of files -> columns and line numbers."""

import gzip
import hashlib
import zlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import polars as pl
import pyarrow.parquet
from pyarrow.lib import ArrowException  # type: ignore[import-not-found]  # compiled, without types

from shared.dead_letters import LINE, DeadLetter
from shared.table_files import csv_lines
from shared.unusable import Unusable

# A damaged file is an exception of pyarrow; polars panics on some.
_read_table: Callable[[BytesIO], Any] = pyarrow.parquet.read_table  # pyarrow is untyped
_timestamp: Callable[[str, str], Any] = pyarrow.lib.timestamp
Cells = Callable[[], pl.Series]
PARQUET, GZIP, ARCHIVE = b"PAR1", b"\x1f\x8b", b"PK\x03\x04"
EMPTY_PARTITION = "__HIVE_DEFAULT_PARTITION__"


class Part(NamedTuple):
    """One file. Columns are by heading, in lower case; each has a cell for every line."""

    name: str
    columns: dict[str, Cells]  # text, or what a Parquet file has; made when it is asked for
    twice: frozenset[str]  # headings that it has more than once
    lines: range | list[int]  # of a CSV those of the text; of Parquet the numbers of the rows


class Rows(NamedTuple):
    """What stands in a file, or in the files of a folder."""

    name: str
    digest: str  # SHA-256 of the content, in hexadecimal digits
    parts: list[Part]
    letters: list[DeadLetter]  # lines that are no rows
    notes: list[str]  # what had to be assumed


def read_rows(path: Path) -> Rows:
    """The rows of a CSV or Parquet file, which may be compressed with gzip, or of a folder of such, as Spark writes it.

    The content says what a file is, not its name.

    Raises:
        Unusable: it is neither, or is not whole.
    """
    rows, digests = Rows(path.name, "", [], [], []), []
    for file in _files(path):
        beside = file.relative_to(path).parts if file != path else ()
        name = "/".join((path.name, *beside))
        try:
            content = file.read_bytes()
        except OSError as error:
            raise Unusable(f"{name} cannot be read: {error.strerror or error}") from error
        digests.append(hashlib.sha256(content).hexdigest())
        if beside and not content:  # as Spark leaves some
            continue
        part, letters, notes = _read(content, name)
        for folder in beside[:-1]:
            key, is_partition, value = folder.partition("=")
            if is_partition:  # a column that stands in the folder's name only
                cell = None if value == EMPTY_PARTITION else unquote(value)
                count = len(part.lines)
                part.columns.setdefault(key.lower(), partial(_repeated, cell, count))
        rows.parts.append(part)
        rows.letters.extend(letters)
        rows.notes.extend(note for note in notes if note not in rows.notes)
    if not rows.parts:
        raise Unusable(f"{path.name} is a folder without rows")
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return rows._replace(digest=whole)


def _files(path: Path) -> list[Path]:
    """The file itself; of a folder all files but those that begin with a dot or an underscore."""
    if not path.is_dir():
        return [path]
    files = [one for one in sorted(path.rglob("*")) if one.is_file()]
    return [one for one in files if not any(name[0] in "._" for name in one.relative_to(path).parts)]


def _read(content: bytes, name: str) -> tuple[Part, list[DeadLetter], list[str]]:
    if content.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise Unusable(f"{name} is no whole gzip file") from error
    if content.startswith(PARQUET):
        return _parquet(content, name), [], []
    if content.startswith(ARCHIVE):
        raise Unusable(f"{name} is an archive or a spreadsheet: save it as CSV")
    if not content.strip():
        raise Unusable(f"{name} is empty")
    return _csv(content, name)


def _parquet(content: bytes, name: str) -> Part:
    try:
        table = _read_table(BytesIO(content))
    except (ArrowException, OSError) as error:
        raise Unusable(f"{name} is no whole Parquet file") from error
    headings = [_heading(each) for each in table.column_names]
    columns: dict[str, Cells] = {each: partial(_of_arrow, table.column(number)) for number, each in enumerate(headings)}
    return Part(name, columns, _twice(headings), range(1, table.num_rows + 1))


def _of_arrow(column: Any) -> pl.Series:
    """A column of polars; a list of one null each, which no kind of value reads, where polars knows no such column."""
    kind = column.type
    try:
        if getattr(kind, "tz", None) in ("Z", "z"):
            column = column.cast(_timestamp(kind.unit, "UTC"))
        if not hasattr(kind, "storage_type"):  # what an extension's numbers mean is for its own library
            return pl.Series(pl.from_arrow(column))
    except (ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        pass
    return pl.Series(
        [None if cell is None else [None] for cell in column.is_valid().to_pylist()], dtype=pl.List(pl.Null)
    )


def _csv(content: bytes, name: str) -> tuple[Part, list[DeadLetter], list[str]]:
    lines = csv_lines.split(content)
    headings = [_heading(each) for each in lines.header]
    columns: dict[str, Cells] = {each: partial(_column, lines.fields, number) for number, each in enumerate(headings)}
    letters = [
        DeadLetter(topic=name, partition=0, offset=line, field=LINE, reason=reason) for line, reason in lines.broken
    ]
    return Part(name, columns, _twice(headings), lines.numbers), letters, lines.notes


def _column(fields: list[list[str]], number: int) -> pl.Series:
    return pl.Series([cells[number] for cells in fields], dtype=pl.String)


def _heading(name: str) -> str:
    return name.strip().lower()


def _twice(headings: list[str]) -> frozenset[str]:
    return frozenset(each for each in headings if headings.count(each) > 1)


def _repeated(cell: str | None, count: int) -> pl.Series:
    return pl.Series([cell] * count, dtype=pl.String)
