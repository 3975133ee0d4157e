"""Files: known columns, bad rows by line and reason, and the troubles of real shops."""

import hashlib
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from recsys import dataset
from recsys.config import DAY
from recsys.history import COLUMNS, PRODUCT_COLUMNS, Past, read_file, write_history
from shared import ingested_files
from shared import lake as lake_module
from shared.lake import Lake, write_parquet
from shared.privacy import pseudonym
from shared.table_files.cells import Spelling
from shared.unusable import Unusable
from tests.recsys.shop import KEY, START

NAMES = [column.name for column in COLUMNS if column.name != "family"]
HEADER = ",".join(NAMES)
GOOD = "ann,pen,purchase,2026-01-01 10:00:00,2,1.50,o-1,A pen,ink"


def read(folder: Path, *lines: str, header: str = HEADER) -> Past:
    path = folder / "events.csv"
    path.write_text("\n".join([header, *lines]))
    return read_file(path)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "events.csv").read_bytes()).hexdigest()[:12]


def test_a_row_is_a_deed_and_its_item_is_in_the_catalogue_from_then_on(tmp_path: Path) -> None:
    past = read(tmp_path, GOOD, GOOD.replace("10:00:00", "09:00:00").replace("A pen", "An older name"))
    row = past.events.row(1, named=True)
    assert (row["kind"], row["user"], row["item"], row["order"]) == ("purchase", "ann", "pen", "o-1")
    assert (row["at"], row["quantity"], row["cents"], row["id"]) == (START + 36_000, 2, 150, f"{digest(tmp_path)}-2")
    assert past.products.select("item", "at", "title", "category", "cents").rows() == [
        ("pen", START + 32_400, "An older name", "ink", 150)
    ]
    assert past.table.letters == []


def test_all_but_four_columns_may_be_missing(tmp_path: Path) -> None:
    past = read(tmp_path, "ann,pen,view,2026-01-01T10:00:00", header="user_id,item_id,event,at")
    assert past.events.select("quantity", "cents", "order").row(0) == (1, 0, None)
    for name in NAMES[:4]:
        header = HEADER.replace(name, "other")
        with pytest.raises(Unusable, match=f"lacks {name}"):
            read(tmp_path, GOOD, header=header)


BROKEN = {
    "user_id": ["", "a b", "x" * 255, ".hidden", "a/b"],
    "item_id": ["", "p;en"],
    "event": ["stolen", ""],
    "at": ["yesterday", "2026-13-01 10:00:00", "", "-5", "1970-01-01 00:00:00"],
    "quantity": ["0", "-2", "many", "inf", "1e9"],
    "price": ["-1", "free", "inf"],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BROKEN.items() for value in values])
def test_a_bad_row_is_reported_by_line_and_reason_and_the_rest_is_read(tmp_path: Path, field: str, value: str) -> None:
    cells = GOOD.split(",")
    cells[NAMES.index(field)] = value
    past = read(tmp_path, GOOD, ",".join(cells), GOOD.replace("ann", "bob"))
    assert past.events["user"].to_list() == ["ann", "bob"]
    (letter,) = past.table.letters
    assert (letter.offset, letter.field) == (3, field)
    assert letter.reason.startswith(("must ", "is missing"))


def test_an_empty_cell_has_the_default_and_half_a_thing_is_one_purchase_at_half_the_price(tmp_path: Path) -> None:
    past = read(tmp_path, GOOD.replace(",2,1.50,", ",,,"), GOOD.replace(",2,1.50,", ",0.5,3,"))
    assert past.events.select("quantity", "cents").rows() == [(1, 0), (1, 150)]


def test_a_row_that_has_not_come_yet_is_refused(tmp_path: Path) -> None:
    """One row of the year 2099 would make a training begin in 2099."""
    (tmp_path / "events.csv").write_text("\n".join([HEADER, GOOD, GOOD.replace("2026", "2099")]))
    past = read_file(tmp_path / "events.csv", Spelling(now=START + DAY))
    assert past.events.height == 1
    assert [(letter.offset, letter.field) for letter in past.table.letters] == [(3, "at")]


def test_a_row_with_two_faults_is_reported_once_by_the_first(tmp_path: Path) -> None:
    past = read(tmp_path, GOOD, "a b,pen,stolen,2026-01-01 10:00:00,1,1,,,")
    assert [(letter.offset, letter.field) for letter in past.table.letters] == [(3, "user_id")]
    assert past.events.height == 1


@pytest.mark.parametrize("content", [b"", b"PAR1 no more", b"\xff\xfe\x00bad"])
def test_what_is_no_such_file_is_refused_as_a_whole(tmp_path: Path, content: bytes) -> None:
    for name in ("events.csv", "events.parquet"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Unusable):
            read_file(tmp_path / name)


def invoices(**columns: list[object]) -> pl.DataFrame:
    rows = {
        "invoice_no": ["536365", "C536366", "A563185", "536367", "536368", "536369", "536370"],
        "stock_code": ["85123A", "85123a", "B", "POST", "22423", "22423", "gift_0001_20"],
        "description": ["HOLDER", "HOLDER", "Adjust bad debt", "POSTAGE", None, "STAND", "gift"],
        "quantity": [6, -6, 1, 1, 2, 3, 1],
        "invoice_ts": [datetime(2010, 12, 1 + day, 8, 26) for day in range(7)],
        "unit_price": [2.55, 2.55, -11_062.06, 18.0, 0.0, 12.75, 10.0],
        "customer_id": [17850, 17850, 12345, 12583, 12583, None, 1],
        "country": ["United Kingdom"] * 7,
    }
    return pl.DataFrame(rows | columns)


def test_invoices_of_online_retail(tmp_path: Path) -> None:
    invoices().write_parquet(tmp_path / "retail.parquet")
    past = read_file(tmp_path / "retail.parquet")
    assert past.events.select("kind", "user", "item", "quantity", "cents").rows() == [
        ("purchase", "17850", "85123A", 6, 255),
        ("cancel", "17850", "85123A", 6, 255),  # the code is written in two ways
    ]
    assert past.set_aside == {"no customer": 1, "no price": 1, "no product": 3}
    assert past.products.select("item", "family").rows() == [("85123A", "85123")]
    assert past.table.letters == []


def test_behaviours_of_retailrocket(tmp_path: Path) -> None:
    at = [datetime(2015, 5, 3, 1, number) for number in range(3)]
    frame = pl.DataFrame(
        {"user_id": [1, 1, 1], "item_id": [5, 5, 5], "behavior": ["view", "cart", "buy"], "event_ts": at}
    )
    frame.with_columns(pl.col("event_ts").dt.replace_time_zone("UTC")).write_parquet(tmp_path / "rocket.parquet")
    assert read_file(tmp_path / "rocket.parquet").events["kind"].to_list() == ["view", "cart", "purchase"]


def test_receipts_of_the_complete_journey_with_products_beside_them(tmp_path: Path) -> None:
    receipts = {
        "household_id": [900, 900],
        "product_id": [1095275, 9878513],
        "basket_id": [31198570044, 31198570047],
        "quantity": [2, 1],
        "sales_value": [3.0, 0.0],
        "transaction_ts": [datetime(2017, 1, 1, 11, 53)] * 2,
    }
    pl.DataFrame(receipts).write_parquet(tmp_path / "transactions.parquet")
    about = {"product_id": [1095275], "product_category": ["ROLLS"], "product_type": ["ROLLS: DINNER"]}
    pl.DataFrame(about).write_parquet(tmp_path / "products.parquet")
    past = read_file(tmp_path / "transactions.parquet")
    assert past.events.select("user", "item", "quantity", "cents").rows() == [("900", "1095275", 2, 150)]
    assert past.products.select("title", "category").rows() == [("ROLLS: DINNER", "ROLLS")]
    assert past.set_aside == {"no price": 1}


def test_history_stands_before_the_log_and_has_no_names(tmp_path: Path) -> None:
    lake, past = Lake(tmp_path / "lake"), read(tmp_path, GOOD, GOOD.replace("ann", "bob"), GOOD.replace("pen", "ink"))
    write_history(lake, past.events, past.products, key=KEY)
    rows = lake.read("events")
    assert rows["offset"].max() < 0  # type: ignore[operator]  # of integers
    assert not set(rows["user"]) & {"ann", "bob"}
    assert rows["user"].n_unique() == 2
    assert set(PRODUCT_COLUMNS) <= set(lake.read("catalogue").columns)


def test_a_second_file_adds_and_the_same_again_adds_nothing(tmp_path: Path) -> None:
    """The lines of both files have the same numbers, and their shoppers stand in the same partitions."""
    lake = Lake(tmp_path / "lake")
    for line in (GOOD, GOOD.replace("01-01", "01-02")):
        past = read(tmp_path, line, line.replace("ann", "bob"))
        assert write_history(lake, past.events, past.products, key=KEY) == 2
        assert write_history(lake, past.events, past.products, key=KEY) == 0
    rows = dataset.events(lake, cut=START + 3 * DAY)
    assert rows["at"].to_list() == [START + 36_000] * 2 + [START + DAY + 36_000] * 2
    assert lake.read("events").height == 4
    assert lake.read("catalogue").select("item", "at").sort("at").rows() == [
        ("pen", START + 36_000),
        ("pen", START + DAY + 36_000),
    ]


def test_the_deeds_of_a_shopper_who_asked_to_be_forgotten_do_not_come_back_with_a_file(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    past = read(tmp_path, GOOD, GOOD.replace("ann", "bob"), GOOD.replace("01-01", "01-03"))
    ann = pseudonym("ann", KEY)
    erasure = pl.DataFrame({"user": [ann], "at": [START + DAY], "partition": [0], "offset": [0]})
    lake.write("erasures", erasure, batch="0-0")
    assert write_history(lake, past.events, past.products, key=KEY) == 2
    on_disk = [pl.read_parquet(path) for path in tmp_path.glob("lake*/events/**/*.parquet")]
    assert all(rows.filter(pl.col("user") == ann)["at"].gt(START + DAY).all() for rows in on_disk)


@pytest.mark.parametrize(
    "death", [1, 3, 5]
)  # before anything, before the events are kept, and while they go into the lake
def test_an_import_that_died_is_finished_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: int
) -> None:
    past = read(tmp_path, *(GOOD.replace("01-01", f"01-{day:02}") for day in range(1, 9)))
    lake, written, real = Lake(tmp_path / "lake"), 0, write_parquet

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
            write_history(lake, past.events, past.products, key=KEY)
    assert write_history(lake, past.events, past.products, key=KEY) == (0 if death == 5 else 8)
    assert dataset.events(lake, cut=START + 9 * DAY).height == 8
