"""Files and simulated pasts -> posts and labels, for what never came through the log."""

from pathlib import Path

import polars as pl

from sentiment.config import MAX_TEXT
from shared.dead_letters import DeadLetter
from shared.ingested_files import IngestedFiles, digest_of_file
from shared.lake import HISTORY, Lake

Columns = dict[str, pl.DataType | type[pl.DataType]]

AUDIT_COLUMNS: Columns = {
    **dict.fromkeys(("post", "text", "label", "model", "path"), pl.String),
    **dict.fromkeys(("at", "known_at", "partition", "offset"), pl.Int64),
    "inclusion": pl.Float64,
    "score": pl.List(pl.Float64),
    "brands": pl.List(pl.String),
}

# What other people's files call our columns; the first that a file has counts.
FILE_COLUMNS = {
    "id": ("id", "tweet_id"),
    "at": ("at", "created_at"),
    "text": ("text",),
    "author": ("author",),  # may be missing, as may the next two
    "label": ("label_name", "label", "sentiment", "score"),
    "brand": ("brand", "airline", "topic"),
}
# Numbers of TweetEval are 0, 1, 2; those of SemEval's topics -2 to 2.
LABELS = {
    "0": "negative",
    "1": "neutral",
    "2": "positive",
    "negative": "negative",
    "neutral": "neutral",
    "positive": "positive",
}
FIVE = {"-2": "negative", "-1": "negative", "0": "neutral", "1": "positive", "2": "positive"}
# In the airlines' file the label "Delta" stands on tweets to JetBlue: a fault of the original.
BRANDS = {"US Airways": "us-airways", "Virgin America": "virgin-america", "Delta": "jetblue", "Southwest": "southwest"}


class Unusable(Exception):
    """A file lacks a column, or holds no post that can be read."""


def write_labels(lake: Lake, posts: pl.DataFrame, *, known_at: int, source: str = "") -> int:
    """Add labels that people gave before there was a log, known at `known_at`, to those of earlier files.

    A label is known by the id of its post. `source`: the digest of the file, if it is one. Gives how many are new.
    """
    files = IngestedFiles(lake)
    files.finish()
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
    known = lake.read("audits", batch=HISTORY)
    if known.height:
        rows = rows.join(known.select("post"), on="post", how="anti", maintain_order="left")
    # The offsets lie below the log's, and those of files before.
    lowest = min(0, *known["offset"]) if known.height else 0
    rows = rows.with_columns(offset=lowest - 1 - pl.int_range(pl.len(), dtype=pl.Int64))
    absent = {name: kind for name, kind in AUDIT_COLUMNS.items() if name not in rows.columns}
    files.add(
        "audits", rows.with_columns(pl.lit(None, kind).alias(name) for name, kind in absent.items()), source=source
    )
    return rows.height


def read_file(path: Path) -> tuple[pl.DataFrame, list[DeadLetter]]:
    """Posts of a Parquet or CSV file in order of time, and a dead letter for each row that is none.

    Columns: id, author, at, sent, text, label (negative, neutral, positive or null), brand, kind.

    Raises:
        Unusable: no text, no times, or no row that can be read.
    """
    try:
        raw = (
            pl.read_parquet(path)
            if path.suffix == ".parquet"
            else pl.read_csv(path, infer_schema=False, encoding="utf8-lossy")
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise Unusable(f"{path.name} cannot be read: {error}") from error
    names = {new: next((old for old in olds if old in raw.columns), None) for new, olds in FILE_COLUMNS.items()}
    missing = [name for name in ("at", "text") if names[name] is None]
    if missing:
        raise Unusable(f"{path.name} lacks a column for {', '.join(missing)}: {FILE_COLUMNS[missing[0]]}")
    labels = FIVE if names["label"] == "score" else LABELS
    digest = digest_of_file(path)[:12]
    rows = raw.with_row_index("line", offset=1).select(
        "line",
        at=_seconds(raw, str(names["at"])),
        text=pl.col("text").cast(pl.String),
        id=pl.format("{}", names["id"]) if names["id"] else pl.format(f"{digest}-{{}}", "line"),
        author=pl.col(names["author"]).cast(pl.String) if names["author"] else pl.lit(None, pl.String),
        label=pl.col(names["label"]).cast(pl.String).replace_strict(labels, default=None)
        if names["label"]
        else pl.lit(None, pl.String),
        brand=pl.col(names["brand"]).replace(BRANDS).str.to_lowercase().str.replace_all(r"[^a-z0-9]+", "-")
        if names["brand"]
        else pl.lit(None, pl.String),
    )
    faults = {
        "at": ~pl.col("at").is_between(0, 2**32 - 1),
        "text": pl.col("text").str.strip_chars().is_in(["", None]) | (pl.col("text").str.len_chars() > MAX_TEXT),
        "id": ~pl.col("id").str.contains(r"^[A-Za-z0-9_-]{1,64}$"),
    }
    letters, good = [], rows
    for field, wrong in faults.items():
        letters += [_letter(path, field, row) for row in good.filter(wrong.fill_null(True)).iter_rows(named=True)]
        good = good.filter(~wrong.fill_null(True))
    if good.is_empty():
        raise Unusable(f"{path.name} holds no post that can be read")
    author = pl.col("author").fill_null(pl.format("author-{}", "line"))
    posts = good.sort("at", "line").with_columns(author=author, sent="at", kind=pl.lit("plain"))
    return posts.select("id", "author", "at", "sent", "text", "label", "brand", "kind"), letters


def _seconds(raw: pl.DataFrame, column: str) -> pl.Expr:
    """Whole seconds since the epoch, of a number, a time, or text; UTC where nothing is said."""
    kind = raw.schema[column]
    if isinstance(kind, pl.Datetime):
        return pl.col(column).dt.epoch("s")
    if kind.is_integer():
        return pl.col(column).cast(pl.Int64)
    text = pl.col(column).str.replace(r"(Z|\+00:?00)$", "")
    formats = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f")
    times = [text.str.to_datetime(form, time_unit="us", strict=False).dt.epoch("s") for form in formats]
    return pl.coalesce(pl.col(column).cast(pl.Int64, strict=False), *times)


def _letter(path: Path, field: str, row: dict[str, object]) -> DeadLetter:
    assert isinstance(row["line"], int)
    return DeadLetter(
        topic=path.name,
        partition=0,
        offset=row["line"],
        field=field,
        value=str(row[field])[:200],
        reason="missing, or no value of its kind",
    )
