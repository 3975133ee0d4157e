"""Reads files of shop events, and writes a simulated past into the lake and the catalogue."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from recsys import config
from recsys.schema import NAME
from shared.eventlog.port import partition_of
from shared.ingested_files import IngestedFiles
from shared.lake import Lake
from shared.privacy import pseudonymised
from shared.table_files.amounts import Amount
from shared.table_files.cells import SPELLING, Identifier, Spelling, Text, Word
from shared.table_files.rows import read_rows
from shared.table_files.table import Column, Table, lacks, typed
from shared.table_files.times import times

Columns = dict[str, type[pl.DataType]]

EVENT_COLUMNS: Columns = {
    **dict.fromkeys(("kind", "id", "user", "item", "order", "list_id"), pl.String),
    **dict.fromkeys(("at", "quantity", "cents", "position"), pl.Int64),
}
PRODUCT_COLUMNS: Columns = {
    **dict.fromkeys(("item", "title", "category", "family", "seller"), pl.String),
    **dict.fromkeys(("at", "cents"), pl.Int64),
    **dict.fromkeys(("small", "in_stock"), pl.Boolean),
}
AT = pl.col("at")
IDENTIFIER = r"^[A-Za-z0-9_-]{1,64}$"
KINDS = ("view", "click", "cart", "purchase", "cancel")
ANY = r"^.{1,200}$"
MOST, MAX_PRICE, MAX_TITLE = config.MAX_QUANTITY, config.MAX_CENTS / 100, 10_000
COLUMNS = (
    Column("user_id", ("user_id",), Identifier(NAME)),
    Column("item_id", ("item_id",), Identifier(IDENTIFIER)),
    Column("event", ("event",), Word({kind: kind for kind in KINDS})),
    Column("at", ("at",), times),
    Column("quantity", ("quantity",), Amount(0.001, MOST, "must be above 0, to 100,000"), needed=False, default=1.0),
    Column("price", ("price",), Amount(0, MAX_PRICE, "must be an amount from 0 on"), needed=False, default=0.0),
    Column("order_id", ("order_id",), Identifier(ANY), needed=False),
    Column("title", ("title",), Text(longest=MAX_TITLE), needed=False, default=""),
    Column("category", ("category",), Text(longest=MAX_TITLE), needed=False, default=""),
    Column("family", ("family",), Text(longest=200), needed=False, default=""),
)
BEHAVIOURS = {kind: kind for kind in KINDS} | {"addtocart": "cart", "buy": "purchase", "transaction": "purchase"}
NO_PRODUCTS = r"^(POST|D|M|m|S|B|C2|DOT|PADS|CRUK|AMAZONFEE|DCGS.*|gift_.*|BANK CHARGES)$"  # of online_retail
VARIANT = r"^\d{5}[A-Za-z]{1,2}$"  # 85123A and 85123B are one thing in two colours


class Past(NamedTuple):
    """What a file holds."""

    events: pl.DataFrame  # EVENT_COLUMNS, in order of time; users by their names
    products: pl.DataFrame  # PRODUCT_COLUMNS, from the moment that each was first seen
    table: Table  # of the file, with what was refused
    set_aside: dict[str, int]  # rows that are no deed of a known shopper with a product, by reason


def write_history(lake: Lake, events: pl.DataFrame, products: pl.DataFrame, *, key: bytes, source: str = "") -> int:
    """Add what never came through the log to that of earlier files; gives the number of new events.

    Users become pseudonyms, and what an erasure in the lake covers stays out. An event is known by its user and id, a
    product by its item and time. `source`: the digest of the file, if it is one.

    Raises:
        Unusable: an older version has ingested files.
    """
    placed = products.with_columns(partition=pl.lit(0, pl.Int64)).select("partition", *PRODUCT_COLUMNS)
    files = IngestedFiles(lake)
    with files.alone():
        files.add_new("catalogue", placed, known_by=["item", "at"], source=source)
        rows = without_erased(hidden(events, key=key), lake.read("erasures"))
        return files.add_new("events", rows, known_by=["user", "id"], source=source).height


def without_erased(rows: pl.DataFrame, erasures: pl.DataFrame, happened: pl.Expr = AT) -> pl.DataFrame:
    """The rows of events without what their shoppers did until they asked to be forgotten."""
    if erasures.is_empty():
        return rows
    gone = erasures.group_by("user").agg(until=pl.col("at").max())
    rows = rows.join(gone, on="user", how="left", maintain_order="left")
    return rows.filter(pl.col("until").is_null() | (happened > pl.col("until"))).drop("until")


def hidden(events: pl.DataFrame, *, key: bytes) -> pl.DataFrame:
    """Events with pseudonyms, and the partition of each."""
    names = {name: pseudonymised(name, key) for name in events["user"].unique()}
    places = {name: partition_of(name, config.PARTITIONS) for name in names.values()}
    missing = [pl.lit(None, kind).alias(name) for name, kind in EVENT_COLUMNS.items() if name not in events.columns]
    rows = events.with_columns(pl.col("user").replace_strict(names, return_dtype=pl.String), *missing)
    partition = pl.col("user").replace_strict(places, return_dtype=pl.Int64).alias("partition")
    return rows.select(partition, *(pl.col(name).cast(kind) for name, kind in EVENT_COLUMNS.items()))


def read_file(path: Path, spelling: Spelling = SPELLING) -> Past:
    """Deeds of a CSV or Parquet file: with our own COLUMNS, or with those of a known shop (SHOPS).

    Times are UTC, prices in whole units of one currency.

    Raises:
        Unusable: a column is missing, or no row can be read.
    """
    rows = read_rows(path)
    ours = not lacks(rows, COLUMNS)
    shop = None if ours else next((shop for shop in SHOPS if not lacks(rows, shop.columns)), None)
    table = typed(rows, shop.columns if shop else COLUMNS, spelling)
    set_aside = dict[str, int]()
    if shop:
        mapped = shop.read(table.rows, path)
        aside = mapped.filter(pl.col("aside").is_not_null()).group_by("aside").len().sort("aside")
        set_aside = dict(aside.iter_rows())
        table.rows = mapped.filter(pl.col("aside").is_null())
        table.refuse(~pl.col("item_id").str.contains(IDENTIFIER), "item_id", f"must match {IDENTIFIER}")
    table.require("row")
    events = _events(table)
    return Past(events.select(*EVENT_COLUMNS), _products(events), table, set_aside)


def _events(table: Table) -> pl.DataFrame:
    """The rows in order of time, with the names that events have."""
    # Half a kilogram is one purchase, at half the price of a kilogram.
    quantity = pl.col("quantity")
    broken = quantity != quantity.floor()
    rows = table.rows.with_columns(
        kind="event",
        user="user_id",
        item="item_id",
        order="order_id",
        cents=(pl.when(broken).then(pl.col("price") * quantity).otherwise("price") * 100).round().cast(pl.Int64),
        quantity=pl.when(broken).then(1).otherwise(quantity).cast(pl.Int64),
        id=pl.format(f"{table.digest[:12]}-{{}}", "place"),  # the file and the line
        list_id=pl.lit(None, pl.String),
        position=pl.lit(None, pl.Int64),
    )
    return rows.sort("at", "file", "line")


def _products(events: pl.DataFrame) -> pl.DataFrame:
    """An item is in the catalogue from its first event on, as it was then."""
    first = events.unique("item", keep="first", maintain_order=True)
    return first.select(
        "item",
        "at",
        pl.col("title").fill_null("").str.slice(0, 200),
        pl.col("category").fill_null("").str.slice(0, 200),
        pl.col("family").fill_null(""),
        pl.lit("").alias("seller"),
        pl.lit(False).alias("small"),
        "cents",
        pl.lit(True).alias("in_stock"),
    )


PRODUCTS = (  # of completejourney
    Column("item_id", ("product_id",), Identifier(IDENTIFIER)),
    Column("category", ("product_category",), Text(longest=MAX_TITLE)),
    Column("title", ("product_type",), Text(longest=MAX_TITLE), needed=False, default=""),
)


class Shop(NamedTuple):
    """A data set that many know, by its own columns."""

    columns: tuple[Column, ...]
    # Typed rows and the file's path -> what COLUMNS has, and `aside`: why a row is no deed of a known shopper.
    read: Callable[[pl.DataFrame, Path], pl.DataFrame]


def _online_retail(rows: pl.DataFrame, _: Path) -> pl.DataFrame:
    """Invoices: C… takes back, A… is a bad debt; a quarter of the lines has no customer."""
    code, number = pl.col("stock_code").str.to_uppercase(), pl.col("invoice_no")
    reason = (
        pl.when(pl.col("user_id").is_null())
        .then(pl.lit("no customer"))
        .when(pl.col("stock_code").str.contains(NO_PRODUCTS))
        .then(pl.lit("no product"))
        .when(number.str.starts_with("A"))
        .then(pl.lit("bad debt"))
        .when(pl.col("price") <= 0)
        .then(pl.lit("no price"))
    )
    return rows.with_columns(
        item_id=code,
        event=pl.when(number.str.starts_with("C")).then(pl.lit("cancel")).otherwise(pl.lit("purchase")),
        quantity=pl.col("quantity").abs(),
        order_id=number,
        category=pl.lit(""),
        family=pl.when(code.str.contains(VARIANT)).then(code.str.slice(0, 5)).otherwise(pl.lit("")),
        aside=reason,
    )


def _retailrocket(rows: pl.DataFrame, _: Path) -> pl.DataFrame:
    nothing = dict.fromkeys(("title", "category", "family"), pl.lit(""))
    return rows.with_columns(**nothing, quantity=pl.lit(1.0), price=pl.lit(0.0), aside=pl.lit(None, pl.String))


def _completejourney(rows: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Receipt lines; categories stand in the file beside it."""
    about = path.with_name("products.parquet")
    beside = read_rows(about) if about.exists() else None
    if beside is not None and not lacks(beside, PRODUCTS):
        more = typed(beside, PRODUCTS, SPELLING).rows.unique("item_id").drop("file", "line", "place")
        rows = rows.join(more, on="item_id", how="left", maintain_order="left")
    else:
        rows = rows.with_columns(category=pl.lit(""), title=pl.lit(""))
    count = pl.col("quantity").clip(1, None)
    return rows.with_columns(
        event=pl.lit("purchase"),
        quantity=count,
        price=pl.col("price") / count,
        family=pl.lit(""),
        aside=pl.when(pl.col("price") <= 0).then(pl.lit("no price")),
    )


SHOPS = (
    Shop(
        (
            Column("invoice_no", ("invoice_no", "InvoiceNo", "Invoice"), Identifier(ANY)),
            Column("stock_code", ("stock_code", "StockCode"), Text(longest=200)),
            Column("title", ("description", "Description"), Text(longest=MAX_TITLE), needed=False, default=""),
            Column("quantity", ("quantity", "Quantity"), Amount(-MOST, MOST, "must be -100,000 to 100,000")),
            Column("at", ("invoice_ts", "InvoiceDate"), times),
            Column("price", ("unit_price", "UnitPrice", "Price"), Amount(-1e9, MAX_PRICE, "must be an amount")),
            Column("user_id", ("customer_id", "CustomerID", "Customer ID"), Identifier(NAME), needed=False),
        ),
        _online_retail,
    ),
    Shop(
        (
            Column("user_id", ("user_id", "visitorid"), Identifier(NAME)),
            Column("item_id", ("item_id", "itemid"), Identifier(IDENTIFIER)),
            Column("event", ("behavior", "event"), Word(BEHAVIOURS)),
            Column("at", ("event_ts", "timestamp"), times),
            Column("order_id", ("transactionid",), Identifier(ANY), needed=False),
        ),
        _retailrocket,
    ),
    Shop(
        (
            Column("user_id", ("household_id",), Identifier(NAME)),
            Column("item_id", ("product_id",), Identifier(IDENTIFIER)),
            Column("order_id", ("basket_id",), Identifier(ANY)),
            Column("at", ("transaction_ts", "transaction_timestamp"), times),
            Column("quantity", ("quantity",), Amount(0, MOST, "must be 0 to 100,000"), needed=False, default=1.0),
            Column("price", ("sales_value",), Amount(-1e9, MAX_PRICE, "must be an amount")),
        ),
        _completejourney,
    ),
)
