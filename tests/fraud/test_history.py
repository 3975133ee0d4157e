"""Files of payments: every bad row is reported by line, every good one comes through."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from fraud.__main__ import app
from fraud.config import DAY, HOUR, PARTITIONS
from fraud.history import COLUMNS, EVENT_COLUMNS, as_events, read_file, write_history
from shared import ingested_files
from shared import lake as lake_module
from shared.dead_letters import DeadLetter
from shared.eventlog.port import partition_of
from shared.lake import Lake, write_parquet
from shared.privacy import pseudonym
from shared.unusable import Unusable
from tests.worlds import KEY, START, bank, brief

HEADER = "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD,COUNTRY,DEVICE"
GOOD = {
    "TRANSACTION_ID": "tx1",
    "TX_DATETIME": "2026-01-01 00:00:31",
    "CUSTOMER_ID": "596",
    "TERMINAL_ID": "3156",
    "TX_AMOUNT": "57.16",
    "TX_FRAUD": "0",
    "COUNTRY": "BE",
    "DEVICE": "d1",
}
READ = {
    "id": "tx1",
    "at": START + 31,
    "card": "596",
    "terminal": "3156",
    "cents": 57_16,
    "fraud": False,
    "country": "BE",
    "device": "d1",
}


def line(**fields: str) -> str:
    return ",".join((GOOD | fields).values())


def read(
    folder: Path, *lines: str, header: str = HEADER, end: str = "\n"
) -> tuple[list[dict[str, object]], list[DeadLetter]]:
    """What comes of a CSV with these lines."""
    path = folder / "payments.csv"
    path.write_bytes(end.join([header, *lines]).encode(errors="surrogateescape"))
    table = read_file(path)
    return table.rows.select(*READ).to_dicts(), table.sorted_letters()


def told(letters: list[DeadLetter]) -> list[tuple[int, str, str]]:
    return [(letter.offset, letter.field, letter.value) for letter in letters]


# --- files -------------------------------------------------------------------------------------------


def test_a_row_is_a_payment(tmp_path: Path) -> None:
    assert read(tmp_path, line()) == ([READ], [])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_line_ends_byte_order_marks_and_blank_lines_do_no_harm(tmp_path: Path, start: str, end: str) -> None:
    assert read(tmp_path, line(), "", header=start + HEADER, end=end) == ([READ], [])


def test_quoted_fields_are_read(tmp_path: Path) -> None:
    quoted = ",".join(f'"{value}"' for value in GOOD.values())
    assert read(tmp_path, quoted, header=",".join(f'"{name}"' for name in GOOD)) == ([READ], [])


def test_columns_may_stand_in_any_order_beside_others(tmp_path: Path) -> None:
    names = ["TX_FRAUD_SCENARIO", *reversed(GOOD)]
    backwards = ",".join(["2", *reversed(GOOD.values())])
    ((row,), letters) = read(tmp_path, backwards, header=",".join(names))
    assert (row, letters) == (READ, [])  # and nothing of the scenario, which is the answer


def test_country_and_device_may_be_missing_or_empty(tmp_path: Path) -> None:
    rows, letters = read(tmp_path, line(COUNTRY="", DEVICE=""))
    assert (rows[0]["country"], rows[0]["device"], letters) == (None, None, [])
    short = ",".join(list(GOOD.values())[:6])
    rows, letters = read(tmp_path, short, header=",".join(list(GOOD)[:6]))
    assert (rows[0]["country"], rows[0]["device"], letters) == (None, None, [])


def test_a_file_without_truth_reads_as_legitimate(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, ",".join(list(GOOD.values())[:5]), header=",".join(list(GOOD)[:5]))
    assert rows[0]["fraud"] is False


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    raw = pl.DataFrame(
        {
            "TRANSACTION_ID": [1, 2],
            "TX_DATETIME": ["2026-01-01 00:00:31", "2026-01-01 01:00:00"],
            "CUSTOMER_ID": [596, 4_961],
            "TERMINAL_ID": [3_156, 3_412],
            "TX_AMOUNT": [57.16, 81.0],
            "TX_FRAUD": [0, 1],
        }
    ).with_columns(pl.col("TX_DATETIME").str.to_datetime())
    raw.write_csv(tmp_path / "a.csv")
    raw.write_parquet(tmp_path / "a.parquet")
    from_csv, from_parquet = (read_file(tmp_path / f"a.{kind}").rows.select(*READ) for kind in ("csv", "parquet"))
    assert_frame_equal(from_csv, from_parquet)
    assert from_csv["fraud"].to_list() == [False, True]
    zoned = raw.with_columns(pl.col("TX_DATETIME").dt.replace_time_zone("Europe/Brussels"))
    zoned.write_parquet(tmp_path / "zoned.parquet")
    assert read_file(tmp_path / "zoned.parquet").rows["at"].to_list() == [at - HOUR for at in from_csv["at"]]


def test_every_amount_up_to_a_thousand_is_its_whole_cents(tmp_path: Path) -> None:
    lines = [line(TRANSACTION_ID=f"tx{cents}", TX_AMOUNT=f"{cents / 100:.2f}") for cents in range(100_001)]
    rows, letters = read(tmp_path, *lines)
    assert [row["cents"] for row in rows] == list(range(100_001))
    assert not letters


def test_rows_come_in_order_of_time(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, line(TRANSACTION_ID="b", TX_DATETIME="2026-01-02 00:00:00"), line(TRANSACTION_ID="a"))
    assert [row["id"] for row in rows] == ["a", "b"]


BAD = [
    (
        "TX_AMOUNT",
        "cents",
        ["-0.01", "-57.16", "100000.01", "1e9", "NaN", "inf", "-inf", "", "abc", "5.7.1", "0x5"],
    ),
    ("TX_DATETIME", "at", ["", "yesterday", "2026-02-30 00:00:00", "2026-01-01 25:00:00", "01/02/2026 00:00:00"]),
    ("TX_DATETIME", "at", ["1950-01-01 00:00:00", "2999-01-01 00:00:00", "0", "12"]),
    ("TRANSACTION_ID", "id", ["", "a b", "1" * 65, "x" * 1_000_000, "a\0b", "né", "a.b", "\udcff\udcfe"]),
    ("CUSTOMER_ID", "card", ["", " ", "x" * 1_000_000, "\0", "../etc"]),
    ("TERMINAL_ID", "terminal", ["", "x" * 65, "a;b"]),
    ("TX_FRAUD", "fraud", ["2", "perhaps", "-1", "0.5"]),
    ("COUNTRY", "country", ["be", "BEL", "B", "B1"]),
    ("DEVICE", "device", ["x" * 65, "a b"]),
]


@pytest.mark.parametrize(
    ("column", "field", "value"),
    [(c, f, value) for c, f, values in BAD for value in values],
    ids=brief,
)
def test_a_bad_value_is_reported_by_line_and_the_good_rows_come_through(
    tmp_path: Path, column: str, field: str, value: str
) -> None:
    rows, letters = read(tmp_path, line(), line(**{column: value}), line(TRANSACTION_ID="tx3"))
    assert [row["id"] for row in rows] == ["tx1", "tx3"]
    assert len(letters) == 1
    assert (letters[0].offset, letters[0].field) == (3, field)
    raw = value.encode(errors="surrogateescape")
    assert letters[0].value == (raw.decode("latin-1") if "\udcff" in value else raw.decode())[:200]
    assert letters[0].reason.startswith("must ") or letters[0].reason.startswith(("is missing", "may begin"))
    assert letters[0].topic == "payments.csv"


def test_a_first_row_that_is_bad_spoils_no_other(tmp_path: Path) -> None:
    rows, letters = read(tmp_path, line(TX_DATETIME="13/01/2026", TX_AMOUNT="x"), line())
    assert rows == [READ]
    assert told(letters) == [(2, "cents", "x")]  # the thirteenth says that the day comes first


def test_ragged_lines_are_reported_and_what_follows_is_read(tmp_path: Path) -> None:
    rows, letters = read(
        tmp_path, "tx0,2026-01-01", line() + ",more", line(), '"tx9,' + line(), line(TRANSACTION_ID="tx3")
    )
    assert [row["id"] for row in rows] == ["tx1", "tx3"]
    assert [(letter.offset, letter.field) for letter in letters] == [(2, "line"), (3, "line"), (5, "line")]
    assert letters[0].reason == "has 2 fields, the header 8"


def test_line_numbers_count_blank_lines(tmp_path: Path) -> None:
    _, letters = read(tmp_path, line(), "", "", line(TX_AMOUNT="x", TRANSACTION_ID="tx2"))
    assert told(letters) == [(5, "cents", "x")]


def test_the_first_of_duplicates_is_kept_and_the_others_are_reported(tmp_path: Path) -> None:
    rows, letters = read(tmp_path, line(), line(), line(TX_AMOUNT="1.00"), line(CUSTOMER_ID="597"))
    assert [(row["card"], row["cents"]) for row in rows] == [("596", 57_16), ("597", 57_16)]
    assert told(letters) == [(3, "id", "tx1"), (4, "id", "tx1")]


def test_a_refused_row_does_not_shadow_a_good_one(tmp_path: Path) -> None:
    rows, letters = read(tmp_path, line(TX_AMOUNT="x"), line())
    assert (rows, told(letters)) == ([READ], [(2, "cents", "x")])


@pytest.mark.parametrize("name", [column.headings[0] for column in COLUMNS if column.needed])
def test_a_missing_column_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(Unusable, match=f"lacks {name}"):
        read(tmp_path, line(), header=HEADER.replace(name, "OTHER"))


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\x00garbage", b"PAR1", bytes(1_000)])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / f"payments.{kind}"
    path.write_bytes(content)
    with pytest.raises(Unusable, match=path.name):
        read_file(path)


def test_a_parquet_file_cut_in_half_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "payments.parquet"
    pl.DataFrame({name: [value] * 1_000 for name, value in GOOD.items()}).write_parquet(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Unusable, match="no whole Parquet file"):
        read_file(path)


def test_a_header_alone_is_no_history(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="only line is the header"):
        read(tmp_path)


# --- events -------------------------------------------------------------------------------------------


def events(*, labels: bool = True) -> pl.DataFrame:
    """One payment at a full hour with its label an hour later; ticks from an hour before to one after."""
    payments = pl.DataFrame(
        {
            "card": "596",
            "id": "tx1",
            "terminal": "3156",
            "at": START,
            "cents": 57_16,
            "country": "BE",
            "device": "phone",
        }
    )
    known = payments.select("card", "id", "terminal", pl.col("at") + HOUR, fraud=True, source=pl.lit("chargeback"))
    return as_events(payments, known.head(int(labels)), key=KEY, ticks=(START - HOUR, START + HOUR))


def test_hours_without_an_event_have_their_ticks() -> None:
    nothing = events().filter(pl.col("kind") == "payment").head(0)
    rows = as_events(nothing, nothing, key=KEY, ticks=(START, START + HOUR))
    assert rows.select("partition", "at").rows() == [(p, at) for at in (START, START + HOUR) for p in range(PARTITIONS)]


def test_an_ingested_file_brings_nothing_of_the_future(tmp_path: Path) -> None:
    """Else every payment that follows would be late, until the last fraud of the file had its week."""
    now = START + 5 * DAY + 90
    times = ["2026-01-01 00:00:00", "2026-01-06 00:01:00", "2026-01-06 00:01:31"]
    rows = [line(TRANSACTION_ID=f"tx{n}", TX_DATETIME=at, TX_FRAUD="1") for n, at in enumerate(times)]
    (tmp_path / "payments.csv").write_text("\n".join([HEADER, *rows]))
    words = ["--var", str(tmp_path), "--virtual", str(now), "ingest", str(tmp_path / "payments.csv")]
    said = CliRunner().invoke(app, words)
    assert "2 new of 2 payments" in said.stdout, said.output
    assert "1 rows refused" in said.stdout
    known = Lake(tmp_path / "fraud" / "lake").read("events")
    assert known["at"].max() == now
    assert known.filter(pl.col("kind") == "label").sort("id")["at"].to_list() == [now, now]
    assert known.filter(pl.col("kind") == "tick")["at"].max() == START + 5 * DAY
    assert "0 new of 2 payments" in CliRunner().invoke(app, words).stdout


def test_at_the_same_second_the_tick_goes_first() -> None:
    rows = events()
    assert rows["at"].is_sorted()
    assert rows["kind"].to_list() == [*["tick"] * (2 * PARTITIONS), "payment", *["tick"] * PARTITIONS, "label"]


def test_every_partition_gets_every_tick() -> None:
    ticks = events().filter(kind="tick")
    for at in (START - HOUR, START, START + HOUR):
        assert sorted(ticks.filter(at=at)["partition"]) == list(range(PARTITIONS))


def test_a_card_has_the_partition_that_the_log_would_give_it() -> None:
    rows = events().filter(pl.col("kind") != "tick")
    assert set(rows["card"]) == {pseudonym("596", KEY)}
    assert set(rows["partition"]) == {partition_of(pseudonym("596", KEY), PARTITIONS)}


def test_no_name_of_a_card_or_device_gets_in() -> None:
    rows = events()
    assert not {"596", "phone"} & {value for row in rows.rows() for value in row}
    assert rows["device"].drop_nulls().to_list() == [pseudonym("phone", KEY)]
    assert as_events(*2 * (rows.clear(),), key=KEY, ticks=(START, START)).height == PARTITIONS  # and none is no error


def test_history_stands_before_the_log_in_order_of_time(tmp_path: Path) -> None:
    rows = bank(seed=1, days=3, cards=60)
    lake = Lake(tmp_path)
    assert write_history(lake, rows) == rows.filter(kind="payment").height
    written = lake.read("events")
    assert written["offset"].max() < 0  # type: ignore[operator]  # an int
    for partition in range(PARTITIONS):
        mine = written.filter(partition=partition)
        assert_frame_equal(mine.select(rows.columns), rows.filter(partition=partition))


def parts(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """Two files with a day in common; each has ticks of its own."""
    middle = START + 2 * DAY
    return [rows.filter(pl.col("at") < middle + DAY), rows.filter(pl.col("at") >= middle)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0, 1)])
def test_files_add_up_whatever_their_order_and_the_same_again_adds_nothing(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    rows = bank(seed=1, days=5, cards=60)
    whole, lake, new = Lake(tmp_path / "whole"), Lake(tmp_path / "parts"), 0
    write_history(whole, rows)
    for number in order:
        new += write_history(lake, parts(rows)[number])
    assert new == rows.filter(kind="payment").height
    columns = ["partition", *EVENT_COLUMNS]
    assert_frame_equal(lake.read("events").select(columns), whole.read("events").select(columns))
    assert write_history(lake, rows) == 0
    assert lake.read("events").height == rows.height


@pytest.mark.parametrize("death", [1, 3])  # before its rows are kept, and while they go into the lake
def test_an_import_that_died_is_finished_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: int
) -> None:
    rows, lake, written = bank(seed=1, days=5, cards=60), Lake(tmp_path), 0
    real = write_parquet

    def dies(path: Path, part: pl.DataFrame) -> None:
        nonlocal written
        written += 1
        if written == death:
            raise KeyboardInterrupt
        real(path, part)

    with monkeypatch.context() as dying:
        dying.setattr(lake_module, "write_parquet", dies)
        dying.setattr(ingested_files, "write_parquet", dies)
        with pytest.raises(KeyboardInterrupt):
            write_history(lake, rows)
    assert write_history(lake, rows) == (rows.filter(kind="payment").height if death == 1 else 0)
    columns = ["partition", *EVENT_COLUMNS]
    whole = Lake(tmp_path / "whole")
    write_history(whole, rows)
    assert_frame_equal(lake.read("events").select(columns), whole.read("events").select(columns))
