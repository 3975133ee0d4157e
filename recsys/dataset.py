"""Lake -> interactions as they were known at a point in time, and the purchases after it."""

import hashlib
from datetime import UTC, date, datetime

import numpy as np
import polars as pl

from recsys import config
from recsys.history import EVENT_COLUMNS, PRODUCT_COLUMNS, without_erased
from recsys.ingest import Offsets
from recsys.schema import Interactions
from shared.lake import Lake


def day_of(at: int) -> date:
    """The UTC date of an event time."""
    return datetime.fromtimestamp(at, UTC).date()


def read(lake: Lake, table: str, *, cut: int, offsets: Offsets | None = None, since: int = 0) -> pl.DataFrame:
    """Rows from `since` on that were known at the cut, as its night knew them.

    Known is what stands before the offsets of the night; without offsets, what the log had taken before the cut. Rows
    that came from a file have no such time: they are known from the time at which they happened.
    """
    # A client's clock may be fast, so what is known at the cut may bear a later date.
    rows = lake.read(table, since=day_of(since), until=day_of(cut + config.MAX_AHEAD + config.DAY))
    if rows.is_empty():
        return rows
    if "known_at" not in rows.columns:  # an older version wrote all of them
        rows = rows.with_columns(known_at=pl.lit(None, pl.Int64))
    if offsets is None:
        return rows.filter(_known_at() < cut)
    end = pl.col("partition").replace_strict(offsets.get(f"recsys.{table}", {}), default=0, return_dtype=pl.Int64)
    return rows.filter((pl.col("offset") < end) & ((pl.col("offset") >= 0) | (pl.col("at") < cut)))


def _known_at() -> pl.Expr:
    """When the log took a row."""
    return pl.coalesce("known_at", "at")


def events(lake: Lake, *, cut: int, offsets: Offsets | None = None, since: int | None = None) -> pl.DataFrame:
    """Everything that was known at the cut, each once, without what was erased; in order of time.

    A repeat has the shopper and id of an earlier record: one partition holds both, so the offset tells. What a fast
    clock dated after the cut has happened just before it. `since`: the beginning; WINDOW before the cut without it.
    """
    begin = cut - config.WINDOW if since is None else since
    rows = read(lake, "events", cut=cut, offsets=offsets, since=begin)
    if rows.is_empty():
        return pl.DataFrame(schema={"partition": pl.Int64, "offset": pl.Int64, "known_at": pl.Int64, **EVENT_COLUMNS})
    rows = rows.unique(["user", "id"], keep="first")
    # [7.3] A shopper who asks to be forgotten is gone from every table of the next night on, and from what is learnt
    # at any cut; what shows a list knows at once, by the tombstone, so that no rollback brings an erased shopper back.
    rows = _without_erased(rows, lake.read("erasures", since=day_of(begin)), offsets)
    return rows.with_columns(at=pl.min_horizontal("at", pl.lit(cut - 1))).sort("at", "user", "item", "id")


def _without_erased(rows: pl.DataFrame, erased: pl.DataFrame, offsets: Offsets | None) -> pl.DataFrame:
    """Without offsets all erasures count, whenever they came: nothing is learnt from who asked to be forgotten."""
    if not erased.is_empty() and offsets is not None:
        end = pl.col("partition").replace_strict(offsets.get("recsys.erasures", {}), default=0, return_dtype=pl.Int64)
        erased = erased.filter(pl.col("offset") < end)
    # A fast clock does not carry what was done before the erasure over it.
    return without_erased(rows, erased, pl.min_horizontal("at", _known_at()))


def fold_catalogue(lake: Lake, *, cut: int) -> None:
    """Keep of what the catalogue said before the window what a night can ask for: each item's first and last word."""

    def first_and_last(rows: pl.DataFrame) -> pl.DataFrame:
        ordered = rows.sort("at", "offset")
        ends = [ordered.unique("item", keep="first"), ordered.unique("item", keep="last")]
        return pl.concat(ends).unique(["partition", "offset"]).sort("partition", "offset")

    lake.fold("catalogue", before=day_of(cut - config.WINDOW), keep=first_and_last)


def impressions(lake: Lake, *, since: date, until: date) -> pl.DataFrame:
    """Lists of these dates that were shown as logged."""
    rows = lake.read("impressions", since=since, until=until)
    if "logged" not in rows.columns:
        return rows
    return rows.join(rows.filter(~pl.col("logged")).select("list_id"), on="list_id", how="anti", maintain_order="left")


def standing(rows: pl.DataFrame) -> pl.DataFrame:
    """Purchases that no cancellation among `rows` has taken back: each takes back the latest before it.

    A line that is taken back in part stands.
    """
    deeds = rows.filter(pl.col("kind").is_in(["purchase", "cancel"])).with_row_index("line")
    pairs = deeds.filter(pl.col("kind") == "cancel").select("user", "item").unique()
    concerned = deeds.join(pairs, on=["user", "item"], how="semi", maintain_order="left")
    gone: set[int] = set()
    left: dict[tuple[str, str], list[list[int]]] = {}  # (user, item) -> [line, quantity], latest last
    for line, user, item, kind, quantity in concerned.select("line", "user", "item", "kind", "quantity").iter_rows():
        lines = left.setdefault((user, item), [])
        if kind == "purchase":
            lines.append([line, quantity])
            continue
        while quantity and lines:
            taken = min(quantity, lines[-1][1])
            lines[-1][1] -= taken
            quantity -= taken
            if not lines[-1][1]:
                gone.add(lines.pop()[0])
    return deeds.filter((pl.col("kind") == "purchase") & ~pl.col("line").is_in(list(gone))).drop("line")


def interactions(lake: Lake, *, cut: int, offsets: Offsets | None = None) -> Interactions:
    """What is known at the cut. Nothing here looks behind it: not the ids, the cleaning, or the catalogue."""
    rows = events(lake, cut=cut, offsets=offsets)
    said = catalogue(lake, cut=cut, offsets=offsets)
    since = said.group_by("item").agg(since=pl.col("at").min())
    newest = said.unique("item", keep="last", maintain_order=True).join(since, on="item")
    bought = standing(rows)
    items = pl.concat([newest["item"], bought["item"]]).unique().sort()
    users = rows["user"].unique().sort()
    about = pl.DataFrame({"item": items}).join(newest, on="item", how="left", maintain_order="left")
    products = about.select(
        *(pl.col(name).fill_null("") for name in ("title", "category", "family", "seller")),
        pl.col("small").fill_null(False),
        pl.col("cents").fill_null(0),
        pl.col("in_stock").fill_null(True),
        pl.col("since").fill_null(0),
    )
    seen = rows.filter(pl.col("kind").is_in(["view", "click", "cart"]) & pl.col("item").is_in(items.implode()))
    return Interactions(
        cut=cut,
        users=users.to_list(),
        items=items.to_list(),
        bought=_numbered(bought, users, items, "cents", "quantity", "order").sort("user", "item", "at"),
        seen=_numbered(seen, users, items, "kind").sort("user", "item", "at"),
        products=products,
    )


def catalogue(lake: Lake, *, cut: int, offsets: Offsets | None = None) -> pl.DataFrame:
    """What the catalogue said of items before the cut, in order of time."""
    rows = read(lake, "catalogue", cut=cut, offsets=offsets)
    if rows.is_empty():
        return pl.DataFrame(schema={"partition": pl.Int64, "offset": pl.Int64, **PRODUCT_COLUMNS})
    return rows.filter(pl.col("at") < cut).sort("at", "offset")


def _numbered(rows: pl.DataFrame, users: pl.Series, items: pl.Series, *more: str) -> pl.DataFrame:
    return rows.select(number(rows["user"], users), number(rows["item"], items), "at", *more)


def number(names: pl.Series, known: pl.Series) -> pl.Series:
    """The place of each name in `known`, which is sorted; -1 for strangers."""
    if known.is_empty():
        return pl.Series(names.name, np.full(len(names), -1), dtype=pl.Int64)
    table = pl.DataFrame({names.name: known}).with_row_index("number")
    found = names.to_frame().join(table, on=names.name, how="left", maintain_order="left")["number"]
    return found.cast(pl.Int64).fill_null(-1).alias(names.name)


def bought_after(lake: Lake, known: Interactions, *, until: int) -> pl.DataFrame:
    """user, item, cents, quantity (numbers as in `known`; -1: was not there yet) bought from the cut until `until`.

    `listed`: whether any of it came from a list, so that its place there had a part in it. A row a pair, also of each
    item that was not there yet; what was taken back in that time does not count.
    """
    rows = events(lake, cut=until).filter((pl.col("at") >= known.cut) & (_known_at() >= known.cut))
    users, items = pl.Series("user", known.users, pl.String), pl.Series("item", known.items, pl.String)
    pairs = standing(rows).group_by("user", "item", maintain_order=True)
    listed = pl.col("list_id").is_not_null().any().alias("listed")
    frame = pairs.agg(pl.col("at", "cents").first(), pl.col("quantity").sum(), listed)
    return _numbered(frame, users, items, "cents", "quantity", "listed").drop("at")


def version(known: Interactions) -> str:
    """Names the data: a digest over ids, purchases and catalogue."""
    digest = hashlib.sha256(repr((known.cut, known.users, known.items)).encode())
    for frame in (known.bought, known.seen, known.products):
        digest.update(frame.hash_rows(seed=7).to_numpy().tobytes())
    return digest.hexdigest()[:12]
