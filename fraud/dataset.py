"""Lake -> training data: point-in-time correct features, matured labels, a split by time."""

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import numpy as np
import polars as pl

from fraud import config
from fraud.history import LAKE_COLUMNS
from fraud.ingest import DECISION_COLUMNS
from fraud.schema import EVENT, Event, message
from shared.lake import Lake

KEPT = 10  # one card in so many is kept for the gate; more would be missed in learning
CHUNK = 50_000  # rows turned into events at a time
LABELLED = ("card", "id", "fraud", "weight")
DEFAULTS = {"currency": config.CURRENCY, "probe": False, "explored": False, "propensity": 1.0}


class Split(NamedTuple):
    """Event times that part the history, oldest first: fit | judge | still without all labels."""

    fit_until: int
    judge_until: int


def split(as_of: int) -> Split:
    """What is learnt from, and what is judged on, at `as_of`.

    A payment counts once its labels have had time to arrive. The judging week is halved by card:
    one half calibrates and prices, the other is the gate's.
    """
    matured = as_of - config.MATURITY
    return Split(matured - 7 * config.DAY, matured)


def day_of(at: int) -> date:
    """The UTC date of an event time."""
    return datetime.fromtimestamp(at, UTC).date()


def events(lake: Lake, *, since: int = 0, as_of: int) -> pl.DataFrame:
    """Everything accepted that had happened from the day of `since` on and before `as_of`, by partition and offset."""
    # A verdict is not before its event, whose own time may be some hours ahead of the log's.
    refusals = lake.read("refusals", since=day_of(max(0, since - config.MAX_AHEAD))).select("partition", "offset")
    wanted = lake.read("events", since=day_of(since), until=day_of(as_of) + timedelta(days=1))
    rows = complete(wanted, LAKE_COLUMNS).filter(pl.col("at") < as_of)
    return rows.join(refusals, on=["partition", "offset"], how="anti", maintain_order="left")


def decisions(lake: Lake, *, since: date | None = None, until: date | None = None) -> pl.DataFrame:
    """All decisions of event dates since <= date < until, by partition and offset; the first of a payment counts."""
    return complete(lake.read("decisions", since=since, until=until), DECISION_COLUMNS)


def complete(rows: pl.DataFrame, columns: Mapping[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
    """Rows that another version wrote: columns that it did not have are there, with their defaults."""
    missing = [pl.lit(None, kind).alias(name) for name, kind in columns.items() if name not in rows.columns]
    rows = rows.with_columns(missing)
    return rows.with_columns(pl.col(name).fill_null(value) for name, value in DEFAULTS.items() if name in columns)


def streams(rows: pl.DataFrame) -> list[Iterator[Event]]:
    """The rows as events, a stream a partition, in offset order."""
    rows = complete(rows, {"appended": pl.Int64})
    return [_stream(rows.filter(pl.col("partition") == number)) for number in range(config.PARTITIONS)]


def _stream(rows: pl.DataFrame) -> Iterator[Event]:
    for start in range(0, rows.height, CHUNK):
        for text, appended in rows.slice(start, CHUNK).select(message(), "appended").iter_rows():
            yield EVENT.validate_json(text).appended(appended)


def labelled(payments: pl.DataFrame, rows: pl.DataFrame, decisions: pl.DataFrame) -> pl.DataFrame:
    """Payments with what is known about them: `fraud` and `weight` (n rows in, n rows out).

    A weight of 0 means that nothing can be known: the payment was declined, or it is a probe. What
    passed at random stands for all that was declined like it, by one over its propensity. No label
    means legitimate; so callers keep to payments old enough for that.
    """
    verdicts = rows.filter(pl.col("kind") == "label").sort("at", maintain_order=True)
    verdicts = verdicts.group_by("card", "id").agg(pl.col("fraud").last())
    if decisions.is_empty():
        decisions = pl.DataFrame(
            schema={"card": pl.String, "id": pl.String, "action": pl.String, "propensity": pl.Float64}
        )
    taken = decisions.select("card", "id", "action", "propensity").unique(["card", "id"], keep="first")
    known = payments.join(verdicts, on=["card", "id"], how="left", maintain_order="left")
    known = known.join(taken, on=["card", "id"], how="left", maintain_order="left")
    passed = pl.col("action").fill_null("approve") != "decline"
    return known.with_columns(
        fraud=pl.col("fraud").fill_null(False),
        weight=pl.when(passed & ~pl.col("probe")).then(1 / pl.col("propensity").fill_null(1.0)).otherwise(0.0),
        action=pl.col("action").fill_null("approve"),
    )


def halves(cards: pl.Series) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """A fixed half of the cards: the same card is always on the same side."""
    sides = [hashlib.blake2b(card.encode(), digest_size=1).digest()[0] % 2 == 0 for card in cards]
    return np.array(sides, dtype=np.bool_)


def kept(cards: pl.Series) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """A fixed tenth of the cards, of which no version learns: on older payments, too, they are new to all versions."""
    digests = {card: hashlib.blake2b(card.encode(), digest_size=2).digest() for card in cards.unique()}
    return np.array([int.from_bytes(digests[card], "big") % KEPT == 0 for card in cards], dtype=np.bool_)


def version(rows: pl.DataFrame, known: pl.DataFrame) -> str:
    """Names the data: a digest of all that was ingested, and of what is `known` of the payments, as `labelled` has it.

    The order of the rows does not matter, nor that of the columns.
    """
    digest = hashlib.sha256()
    for frame, key in ((rows, ["partition", "offset"]), (known.select(*LABELLED), ["card", "id"])):
        ordered = frame.select(sorted(frame.columns)).sort(key)
        for part in ordered.iter_slices(CHUNK):
            digest.update(part.write_csv(quote_style="always").encode())
    return digest.hexdigest()[:12]
