"""Reads files of payments, and writes a simulated past into the lake."""

from pathlib import Path

import polars as pl

from fraud import config
from shared.eventlog.port import partition_of
from shared.ingested_files import IngestedFiles
from shared.lake import Lake
from shared.privacy import pseudonym
from shared.table_files.amounts import Amount
from shared.table_files.cells import SPELLING, Code, Identifier, Spelling, flags
from shared.table_files.rows import read_rows
from shared.table_files.table import Column, Table, typed
from shared.table_files.times import times

MOMENT = pl.when(pl.col("kind") == "tick").then("at")  # a tick is known by its time
EVENT_COLUMNS: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(("kind", "card", "id", "terminal", "currency", "country", "device", "source"), pl.String),
    **dict.fromkeys(("at", "cents"), pl.Int64),
    **dict.fromkeys(("probe", "fraud"), pl.Boolean),
}
LAKE_COLUMNS = EVENT_COLUMNS | {"appended": pl.Int64}  # null for what came by file
IDENTIFIER = Identifier(r"^[A-Za-z0-9_-]{1,64}$")
COLUMNS = (
    Column("id", ("TRANSACTION_ID",), IDENTIFIER),
    Column("at", ("TX_DATETIME",), times),
    Column("card", ("CUSTOMER_ID",), IDENTIFIER),
    Column("terminal", ("TERMINAL_ID",), IDENTIFIER),
    Column("cents", ("TX_AMOUNT",), Amount(0, config.MAX_CENTS / 100, "must be an amount in EUR, 0 to 100,000")),
    Column("fraud", ("TX_FRAUD",), flags, needed=False, default=False),
    Column("country", ("COUNTRY",), Code(r"^[A-Z]{2}$", "must be two capitals", keep=("na",)), needed=False),
    Column("device", ("DEVICE",), IDENTIFIER, needed=False),
)


def as_events(payments: pl.DataFrame, labels: pl.DataFrame, *, key: bytes, ticks: tuple[int, int]) -> pl.DataFrame:
    """Payments and labels with their names as rows of `fraud.events`, in order of time, with hourly ticks.

    `ticks`: event times, whole hours, of the first and the last one. At the same second a tick goes
    first, so that every partition closes its hour before a payment asks for it.
    """
    hours = pl.DataFrame({"at": range(ticks[0], ticks[1] + 1, config.HOUR)}, schema={"at": pl.Int64})
    clock = hours.join(
        pl.DataFrame({"partition": range(config.PARTITIONS)}, schema={"partition": pl.Int64}), how="cross"
    )
    named = pl.concat(
        [
            payments.select("card", "id", "terminal", "at", "cents", "country", "device").with_columns(
                kind=pl.lit("payment"), currency=pl.lit(config.CURRENCY), probe=pl.lit(False)
            ),
            labels.with_columns(kind=pl.lit("label")),
        ],
        how="diagonal_relaxed",
    )
    cards = {card: pseudonym(card, key) for card in named["card"].unique()}
    devices = {device: pseudonym(device, key) for device in named["device"].drop_nulls().unique()}
    places = {card: partition_of(card, config.PARTITIONS) for card in cards.values()}
    rows = named.with_columns(
        pl.col("card").replace_strict(cards), pl.col("device").replace_strict(devices, return_dtype=pl.String)
    )
    # Without a default, an empty mapping (nothing happens for hours) would leave the column as it is.
    partition = pl.col("card").replace_strict(places, default=None, return_dtype=pl.Int64)
    rows = rows.with_columns(partition=partition)
    rows = pl.concat([clock.with_columns(kind=pl.lit("tick")), rows], how="diagonal_relaxed")
    return rows.select("partition", *(pl.col(name).cast(kind) for name, kind in EVENT_COLUMNS.items())).sort(
        "at", maintain_order=True
    )


def write_history(lake: Lake, rows: pl.DataFrame, *, source: str = "") -> int:
    """Add events that never came through the log to those of earlier files; gives the number of new payments.

    Payments and labels are known by their card and transaction id. `source`: the digest of the file, if it is one.

    Raises:
        Unusable: an older version has ingested files.
    """
    files = IngestedFiles(lake)
    with files.alone():
        new = files.add_new("events", rows, known_by=["kind", "partition", "card", "id", MOMENT], source=source)
    return new.filter(pl.col("kind") == "payment").height


def read_file(path: Path, spelling: Spelling = SPELLING) -> Table:
    """Payments of a CSV or Parquet file with the COLUMNS, in order of time; `cents` are whole. Amounts are in EUR.

    Raises:
        Unusable: a column is missing, or no row can be read.
    """
    table = typed(read_rows(path), COLUMNS, spelling)
    again = pl.struct("card", "id").is_first_distinct().not_()
    table.refuse(again, "id", "the card's transaction id stands in an earlier line")
    table.require("payment")
    cents = (pl.col("cents") * 100).round().cast(pl.Int64)
    table.rows = table.rows.with_columns(cents).sort("at", maintain_order=True)
    return table
