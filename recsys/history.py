"""Files and simulated pasts -> rows of `recsys.events` and of the catalogue, for what never came through the log."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from recsys import config
from recsys.schema import NAME
from shared.dead_letters import DeadLetter, Refused
from shared.eventlog.port import partition_of
from shared.ingested_files import IngestedFiles, digest_of_file
from shared.lake import HISTORY, Lake
from shared.privacy import pseudonymised

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
IDENTIFIER = r"^[A-Za-z0-9_-]{1,64}$"
KINDS = ("view", "click", "cart", "purchase", "cancel")
FILE_COLUMNS = ("user_id", "item_id", "event", "at", "quantity", "price", "order_id", "title", "category")
NO_PRODUCTS = r"^(POST|D|M|m|S|B|C2|DOT|PADS|CRUK|AMAZONFEE|DCGS.*|gift_.*|BANK CHARGES)$"  # of online_retail
VARIANT = r"^\d{5}[A-Za-z]{1,2}$"  # 85123A and 85123B are one thing in two colours


class Past(NamedTuple):
    """What a file holds."""

    events: pl.DataFrame  # EVENT_COLUMNS, in order of time; users by their names
    products: pl.DataFrame  # PRODUCT_COLUMNS, from the moment that each was first seen
    letters: list[DeadLetter]  # rows refused, by line
    set_aside: dict[str, int]  # rows that are no deed of a known shopper with a product, by reason


def write_history(lake: Lake, events: pl.DataFrame, products: pl.DataFrame, *, key: bytes, source: str = "") -> int:
    """Add what never came through the log to that of earlier files; gives the number of new events.

    Users become pseudonyms. An event is known by its user and id, a product by its item and time. Offsets lie below
    those of the log, and of files before. `source`: the digest of the file, if it is one.
    """
    IngestedFiles(lake).finish()
    placed = products.with_columns(partition=pl.lit(0, pl.Int64)).select("partition", *PRODUCT_COLUMNS)
    _add(lake, "catalogue", placed, known_by=["item", "at"], source=source)
    return _add(lake, "events", hidden(events, key=key), known_by=["user", "id"], source=source)


def _add(lake: Lake, table: str, rows: pl.DataFrame, *, known_by: list[str], source: str) -> int:
    known = lake.read(table, batch=HISTORY)
    if not known.is_empty():
        rows = rows.join(known.select(known_by), on=known_by, how="anti", maintain_order="left")
    lowest = known.group_by("partition").agg(lowest=pl.col("offset").min())
    count = pl.len().over("partition").cast(pl.Int64)
    place = pl.int_range(pl.len(), dtype=pl.Int64).over("partition") - count
    below = rows.join(lowest, on="partition", how="left", maintain_order="left")
    new = below.select(*rows.columns, offset=place + pl.col("lowest").fill_null(0))
    IngestedFiles(lake).add(table, new, source=source)
    return new.height


def hidden(events: pl.DataFrame, *, key: bytes) -> pl.DataFrame:
    """Events with pseudonyms, and the partition of each."""
    names = {name: pseudonymised(name, key) for name in events["user"].unique()}
    places = {name: partition_of(name, config.PARTITIONS) for name in names.values()}
    missing = [pl.lit(None, kind).alias(name) for name, kind in EVENT_COLUMNS.items() if name not in events.columns]
    rows = events.with_columns(pl.col("user").replace_strict(names, return_dtype=pl.String), *missing)
    partition = pl.col("user").replace_strict(places, return_dtype=pl.Int64).alias("partition")
    return rows.select(partition, *(pl.col(name).cast(kind) for name, kind in EVENT_COLUMNS.items()))


def read_file(path: Path, *, until: int = 2**32 - 1) -> Past:
    """Deeds of a CSV or Parquet file: own columns (FILE_COLUMNS, the first four needed), or a known data set's.

    A row after `until` is refused: a training would begin at it. Times are UTC, prices in whole units of one currency.
    A CSV's header is line 1.

    Raises:
        Refused: columns are missing, or it is no such file, so that no row can be read.
    """
    try:
        raw = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise Refused("file", path.name, f"is no whole CSV or Parquet file: {error}") from error
    raw = raw.with_row_index("line", offset=1 if path.suffix == ".parquet" else 2)
    adapt = next((adapt for columns, adapt in ADAPTERS.items() if set(columns) <= set(raw.columns)), None)
    if adapt is not None:
        raw = adapt(raw, path)
    missing = [name for name in FILE_COLUMNS[:4] if name not in raw.columns]
    if missing:
        raise Refused("columns", path.name, f"{path.name} lacks {', '.join(missing)}")
    if "aside" not in raw.columns:
        raw = raw.with_columns(aside=pl.lit(None, pl.String))
    aside = raw.filter(pl.col("aside").is_not_null()).group_by("aside").len().sort("aside")
    digest = digest_of_file(path)[:12]
    mine = raw.filter(pl.col("aside").is_null()).drop("aside")
    events, letters = _checked(mine, path, digest=digest, until=until)
    return Past(events.select(*EVENT_COLUMNS), _products(events), letters, dict(aside.iter_rows()))


def _checked(raw: pl.DataFrame, path: Path, *, digest: str, until: int) -> tuple[pl.DataFrame, list[DeadLetter]]:
    defaults = {"quantity": "1", "price": "0", "order_id": None, "title": "", "category": "", "family": ""}
    added = {name: pl.lit(value, pl.String) for name, value in defaults.items() if name not in raw.columns}
    rows = raw.with_columns(**added)
    at = rows["at"]
    if isinstance(at.dtype, pl.Datetime):
        seconds = at.dt.epoch("s")
    else:
        formats = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")
        texts = [pl.col("at").cast(pl.String).str.to_datetime(text, strict=False).dt.epoch("s") for text in formats]
        seconds = rows.select(pl.coalesce(*texts, pl.col("at").cast(pl.Int64, strict=False)))["at"]
    rows = rows.with_columns(
        seconds=seconds,
        units=pl.col("quantity").cast(pl.Float64, strict=False),
        amount=pl.col("price").cast(pl.Float64, strict=False),
        **{name: pl.col(name).cast(pl.String) for name in ("user_id", "item_id", "event")},
    )
    valid = {
        "user_id": (pl.col("user_id").str.contains(NAME), f"must match {NAME}"),
        "item_id": (pl.col("item_id").str.contains(IDENTIFIER), f"must match {IDENTIFIER}"),
        "event": (pl.col("event").is_in(KINDS), f"must be one of {', '.join(KINDS)}"),
        "at": (pl.col("seconds").is_between(0, until), "must be a date and time, YYYY-MM-DD HH:MM:SS, that has come"),
        "quantity": (pl.col("units").is_between(1, config.MAX_QUANTITY), "must be 1 to 100,000"),
        "price": (pl.col("amount").is_between(0, config.MAX_CENTS / 100), "must be an amount from 0 on"),
    }
    letters = []
    for field, (good, reason) in valid.items():
        bad = rows.filter(~good.fill_null(False)).select("line", pl.col(field).cast(pl.String))
        letters += [_letter(path, line, field, value, reason) for line, value in bad.iter_rows()]
    refused = {letter.offset for letter in letters}
    kept = rows.filter(~pl.col("line").is_in(list(refused)))
    events = kept.with_columns(
        kind=pl.col("event"),
        user=pl.col("user_id"),
        item=pl.col("item_id"),
        at=pl.col("seconds"),
        quantity=pl.col("units").cast(pl.Int64),
        cents=(pl.col("amount") * 100).round().cast(pl.Int64),
        order=pl.col("order_id").cast(pl.String),
        id=pl.format(f"{digest}-{{}}", "line"),  # the file and the line
        list_id=pl.lit(None, pl.String),
        position=pl.lit(None, pl.Int64),
    )
    return events.sort("at", "line"), sorted(letters, key=lambda letter: letter.offset)


def _letter(path: Path, line: int, field: str, value: object, reason: str) -> DeadLetter:
    return DeadLetter(topic=path.name, partition=0, offset=line, field=field, value=str(value)[:200], reason=reason)


def _products(events: pl.DataFrame) -> pl.DataFrame:
    """An item is in the catalogue from the first time that somebody did something with it, as it was then."""
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


def _online_retail(raw: pl.DataFrame, _: Path) -> pl.DataFrame:
    """Invoices: C… takes back, A… is a bad debt; a quarter of the lines has no customer."""
    code, number = pl.col("stock_code").str.to_uppercase(), pl.col("invoice_no").cast(pl.String)
    reason = (
        pl.when(pl.col("customer_id").is_null())
        .then(pl.lit("no customer"))
        .when(pl.col("stock_code").str.contains(NO_PRODUCTS))
        .then(pl.lit("no product"))
        .when(number.str.starts_with("A"))
        .then(pl.lit("bad debt"))
        .when(pl.col("unit_price") <= 0)
        .then(pl.lit("no price"))
    )
    back = number.str.starts_with("C")
    return raw.with_columns(
        user_id=pl.col("customer_id").cast(pl.Int64, strict=False).cast(pl.String),
        item_id=code,
        event=pl.when(back).then(pl.lit("cancel")).otherwise(pl.lit("purchase")),
        at=pl.col("invoice_ts"),
        quantity=pl.col("quantity").abs(),
        price=pl.col("unit_price"),
        order_id=number,
        title=pl.col("description"),
        family=pl.when(code.str.contains(VARIANT)).then(code.str.slice(0, 5)).otherwise(pl.lit("")),
        aside=reason,
    )


def _retailrocket(raw: pl.DataFrame, _: Path) -> pl.DataFrame:
    return raw.with_columns(
        event=pl.col("behavior").replace({"buy": "purchase"}), at=pl.col("event_ts").dt.replace_time_zone(None)
    )


def _completejourney(raw: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Receipt lines; categories stand in the file beside it."""
    more = pl.read_parquet(path.with_name("products.parquet")) if path.with_name("products.parquet").exists() else None
    if more is not None:
        about = more.select("product_id", category="product_category", title="product_type")
        raw = raw.join(about, on="product_id", how="left", maintain_order="left")
    return raw.with_columns(
        user_id=pl.col("household_id").cast(pl.String),
        item_id=pl.col("product_id").cast(pl.String),
        event=pl.lit("purchase"),
        at=pl.col("transaction_ts"),
        quantity=pl.col("quantity").clip(1, None),
        price=pl.col("sales_value") / pl.col("quantity").clip(1, None),
        order_id=pl.col("basket_id").cast(pl.String),
        aside=pl.when(pl.col("sales_value") <= 0).then(pl.lit("no price")),
    )


ADAPTERS: dict[tuple[str, ...], Callable[[pl.DataFrame, Path], pl.DataFrame]] = {
    ("invoice_no", "stock_code", "invoice_ts", "customer_id", "quantity", "unit_price"): _online_retail,
    ("user_id", "item_id", "behavior", "event_ts"): _retailrocket,
    ("household_id", "product_id", "basket_id", "transaction_ts", "sales_value"): _completejourney,
}
