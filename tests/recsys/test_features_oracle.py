"""What the ranker sees of a pair, computed again: slowly, a pair at a time, by what each feature says that it is."""

import math
import random
from statistics import fmean, median, pstdev

import numpy as np
import polars as pl
import pytest

from recsys.config import DAY
from recsys.features import NAMES, Facts
from recsys.schema import SOURCES, Candidates, Interactions
from tests.recsys.shop import TODAY, known

NEVER = 400.0  # days
USERS, ITEMS = 7, 9


def world(seed: int) -> Interactions:
    """A small shop with everything that is at an edge: repeats on a day, ties, one who bought nothing, a new item."""
    rng = random.Random(seed)
    ages = [0.0001, 0.3, 1, 3.5, 6.999, 7, 7.001, 20, 27.9, 28, 28.1, 60.25, 399, 450]  # days
    deeds = [(rng.randrange(USERS - 1), rng.randrange(ITEMS - 1), rng.choice(ages)) for _ in range(rng.choice((3, 60)))]
    made = known(deeds, users=USERS, items=ITEMS, category=rng.choices(["", "a", "b"], k=ITEMS))
    looks = [(rng.randrange(USERS), rng.randrange(ITEMS), TODAY - int(rng.choice(ages) * DAY)) for _ in range(12)]
    seen = [(user, item, at, "view") for user, item, at in looks]
    return made._replace(
        bought=made.bought.with_columns(order=pl.Series([f"o{rng.randrange(6)}" for _ in deeds])),
        seen=pl.DataFrame(seen, schema=made.seen.schema, orient="row"),
        products=made.products.with_columns(
            cents=pl.Series(rng.choices([0, 99, 500, 501, 20_000], k=ITEMS)),
            since=pl.Series([TODAY - int(rng.choice([0, 0.5, 30, 399, 401]) * DAY) for _ in range(ITEMS)]),
        ),
    )


def candidates(seed: int) -> Candidates:
    """Of some users, in order of user; scores with ties, none at all, all alike, or nearly."""
    rng = random.Random(seed)
    pairs = [(user, item) for user in range(USERS) for item in rng.sample(range(ITEMS), 5) if user != seed % USERS]
    kinds = ([0.0], [0.0, 1.0, 2.0, -math.inf], [3.0], [1.0, 1.0005], [1.0, 1.01, 0.99], [0.01, 5.0, -2.0])
    of = {(user, source): rng.choice(kinds) for user in range(USERS) for source in SOURCES}
    scores = [[rng.choice(of[user, source]) for source in SOURCES] for user, _ in pairs]
    users, items = zip(*pairs, strict=True)
    return Candidates(np.array(users), np.array(items), np.array(scores, np.float32))


def share_below(values: list[float], value: float) -> float:
    return (sum(other < value for other in values) + sum(other <= value for other in values)) / 2 / len(values)


def days_of(rows: list[dict], user: int, item: int) -> list[int]:  # type: ignore[type-arg]  # as polars gives them
    """The first purchase of each day on which they bought it."""
    ats = sorted(row["at"] for row in rows if (row["user"], row["item"]) == (user, item))
    return [min(at for at in ats if at // DAY == day) for day in sorted({at // DAY for at in ats})]


def of_item(shop: Interactions, item: int) -> dict[str, float]:
    rows, products = shop.bought.to_dicts(), shop.products.to_dicts()
    buyers = [float(len({row["user"] for row in rows if row["item"] == other})) for other in range(ITEMS)]
    ages = [(TODAY - row["at"]) / DAY for row in rows if row["item"] == item]
    week, month = sum(age <= 7 for age in ages) / 7, sum(age <= 28 for age in ages) / 28
    visits = [days_of(rows, user, item) for user in range(USERS)]
    gaps = [(days[-1] - days[0]) / DAY / (len(days) - 1) for days in visits if len(days) > 1]
    return {
        "item_popularity": share_below(buyers, buyers[item]),
        "item_trend": math.log((week + 0.05) / (month + 0.05)),
        "item_age": min(NEVER, (TODAY - products[item]["since"]) / DAY),
        "item_price": share_below([row["cents"] for row in products], products[item]["cents"]),
        "item_gap": median(gaps) if gaps else NEVER,
    }


def of_user(shop: Interactions, user: int) -> dict[str, float]:
    rows, products = shop.bought.to_dicts(), shop.products.to_dicts()
    variety = [float(len({row["item"] for row in rows if row["user"] == other})) for other in range(USERS)]
    mine = [row for row in rows if row["user"] == user]
    return {
        "user_activity": share_below(variety, variety[user]),
        "user_since": min([NEVER, *((TODAY - row["at"]) / DAY for row in mine)]),
        "user_price": fmean([math.log1p(products[row["item"]]["cents"]) for row in mine] or [0.0]),
        "user_items": len(mine) / max(1, len({row["order"] for row in mine})),
    }


def of_pair(shop: Interactions, user: int, item: int) -> dict[str, float]:
    rows, seen, products = shop.bought.to_dicts(), shop.seen.to_dicts(), shop.products.to_dicts()
    visits, mine = days_of(rows, user, item), [row["item"] for row in rows if row["user"] == user]
    since = (TODAY - visits[-1]) / DAY if visits else NEVER
    recent = {(row["user"], row["item"]) for row in seen if row["at"] > TODAY - 7 * DAY}
    alike = [products[other]["category"] == products[item]["category"] for other in mine]
    return {
        "pair_times": len(visits),
        "pair_since": since,
        "pair_due": min(10.0, since / of_item(shop, item)["item_gap"]),
        "pair_looked": float((user, item) in recent),
        "pair_price": math.log1p(products[item]["cents"]) - of_user(shop, user)["user_price"],
        "pair_category": fmean(alike or [0.0]),
    }


def of_scores(pairs: Candidates, row: int) -> dict[str, float]:
    found = {}
    for place, source in enumerate(SOURCES):
        mine = pairs.scores[pairs.users == pairs.users[row], place].tolist()
        score, told = pairs.scores[row, place].item(), [value if math.isfinite(value) else 0.0 for value in mine]
        spread, size = pstdev(told), math.sqrt(fmean(value**2 for value in told))
        missing = score == 0 or not math.isfinite(score)
        found[source] = math.nan if missing else score / (spread if spread > size / 1000 else size)
        found[f"{source}_rank"] = math.nan if missing else 1 + sum(other > score for other in mine)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_every_feature_is_what_its_name_says(seed: int) -> None:
    shop, pairs = world(seed), candidates(seed)
    matrix = Facts.of(shop).matrix(pairs)
    for row, (user, item) in enumerate(zip(pairs.users.tolist(), pairs.items.tolist(), strict=True)):
        told = of_scores(pairs, row) | of_item(shop, item) | of_user(shop, user) | of_pair(shop, user, item)
        assert dict(zip(NAMES, matrix[row].tolist(), strict=True)) == pytest.approx(
            told, rel=1e-3, abs=1e-4, nan_ok=True
        )


def test_a_shop_in_which_nothing_was_bought_or_looked_at_has_features_too() -> None:
    shop = known([], users=USERS, items=ITEMS)
    for row, told in enumerate(Facts.of(shop).matrix(pairs := candidates(1)).tolist()):
        user, item = pairs.users[row].item(), pairs.items[row].item()
        expected = of_scores(pairs, row) | of_item(shop, item) | of_user(shop, user) | of_pair(shop, user, item)
        assert dict(zip(NAMES, told, strict=True)) == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)
