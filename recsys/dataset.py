"""Lake -> Interactions as they were known at a cut, and what was bought after it."""

import hashlib
from datetime import UTC, date, datetime

import numpy as np
import polars as pl

from recsys import config
from recsys.history import EVENT_COLUMNS, PRODUCT_COLUMNS
from recsys.ingest import Offsets
from recsys.schema import Interactions
from shared.lake import Lake


def day_of(at: int) -> date:
    """The UTC date of an event time."""
    return datetime.fromtimestamp(at, UTC).date()


def read(lake: Lake, table: str, offsets: Offsets | None, *, until: int | None = None) -> pl.DataFrame:
    """Rows of a table that stand before the offsets; history has negative ones."""
    rows = lake.read(table, until=None if until is None else day_of(until + config.DAY))
    ends = (offsets or {}).get(f"recsys.{table}", {})
    if offsets is None or rows.is_empty():
        return rows
    end = pl.col("partition").replace_strict(ends, default=0, return_dtype=pl.Int64)
    return rows.filter(pl.col("offset") < end)


def events(lake: Lake, *, cut: int, offsets: Offsets | None = None) -> pl.DataFrame:
    """Everything accepted that had happened before the cut, each once, without what was erased; in order of time.

    A repeat has the shopper and id of an earlier record: one partition holds both, so the offset tells.
    """
    rows = read(lake, "events", offsets, until=cut)
    if rows.is_empty():
        return pl.DataFrame(schema={"partition": pl.Int64, "offset": pl.Int64, **EVENT_COLUMNS})
    rows = rows.unique(["user", "id"], keep="first", maintain_order=True).filter(pl.col("at") < cut)
    erased = read(lake, "erasures", offsets, until=cut)
    if not erased.is_empty():
        # [7.3] A shopper who asks to be forgotten is gone from every table of the next night on; what shows a list
        # knows at once, by the tombstone, so that no rollback brings anybody back.
        gone = erased.group_by("user").agg(until=pl.col("at").max())
        rows = rows.join(gone, on="user", how="left", maintain_order="left")
        rows = rows.filter(pl.col("until").is_null() | (pl.col("at") > pl.col("until"))).drop("until")
    return rows.sort("at", "user", "item", "id")


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
    catalogue = read(lake, "catalogue", offsets, until=cut)
    if catalogue.is_empty():
        catalogue = pl.DataFrame(schema={"partition": pl.Int64, "offset": pl.Int64, **PRODUCT_COLUMNS})
    catalogue = catalogue.filter(pl.col("at") < cut).sort("at", "offset")
    since = catalogue.group_by("item").agg(since=pl.col("at").min())
    newest = catalogue.unique("item", keep="last", maintain_order=True).join(since, on="item")
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

    Each pair once; what was taken back in that time does not count.
    """
    rows = events(lake, cut=until).filter(pl.col("at") >= known.cut)
    users, items = pl.Series("user", known.users, pl.String), pl.Series("item", known.items, pl.String)
    frame = _numbered(standing(rows), users, items, "cents", "quantity")
    return frame.group_by("user", "item", maintain_order=True).agg(pl.col("cents").first(), pl.col("quantity").sum())


def version(known: Interactions) -> str:
    """Names the data: a digest over ids, purchases and catalogue."""
    digest = hashlib.sha256(repr((known.cut, known.users, known.items)).encode())
    for frame in (known.bought, known.seen, known.products):
        digest.update(frame.hash_rows(seed=7).to_numpy().tobytes())
    return digest.hexdigest()[:12]
