"""A file or a folder of files -> rows with their lines, before anything is said about what their cells mean."""

import gzip
import hashlib
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow.parquet
from pyarrow.lib import ArrowException  # type: ignore[import-not-found]  # compiled, without types

from shared.dead_letters import LINE, DeadLetter
from shared.table_files import csv_lines
from shared.unusable import Unusable

# A damaged file is an exception of pyarrow; polars panics on some.
_read_table: Callable[[BytesIO], Any] = pyarrow.parquet.read_table  # pyarrow is untyped
PARQUET, GZIP, ARCHIVE = b"PAR1", b"\x1f\x8b", b"PK\x03\x04"


class Rows(NamedTuple):
    """What stands in a file. `cells` and `places` have the same height."""

    name: str
    digest: str  # SHA-256 of the content, in hexadecimal digits
    cells: pl.DataFrame  # columns by heading, in lower case; text, or what a Parquet file has
    places: pl.DataFrame  # file (its name) and line: of a CSV that of the text, of Parquet the number of the row
    letters: list[DeadLetter]  # lines that are no rows
    notes: list[str]  # what had to be assumed


def read_rows(path: Path) -> Rows:
    """The rows of a CSV or Parquet file, which may be compressed with gzip, or of a folder of such, as Spark writes it.

    The content says what a file is, not its name.

    Raises:
        Unusable: it is neither, or is not whole.
    """
    paths = _parts(path)
    digests, parts = [], []
    for part in paths:
        name = path.name if part == path else f"{path.name}/{part.relative_to(path)}"
        try:
            content = part.read_bytes()
        except OSError as error:
            raise Unusable(f"{name} cannot be read: {error.strerror or error}") from error
        digests.append(hashlib.sha256(content).hexdigest())
        parts.append(_read(content, name))
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    cells = pl.concat([part.cells for part in parts], how="diagonal_relaxed")
    places = pl.concat([part.places for part in parts])
    letters = [letter for part in parts for letter in part.letters]
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    return Rows(path.name, whole, cells, places, letters, notes)


def _parts(path: Path) -> list[Path]:
    """The file itself; of a folder all files but those that begin with a dot or an underscore."""
    if not path.is_dir():
        return [path]
    files = [one for one in sorted(path.rglob("*")) if one.is_file()]
    parts = [one for one in files if not any(name[0] in "._" for name in one.relative_to(path).parts)]
    if not parts:
        raise Unusable(f"{path.name} is a folder without files")
    return parts


def _read(content: bytes, name: str) -> Rows:
    if content.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise Unusable(f"{name} is no whole gzip file") from error
    if content.startswith(PARQUET):
        return _parquet(content, name)
    if content.startswith(ARCHIVE):
        raise Unusable(f"{name} is an archive or a spreadsheet: save it as CSV")
    if not content.strip():
        raise Unusable(f"{name} is empty")
    return _csv(content, name)


def _parquet(content: bytes, name: str) -> Rows:
    try:
        cells = pl.from_arrow(_read_table(BytesIO(content)))
    except (ArrowException, OSError, pl.exceptions.PolarsError) as error:
        raise Unusable(f"{name} is no whole Parquet file") from error
    assert isinstance(cells, pl.DataFrame)
    headings = _headings(cells.columns, name)
    cells.columns = headings
    return Rows(name, "", cells, _places(name, range(1, cells.height + 1)), [], [])


def _csv(content: bytes, name: str) -> Rows:
    lines = csv_lines.split(content)
    headings = _headings(lines.header, name)
    schema = dict.fromkeys(headings, pl.String)
    cells = pl.DataFrame(lines.fields, schema=schema, orient="row") if lines.fields else pl.DataFrame(schema=schema)
    letters = [
        DeadLetter(topic=name, partition=0, offset=line, field=LINE, reason=reason) for line, reason in lines.broken
    ]
    return Rows(name, "", cells, _places(name, lines.numbers), letters, lines.notes)


def _headings(names: list[str], name: str) -> list[str]:
    """Headings in lower case, without blanks around them."""
    headings = [heading.strip().lower() for heading in names]
    # A column without a heading is no column that anybody asks for.
    headings = [heading or f"column {number}" for number, heading in enumerate(headings, 1)]
    if twice := next((heading for heading in headings if headings.count(heading) > 1), None):
        raise Unusable(f"{name} has the column {twice} twice" if len(twice) < 40 else f"{name} has a column twice")
    return headings


def _places(name: str, numbers: list[int] | range) -> pl.DataFrame:
    return pl.DataFrame({"line": numbers}, schema={"line": pl.Int64}).select(file=pl.lit(name), line="line")
