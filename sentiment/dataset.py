"""Lake -> labelled training data with a split by time. A label counts from the moment it was known."""

import hashlib
from datetime import UTC, date, datetime
from typing import NamedTuple

import polars as pl

from sentiment.config import DAY
from sentiment.history import AUDIT_COLUMNS
from shared.lake import Lake
from shared.unusable import Unusable

JUDGED = 0.2  # of the time, the newest: what the gate judges on
HELD = 0.2  # of older texts, that no version learns from
HALF = 0.5  # of new texts; the held ones are among them

ANSWERS = AUDIT_COLUMNS | {"of": pl.Int64}  # of: when the post was written; at: when its label became known
FILTERS = ("language", "spam")


class NotEnough(Unusable):
    """The lake does not hold enough to learn from; says what is missing."""


def day_of(at: int) -> date:
    """The UTC date of an event time."""
    return datetime.fromtimestamp(at, UTC).date()


def answers(lake: Lake, *, since: date | None = None, until: date | None = None) -> pl.DataFrame:
    """What people said in these days of event time about posts that a model has scored. Raises LakeCorrupt."""
    return _answers(lake, since, until).filter(pl.col("why_not").is_null() & pl.col("label").is_not_null())


def answers_on_filtered(lake: Lake, *, since: date, until: date) -> pl.DataFrame:
    """And about posts that a filter dropped: a label, or none if it was no opinion. Raises LakeCorrupt."""
    return _answers(lake, since, until).filter(pl.col("why_not").is_in(FILTERS))


def _answers(lake: Lake, since: date | None, until: date | None) -> pl.DataFrame:
    rows = lake.read("audits", since=since, until=until)
    absent = {name: kind for name, kind in ANSWERS.items() if name not in rows.columns}  # an older version wrote fewer
    return rows.with_columns(pl.lit(None, kind).alias(name) for name, kind in absent.items())


def labelled(lake: Lake, *, as_of: int) -> pl.DataFrame:
    """Every label that was known at `as_of`, one a post, without those whose author has deleted them; by time known.

    Columns: post, text, label, of (s, when it was written), at (s, when it was known), inclusion, score, path, model.

    Raises:
        NotEnough: there is none.
    """
    audits = answers(lake, until=day_of(as_of + DAY)).filter(pl.col("at") < as_of)
    if audits.is_empty():
        raise NotEnough(f"no labels known by {day_of(as_of)} in the lake")
    gone = lake.read("tombstones")
    if gone.height:
        # [7.3] Deleted is deleted: what its author took back teaches no later model.
        audits = audits.join(gone.select(post="id"), on="post", how="anti")
    audits = audits.sort("at", "partition", "offset").unique("post", keep="last", maintain_order=True)
    return audits.unique("text", keep="last", maintain_order=True)


class Blocks(NamedTuple):
    """Labels to learn from, and two blocks to judge on that no text of the first stands in."""

    learnt: pl.DataFrame
    newest: pl.DataFrame
    older: pl.DataFrame  # texts that no version learns from, so that each can be judged on them


def blocks(rows: pl.DataFrame, *, since: int, unseen: int) -> Blocks:
    """`rows` of `labelled` with a column `seen`, the text as a model sees it, by which it is on one side only.

    `since`: of what was written from then on, half is learnt and half is the newest block; if 0, the newest block is
    the last part of the time. `unseen`: the champion may have learnt the labels that were known before.
    """
    # A fixed side by what a model sees, not by post: most posts about one thing are one text to a model, and a text
    # that was learnt by heart would be judged as understood.
    sides = pl.Series([_side(text) for text in rows["seen"]], dtype=pl.Float64)
    rows = rows.with_columns(side=sides, fresh=pl.col("of") > (since - 1 if since else _before_newest(rows)))
    fresh, held = pl.col("fresh"), pl.col("side") < HELD
    taught = pl.col("side") >= (HALF if since else 1.0)  # of what is fresh
    learnt = rows.filter(pl.when(fresh).then(taught).otherwise(~held))
    known = pl.concat([learnt, rows.filter((pl.col("at") < unseen) & ~held)])  # to one of the two versions
    newest = rows.filter(fresh & ~taught & (pl.col("at") >= unseen))
    judged = (block.join(known, on="seen", how="anti") for block in (newest, rows.filter(~fresh & held)))
    return Blocks(learnt, *(block.unique("seen", keep="first", maintain_order=True) for block in judged))


def _before_newest(rows: pl.DataFrame) -> float:
    """The time after which the newest part was written."""
    first, last = rows.select(pl.col("of").min().alias("first"), pl.col("of").max().alias("last")).row(0)
    return float(last - JUDGED * (last - first))


def _side(text: str) -> float:
    """From 0 to 1, the same for the same text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) / 2**32


def version(rows: pl.DataFrame) -> str:
    """Names the data: a digest over posts and labels."""
    return hashlib.sha256(rows.select("post", "label", "at").write_csv().encode()).hexdigest()[:12]
