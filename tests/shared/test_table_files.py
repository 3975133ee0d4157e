"""Files that people have: a row is read right or reported by its line, and the rest goes on."""

import csv
import gzip
import io
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.console import Stage
from shared.refusals import show_refusals
from shared.table_files import csv_lines
from shared.table_files.amounts import Amount
from shared.table_files.cells import Code, Identifier, Spelling, Text, Undecided, Word, flags
from shared.table_files.rows import read_rows
from shared.table_files.table import Column, Table, typed
from shared.table_files.times import NO_ZONE, times
from shared.unusable import Unusable
from tests.worlds import brief

NAME = Identifier(r"^[A-Za-z0-9_-]{1,64}$")
PRICE = Amount(0, 1_000_000, "must be an amount")
_arrow_table: Callable[[object], object] = pyarrow.lib.table  # pyarrow is untyped
_write_table: Callable[[object, Path], None] = pyarrow.parquet.write_table
COLUMNS = (
    Column("id", ("id", "Order ID"), NAME),
    Column("at", ("at",), times),
    Column("price", ("price",), PRICE, needed=False, default=1.0),
    Column("note", ("note",), Text(longest=300_000, verbatim=True), needed=False),
)
HEADER = "id,at,price,note"
AT = int(datetime(2024, 3, 1, 1, 23, 52, tzinfo=UTC).timestamp())
GOOD = "a1,2024-03-01 01:23:52,2.50,fine"
READ = ("a1", AT, 2.5, "fine")


def read(path: Path, **spelling: str) -> Table:
    return typed(read_rows(path), COLUMNS, Spelling(**spelling))  # type: ignore[arg-type]  # `now` stays


def of(folder: Path, content: str | bytes, name: str = "rows.csv") -> Table:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read(path)


def rows(table: Table) -> list[tuple[object, ...]]:
    return table.rows.select("id", "at", "price", "note").rows()


def reported(table: Table) -> list[tuple[int, str]]:
    return [(letter.offset, letter.field) for letter in table.sorted_letters()]


# --- lines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_separators_line_ends_and_encodings(tmp_path: Path, separator: str, end: str, encoding: str) -> None:
    text = end.join([HEADER, GOOD.replace("fine", "é £"), ""]).replace(",", separator)
    table = of(tmp_path, text.encode(encoding))
    assert (rows(table), table.letters) == ([(*READ[:3], "é £")], [])
    assert ("Windows-1252" in str(table.notes)) == (encoding == "cp1252")


def test_a_compressed_file_and_one_with_any_name_are_read(tmp_path: Path) -> None:
    content = f"{HEADER}\n{GOOD}".encode()
    assert rows(of(tmp_path, gzip.compress(content), "rows.data")) == [READ]
    frame = pl.DataFrame({"ID": ["a1"], "at": ["2024-03-01 01:23:52"], "price": [2.5], "note": ["fine"]})
    frame.write_parquet(tmp_path / "rows.PQ")
    assert rows(read(tmp_path / "rows.PQ")) == [READ]


def test_a_folder_is_read_as_one_file_whose_lines_are_told_by_part(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.csv.crc").write_bytes(b"\0")
    (folder / "part-0.csv").write_text(f"{HEADER}\n{GOOD}\nb,never,1,\n")
    (folder / "part-1.csv").write_text(f"{HEADER}\n{GOOD.replace('a1', 'a2')}\n")
    table = read(folder)
    assert table.rows.select("id", "place").rows() == [("a1", "1-2"), ("a2", "2-2")]
    assert [(letter.topic, letter.offset) for letter in table.letters] == [("rows/part-0.csv", 3)]
    digest = table.digest
    (folder / "part-1.csv").write_text(f"{HEADER}\n{GOOD.replace('a1', 'a3')}\n")
    assert read(folder).digest != digest


def folder(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        path = tmp_path / "rows" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "rows"


def test_a_column_may_stand_in_the_names_of_folders_only(tmp_path: Path) -> None:
    text = f"id,at,price\n{GOOD.removesuffix(',fine')}\n"
    path = folder(tmp_path, **{"note=a%20b__part-0": text, "note=__HIVE_DEFAULT_PARTITION____part-1": text})
    assert read(path).rows["note"].to_list() == [None, "a b"]


def test_each_part_of_a_folder_has_its_own_header_and_an_empty_one_is_passed_over(tmp_path: Path) -> None:
    other = "note;price;at;Order ID\nx;1;2024-03-01;b2\n"
    path = folder(tmp_path, a=f"{HEADER}\n{GOOD}\n", b=other, c="")
    assert rows(read(path)) == [READ, ("b2", AT - 5_032, 1.0, "x")]
    with pytest.raises(Unusable, match="rows/d lacks id, at"):
        read(folder(tmp_path, d=GOOD))


def test_parts_of_unlike_kinds_are_each_read_by_their_own(tmp_path: Path) -> None:
    path = folder(tmp_path, a='id,at,price,note\nc1,2024-03-01,"5,50",\n')
    frame = pl.DataFrame({"id": [5.0], "at": [AT], "price": [1.234], "note": ["x"]})
    frame.with_columns(pl.col("note").cast(pl.Categorical), other=[[1]]).write_parquet(path / "b")
    frame.with_columns(pl.from_epoch("at"), id=pl.lit(2**53 + 1), other=1).write_parquet(path / "c")
    found = rows(read(path))
    assert found == [("c1", AT - 5_032, 5.5, None), ("5", AT, 1.234, "x"), (str(2**53 + 1), AT, 1.234, "x")]


def test_of_two_headings_of_one_column_the_first_with_a_value_counts(tmp_path: Path) -> None:
    assert rows(of(tmp_path, "id,order id,at,price\n,a1,2024-03-01 01:23:52,2.5\n")) == [(*READ[:3], None)]


BROKEN = {
    "an open quote": ('b,2024-03-01,1,"open', "line"),
    "text behind a quote": ('b,2024-03-01,1,"closed" or not', "line"),
    "a quote that another row closes": ('b,2024-03-01,1,"open\nb,2024-03-01,1,close",', "line"),
    "too many fields": ("b,2024-03-01,1,x,y", "line"),
    "too few fields": ("b,2024-03-01", "line"),
    "the header again": (HEADER, "line"),
    "no time": ("b,,1,x", "at"),
    "no id": ("NA,2024-03-01,1,x", "id"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_one_broken_line_costs_itself_and_lines_keep_their_numbers(tmp_path: Path, kind: str) -> None:
    line, field = BROKEN[kind]
    spread = GOOD.replace("fine", '"over\ntwo, lines"').replace("a1", "a0")
    table = of(tmp_path, "\n".join([HEADER, spread, "", line, GOOD, ",,,", spread.replace("a0", "a9")]))
    assert table.rows["id"].to_list() == ["a0", "a1", "a9"]
    assert table.rows["note"].to_list() == ["over\ntwo, lines", "fine", "over\ntwo, lines"]
    if kind == "a quote that another row closes":
        assert reported(table) == [(5, field), (6, field)]
        return
    assert reported(table) == [(5, field)]
    assert all("over" not in letter.reason + letter.value for letter in table.letters)


def test_long_cells_and_blanks_behind_separators(tmp_path: Path) -> None:
    assert read_rows_of(tmp_path, f'id, at, price, note\na1, 2024-03-01, 1, "{"x" * 200_000}"\n') == ["x" * 200_000]
    spread = "\n".join(["word"] * 1_500)
    assert read_rows_of(tmp_path, f'{HEADER}\na1,2024-03-01,1,"{spread}"\n') == [spread]


def read_rows_of(tmp_path: Path, text: str) -> list[str | None]:
    (tmp_path / "rows.csv").write_text(text)
    ((part,), letters) = read_rows(tmp_path / "rows.csv")[2:4]
    assert letters == []
    return part.columns["note"]().to_list()


def test_lines_that_end_with_cr_may_hold_an_lf(tmp_path: Path) -> None:
    spread = GOOD.replace("fine", '"two\nlines"')
    table = of(tmp_path, "\r".join([HEADER, spread, GOOD, GOOD]) + "\n")
    assert table.rows["note"].to_list() == ["two\nlines", "fine", "fine"]


def test_quotes_cost_no_more_in_a_long_file() -> None:
    """Lines looked at, not seconds: a reader that begins at the top for each record looks at all before it."""
    looked = 0

    class Lines(list[str]):
        def __getitem__(self, place: Any) -> Any:
            nonlocal looked
            looked += 1
            return super().__getitem__(place)

        def __iter__(self) -> Iterator[str]:
            raise AssertionError("all lines are walked")

    lines = Lines(['"a","b"'] * 2_000)
    form = csv_lines.Form(",", blank=False, width=2)
    assert sum(1 for _ in csv_lines._records(lines, 1, form, [])) == 2_000
    assert looked <= 4 * 2_000


def test_a_byte_that_is_no_utf8_costs_its_line_where_others_are(tmp_path: Path) -> None:
    content = "\n".join([HEADER, GOOD.replace("fine", "é"), GOOD.replace("fine", "ü")]).encode() + b"\na2,2024,1,\xff"
    table = of(tmp_path, content)
    assert table.rows["note"].to_list() == ["é", "ü"]
    assert reported(table) == [(4, "line")]


WHOLE = {
    "is empty": b"",
    "only line is the header": b"id,at,price,note\n",
    "lacks id, at: its header must be like id,at,price,note": b"a1,2024-03-01 01:23:52,2.50,fine\n",
    "the column at twice": b"id,at,At\n1,2,3\n",
    "lacks id": b"ann@example.org,ann@example.org,x\n",
    "no whole Parquet file": b"PAR1 and then nothing",
    "no whole gzip file": b"\x1f\x8b\x08 and then nothing",
    "spreadsheet: save it as CSV": b"PK\x03\x04 and so on",
}


@pytest.mark.parametrize("said", WHOLE)
def test_what_a_whole_file_lacks_is_one_sentence_without_its_content(tmp_path: Path, said: str) -> None:
    with pytest.raises(Unusable, match=said) as error:
        of(tmp_path, WHOLE[said])
    assert "\n" not in str(error.value)
    assert "2.50" not in str(error.value)


def test_a_file_without_a_row_that_can_be_read_gives_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"rows\.csv holds no order that can be read: line 2, at: must be"):
        of(tmp_path, f"{HEADER}\nb,never,1,x\n").require("order")


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r\x1c\x1d\x1e\x1f"), max_size=12)


@settings(deadline=None)
@given(st.lists(CELL, min_size=1, max_size=8), st.sampled_from(",;\t"), st.integers(0, 8))
def test_whatever_a_writer_has_quoted_comes_back_around_a_broken_line(
    tmp_path_factory: pytest.TempPathFactory, notes: list[str], separator: str, place: int
) -> None:
    folder, text = tmp_path_factory.mktemp("rows"), io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(HEADER.split(","))
    for number, note in enumerate(notes):
        if number == place:
            text.write(f"broken{separator}\n")
        writer.writerow([f"a{number}", "2024-03-01", "1", note])
    table = of(folder, text.getvalue())
    assert table.rows["note"].to_list() == [note.strip() or None for note in notes]
    assert len(table.letters) == (place < len(notes))


# --- times ------------------------------------------------------------------------------------------------


TIMES = {
    "2024-03-01 01:23:52": AT,
    "2024-03-01T01:23:52Z": AT,
    "2024-03-01T01:23:52.987654+00:00": AT,
    "2024-03-01 01:23:52 UTC": AT,
    "2024-03-01 01:23:52 -0800": AT + 8 * 3_600,
    "2024-03-01T01:23:52+05:30": AT - 19_800,
    "2024-07-01 01:23:52 EDT": AT + 122 * 86_400 + 4 * 3_600,
    "2024-03-01 01:23": AT - 52,
    "2024/3/1 1:23:52": AT,
    "2024-03-01": AT - 5_032,
    "20240301": AT - 5_032,
    "Fri Mar 01 01:23:52 +0000 2024": AT,
    "Thu Feb 29 17:23:52 PST 2024": AT,
    "Fri, 01 Mar 2024 01:23:52 GMT": AT,
    str(AT): AT,
    f"{AT}.5": AT,
    f"{AT}123": AT,
    f"{AT}123456": AT,
    f"{AT}123456789": AT,
    "45352.25": AT - 5_032 + 21_600,
    "2024-03-01 1:23:52 AM": AT,
    "2024-03-01 12:23:52 am": AT - 3_600,
    "2024-03-01 1:23:52 PM": AT + 43_200,
}


@pytest.mark.parametrize("text", TIMES, ids=brief)
def test_a_time_is_read_however_it_is_written(text: str) -> None:
    parsed = times(pl.Series([text, None]), Spelling())
    assert parsed.values.to_list() == [TIMES[text], None]
    assert parsed.faults.null_count() == 2


@pytest.mark.parametrize(
    "text",
    [
        *("yesterday", "2024-02-30 00:00:00", "2024-03-01 25:00:00", "2024-03-01 01:00:00 CEST", "1.709E+12"),
        *("2099-01-01", "1970-01-01 00:00:00", "0", "-5", "2024", "2024-03-01 13:00:00 PM", "2024-03-01 00:00 +9900"),
    ],
)
def test_what_is_no_time_or_has_not_come_is_at_fault(text: str) -> None:
    parsed = times(pl.Series([text]), Spelling(now=AT + 366 * 86_400))
    assert parsed.values.to_list() == [None]
    assert parsed.faults[0].startswith("must be a date and time")


@pytest.mark.parametrize(
    ("texts", "dates", "expected"),
    [
        (["13/01/2024", "02/01/24 10:00"], "", [(1, 13), (1, 2)]),
        (["12/13/2010 8:26", "12/1/2010 8:26"], "", [(12, 13), (12, 1)]),
        (["01.02.2024", "28.02.2024"], "", [(2, 1), (2, 28)]),
        (["01/02/2024"], "", [None]),
        (["13/01/2024", "01/13/2024"], "", [None, None]),
        (["01/02/2024"], "dmy", [(2, 1)]),
        (["24-03-01", "24-03-15"], "", [None, None]),  # the year may come first
        (["24-03-01", "24-03-99"], "dmy", [(3, 24), None]),
        (["13/02/24", "13/02/99"], "", [(2, 13), None]),
        (["01/02/2024"], "mdy", [(1, 2)]),
        (["01/02/2024", "2024-02-01"], "", [None, (2, 1)]),
    ],
)
def test_the_column_says_whether_the_day_comes_first(
    texts: list[str], dates: str, expected: list[tuple[int, int] | None]
) -> None:
    parsed = times(pl.Series(texts), Spelling(dates=dates, now=1_900_000_000))
    found = [None if at is None else datetime.fromtimestamp(at, UTC) for at in parsed.values]
    assert [at and (at.month, at.day) for at in found] == expected
    left_open = [fault is not None and "DATES=dmy" in fault for fault in parsed.faults]
    assert left_open == [at is None and not text.endswith("99") for at, text in zip(expected, texts, strict=True)]


def test_a_time_without_a_zone_is_said_to_be_utc() -> None:
    assert times(pl.Series(["2024-03-01 01:23:52Z", str(AT)]), Spelling()).notes == []
    assert times(pl.Series(["2024-03-01 01:23:52Z", "2024-03-01"]), Spelling()).notes == [NO_ZONE]


KINDS = {
    "naive": pl.Series([datetime(2024, 3, 1, 1, 23, 52)]),  # that is what is tried
    "zone": pl.Series([datetime(2024, 3, 1, 1, 23, 52, tzinfo=UTC)]).dt.convert_time_zone("America/New_York"),
    "milliseconds": pl.Series([AT * 1_000]),
    "float": pl.Series([float(AT)]),
    "small": pl.Series([AT]).cast(pl.UInt32),
    "decimal": pl.Series([Decimal(AT)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_time_of_a_parquet_file_is_read_by_its_kind(tmp_path: Path, kind: str) -> None:
    pl.DataFrame({"id": [b"a1"], "at": KINDS[kind]}).write_parquet(tmp_path / "rows.parquet")
    assert rows(read(tmp_path / "rows.parquet")) == [("a1", AT, 1.0, None)]


@pytest.mark.parametrize("column", ["id", "at", "price", "note"])
@pytest.mark.parametrize(
    "cell", [[1], {"a": 1}, timedelta(seconds=AT), Decimal("1" * 60)], ids=["list", "struct", "duration", "decimal256"]
)
def test_what_is_no_single_value_is_at_fault(tmp_path: Path, column: str, cell: object) -> None:
    table = _arrow_table({"id": ["a1"], "at": [AT], "price": [1.5], "note": ["x"], "other": [cell]} | {column: [cell]})
    _write_table(table, tmp_path / "rows.parquet")
    assert reported(read(tmp_path / "rows.parquet")) == [(1, column)]


def test_a_small_float_has_no_room_for_an_epoch_or_a_long_id(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": [16_777_217.0, 7.0, 7.0], "at": [45_352.25, float(AT), 45_352.25]})
    frame.with_columns(pl.all().cast(pl.Float32)).write_parquet(tmp_path / "rows.parquet")
    table = read(tmp_path / "rows.parquet")
    assert reported(table) == [(1, "id"), (2, "at")]
    assert table.rows.select("id", "at").rows() == [("7", AT - 5_032 + 21_600)]


def test_a_date_is_its_first_second(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": [7], "at": [date(2024, 3, 1)]}, schema_overrides={"id": pl.Int8})
    frame.write_parquet(tmp_path / "rows.parquet")
    assert rows(read(tmp_path / "rows.parquet")) == [("7", AT - 5_032, 1.0, None)]


def test_categories_are_text_and_lists_are_at_fault(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": ["a", "b"], "at": [AT, AT], "price": [Decimal("1.5"), None], "note": ["x", None]})
    frame.with_columns(pl.col("id", "note").cast(pl.Categorical)).write_parquet(tmp_path / "rows.parquet")
    assert rows(read(tmp_path / "rows.parquet")) == [("a", AT, 1.5, "x"), ("b", AT, 1.0, None)]
    frame.with_columns(id=pl.concat_list("id")).write_parquet(tmp_path / "lists.parquet")
    assert reported(read(tmp_path / "lists.parquet")) == [(1, "id"), (2, "id")]


# --- numbers and words ------------------------------------------------------------------------------------


AMOUNTS: list[tuple[list[str], list[float | None]]] = [
    (["1,234.50", "5", "1,234"], [1234.5, 5, 1234]),
    (["1.234,50", "47,87", "1.234"], [1234.5, 47.87, 1234]),
    (["1 234,00", "1\u00a0234", "1'234,5"], [1234, 1234, 1234.5]),
    (["€3.20", "4 €", "EUR 5.10"][:2], [3.2, 4]),
    (["$3.20", "$1,000.00"], [3.2, 1000]),
    (["1,234,567", "1,234"], [1234567, 1234]),
    ([".5", "1e3", "-2.5"], [0.5, 1000, -2.5]),
    (["1,234", "7"], [None, 7]),  # may be two numbers
    (["1.234", "7"], [None, 7]),
    (["2.5", "2,5", "1,234"], [2.5, 2.5, None]),
    (["1.234", "2.345", "3.456", "4.567", "12,5"], [None, None, None, None, 12.5]),  # one cell does not decide
    (["1,23,456.0", "12\t50", "1 2", "x", "5 5 €"], [None] * 5),
    (["NA", "null", "", "N/A"], [None] * 4),
]


@pytest.mark.parametrize(("texts", "numbers"), AMOUNTS, ids=brief)
def test_an_amount_is_read_by_the_marks_of_its_column(texts: list[str], numbers: list[float | None]) -> None:
    parsed = Amount(-1e9, 1e9, "must be an amount")(pl.Series(texts), Spelling())
    assert parsed.values.to_list() == numbers
    empty = [text.lower() in ("na", "null", "", "n/a") for text in texts]
    assert [fault is None for fault in parsed.faults] == [
        number is not None or nothing for number, nothing in zip(numbers, empty, strict=True)
    ]


def test_what_sets_off_the_fractions_may_be_said() -> None:
    assert PRICE(pl.Series(["1,234"]), Spelling(decimal=",")).values.to_list() == [1.234]
    assert PRICE(pl.Series(["1,234"]), Spelling(decimal=".")).values.to_list() == [1234]


def test_amounts_of_two_currencies_are_no_column() -> None:
    with pytest.raises(Undecided, match="several currencies"):
        PRICE(pl.Series(["£1", "$2"]), Spelling())


IDS: list[tuple[list[object], list[str | None]]] = [
    (["37.0", "38"], ["37", "38"]),
    (["37.0", "x"], [None, "x"]),
    (["9007199254740993.0", "1"], [None, "1"]),
    (["5.7E+17", "1"], [None, "1"]),
    (["12e5", "7"], [None, "7"]),
    (["12e5", "ab"], ["12e5", "ab"]),  # a name among names
    ([37.0, 38.0], ["37", "38"]),
    ([5.7e17, 38.0], [None, "38"]),
    ([37.5, 38.0], [None, None]),
]


@pytest.mark.parametrize(("cells", "names"), IDS, ids=brief)
def test_an_identifier_keeps_its_digits_or_is_refused(cells: list[object], names: list[str | None]) -> None:
    parsed = NAME(pl.Series(cells), Spelling())
    good = [name if fault is None else None for name, fault in zip(parsed.values, parsed.faults, strict=True)]
    assert good == names


def test_flags_words_and_codes() -> None:
    yes = flags(pl.Series(["1", "0.0", "TRUE", "No", "2", "NA"]), Spelling())
    assert yes.values.to_list() == [True, False, True, False, None, None]
    assert [fault is None for fault in yes.faults] == [True, True, True, True, False, True]
    word = Word({"buy": "purchase", "purchase": "purchase"})(pl.Series(["Buy", "PURCHASE", "stolen"]), Spelling())
    assert word.values.to_list() == ["purchase", "purchase", None]
    country = Code("^[A-Z]{2}$", "must be two capitals", keep=("na",))(pl.Series(["NA", "null", "be"]), Spelling())
    assert country.values.to_list() == ["NA", None, "be"]  # Namibia
    assert [fault is None for fault in country.faults] == [True, True, False]
    written = pl.Series(["NA", "null", " ", "too long"])
    words = Text(longest=5, verbatim=True)(written, Spelling())
    assert words.values.to_list()[:3] == ["NA", "null", None]
    assert words.faults[3] == "is longer than 5 characters"
    assert Text(longest=9)(written, Spelling()).values.to_list() == [None, None, None, "too long"]


# --- what a person sees -----------------------------------------------------------------------------------


def test_the_first_ten_refusals_are_shown_and_all_stand_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = "\n".join(f"b{number},never,1," for number in range(25))
    table = of(tmp_path, f"{HEADER}\n{GOOD}\n{bad}\n")
    show_refusals(Stage(), table, tmp_path / "var")
    said = capsys.readouterr().out
    assert "the first 10 of 25" in said
    (path,) = (tmp_path / "var").glob("refused-*.csv")
    assert pl.read_csv(path)["line"].to_list() == list(range(3, 28))
    assert path.name in said.replace("\n", "")
