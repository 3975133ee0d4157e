"""Rows of a file -> typed columns; a row that cannot be read is reported by its line, and the rest goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

from shared.dead_letters import VALUE, DeadLetter
from shared.privacy import masked
from shared.table_files.cells import Parsed, Spelling, Undecided, as_text, faults
from shared.table_files.rows import Part, Rows
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
    """The headings of needed columns that a file, or a part of it, does not have."""
    needed = [column for column in columns if column.needed]
    return [column.headings[0] for column in needed if any(not _headings(part, column) for part in rows.parts)]


def typed(rows: Rows, columns: Sequence[Column], spelling: Spelling) -> Table:
    """The columns of a file with their values; of a row that is refused, the first fault is reported.

    Raises:
        Unusable: a column is missing, or cannot be understood as a whole, or there is no row.
    """
    for part in rows.parts:
        if absent := lacks(rows._replace(parts=[part]), columns):
            wanted = ",".join(column.headings[0] for column in columns)
            raise Unusable(f"{part.name} lacks {', '.join(absent)}: its header must be like {wanted}")
    frame = pl.concat(
        [
            pl.DataFrame({"line": part.lines}, schema={"line": pl.Int64}).select(file=pl.lit(part.name), line="line")
            for part in rows.parts
        ]
    )
    if frame.is_empty() and not rows.letters:
        raise Unusable(f"{rows.name} holds no row: its only line is the header")
    notes = list(rows.notes)
    wrong = pl.DataFrame(
        {"field": None, "value": None, "reason": [None] * frame.height},
        schema=dict.fromkeys(("field", "value", "reason"), pl.String),
    )
    for column in columns:
        parsed, shown = _parsed(rows, column, spelling)
        notes += [note for note in parsed.notes if note not in notes]
        wrong = _first(wrong, column, parsed, shown)
        values = parsed.values if column.default is None else parsed.values.fill_null(pl.lit(column.default))
        frame = frame.with_columns(values.alias(column.name))
    bad = frame.select("file", "line").hstack(wrong).drop_nulls("reason")
    letters = [letter(*row) for row in bad.iter_rows()]
    several = len(rows.parts) > 1
    place = pl.format("{}-{}", pl.col("file").rank("dense"), "line") if several else pl.col("line").cast(pl.String)
    kept = frame.with_columns(place=place).filter(wrong["reason"].is_null())
    return Table(rows.name, rows.digest, kept, [*rows.letters, *letters], notes)


def _parsed(rows: Rows, column: Column, spelling: Spelling) -> tuple[Parsed, pl.Series]:
    """The values of a column, and its cells as text. Cells of one kind are understood together, over all parts."""
    cells = [_cells(part, column) for part in rows.parts]
    kinds = list(dict.fromkeys(each.dtype for each in cells))
    places = [[number for number, each in enumerate(cells) if each.dtype == kind] for kind in kinds]
    try:
        found = [_understood(pl.concat([cells[number] for number in mine]), column, spelling) for mine in places]
    except Undecided as error:
        heading = next(name for part in rows.parts for name in _headings(part, column))
        raise Unusable(f"{rows.name}: the column {heading} {error}") from error
    notes = list(dict.fromkeys(note for parsed, _ in found for note in parsed.notes))
    ordered: list[tuple[pl.Series, pl.Series, pl.Series]] = [(each, each, each) for each in cells]
    for mine, (parsed, shown) in zip(places, found, strict=True):
        start = 0
        for number in mine:
            length = cells[number].len()
            ordered[number] = tuple(each.slice(start, length) for each in (parsed.values, parsed.faults, shown))  # type: ignore[assignment]  # three
            start += length
    values, faults, shown = (pl.concat([part[number] for part in ordered]) for number in range(3))
    return Parsed(values, faults, notes), shown


def _understood(cells: pl.Series, column: Column, spelling: Spelling) -> tuple[Parsed, pl.Series]:
    nested = cells.dtype.is_nested() or cells.dtype in (pl.Object, pl.Duration)
    if not nested:
        shown = pl.repeat("", cells.len(), eager=True) if cells.dtype == pl.Binary else cells.cast(pl.String)
        return column.kind(cells, spelling), shown.fill_null("")
    empty = pl.repeat(None, cells.len(), dtype=pl.String, eager=True)
    values = column.kind(empty, spelling).values
    return Parsed(values, faults(cells.is_not_null(), "is no single value"), []), empty.fill_null("")


def _cells(part: Part, column: Column) -> pl.Series:
    """The cells under the first heading with any, in a part; a column that is not there is one of empty cells."""
    found = [part.columns[name]() for name in _headings(part, column)]
    if not found:
        return pl.repeat(None, len(part.lines), dtype=pl.String, eager=True)
    cells = next((each for each in found if not _empty(each)), found[0])
    return cells.cast(pl.String) if isinstance(cells.dtype, pl.Categorical | pl.Enum) else cells


def _empty(cells: pl.Series) -> bool:
    return cells.is_null().all() or (cells.dtype == pl.String and as_text(cells).is_null().all())


def _headings(part: Part, column: Column) -> list[str]:
    """Those of a column that a part has. Raises Unusable: it has one more than once."""
    names = [name for name in map(str.lower, column.headings) if name in part.columns]
    if doubled := next((name for name in names if name in part.twice), None):
        raise Unusable(f"{part.name} has the column {doubled} twice")
    return names


def _first(known: pl.DataFrame, column: Column, parsed: Parsed, shown: pl.Series) -> pl.DataFrame:
    """The first fault of each row, with those of one more column. `shown`: its cells."""
    empty = pl.lit(parsed.values.is_null()) & pl.lit(parsed.faults).is_null() & pl.lit(column.needed)
    reason = pl.coalesce(pl.lit(parsed.faults), pl.when(empty).then(pl.lit("is missing")))
    new = pl.col("reason").is_null() & reason.is_not_null()
    return known.with_columns(
        field=pl.when(new).then(pl.lit(column.name)).otherwise("field"),
        value=pl.when(new).then(pl.lit(shown)).otherwise("value"),
        reason=pl.when(new).then(reason).otherwise("reason"),
    )


def letter(file: str, line: int, field: str, value: str | None, reason: str) -> DeadLetter:
    """What is said of a row that is refused."""
    said = masked((value or "")[: 2 * VALUE])[:VALUE]
    return DeadLetter(topic=file, partition=0, offset=line, field=field, value=said, reason=reason)
