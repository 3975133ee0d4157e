"""The rows of a file -> typed columns; a row that cannot be read is reported by its line, and the rest goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

from shared.dead_letters import VALUE, DeadLetter
from shared.privacy import masked
from shared.table_files.cells import Parsed, Spelling, Undecided
from shared.table_files.rows import Rows
from shared.unusable import Unusable

Kind = Callable[[pl.Series, Spelling], Parsed]


class Column(NamedTuple):
    """A column of the result, and where it comes from."""

    name: str
    headings: tuple[str, ...]  # of the file; the first that it has counts, in any case
    kind: Kind
    needed: bool = True  # otherwise the column may be missing, and each cell may be empty
    default: object = None  # of an empty cell


@dataclass
class Table:
    """The rows that can be read, and a dead letter for each that cannot."""

    name: str
    digest: str
    rows: pl.DataFrame  # file, line, place (distinct within all files of a folder) and the columns
    letters: list[DeadLetter]
    notes: list[str] = field(default_factory=list)

    def refuse(self, wrong: pl.Expr, field: str, reason: str) -> None:
        """Take rows out, and report them. `field`: the column whose value is at fault."""
        bad = self.rows.filter(wrong)
        found = bad.select("file", "line", pl.lit(field), pl.col(field).cast(pl.String), pl.lit(reason).alias("reason"))
        self.letters += [letter(*row) for row in found.iter_rows()]
        self.rows = self.rows.filter(~wrong.fill_null(False))

    def sorted_letters(self) -> list[DeadLetter]:
        """By file and line."""
        return sorted(self.letters, key=lambda letter: (letter.topic, letter.offset))

    def require(self, what: str) -> None:
        """Raises Unusable, with the first reason: there is no row."""
        if self.rows.is_empty():
            first = next(iter(self.sorted_letters()), None)
            said = f": line {first.offset}, {first.field}: {first.reason}" if first else ""
            raise Unusable(f"{self.name} holds no {what} that can be read{said}")


def lacks(rows: Rows, columns: Sequence[Column]) -> list[str]:
    """The headings of needed columns that a file does not have."""
    return [column.headings[0] for column in columns if column.needed and _heading(rows, column) is None]


def typed(rows: Rows, columns: Sequence[Column], spelling: Spelling) -> Table:
    """The columns of a file with their values; of a row that is refused, the first fault is reported.

    Raises:
        Unusable: a column is missing, or cannot be understood as a whole, or there is no row.
    """
    if absent := lacks(rows, columns):
        wanted = ",".join(column.headings[0] for column in columns)
        raise Unusable(f"{rows.name} lacks {', '.join(absent)}: its header must be like {wanted}")
    if rows.cells.is_empty() and not rows.letters:
        raise Unusable(f"{rows.name} holds no row: its only line is the header")
    notes, frame = list(rows.notes), rows.places
    faults = pl.DataFrame(
        {"field": None, "value": None, "reason": [None] * frame.height},
        schema=dict.fromkeys(("field", "value", "reason"), pl.String),
    )
    for column in columns:
        heading = _heading(rows, column)
        # A column that is not there is one of empty cells.
        cells = rows.cells[heading] if heading else pl.repeat(None, frame.height, dtype=pl.String, eager=True)
        cells = cells.cast(pl.String) if isinstance(cells.dtype, pl.Categorical | pl.Enum) else cells
        try:
            parsed = column.kind(cells, spelling)
        except Undecided as error:
            raise Unusable(f"{rows.name}: the column {heading} {error}") from error
        notes += [note for note in parsed.notes if note not in notes]
        faults = _first(faults, column, cells, parsed)
        values = parsed.values if column.default is None else parsed.values.fill_null(pl.lit(column.default))
        frame = frame.with_columns(values.alias(column.name))
    bad = frame.select("file", "line").hstack(faults).drop_nulls("reason")
    letters = [letter(*row) for row in bad.iter_rows()]
    several = frame["file"].n_unique() > 1
    place = pl.format("{}-{}", pl.col("file").rank("dense"), "line") if several else pl.col("line").cast(pl.String)
    kept = frame.with_columns(place=place).filter(faults["reason"].is_null())
    return Table(rows.name, rows.digest, kept, [*rows.letters, *letters], notes)


def _first(faults: pl.DataFrame, column: Column, cells: pl.Series, parsed: Parsed) -> pl.DataFrame:
    """The first fault of each row, with those of one more column."""
    empty = pl.lit(parsed.values.is_null()) & pl.lit(parsed.faults).is_null() & pl.lit(column.needed)
    reason = pl.coalesce(pl.lit(parsed.faults), pl.when(empty).then(pl.lit("is missing")))
    plain = not cells.dtype.is_nested() and cells.dtype not in (pl.Binary, pl.Object)
    value = pl.lit(cells.cast(pl.String)).fill_null("") if plain else pl.lit("")
    new = pl.col("reason").is_null() & reason.is_not_null()
    return faults.with_columns(
        field=pl.when(new).then(pl.lit(column.name)).otherwise("field"),
        value=pl.when(new).then(value).otherwise("value"),
        reason=pl.when(new).then(reason).otherwise("reason"),
    )


def _heading(rows: Rows, column: Column) -> str | None:
    return next((name for name in map(str.lower, column.headings) if name in rows.cells.columns), None)


def letter(file: str, line: int, field: str, value: str | None, reason: str) -> DeadLetter:
    """What is said of a row that is refused."""
    said = masked((value or "")[: 2 * VALUE])[:VALUE]
    return DeadLetter(topic=file, partition=0, offset=line, field=field, value=said, reason=reason)
