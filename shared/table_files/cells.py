"""The kinds of cell values other than times and amounts."""

from collections.abc import Collection
from typing import NamedTuple

import polars as pl

MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "none", "\\n")  # in any case, of a cell that holds nothing
WHOLE = 2**53  # from here on a float leaves numbers out
WHOLE_NUMBER = r"^\d+(\.0*)?$"
NUMBER = r"^[+-]?\d+(\.\d*)?$"
EXPONENT = r"^[+-]?\d+(\.\d+)?[eE][+-]?\d+$"
FLAGS = {"1": True, "true": True, "t": True, "yes": True, "y": True} | {
    "0": False,
    **dict.fromkeys(("false", "f", "no", "n"), False),
}


class Undecided(Exception):
    """What a column means cannot be told from it; the rest of a sentence that begins with its name."""


class Spelling(NamedTuple):
    """How a file writes what can be read in two ways; empty: its columns decide."""

    dates: str = ""  # dmy or mdy
    decimal: str = ""  # a point or a comma
    now: int = 2**32 - 1  # seconds since the epoch; what comes later is refused


SPELLING = Spelling()  # of a file that says all by itself


class Parsed(NamedTuple):
    """The values of a column, null where a cell is empty or at fault; what is wrong with it, or null; assumptions."""

    values: pl.Series
    faults: pl.Series
    notes: list[str]


def faults(wrong: pl.Series, reason: str) -> pl.Series:
    """The reason where a cell is wrong, null elsewhere."""
    return pl.select(pl.when(wrong).then(pl.lit(reason))).to_series()


def without(cells: pl.Series, wrong: pl.Series) -> pl.Series:
    """The cells, null where one is wrong."""
    return pl.select(pl.when(~wrong).then(cells).alias(cells.name)).to_series()


def matches(text: pl.Series, pattern: str) -> pl.Series:
    """Whether text matches; what is empty does not."""
    return text.str.contains(pattern).fill_null(False)


def as_text(cells: pl.Series, *, keep: Collection[str] = ()) -> pl.Series:
    """Cells as text without blanks around it, null where they are empty; `keep`: words that are no empty cells."""
    if cells.dtype == pl.Binary:
        cells = cells.map_elements(lambda cell: cell.decode("utf-8", errors="replace"), return_dtype=pl.String)
    text = cells.cast(pl.String).str.strip_chars()
    return without(text, text.str.to_lowercase().is_in([word for word in MISSING if word not in keep]).fill_null(False))


class Text:
    """Any text. `verbatim`: as people wrote it, so NA and the like are words, and only an empty cell holds none."""

    def __init__(self, *, longest: int, verbatim: bool = False) -> None:
        self._longest, self._keep = longest, MISSING[1:] if verbatim else ()

    def __call__(self, cells: pl.Series, _: Spelling) -> Parsed:
        text = as_text(cells, keep=self._keep)
        long = (text.str.len_chars() > self._longest).fill_null(False)
        return Parsed(text, faults(long, f"is longer than {self._longest:,} characters"), [])


class Code:
    """Text of a pattern, such as a country."""

    def __init__(self, pattern: str, reason: str, *, keep: Collection[str] = ()) -> None:
        self._pattern, self._reason, self._keep = pattern, reason, keep

    def __call__(self, cells: pl.Series, _: Spelling) -> Parsed:
        text = as_text(cells, keep=self._keep)
        return Parsed(text, faults(text.is_not_null() & ~matches(text, self._pattern), self._reason), [])


class Identifier:
    """What names a thing. Numbers that a program has written as 37.0 are 37; digits that are lost are not made up."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern

    def __call__(self, cells: pl.Series, _: Spelling) -> Parsed:
        rounded = pl.repeat(False, cells.len(), eager=True)
        if cells.dtype.is_float():
            cells = cells.fill_nan(None)
            most = 2**24 if cells.dtype == pl.Float32 else WHOLE
            rounded = (cells.abs() >= most).fill_null(False)  # its digits would be made up
            if (cells == cells.floor()).all():
                cells = without(cells, rounded).cast(pl.Int64)
        text = as_text(cells)
        whole = matches(text, WHOLE_NUMBER) & (text.cast(pl.Float64, strict=False) < WHOLE).fill_null(False)
        if (whole | text.is_null()).all():
            text = text.str.replace(r"\.0*$", "")
        exponent = matches(text, EXPONENT)
        if not (matches(text, NUMBER) | exponent | text.is_null()).all():  # among names, 12e5 is one
            exponent &= matches(text, r"[.+-]")
        wrong = text.is_not_null() & ~matches(text, self._pattern)
        lost = pl.lit("is a rounded number, whose last digits are lost")
        found = pl.when(exponent | rounded).then(lost).when(wrong).then(pl.lit(f"must match {self._pattern}"))
        return Parsed(text, pl.select(found).to_series(), [])


class Word:
    """One of some words, in any case. `words`: what a file says -> what it means."""

    def __init__(self, words: dict[str, str]) -> None:
        self._words = words

    def __call__(self, cells: pl.Series, _: Spelling) -> Parsed:
        text = as_text(cells)
        meant = text.str.to_lowercase().replace_strict(self._words, default=None, return_dtype=pl.String)
        reason = f"must be one of {', '.join(dict.fromkeys(self._words.values()))}"
        return Parsed(meant, faults(text.is_not_null() & meant.is_null(), reason), [])


def flags(cells: pl.Series, _: Spelling) -> Parsed:
    """Yes or no, as a word or a number."""
    text = as_text(cells).str.to_lowercase().str.replace(r"^([01])\.0*$", "$1")
    meant = text.replace_strict(FLAGS, default=None, return_dtype=pl.Boolean)
    return Parsed(meant, faults(text.is_not_null() & meant.is_null(), "must be 0 or 1"), [])
