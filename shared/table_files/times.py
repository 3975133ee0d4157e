"""Cells with times -> whole seconds since the epoch."""

import polars as pl

from shared.table_files.cells import Parsed, Spelling, as_text, faults, matches, without

EARLIEST = 631_152_000  # 1990-01-01: what is older is a cell that was empty once
SERIALS = (20_000, 80_000)  # days since the end of 1899, as spreadsheets count: from 1954 to 2119
SIZES = ((10**8, 1), (10**11, 10**3), (10**14, 10**6), (10**17, 10**9))  # from this number on, so many a second
UNCLEAR = "may begin with the day or with another part of the date: say DATES=dmy or DATES=mdy"
NO_ZONE = "times without a zone are taken as UTC"

CLOCK = r"(?:[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?(?: ?([AaPp])\.?[Mm]\.?)?)?"
ZONE = r"(?: ?(Z|z|UTC|GMT|EST|EDT|CST|CDT|MST|MDT|PST|PDT|[+-]\d{2}:?\d{2}|[+-]\d{2}))?"
YEAR_FIRST = rf"^(\d{{4}})[-/.](\d{{1,2}})[-/.](\d{{1,2}}){CLOCK}{ZONE}$"
YEAR_LAST = rf"^(\d{{1,2}})[-/.](\d{{1,2}})[-/.](\d{{4}}|\d{{2}}),?{CLOCK}{ZONE}$"
BY_DIGITS = r"^((?:19|20)\d{2})(\d{2})(\d{2})$"
# As Twitter has it, and as e-mails do.
BY_NAME = r"^\w{3} (\w{3}) (\d{1,2}) (\d{2}):(\d{2}):(\d{2}) (\S+) (\d{4})$"
MAILED = r"^(?:\w{3}, )?(\d{1,2}) (\w{3}) (\d{4}) (\d{1,2}):(\d{2})(?::(\d{2}))? (\S+)$"
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# The zones that RFC 822 names; others mean several places.
HOURS = {"z": 0, "utc": 0, "gmt": 0, "est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6}
HOURS |= {"pst": -8, "pdt": -7}


def times(cells: pl.Series, spelling: Spelling) -> Parsed:
    """Dates and times, of a Parquet file's own kinds, or text: ISO 8601, day or month first, Twitter's, numbers."""
    kind, notes, unclear = cells.dtype, list[str](), pl.repeat(False, cells.len(), eager=True)
    if kind in (pl.String, pl.Binary):
        cells = as_text(cells)
        kind = cells.dtype
    if isinstance(kind, pl.Datetime):
        seconds = cells.dt.convert_time_zone("UTC").dt.epoch("s") if kind.time_zone else cells.dt.epoch("s")
        notes = [] if kind.time_zone else [NO_ZONE]
    elif kind == pl.Date:
        seconds, notes = cells.dt.epoch("s"), [NO_ZONE]
    elif kind.is_numeric():  # whole ones have all their digits, which a float may not
        # A small float has no room for the seconds of an epoch; for a spreadsheet's days it has.
        numbers = cells.cast(pl.Float64)
        numbers = without(numbers, numbers >= SIZES[0][0]) if kind == pl.Float32 else numbers
        seconds = _of_numbers(numbers, cells.cast(pl.Int64, strict=False))
    elif kind == pl.String:
        seconds, zoned, unclear = _of_text(cells, spelling)
        notes = [NO_ZONE] if zoned < seconds.len() - seconds.null_count() else []
    else:
        seconds = pl.Series(cells.name, [None] * cells.len(), dtype=pl.Int64)
    wrong = cells.is_not_null() & ~seconds.is_between(EARLIEST, spelling.now).fill_null(False)
    reason = "must be a date and time, YYYY-MM-DD HH:MM:SS, from 1990 on, that has come"
    said = pl.when(unclear).then(pl.lit(UNCLEAR)).otherwise(pl.lit(faults(wrong, reason)))
    return Parsed(without(seconds, wrong), pl.select(said).to_series(), notes)


def _of_numbers(numbers: pl.Series, whole: pl.Series) -> pl.Series:
    """Seconds of epochs in s, ms, µs or ns, and of spreadsheets' days; null for other numbers."""
    frame = pl.DataFrame({"number": numbers, "whole": whole})
    days = ((pl.col("number") - 25_569) * 86_400).round().cast(pl.Int64, strict=False)
    seconds: pl.Expr = pl.when(pl.col("number").is_between(*SERIALS)).then(days)
    for least, size in SIZES:
        # Whole numbers are divided as such: a float has no room for nanoseconds.
        exact = pl.coalesce(pl.col("whole") // size, (pl.col("number") / size).floor().cast(pl.Int64, strict=False))
        seconds = (
            pl.when(pl.col("number").is_between(least, least * 1_000, closed="left")).then(exact).otherwise(seconds)
        )
    return frame.select(seconds.alias(numbers.name)).to_series()


def _of_text(cells: pl.Series, spelling: Spelling) -> tuple[pl.Series, int, pl.Series]:
    """Seconds; how many of them come with a zone, or as a number, which needs none; where day and month are unclear."""
    frame = pl.DataFrame({"text": cells})
    text = pl.col("text")

    def group(pattern: str, number: int) -> pl.Expr:
        return text.str.extract(pattern, number)

    order, last_is_year = _order(frame, spelling)
    day, month = order or (0, 1)
    iso = [group(YEAR_FIRST, number) for number in range(1, 9)]
    last = [group(YEAR_LAST, number) for number in range(1, 9)]
    year = pl.when(last[2].str.len_chars() == 2).then(pl.lit("20") + last[2]).otherwise(last[2])
    digits = [group(BY_DIGITS, number) for number in (1, 2, 3)]
    named = [group(BY_NAME, number) for number in range(1, 8)]
    mailed = [group(MAILED, number) for number in range(1, 8)]
    columns = {
        "year": pl.coalesce(iso[0], year, digits[0], named[6], mailed[2]),
        "month": pl.coalesce(iso[1], last[month], digits[1], _month(named[0]), _month(mailed[1])),
        "day": pl.coalesce(iso[2], last[day], digits[2], named[1], mailed[0]),
        "hour": pl.coalesce(iso[3], last[3], named[2], mailed[3]),
        "minute": pl.coalesce(iso[4], last[4], named[3], mailed[4]),
        "second": pl.coalesce(iso[5], last[5], named[4], mailed[5]),
        "half": pl.coalesce(iso[6], last[6]).str.to_lowercase(),
        "zone": pl.coalesce(iso[7], last[7], named[5], mailed[6]).str.to_lowercase(),
    }
    parts = frame.with_columns(**columns)
    hour = pl.col("hour").cast(pl.Int64, strict=False).fill_null(0)
    half = pl.col("half")
    afternoon = (half == "p").cast(pl.Int64) * 12
    hour = pl.when(half.is_null()).then(hour).when(hour.is_between(1, 12)).then(hour % 12 + afternoon)
    clock = pl.format(
        "{}-{}-{} {}:{}:{}", "year", "month", "day", hour, *(pl.col(n).fill_null("0") for n in ("minute", "second"))
    )
    local = clock.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="us").dt.epoch("s")
    offset = _offset(pl.col("zone"))
    number = pl.when(text.str.contains(r"^\d+(\.\d*)?$")).then(text)
    plain = _of_numbers(
        frame.select(number.cast(pl.Float64)).to_series(), frame.select(text.cast(pl.Int64, strict=False)).to_series()
    )
    found = parts.select(at=local - offset, zone="zone").with_columns(plain=plain)
    seconds = found.select(pl.coalesce("at", "plain").alias(cells.name)).to_series()
    zoned = found.filter((pl.col("at").is_not_null() & pl.col("zone").is_not_null()) | pl.col("plain").is_not_null())
    clear = order is not None and last_is_year
    unclear = pl.repeat(False, cells.len(), eager=True) if clear else matches(cells, YEAR_LAST)
    return without(seconds, unclear), zoned.height, unclear


def _month(name: pl.Expr) -> pl.Expr:
    numbers = {month: str(number) for number, month in enumerate(MONTHS, 1)}
    return name.str.to_lowercase().replace_strict(numbers, default=None, return_dtype=pl.String)


def _offset(zone: pl.Expr) -> pl.Expr:
    """Seconds by which a zone is ahead of UTC; none is 0, and one that is not known null."""
    seconds = {name: hours * 3_600 for name, hours in HOURS.items()}
    named = zone.replace_strict(seconds, default=None, return_dtype=pl.Int64)
    sign = pl.when(zone.str.starts_with("-")).then(-1).otherwise(1)
    pattern = r"^[+-](\d{2}):?(\d{2})?$"
    hours = zone.str.extract(pattern, 1).cast(pl.Int64)
    minutes = zone.str.extract(pattern, 2).cast(pl.Int64).fill_null(0)
    spelt = pl.when((hours <= 15) & (minutes < 60)).then(sign * (hours * 3_600 + minutes * 60))
    return pl.when(zone.is_null()).then(0).otherwise(pl.coalesce(named, spelt))


def _order(frame: pl.DataFrame, spelling: Spelling) -> tuple[tuple[int, int] | None, bool]:
    """Places of day and month where the year comes last (None: no value says, or they say both), and whether it does.

    Of 24-03-01 nothing says that the year is the last number, unless another one is over 31 or has four digits.
    """
    first, second, year = (frame["text"].str.extract(YEAR_LAST, number).cast(pl.Int64) for number in (1, 2, 3))
    last = bool(spelling.dates) or bool((year > 31).any())
    by_day = ((first > 12) & (second <= 12)).any()
    by_month = ((second > 12) & (first <= 12)).any()
    if by_day == by_month and not spelling.dates:
        return None, last
    return (0, 1) if spelling.dates == "dmy" or (by_day and not spelling.dates) else (1, 0), last
