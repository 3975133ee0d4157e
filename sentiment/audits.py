"""Audits: draws the random sample of a closed day that people label."""

from collections import defaultdict
from collections.abc import Mapping
from math import prod

import polars as pl

from sentiment import config
from sentiment.policy import drawn
from sentiment.schema import Audit


def questions(
    day: int, counted: Mapping[str, pl.DataFrame], posts: pl.DataFrame, filtered: pl.DataFrame, *, secret: bytes
) -> list[Audit]:
    """Of each brand some texts of the day, drawn at random from all that are counted, and some filtered posts.

    `counted`: by brand, the rows of the batch view whose opinions count. `posts` (id, text) and `filtered` (id, at,
    text, why_not): the day's, without those that were deleted; what is in neither is not asked about.
    """
    every = pl.concat([rows.with_columns(brand=pl.lit(brand)) for brand, rows in counted.items()])
    every = every.filter(pl.col("negative").is_not_null()).join(
        posts.select(post="id", words="text").unique("post"), on="post"
    )
    firsts = every.sort("at", "post").unique(["brand", "text"], keep="first", maintain_order=True)
    budgets: dict[str, tuple[int, int]] = {}
    drawn_for = defaultdict[str, list[str]](list)
    for (brand,), rows in firsts.group_by("brand", maintain_order=True):
        # [6.3] By text: a joke that a hundred people pass on is one question, and the answer holds for all of them.
        by_text = {str(text): post for text, post in rows.select("text", "post").iter_rows()}
        chosen = drawn(by_text, of=f"{brand} {day}", most=config.AUDITS, secret=secret)
        budgets[str(brand)] = (len(chosen), len(by_text))
        for text in chosen:
            drawn_for[by_text[text]].append(str(brand))
    asked = every.filter(pl.col("post").is_in(list(drawn_for))).sort("at", "post", "brand")
    by_post = asked.group_by("post", maintain_order=True).agg(pl.all().first(), brands=pl.col("brand"))
    found = [
        Audit(
            post=row["post"],
            at=row["at"],
            model=row["model"],
            score=(row["negative"], row["neutral"], row["positive"]),
            inclusion=1 - prod(1 - few / many for few, many in map(budgets.__getitem__, row["brands"])),
            drawn={brand: budgets[brand] for brand in drawn_for[row["post"]]},
            author=row["author"],
            text=row["words"],
            brands=tuple(row["brands"]),
        )
        for row in by_post.iter_rows(named=True)
    ]
    return found + _about_filtered(day, filtered, secret)


def _about_filtered(day: int, filtered: pl.DataFrame, secret: bytes) -> list[Audit]:
    by_id = {row["id"]: row for row in filtered.iter_rows(named=True)}
    chosen = drawn(by_id, of=f"filtered {day}", most=config.FILTERED_AUDITS, secret=secret)
    return [
        Audit(
            post=post,
            at=by_id[post]["at"],
            text=by_id[post]["text"],
            why_not=by_id[post]["why_not"],
            inclusion=len(chosen) / len(by_id),
        )
        for post in chosen
    ]
