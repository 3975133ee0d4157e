"""Reads files of posts and labels, and writes a simulated past into the lake."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from sentiment.config import MAX_TEXT
from sentiment.label_scale import LabelScale
from shared.ingested_files import IngestedFiles
from shared.lake import HISTORY, Lake
from shared.table_files.cells import SPELLING, Identifier, Spelling, Text
from shared.table_files.rows import read_rows
from shared.table_files.table import Column, Table, typed
from shared.table_files.times import times

Columns = dict[str, pl.DataType | type[pl.DataType]]

AUDIT_COLUMNS: Columns = {
    **dict.fromkeys(("post", "text", "label", "model", "path", "author", "why_not"), pl.String),
    **dict.fromkeys(("at", "known_at", "partition", "offset"), pl.Int64),
    "inclusion": pl.Float64,
    "score": pl.List(pl.Float64),
    "brands": pl.List(pl.String),
    "drawn": pl.List(pl.String),  # the brands for which it was drawn; none: an older version drew it for all of them
}

# What other people's files call our columns; the first that a file has counts.
COLUMNS = (
    Column("at", ("created_at", "at", "date"), times),
    Column("text", ("text",), Text(longest=MAX_TEXT, verbatim=True)),
    Column("id", ("id", "tweet_id"), Identifier(r"^[A-Za-z0-9_-]{1,64}$"), needed=False),
    Column("author", ("author", "name", "user"), Text(longest=200), needed=False),
    Column("brand", ("brand", "airline", "topic"), Text(longest=200), needed=False),
)
# In the airlines' file the label "Delta" stands on tweets to JetBlue: a fault of the original.
BRANDS = {"US Airways": "us-airways", "Virgin America": "virgin-america", "Delta": "jetblue", "Southwest": "southwest"}


def write_labels(lake: Lake, posts: pl.DataFrame, *, known_at: int, source: str = "") -> int:
    """Add labels that people gave before there was a log, known at `known_at`, to those of earlier files.

    A label is known by the id of its post; that of a post that was deleted stays out. `source`: the digest of the file,
    if it is one. Gives how many are new.

    Raises:
        Unusable: an older version has ingested files.
    """
    labelled = posts.filter(pl.col("label").is_not_null() & ~pl.col("kind").is_in(["foreign", "spam", "bot"]))
    rows = labelled.select(
        "text",
        "label",
        post="id",
        of="at",
        at=pl.lit(known_at, pl.Int64),
        known_at=pl.lit(known_at, pl.Int64),
        inclusion=pl.lit(1.0),
        partition=pl.lit(0, pl.Int64),
    )
    rows = rows.unique("post", keep="first", maintain_order=True)
    absent = {name: kind for name, kind in AUDIT_COLUMNS.items() if name not in (*rows.columns, "offset")}
    rows = rows.with_columns(pl.lit(None, kind).alias(name) for name, kind in absent.items())
    files = IngestedFiles(lake)
    with files.alone():
        known, deleted = lake.read("audits", batch=HISTORY), lake.read("tombstones")
        if known.height:
            rows = rows.join(known.select("post"), on="post", how="anti", maintain_order="left")
        if deleted.height:
            rows = rows.join(deleted.select(post="id"), on="post", how="anti", maintain_order="left")
        # The offsets lie below the log's, and those of files before.
        lowest = min(0, *known["offset"]) if known.height else 0
        rows = rows.with_columns(offset=lowest - 1 - pl.int_range(pl.len(), dtype=pl.Int64))
        files.add("audits", rows, source=source)
    return rows.height


def read_file(path: Path, spelling: Spelling = SPELLING, *, labels: Mapping[str, str] | None = None) -> Table:
    """Posts of a Parquet or CSV file in order of time.

    Rows: id, author, at, sent, text, label (negative, neutral, positive or null), brand, kind. `labels`: what those of
    the file mean, if they do not say so themselves.

    Raises:
        Unusable: no text, no times, no row that can be read, or labels whose scale cannot be told.
    """
    label = Column("label", ("label_name", "label", "sentiment", "score"), LabelScale(labels), needed=False)
    table = typed(read_rows(path), (*COLUMNS, label), spelling)
    named = pl.coalesce("id", pl.format(f"{table.digest[:12]}-{{}}", "place"))
    brand = pl.col("brand").replace(BRANDS).str.to_lowercase().str.replace_all(r"[^a-z0-9]+", "-")
    table.rows = table.rows.with_columns(
        id=named, author=pl.coalesce("author", pl.format("author-{}", "place")), brand=brand
    )
    table.refuse(~pl.col("id").is_first_distinct(), "id", "an earlier line has this id")
    table.require("post")
    posts = table.rows.sort("at", "file", "line").with_columns(sent="at", kind=pl.lit("plain"))
    table.rows = posts.select("id", "author", "at", "sent", "text", "label", "brand", "kind")
    return table
