"""Lake -> labelled, time-split frames. A label counts from the moment it was known."""

import hashlib
from datetime import UTC, date, datetime

import polars as pl

from sentiment.config import DAY
from shared.lake import Lake

JUDGED = 0.2  # of the time, the newest: what the gate judges on


class NotEnough(Exception):
    """The lake does not hold enough to learn from; says what is missing."""


def day_of(at: int) -> date:
    """The UTC date of an event time."""
    return datetime.fromtimestamp(at, UTC).date()


def labelled(lake: Lake, *, as_of: int) -> pl.DataFrame:
    """Every label that was known at `as_of`, one a post, without those whose author has deleted them; by time known.

    Columns: post, text, label, of (s, when it was written), at (s, when it was known), inclusion, score, path, model.

    Raises:
        NotEnough: there is none.
    """
    audits = lake.read("audits", until=day_of(as_of + DAY))
    audits = audits.filter(pl.col("at") < as_of) if audits.height else audits
    if audits.is_empty():
        raise NotEnough(f"no labels known by {day_of(as_of)} in the lake")
    gone = lake.read("tombstones")
    if gone.height:
        # [7.3] Deleted is deleted: what its author took back teaches no later model.
        audits = audits.join(gone.select(post="id"), on="post", how="anti")
    audits = audits.sort("at", "partition", "offset").unique("post", keep="last", maintain_order=True)
    # The same words on both sides of a split would be learnt by heart and judged as understood.
    return audits.unique("text", keep="last", maintain_order=True)


def split(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What is learnt from, and what is judged on: older and newer by the time of writing."""
    first, last = rows.select(pl.col("of").min().alias("first"), pl.col("of").max().alias("last")).row(0)
    newest = pl.col("of") > last - JUDGED * (last - first)
    return rows.filter(~newest), rows.filter(newest)


def halves(posts: pl.Series) -> pl.Series:
    """A fixed half of the posts: the same post is always on the same side."""
    sides = [hashlib.blake2b(post.encode(), digest_size=1).digest()[0] % 2 == 0 for post in posts]
    return pl.Series(sides, dtype=pl.Boolean)


def version(rows: pl.DataFrame) -> str:
    """Names the data: a digest over posts and labels."""
    return hashlib.sha256(rows.select("post", "label", "at").write_csv().encode()).hexdigest()[:12]
