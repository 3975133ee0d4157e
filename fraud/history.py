"""Files and simulated pasts -> rows of `fraud.events`, for what never came through the log."""

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from fraud import config
from shared.dead_letters import LINE, VALUE, DeadLetter, Refused
from shared.eventlog.port import partition_of
from shared.ingested_files import IngestedFiles
from shared.lake import HISTORY, Lake
from shared.privacy import pseudonym

BEGINNING = -(2**53)  # offset of what would have happened at second 0, before there was a log
A_SECOND = 2**20  # offsets that a second of event time has in a partition
EVENT_COLUMNS: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(("kind", "card", "id", "terminal", "currency", "country", "device", "source"), pl.String),
    **dict.fromkeys(("at", "cents"), pl.Int64),
    **dict.fromkeys(("probe", "fraud"), pl.Boolean),
}
LAKE_COLUMNS = EVENT_COLUMNS | {"appended": pl.Int64}  # null for what came by file
FILE_COLUMNS = {
    "TRANSACTION_ID": "id",
    "TX_DATETIME": "at",
    "CUSTOMER_ID": "card",
    "TERMINAL_ID": "terminal",
    "TX_AMOUNT": "cents",
    "TX_FRAUD": "fraud",
    "COUNTRY": "country",  # may be missing, as may DEVICE
    "DEVICE": "device",
}
LATEST = 2**32 - 1  # event time is 32 bits wide


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

    Payments and labels are known by their card and transaction id. The offsets follow from the event time, so neither
    the order of the files nor what comes later changes them. `source`: the digest of the file, if it is one.

    Raises:
        Refused: the lake has events of files with the offsets of an older version, which would be folded last.
    """
    moment = pl.when(pl.col("kind") == "tick").then("at")  # a tick is known by its time
    files = IngestedFiles(lake)
    files.finish()
    known = _brought(lake, rows).with_columns(moment=moment)
    if not known.filter(pl.col("offset") > BEGINNING // 2).is_empty():
        raise Refused(
            "lake", "", "its events of files were written by an older version: ingest all files into a new one"
        )
    identity = ["kind", "partition", "card", "id", "moment"]
    new = rows.with_columns(moment=moment).join(
        known.select(identity), on=identity, how="anti", nulls_equal=True, maintain_order="left"
    )
    taken = known.group_by("partition", "at").len("taken")
    place = pl.int_range(pl.len(), dtype=pl.Int64).over("partition", "at") + pl.col("taken").fill_null(0)
    placed = new.join(taken, on=["partition", "at"], how="left", maintain_order="left").with_columns(
        offset=BEGINNING + A_SECOND * pl.col("at") + place
    )
    files.add("events", placed.drop("moment", "taken"), source=source)
    return new.filter(pl.col("kind") == "payment").height


def _brought(lake: Lake, rows: pl.DataFrame) -> pl.DataFrame:
    """What earlier files have brought on the dates of the rows."""
    schema: dict[str, type[pl.DataType]] = {"partition": pl.Int64, "offset": pl.Int64, **EVENT_COLUMNS}
    if rows.is_empty():
        return pl.DataFrame(schema=schema)
    first, last = (datetime.fromtimestamp(at, UTC).date() for at in rows.select(pl.min("at"), last=pl.max("at")).row(0))
    known = lake.read("events", since=first, until=last + timedelta(days=1), batch=HISTORY)
    return pl.DataFrame(schema=schema) if known.is_empty() else known.select(*schema)


def read_file(path: Path, *, now: int = LATEST) -> tuple[pl.DataFrame, list[DeadLetter]]:
    """Payments of a CSV or Parquet file with the columns of FILE_COLUMNS, and the rows refused, by line.

    Amounts are in EUR, times in UTC. A CSV's header is line 1.

    `now`: what comes later is refused.

    Raises:
        Refused: columns are missing, or it is no such file, so that no row can be read.
    """
    source, letters = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    missing = [old for old, new in list(FILE_COLUMNS.items())[:5] if new not in source.columns]
    if missing:
        raise Refused("columns", path.name, f"{path.name} lacks {', '.join(missing)}")
    identifier = r"^[A-Za-z0-9_-]{1,64}$"
    amount = pl.col("cents").cast(pl.Float64, strict=False)
    valid = {
        "id": (pl.col("id").str.contains(identifier), f"must match {identifier}"),
        "card": (pl.col("card").str.contains(identifier), f"must match {identifier}"),
        "terminal": (pl.col("terminal").str.contains(identifier), f"must match {identifier}"),
        "at": (_seconds("at").is_between(0, now), "must be a date and time, YYYY-MM-DD HH:MM:SS, that has come"),
        "cents": (
            amount.is_finite() & amount.is_between(0, config.MAX_CENTS / 100),
            "must be an amount in EUR, 0 to 100,000",
        ),
        "fraud": (pl.col("fraud").is_in(["0", "1", "true", "false"]), "must be 0 or 1"),
        "country": (
            pl.col("country").is_null() | pl.col("country").str.contains(r"^[A-Z]{2}$"),
            "must be two capitals",
        ),
        "device": (pl.col("device").is_null() | pl.col("device").str.contains(identifier), f"must match {identifier}"),
    }
    for field in source.columns[1:]:
        good, reason = valid[field]
        bad = source.filter(~good.fill_null(False)).select("line", field)
        letters += [_letter(path, line, field, value, reason) for line, value in bad.iter_rows()]
    refused_lines = {letter.offset for letter in letters}
    optional = {name: pl.lit(None, pl.String) for name in ("country", "device") if name not in source.columns}
    payments = source.filter(~pl.col("line").is_in(list(refused_lines))).with_columns(
        at=_seconds("at"),
        cents=(amount * 100).round().cast(pl.Int64),
        fraud=pl.col("fraud").is_in(["1", "true"]) if "fraud" in source.columns else pl.lit(False),
        **optional,
    )
    once = payments.unique(["card", "id"], keep="first", maintain_order=True)
    reason = "the card's transaction id stands in an earlier line"
    again = payments.join(once.select("line"), on="line", how="anti").select("line", "id")
    letters += [_letter(path, line, "id", value, reason) for line, value in again.iter_rows()]
    return once.sort("at", maintain_order=True), sorted(letters, key=lambda letter: letter.offset)


def _seconds(column: str) -> pl.Expr:
    # The format is said: guessed from the file's first rows, a time would depend on another payment.
    formats = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f")
    return pl.coalesce(
        pl.col(column).str.to_datetime(text, time_unit="us", strict=False).dt.epoch("s") for text in formats
    )


def _letter(path: Path, line: int, field: str, value: object, reason: str) -> DeadLetter:
    return DeadLetter(topic=path.name, partition=0, offset=line, field=field, value=str(value)[:VALUE], reason=reason)


def _parquet(path: Path) -> tuple[pl.DataFrame, list[DeadLetter]]:
    """`line` and the known columns as text."""
    try:
        raw = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise Refused("file", path.name, f"is no whole Parquet file: {error}") from error
    if isinstance(zoned := raw.schema.get("TX_DATETIME"), pl.Datetime) and zoned.time_zone:
        utc = pl.col("TX_DATETIME").dt.convert_time_zone("UTC")
        raw = raw.with_columns(utc.dt.replace_time_zone(None))
    columns = {new: pl.col(old).cast(pl.String) for old, new in FILE_COLUMNS.items() if old in raw.columns}
    return raw.with_row_index("line", offset=1).select("line", **columns), []


def _csv(path: Path) -> tuple[pl.DataFrame, list[DeadLetter]]:
    """The same of a CSV file, and the lines that have more or fewer fields than the header.

    Line by line, so that one stray quote or byte spoils its own line and no other.
    """
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    rows = pl.DataFrame({"text": text.split("\n")}).with_row_index("line", offset=1)
    rows = rows.with_columns(pl.col("text").str.strip_suffix("\r")).filter(
        (pl.col("text") != "") | (pl.col("line") == 1)
    )
    split = pl.col("text").str.split(",")
    if '"' in text:
        split = pl.col("text").map_elements(_quoted, return_dtype=pl.List(pl.String))
    rows = rows.with_columns(fields=split)
    header: list[str] = rows["fields"][0].to_list()
    width = pl.col("fields").list.len()
    ragged = rows.filter(width != len(header)).select("line", "text", width)
    letters = [
        _letter(path, line, LINE, value, f"has {found} fields, the header {len(header)}")
        for line, value, found in ragged.iter_rows()
    ]
    columns = {new: pl.col("fields").list.get(header.index(old)) for old, new in FILE_COLUMNS.items() if old in header}
    for optional in columns.keys() & {"country", "device"}:
        columns[optional] = columns[optional].replace("", None)
    return rows.filter((width == len(header)) & (pl.col("line") > 1)).select("line", **columns), letters


def _quoted(line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return [line]
