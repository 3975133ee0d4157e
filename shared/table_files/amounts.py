"""Amounts and quantities -> numbers, with any thousands and decimal separators."""

import polars as pl

from shared.table_files.cells import Parsed, Spelling, Undecided, as_text, matches, without

SIGN = r"(?:[€$£¥]|EUR|USD|GBP|JPY|CHF)"
AMOUNT = rf"^([+-]?)\s*{SIGN}?\s*([+-]?[\d.,'’\s]*\d[\d.,]*(?:[eE][+-]?\d+)?)\s*{SIGN}?$"
GAPS = "'’ \u00a0\u202f"  # set thousands off, whatever sets off the fractions
# `1.234` and `1,234` may be a thousand and more, or one and a fraction; all else says what its marks are.
EITHER = r"^[1-9]\d{0,2}[.,]\d{3}$"
POINT = r"^\d*\.\d+([eE][+-]?\d+)?$|^\d{1,3}(,\d{3})+\.\d+$|^\d{1,3}(,\d{3}){2,}$"
COMMA = r"^\d*,\d+$|^\d{1,3}(\.\d{3})+,\d+$|^\d{1,3}(\.\d{3}){2,}$"
UNCLEAR = "may be a thousand and more, or one and a fraction: say DECIMAL=. or DECIMAL=,"
WELL_FORMED = {
    ".": rf"^(\d+|\d{{1,3}}([,{GAPS}]\d{{3}})+)?(\.\d*)?([eE][+-]?\d+)?$",
    ",": rf"^(\d+|\d{{1,3}}([.{GAPS}]\d{{3}})+)?(,\d*)?$",
}


class Amount:
    """A number between two bounds."""

    def __init__(self, least: float, most: float, reason: str) -> None:
        self._least, self._most, self._reason = least, most, reason

    def __call__(self, cells: pl.Series, spelling: Spelling) -> Parsed:
        """Raises Undecided: the amounts are in several currencies."""
        unclear = pl.repeat(False, cells.len(), eager=True)
        if cells.dtype.is_numeric() or cells.dtype == pl.Boolean:
            numbers = cells.cast(pl.Float64).fill_nan(None)
            held = numbers.is_not_null()
        else:
            text = as_text(cells)
            held, (numbers, unclear) = text.is_not_null(), _numbers(text, spelling)
        good = (numbers.is_between(self._least, self._most) & numbers.is_finite()).fill_null(False)
        said = pl.when(unclear).then(pl.lit(UNCLEAR)).when(held & ~good).then(pl.lit(self._reason))
        return Parsed(without(numbers, ~good), pl.select(said).to_series(), [])


def _numbers(text: pl.Series, spelling: Spelling) -> tuple[pl.Series, pl.Series]:
    """The numbers, and where one could be two of them. Raises Undecided."""
    signs = text.str.extract(f"({SIGN})", 1).drop_nulls().unique()
    if signs.len() > 1:
        raise Undecided(f"has amounts in several currencies: {', '.join(sorted(signs))}")
    bare = text.str.extract(AMOUNT, 2)
    below = (text.str.extract(AMOUNT, 1) == "-").fill_null(False) | bare.str.starts_with("-").fill_null(False)
    bare = bare.str.replace(r"^[+-]", "")
    closed = bare.str.replace_all(f"[{GAPS}]", "")
    either = matches(closed, EITHER)
    pointed, with_comma = matches(closed, POINT) & ~either, matches(closed, COMMA) & ~either
    mark, telling = spelling.decimal, int((pointed | with_comma).sum())
    # What few cells say does not decide about many others.
    if not mark and pointed.any() != with_comma.any() and 3 * telling >= int(either.sum()):
        mark = "." if pointed.any() else ","
    # Without a mark of the column, each cell is read by its own shape, as far as that says enough.
    by_comma = pl.repeat(mark == ",", text.len(), eager=True) if mark else with_comma
    well = pl.select(
        pl.when(by_comma).then(matches(bare, WELL_FORMED[","])).otherwise(matches(bare, WELL_FORMED["."]))
    ).to_series()
    plain = pl.select(
        pl.when(by_comma)
        .then(closed.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True))
        .otherwise(closed.str.replace_all(",", "", literal=True))
    ).to_series()
    unclear = either if not mark else pl.repeat(False, text.len(), eager=True)
    numbers = without(plain.cast(pl.Float64, strict=False), ~well | unclear)
    return pl.select(pl.when(below).then(-numbers).otherwise(numbers).alias(text.name)).to_series(), unclear
