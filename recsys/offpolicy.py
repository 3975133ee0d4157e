"""Off-policy estimates: what another order of the first places would earn, from shuffled lists.

The served order is one of a kind, so its own log cannot say what another would earn: propensities are 0 and 1.
In a shuffled list each of m items stood on each of the first m slots with chance 1 / m, known exactly.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys import config
from recsys.schema import Ints
from shared.drift import Array

Z = 1.96  # two-sided 95 %
PRIOR = 5.0  # clicks of an average item that each is imagined to have had


class Slates(NamedTuple):
    """A night's first list of each user, as shown; columns are slots, the first k that were seen."""

    users: list[str]
    items: Ints  # (n, k) -1: no shuffled item there, or nothing
    clicks: NDArray[np.bool_]  # (n, k)
    m: Ints  # (n,) how many were shuffled
    support: Ints = np.empty((0, 0), np.int64)  # (n, PERMUTED) those m, seen or not; unknown: what was seen


class Estimate(NamedTuple):
    value: float  # clicks expected a list
    low: float
    high: float
    effective: float  # lists that would say as much, if each matched (Kish)
    largest: float  # weight of one list's clicks
    unsupported: float  # share of the policy's slots whose item was not in the shuffle, so that no list speaks for it


class ClickModel(NamedTuple):
    """Clicks expected on a slot, times how much more or less an item draws than others there. It may be wrong."""

    slots: Array  # (k,)
    items: Array  # (items,)

    @classmethod
    def fit(cls, slates: Slates, *, count: int) -> Self:
        """From lists in served order: other lists than the shuffled ones, so that no click vouches for itself."""
        there = slates.items >= 0
        slots = (slates.clicks & there).sum(axis=0) / np.maximum(1, there.sum(axis=0))
        usual = np.bincount(slates.items[there], np.broadcast_to(slots, there.shape)[there], count)
        clicks = np.bincount(slates.items[there & slates.clicks], minlength=count)
        return cls(slots, (clicks + PRIOR) / (usual + PRIOR))

    def expects(self, items: Ints) -> Array:
        """(n, k) items by slot -> (n, k) clicks; none where nothing is shown."""
        return np.where(items >= 0, self.slots * self.items[np.maximum(items, 0)], 0.0)


def matched(slates: Slates, wanted: Ints) -> NDArray[np.bool_]:
    """(n, k): whether the policy, `wanted` (n, k) items by slot, puts there what was shown there."""
    return np.asarray((slates.items >= 0) & (slates.items == wanted))


def _weights(slates: Slates, wanted: Ints) -> Array:
    return np.asarray(matched(slates, wanted) * slates.m[:, None], dtype=np.float64)


def ips(slates: Slates, wanted: Ints) -> Estimate:
    """Unbiased: a click counts m times where the policy agrees, for the m - 1 times that it would not have."""
    # [6.2] Item by item, not list by list: a whole list agrees once in m! draws, and nothing would be left.
    weights = _weights(slates, wanted)
    return _estimate((weights * slates.clicks).sum(axis=1), weights, slates, wanted)


def snips(slates: Slates, wanted: Ints) -> Estimate:
    """The same over the mean weight, which is 1 a slot if chance was fair: some bias, less spread."""
    weights = _weights(slates, wanted)
    slots = (slates.items >= 0).sum(axis=1)
    scale = float(slots.sum()) / max(1.0, float(weights.sum()))
    totals = (weights * slates.clicks).sum(axis=1) * scale
    value = float(totals.mean())
    slope = value / max(1e-9, float(slots.mean()))
    spread = totals - slope * (weights.sum(axis=1) * scale - slots)  # linearised: the ratio's own noise
    return _estimate(totals, weights, slates, wanted, spread=spread)


def doubly_robust(slates: Slates, wanted: Ints, model: ClickModel) -> Estimate:
    """A click model's answer, corrected where the log can check it."""
    weights = _weights(slates, wanted)
    surprise = weights * (slates.clicks - model.expects(slates.items))
    return _estimate((model.expects(wanted) + surprise).sum(axis=1), weights, slates, wanted)


def cascade(slates: Slates, wanted: Ints) -> Estimate:
    """The chance of a click on a list, where the first click ends the visit: further ones are not counted.

    Assumes that places are looked at from the top until then, and that a click on what is looked at hangs on place and
    item alone. The others assume the opposite, that what stands above a place changes nothing there.
    """
    looked: NDArray[np.bool_] = np.cumsum(slates.clicks, axis=1) - slates.clicks == 0
    weights = _weights(slates, wanted) * looked
    told, used = weights.sum(axis=0), (wanted >= 0).any(axis=0)
    with np.errstate(invalid="ignore"):
        hazard = np.where(used, (weights * slates.clicks).sum(axis=0) / told, 0.0)  # NaN: nothing tells of a place
    with np.errstate(divide="ignore", invalid="ignore"):
        total = -float(np.log(1 - hazard).sum())  # the chance is 1 - exp(-total), and the interval is that of the total
        surprise = weights * (slates.clicks - hazard) / (1 - hazard) / np.maximum(told, 1e-9)
    lists = len(slates.items)
    said = _estimate(np.full(lists, total), weights, slates, wanted, spread=surprise.sum(axis=1) * lists)
    value, low, high = (float(-np.expm1(-bound)) for bound in said[:3])
    return said._replace(value=value, low=low, high=high)


def slate_ips(slates: Slates, wanted: Ints) -> Estimate:
    """The counter-example: only lists that agree on every slot count."""
    same = matched(slates, wanted).all(axis=1)
    k = slates.items.shape[1]
    chance = np.array([np.prod(np.arange(m, max(0, m - k), -1, dtype=np.float64)) for m in slates.m])
    weights = (same * chance)[:, None]
    return _estimate(weights[:, 0] * slates.clicks.sum(axis=1), weights, slates, wanted)


def replay(slates: Slates, wanted: Ints) -> Estimate:
    """The naive one, for lists in served order: the click rate where the policy agrees, for all of its slots.

    It is wrong: where two orders agree is no sample of the slots, but mostly the top.
    """
    agree = (slates.items == wanted) & (slates.items >= 0)
    count = max(1, int(agree.sum()))
    rate = float(slates.clicks[agree].mean()) if agree.any() else 0.0
    k = slates.items.shape[1]
    error = Z * k * float(np.sqrt(rate * (1 - rate) / count))
    return Estimate(k * rate, k * rate - error, k * rate + error, float(agree.sum()), 1.0, 1 - float(agree.mean()))


def _estimate(totals: Array, weights: Array, slates: Slates, wanted: Ints, *, spread: Array | None = None) -> Estimate:
    """The mean over lists, with an interval by users: what one user clicks is no independent draw."""
    value, n = float(totals.mean()), totals.size
    deviation = (totals if spread is None else spread) - (value if spread is None else float(spread.mean()))
    _, user = np.unique(np.array(slates.users), return_inverse=True)
    by_user = np.bincount(user, deviation)
    error = Z * float(np.sqrt((by_user**2).sum() * by_user.size / max(1, by_user.size - 1))) / max(1, n)
    by_list = weights.sum(axis=1)
    effective = float(by_list.sum() ** 2 / max(1e-9, (by_list**2).sum()))
    unsupported = 1 - float(_supported(slates, wanted).sum()) / max(1, int((wanted >= 0).sum()))
    return Estimate(value, value - error, value + error, effective, float(weights.max(initial=0.0)), unsupported)


def _supported(slates: Slates, wanted: Ints) -> NDArray[np.bool_]:
    """(n, k): whether what the policy puts there was shuffled, so that it might have stood there."""
    support = slates.support if slates.support.size else slates.items
    there = (wanted[:, :, None] == support[:, None, :]).any(axis=2)
    return np.asarray((wanted >= 0) & there & (np.arange(wanted.shape[1]) < slates.m[:, None]))


def slates_of(impressions: pl.DataFrame, clicks: pl.DataFrame, *, k: int, shuffled: bool) -> tuple[Slates, list[str]]:
    """Slates from rows of the lake (`dataset.impressions`), and the ids by which items are numbered, of all the rows.

    Only the night's first list of a shopper counts: what the second one shows hangs on what the first one sold.
    """
    if "support" not in impressions.columns:  # an older version wrote all of them
        impressions = impressions.with_columns(support=pl.lit(None, pl.List(pl.String)))
    impressions = impressions.with_columns(support=pl.col("support").fill_null([]))
    ids = pl.concat([impressions["items"].explode(), impressions["support"].explode()]).drop_nulls()
    names = ids.unique().sort().to_list()
    table = impressions.filter((pl.col("path") == "table") & (pl.col("explored") == shuffled))
    first = table.sort("at", "offset").unique(["user", "version"], keep="first", maintain_order=True)
    number = {name: place for place, name in enumerate(names)}
    hits = {(row[0], row[1]) for row in clicks.select("list_id", "position").iter_rows()}
    items, clicked = np.full((first.height, k), -1), np.zeros((first.height, k), bool)
    support = np.full((first.height, config.PERMUTED), -1)
    for row, (known, shown, m) in enumerate(first.select("support", "items", "permuted").iter_rows()):
        own = [number[item] for item in known or shown[:m]][: config.PERMUTED]
        support[row, : len(own)] = own
    for row, (list_id, shown, m) in enumerate(first.select("list_id", "items", "permuted").iter_rows()):
        for slot, item in enumerate(shown[: min(k, m) if shuffled else k]):
            items[row, slot] = number[item]
            clicked[row, slot] = (list_id, slot + 1) in hits
    permuted = first["permuted"].to_numpy() if shuffled else np.full(first.height, config.PERMUTED)
    return Slates(first["user"].to_list(), items, clicked, permuted.astype(np.int64), support), names


class Judged(NamedTuple):
    """What one's own log says of orders of the shuffled items."""

    orders: dict[str, dict[str, Estimate]]  # by order, by estimator; empty without a shuffled list
    shuffled: int  # lists
    plain: int
    clicks: float  # a list that stood as ranked, measured: what the estimates of that order should cover


def judged(impressions: pl.DataFrame, clicks: pl.DataFrame, popular: Mapping[str, float], *, k: int) -> Judged:
    """The order that the recipe had put the shuffled items in, and that of their popularity.

    `impressions`, `clicks`: rows of the lake; `popular`: by item, as it was known before the first of these lists.
    """
    shuffled, names = slates_of(impressions, clicks, k=k, shuffled=True)
    plain, _ = slates_of(impressions, clicks, k=k, shuffled=False)
    count, served = len(plain.users), float(plain.clicks.sum()) / max(1, len(plain.users))
    if not shuffled.users:
        return Judged({}, 0, count, served)
    model, weight = ClickModel.fit(plain, count=len(names)), np.array([popular.get(name, 0.0) for name in names] + [0])
    places = np.where(shuffled.support >= 0, -weight[shuffled.support], np.inf)
    by_popularity = np.take_along_axis(shuffled.support, np.argsort(places, axis=1, kind="stable"), axis=1)
    orders = {}
    for name, order in (("as ranked", shuffled.support), ("by popularity", by_popularity)):
        wanted = np.where(np.arange(k) < shuffled.m[:, None], order[:, :k], -1)
        orders[name] = {
            "IPS": ips(shuffled, wanted),
            "SNIPS": snips(shuffled, wanted),
            "doubly robust": doubly_robust(shuffled, wanted, model),
            "cascade": cascade(shuffled, wanted),
        }
    return Judged(orders, len(shuffled.users), count, served)
