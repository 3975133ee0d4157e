"""Simulates a shop with known truth: tastes, repeat needs, complements, seasons, stock-outs, effects of lists.

A day's random draws are made for all shoppers and before anything is shown, so the same shop can be lived with any
list, or without: what differs is the list's doing (common random numbers). Everything is a number in an array;
names are given at the end.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import pdtr

from recsys.config import DAY, HOUR
from recsys.schema import Floats, Ints

Bools = NDArray[np.bool_]
Days = NDArray[np.int16]

LONG_AGO = -10_000  # a day before any shop opened
TASTES, CATEGORIES, SELLERS = 6, 40, 60
PICKS, SLOTS = 8, 20  # items that a visitor finds alone, at most; places of a list that a visitor looks at
WEEKDAYS = np.array([1.0, 0.95, 0.95, 1.0, 1.1, 1.25, 0.9])  # relative visits, Monday first
EXAMINED = (np.arange(SLOTS) + 1.0) ** -0.7  # chance that a place is looked at
BUYS = 0.3  # of those who click
SUBSTITUTES = 0.5  # share of bought list items that take the place of one of their category found alone
NEED = 14  # days that a complement is wanted
ADJECTIVES = ("plain", "bold", "soft", "classic", "bright", "rustic", "modern", "tiny", "grand", "warm", "cool", "odd")


class Shop(NamedTuple):
    """Its truth, which no recommender may read."""

    seed: int
    start: int  # epoch seconds, midnight
    category: Ints  # (items,)
    family: Ints  # (items,) -1: none
    seller: Ints  # (items,)
    small: Bools  # (items,) of a small seller
    cents: Ints  # (items,)
    margin: Floats  # (items,) share of the price
    returned: Floats  # (items,) chance that a purchase comes back
    appeal: Floats  # (items,)
    factors: Floats  # (items, TASTES)
    every: Ints  # (items,) days until it is used up; 0: it lasts
    partners: Ints  # (items, 3) what goes with it
    launched: Ints  # (items,) day
    out: Bools  # (days, items) out of stock
    season: Floats  # (days, categories)
    taste: Floats  # (users, TASTES)
    favours: Floats  # (users, categories)
    visits: Floats  # (users,) chance a day
    eager: Floats  # (users,) items found alone a visit, mean
    bar: float  # utility at which every second who looks clicks


class Life(NamedTuple):
    """What has happened to the shoppers, under one way of recommending."""

    last: Days  # (users, items) day of the last purchase
    wanted: Days  # (users, items) until when a complement is

    def copy(self) -> "Life":
        return Life(self.last.copy(), self.wanted.copy())


class Chances(NamedTuple):
    """A day's luck, the same whatever is shown."""

    # [2.2] Public sets say what was bought, never what had been shown, or what would have been bought without it. Here
    # the same day can be lived with each list.

    users: Ints  # (visitors,) who come
    at: Ints  # (visitors,) seconds
    size: Ints  # (visitors,) items they look for
    found: Floats  # (visitors, PICKS)
    click: Floats  # (visitors, SLOTS)
    buy: Floats  # (visitors, SLOTS)
    swap: Floats  # (visitors, SLOTS)
    back: Floats  # (visitors, items drawn by number) of a return


class Deeds(NamedTuple):
    """What visitors did: row into Chances.users, item, and slot, 0 outside the list."""

    viewed: Ints  # (n, 3)
    clicked: Ints  # (n, 3)
    bought: Ints  # (n, 3)
    returned: Bools  # of bought


def open_shop(
    *,
    seed: int,
    start: int,
    days: int,
    users: int = 5_000,
    items: int = 2_000,
    season_from: int | None = None,
    personal: bool = True,
) -> Shop:
    """`days` is as long as the truth reaches; from day `season_from` on a tenth of the categories is wanted far more.

    Without `personal` there are no individual tastes, nothing is used up, and no items go together.
    """
    rng = np.random.default_rng(seed)
    category = rng.integers(CATEGORIES, size=items)
    order = np.argsort(category, kind="stable")  # families lie within a category
    family = np.full(items, -1)
    size, place, number = rng.integers(2, 5, items), 0, 0
    while place < items:
        members = order[place : place + size[number]]
        if rng.random() < 0.08:
            family[members[category[members] == category[members[0]]]] = number
        place, number = place + size[number], number + 1
    seller = np.minimum(rng.zipf(1.4, items), SELLERS) - 1
    small = seller >= SELLERS // 3
    lasting = rng.random(CATEGORIES) < 0.7
    every = np.where(lasting[category], 0, rng.integers(7, 40, items))
    factors = rng.normal(size=(items, TASTES)) / np.sqrt(TASTES) + 0.8 * rng.normal(size=(CATEGORIES, TASTES))[category]
    taste = rng.normal(size=(users, TASTES))
    favours = np.where(rng.random((users, CATEGORIES)) < 0.1, 1.6, 0.0)
    appeal = rng.normal(size=items) * 0.9 - 0.3 * small
    launched = np.where(rng.random(items) < 0.1, rng.integers(0, days, items), -1_000)
    if not personal:
        taste, favours, every = np.zeros_like(taste), np.zeros_like(favours), np.zeros_like(every)
    season = np.zeros((days, CATEGORIES))
    if season_from is not None:
        season[season_from:, rng.permutation(CATEGORIES)[: CATEGORIES // 10]] = 2.0
    shop = Shop(
        seed=seed,
        start=start,
        category=category,
        family=family,
        seller=seller,
        small=small,
        cents=np.clip(rng.lognormal(7.0, 0.7, items), 150, 40_000).astype(np.int64) // 50 * 50 - 1,
        margin=rng.uniform(0.15, 0.45, items).astype(np.float32),
        returned=rng.uniform(0.01, 0.15, CATEGORIES)[category].astype(np.float32),
        appeal=appeal.astype(np.float32),
        factors=factors.astype(np.float32),
        every=every,
        partners=rng.integers(items, size=(items, 3)),
        launched=launched,
        out=_out_of_stock(rng, days, items),
        season=season.astype(np.float32),
        taste=taste.astype(np.float32),
        favours=favours.astype(np.float32),
        visits=np.clip(rng.lognormal(-1.8, 0.8, users), 0.01, 0.9).astype(np.float32),
        eager=np.clip(rng.lognormal(-0.2, 0.6, users), 0.2, 4.0).astype(np.float32),
        bar=0.0,
    )
    some = utilities(shop, born(shop), np.arange(min(users, 300)), 0)
    return shop._replace(bar=float(np.quantile(some[np.isfinite(some)], 0.985)))


def _out_of_stock(rng: np.random.Generator, days: int, items: int) -> Bools:
    """Each day one item in a hundred runs out, for two to six days; demand goes on unseen."""
    out = np.zeros((days, items), dtype=bool)
    for day, item in np.argwhere(rng.random((days, items)) < 0.01):
        out[day : day + rng.integers(2, 7), item] = True
    return out


def prolonged(shop: Shop, days: int) -> Shop:
    """The same shop for so many more days: the season stays as it is, what is out of stock changes, nothing is new."""
    rng = np.random.default_rng([shop.seed, len(shop.out), 1])
    out = _out_of_stock(rng, days, shop.appeal.size)
    season = np.repeat(shop.season[-1:], days, axis=0)
    return shop._replace(out=np.concatenate([shop.out, out]), season=np.concatenate([shop.season, season]))


def born(shop: Shop) -> Life:
    """Before any purchase."""
    shape = shop.taste.shape[0], shop.appeal.size
    return Life(np.full(shape, LONG_AGO, np.int16), np.full(shape, LONG_AGO, np.int16))


def utilities(shop: Shop, life: Life, users: Ints, day: int) -> Floats:
    """(users, items): how much each wants each item today; minus infinity when it cannot be had."""
    wants = np.concatenate([shop.taste[users], shop.favours[users] + shop.season[day]], axis=1)
    kinds = np.eye(CATEGORIES, dtype=np.float32)[shop.category]
    value = wants @ np.concatenate([shop.factors, kinds], axis=1).T + shop.appeal
    last = life.last[users]
    had = last > day - 400
    used_up = had & (last <= np.where(shop.every > 0, day - 0.8 * shop.every, LONG_AGO).astype(np.int16))
    value -= np.float32(4.0) * had
    value += np.float32(7.0) * used_up
    value += np.float32(2.5) * ((life.wanted[users] >= day) & ~had)
    value[:, shop.out[day] | (shop.launched > day)] = -np.inf
    return np.asarray(value, dtype=np.float32)


def chances(shop: Shop, day: int) -> Chances:
    """The luck of a day."""
    rng, users = np.random.default_rng([shop.seed, day]), shop.visits.size
    comes = rng.random(users) < shop.visits * WEEKDAYS[(shop.start // DAY + day + 3) % 7]
    at = np.sort(rng.integers(8 * HOUR, 22 * HOUR, users))
    below = pdtr(np.arange(PICKS), shop.eager[:, None])  # Poisson, by its distribution function
    size = (rng.random(users)[:, None] > below).sum(axis=1)
    luck = rng.random((users, PICKS + 3 * SLOTS + 64), dtype=np.float32)[comes]
    found, click, buy, swap, back = np.split(luck, np.cumsum([PICKS, SLOTS, SLOTS, SLOTS]), axis=1)
    return Chances(
        np.flatnonzero(comes), shop.start + day * DAY + at[comes], size[comes], found, click, buy, swap, back
    )


def clicking(shop: Shop, utility: Floats, shown: Ints) -> Floats:
    """The chance of a click on each shown item that is looked at, (visitors, k); 0 for a place left empty (-1)."""
    wanted = np.take_along_axis(utility, np.maximum(shown, 0), axis=1)
    return np.where(shown >= 0, 1 / (1 + np.exp(np.clip(shop.bar - wanted, -30, 30))), 0.0).astype(np.float32)


def live(shop: Shop, life: Life, day: int, luck: Chances, shown: Ints | None) -> Deeds:
    """A day with these lists, (visitors, k <= SLOTS) items, or with none; `life` goes on."""
    utility = utilities(shop, life, luck.users, day)
    alone = _found(utility, luck)
    rows, places = np.nonzero(alone >= 0)
    viewed = np.stack([rows, alone[rows, places], np.zeros_like(rows)], axis=1)
    clicked = np.empty((0, 3), dtype=np.int64)
    if shown is not None:
        k = shown.shape[1]
        hits = luck.click[:, :k] < EXAMINED[:k] * clicking(shop, utility, shown)
        rows, places = np.nonzero(hits)
        clicked = np.stack([rows, shown[rows, places], places + 1], axis=1)
        buys = luck.buy[rows, places] < BUYS
        for row, item, slot in clicked[buys]:
            same = np.flatnonzero((alone[row] >= 0) & (shop.category[alone[row]] == shop.category[item]))
            if same.size and luck.swap[row, slot - 1] < SUBSTITUTES:
                alone[row, same[0]] = -1  # instead of what would have been found alone
            alone[row][alone[row] == item] = -1
        by_list = clicked[buys]
    else:
        by_list = clicked
    rows, places = np.nonzero(alone >= 0)
    bought = np.concatenate([np.stack([rows, alone[rows, places], np.zeros_like(rows)], axis=1), by_list])
    bought = bought[np.lexsort((bought[:, 1], bought[:, 0]))]
    users, items = luck.users[bought[:, 0]], bought[:, 1]
    back = luck.back[bought[:, 0], items % luck.back.shape[1]] < shop.returned[items]
    life.last[users, items] = day
    life.wanted[users[:, None], shop.partners[items]] = day + NEED
    return Deeds(viewed, clicked, bought, back)


def _found(utility: Floats, luck: Chances) -> Ints:
    """(visitors, PICKS) items that each finds alone, drawn by exp(utility); -1 where they look for no more."""
    weight = np.exp(utility - utility.max(axis=1, keepdims=True)).cumsum(axis=1, dtype=np.float64)
    weight /= weight[:, -1:]
    weight += np.arange(luck.users.size)[:, None]  # one ascending line: row r lies between r and r + 1
    aims = np.minimum(luck.found, 0.999999).astype(np.float64) + np.arange(luck.users.size)[:, None]
    picked = np.searchsorted(weight.ravel(), aims.ravel(), "right").reshape(aims.shape) % utility.shape[1]
    alone = np.where(np.arange(PICKS) < luck.size[:, None], picked, -1)
    for place in range(1, PICKS):
        repeated = (alone[:, :place] == alone[:, place : place + 1]).any(axis=1)
        alone[repeated, place] = -1
    return alone


def margin(shop: Shop, deeds: Deeds) -> float:
    """What the day earned, EUR, net of what comes back."""
    items = deeds.bought[~deeds.returned][:, 1]
    return float((shop.cents[items] * shop.margin[items]).sum() / 100)


def best(shop: Shop, life: Life, day: int, users: Ints, k: int) -> Ints:
    """What an oracle would show, (users, k): the largest expected margin of a click, net of returns."""
    wanted = utilities(shop, life, users, day)
    worth = shop.cents * shop.margin * (1 - shop.returned) / (1 + np.exp(np.clip(shop.bar - wanted, -30, 30)))
    return np.argsort(-worth, axis=1, kind="stable")[:, :k]


def events(shop: Shop, day: int, luck: Chances, deeds: Deeds) -> pl.DataFrame:
    """The deeds as rows of `recsys.events`, in order of time; what comes back does so three to nine days later."""
    parts = []
    for kind, what, later in (
        ("view", deeds.viewed, 0),
        ("click", deeds.clicked, 20),
        ("purchase", deeds.bought, 300),
        ("cancel", deeds.bought[deeds.returned], 0),
    ):
        rows, items, slots = what.T
        at = luck.at[rows] + later
        if kind == "cancel":
            at = at + (3 + items % 7) * DAY
        parts.append(
            pl.DataFrame({"row": rows, "number": items, "slot": slots, "at": at}).with_columns(
                kind=pl.lit(kind), cents=pl.Series(shop.cents[items]) if kind in ("purchase", "cancel") else 0
            )
        )
    made = pl.concat(parts, how="vertical_relaxed")
    rows = made["row"].to_numpy()
    return made.with_columns(
        user=pl.Series(user_names(shop)[luck.users[rows]]),
        item=pl.Series(item_names(shop)[made["number"].to_numpy()]),
        id=pl.format("{}-{}-{}-{}", pl.lit(day), pl.col("kind").str.slice(0, 2), "number", "slot"),
        order=pl.when(pl.col("kind") == "purchase").then(pl.format("o-{}", pl.lit(day))),
        quantity=pl.lit(1),
    ).sort("at", maintain_order=True)


def user_names(shop: Shop) -> NDArray[np.str_]:
    return np.char.add("u", np.char.zfill(np.arange(shop.visits.size).astype(str), 6))


def item_names(shop: Shop) -> NDArray[np.str_]:
    return np.char.add("i", np.char.zfill(np.arange(shop.appeal.size).astype(str), 5))


def products(shop: Shop, day: int, *, since: int | None = None) -> pl.DataFrame:
    """The catalogue's rows of that day; with `since`, only what has changed since that day: launches and stock."""
    there = shop.launched <= day
    if since is not None:
        there &= (shop.launched > since) | (shop.out[day] != shop.out[since])
    chosen = np.flatnonzero(there)
    words = np.array(ADJECTIVES)[np.argsort(-np.abs(shop.factors), axis=1)[:, :2] * 2 + (shop.factors[:, :2] > 0)]
    return pl.DataFrame(
        {
            "item": item_names(shop)[chosen],
            "at": np.full(chosen.size, shop.start + day * DAY),
            "title": [f"{words[i][0]} {words[i][1]} thing{shop.category[i]}" for i in chosen],
            "category": [f"c{number:02}" for number in shop.category[chosen]],
            "family": [f"f{number}" if number >= 0 else "" for number in shop.family[chosen]],
            "seller": [f"s{number:02}" for number in shop.seller[chosen]],
            "small": shop.small[chosen],
            "cents": shop.cents[chosen],
            "in_stock": ~shop.out[day][chosen],
        }
    )
