"""Mentions -> counts by minute. Both views use it, so that only their inputs can differ."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

from sentiment.config import HOUR, MINUTE
from sentiment.schema import Counts, Mention


@dataclass
class Cell:
    """One minute, as it grows."""

    counts: Counts = field(default_factory=Counts)
    shed: int = 0
    model: str | None = None
    revision: int = -1


class Hour:
    """One brand and hour: its mentions, of which the earliest of each text is the one that has an opinion.

    The order of arrival changes nothing: partitions of posts reach a brand in any order.
    """

    def __init__(self) -> None:
        self.minutes: dict[int, Cell] = {}  # by start
        self._posts: set[str] = set()
        self._first: dict[int, Mention] = {}  # by text

    def add(self, mention: Mention, *, revision: int = 0) -> set[int]:
        """Count one mention; gives the minutes that changed, none for a post that has been counted."""
        if mention.post in self._posts:
            return set()
        self._posts.add(mention.post)
        changed = {self._cell(mention, revision, Counts(raw=1))}
        # [6.1] A text that was shared a thousand times is one opinion with a thousand readers: both numbers are kept.
        first = self._first.get(mention.text)
        if first is None or (mention.at, mention.post) < (first.at, first.post):
            if first is not None:
                changed.add(self._cell(first, revision, _vote(first, -1)))
            self._first[mention.text] = mention
            self._cell(mention, revision, _vote(mention, 1))
        return changed

    def _cell(self, mention: Mention, revision: int, more: Counts) -> int:
        start = mention.at // MINUTE * MINUTE
        cell = self.minutes.setdefault(start, Cell())
        cell.counts += more
        cell.shed += more.opinions * mention.shed
        cell.model = max(filter(None, (cell.model, mention.model)), key=by_number, default=None)
        cell.revision = max(cell.revision, revision)
        return start


def by_number(version: str) -> tuple[int, str]:
    """Orders versions as numbers; any other name has its place, too."""
    return len(version), version


def _vote(mention: Mention, sign: int) -> Counts:
    return Counts() if mention.label is None else Counts(**{mention.label: sign})


def aggregate(mentions: Iterable[Mention]) -> dict[tuple[str, int], Cell]:
    """By brand and start of the minute, over any number of hours."""
    hours: dict[tuple[str, int], Hour] = {}
    for mention in mentions:
        hours.setdefault((mention.brand, mention.at // HOUR), Hour()).add(mention)
    return {(brand, start): cell for (brand, _), hour in hours.items() for start, cell in hour.minutes.items()}


class Told(NamedTuple):
    """What a view says of one brand within a window."""

    counts: Counts = Counts()
    shed: int = 0
    models: frozenset[str] = frozenset()


Minutes = dict[tuple[str, int], Told]  # by brand and start of the minute


def counted(rows: pl.DataFrame) -> Minutes:
    """What `aggregate` makes of a published hour's rows; of what was removed, that it was there."""
    kept = [_mention(row) for row in rows.filter(pl.col("removed").is_null()).iter_rows(named=True)]
    minutes = {key: Told(c.counts, c.shed, frozenset({c.model} - {None})) for key, c in aggregate(kept).items()}  # type: ignore[arg-type]  # no None is left
    for row in rows.filter(pl.col("removed").is_not_null()).iter_rows(named=True):
        key = row["brand"], row["at"] // MINUTE * MINUTE
        minutes[key] = (known := minutes.get(key, Told()))._replace(counts=known.counts + Counts(raw=1))
    return minutes


def as_table(minutes: Minutes) -> pl.DataFrame:
    """To be kept beside the rows, so that no reader counts them again."""
    rows = [
        {"brand": brand, "at": at, **told.counts._asdict(), "models": sorted(told.models)}
        for (brand, at), told in sorted(minutes.items())
    ]
    kinds: dict[str, pl.DataType | type[pl.DataType]] = {
        **{"brand": pl.String, "at": pl.Int64, "models": pl.List(pl.String)},
        **dict.fromkeys(Counts._fields, pl.Int64),
    }
    return pl.DataFrame(rows, schema=kinds)


def from_table(table: pl.DataFrame) -> Minutes:
    """The minutes that `as_table` wrote."""
    names = [name for name in Counts._fields if name in table.columns]
    return {
        (row["brand"], row["at"]): Told(Counts(**{name: row[name] for name in names}), 0, frozenset(row["models"]))
        for row in table.iter_rows(named=True)
    }


def _mention(row: dict[str, object]) -> Mention:
    names = ("brand", "aspect", "post", "author", "at", "text", "label", "model", "partition", "offset")
    return Mention.model_validate({name: row[name] for name in names} | {"aliases": ""})
