"""What is true once every new item has its share of first pages; the brief is in recsys/EXERCISES.md.

`make exercise NAME=fair-share` runs this; its name keeps it out of `make test`. It looks at what the
parts say, not at how, so every failure is a sentence of the brief that does not hold yet.
"""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys import config, table, topk
from recsys.config import DAY
from recsys.policy import PAGE, Policy, Rules, compose
from recsys.schema import Interactions, Ranked
from recsys.sources import Parameters, Sources, fit
from recsys.table import Table, drawn
from recsys.train import shown
from tests.recsys.shop import TODAY, Shop, Trained, known

SHARE = 0.5  # of the brief
USERS, OLD = 60, 36
STAR, LATE, RARE, LIKED = range(OLD, OLD + 4)  # new items
SMALL = OLD - 1  # of a small seller, and last in every list
NAMES = {STAR: "the star", LATE: "the late one", RARE: "the rare one", LIKED: "the liked one"}
MIDNIGHT = "2026-03-12"

World = tuple[Interactions, Sources, Ranked]


def must(holds: object, otherwise: str) -> None:
    """Say in words what is missing, without the lines of this file."""
    if not holds:
        pytest.fail(otherwise, pytrace=False)


def on() -> Any:
    """The policy with the switch."""
    missing = "policy.Policy has no switch: Policy(fair=True) shares the seats out, Policy() does not"
    must("fair" in Policy._fields, missing)
    make: Any = Policy
    return make(fair=True)


def ranking(user: int) -> list[int]:
    """Items of a list, best first: the star is every list's best newcomer, but for those who like another."""
    items = [*range(OLD)]
    if 20 <= user < 30:
        items.insert(3, LIKED)  # by merit
    items.insert(PAGE + 1 if user >= 40 else PAGE + 2, STAR)
    items.insert(PAGE + 4 + user // 3, LATE)  # the first users like it best
    if user < 7:
        items.insert(PAGE + 18, RARE)  # no other list holds it
    return items


@pytest.fixture(scope="module")
def world() -> World:
    """Sixty shoppers, and forty items of which four are new."""
    made = known([(user, user % 7, 5.0) for user in range(USERS)], users=USERS, items=OLD + 4)
    number = pl.int_range(pl.len())
    products = made.products.with_columns(
        since=pl.when(number >= OLD).then(TODAY - DAY).otherwise("since"), small=number == SMALL
    )
    made = made._replace(products=products)
    orders = [ranking(user) for user in range(USERS)]
    sizes = [len(items) for items in orders]
    scores = np.concatenate([np.linspace(1, 0, size) for size in sizes]).astype(np.float32)
    items = np.concatenate(orders).astype(np.int64)
    ranked = Ranked(np.repeat(np.arange(USERS), sizes), items, scores, np.zeros(items.size, np.int64))
    return made, fit(made, Parameters(factors=2, iterations=1), seed=1), ranked


@pytest.fixture
def unshuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "EXPLORED", 0.0)


def stored(world: World, policy: Policy) -> list[list[int]]:
    """The lists of a night."""
    made, sources, ranked = world
    top, _, _ = topk.arranged(made, policy, sources, ranked, date=MIDNIGHT)
    return [[item for item in items if item >= 0] for items in top.items.tolist()]


def pages_with(item: int, lists: list[list[int]]) -> list[int]:
    """The numbers of the lists whose first page holds it."""
    return [number for number, items in enumerate(lists) if item in items[:PAGE]]


def owed(lists: int, new: int, seats: int = 1) -> int:
    return int(SHARE * lists * seats / new)


# --- the share --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unshuffled")
def test_a_policy_of_before_arranges_as_before(world: World) -> None:
    on()
    must(Policy() == Policy(per_category=4, small_sellers=1, newcomers=1), "policy.Policy(): the switch is not off")
    rules = Rules.of(world[0])
    for user, items in enumerate(stored(world, Policy())):
        alone = [ranking(user)[place] for place in compose(ranking(user), rules, Policy())]
        must(
            items[: len(alone)] == alone,
            "topk.arranged: with Policy() a list is another one than compose makes of it alone, so a recipe of before "
            "would show something else after the new code is out",
        )


@pytest.mark.usefixtures("unshuffled")
@pytest.mark.parametrize("item", NAMES)
def test_every_new_item_has_its_share(world: World, item: int) -> None:
    lists = stored(world, on())
    wanted, holders = owed(USERS, len(NAMES)), sum(item in ranking(user) for user in range(USERS))
    found = len(pages_with(item, lists))
    must(
        found >= min(wanted, holders),
        f"{NAMES[item]} stands in {holders} of {USERS} rankings and on {found} first pages; it is owed {wanted}: "
        "shares are handed out over all lists, and to whom the fewest lists can seat first",
    )


@pytest.mark.usefixtures("unshuffled")
def test_no_seat_is_left_empty_and_none_is_added(world: World) -> None:
    counts = {sum(item in NAMES for item in items[:PAGE]) for items in stored(world, on())}
    must(
        counts == {1},
        f"first pages hold {sorted(counts)} newcomers, not one each: merit takes the page's seat, and "
        "a seat that is owed to no item goes to the list's best newcomer, as before",
    )


@pytest.mark.usefixtures("unshuffled")
def test_a_share_goes_to_those_who_want_it_most(world: World) -> None:
    places = [ranking(user).index(LATE) for user in range(USERS)]
    seats = pages_with(LATE, stored(world, on()))
    must(seats, f"{NAMES[LATE]} is on no first page")
    must(
        np.mean([places[user] for user in seats]) < np.quantile(places, 0.3),
        f"{NAMES[LATE]} is seated where its place in the ranking is {np.mean([places[user] for user in seats]):.0f} on "
        f"the mean, {np.mean(places):.0f} over all lists: a share is no lottery",
    )


@pytest.mark.usefixtures("unshuffled")
def test_the_places_above_the_seats_are_as_before(world: World) -> None:
    before, now = stored(world, Policy()), stored(world, on())
    above = PAGE - 2  # one for small sellers, one for newcomers
    changed = sum(old[:above] != new[:above] for old, new in zip(before, now, strict=True))
    must(changed == 0, f"{changed} lists have other items in their first {above} places, which are no seats")
    lost = USERS - len(pages_with(SMALL, now))
    must(lost == 0, f"on {lost} first pages the small seller has lost its seat to a newcomer")
    torn = sum(sorted(old) != sorted(new) for old, new in zip(before, now, strict=True))
    must(torn == 0, f"{torn} stored lists hold other items than before: a seat only moves an item")


def test_a_rerun_shares_out_alike(world: World) -> None:
    must(stored(world, on()) == stored(world, on()), "the same night arranged twice has two results")


# --- chance, and evaluation ---------------------------------------------------------------------------


def test_shuffled_lists_promise_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "EXPLORED", 0.3)
    chance = {user for user, name in enumerate(world[0].users) if drawn(name, MIDNIGHT) is not None}
    before, now = stored(world, Policy()), stored(world, on())
    must(
        all(before[user] == now[user] for user in chance),
        "topk.arranged: a list that is shuffled is not the one that Policy() would have shuffled; if you share seats "
        "out among them changes what the estimates are about, for places that chance takes away again",
    )
    fixed = [user for user in range(USERS) if user not in chance]
    for item, name in NAMES.items():
        holders = sum(item in ranking(user) for user in fixed)
        found = len([user for user in pages_with(item, now) if user not in chance])
        wanted = min(owed(len(fixed), len(NAMES)), holders)
        must(
            found >= wanted,
            f"{name} is on {found} first pages that are not shuffled, and owed {wanted}: in a shuffled list it may end "
            "on any of twenty places, so such a list cannot count",
        )


@pytest.mark.usefixtures("unshuffled")
def test_what_is_evaluated_is_what_is_stored(world: World) -> None:
    policy = on()
    made, _, ranked = world
    lists = shown(ranked, np.arange(USERS), Rules.of(made), policy)[:, :PAGE].tolist()
    wrong = sum(one != other[:PAGE] for one, other in zip(lists, stored(world, policy), strict=True))
    must(
        wrong == 0,
        f"train.shown: {wrong} of {USERS} first pages are not those that the night stores, so the gate judges another "
        "policy than the one that is served (seats are taken from the whole stored list, not from its first 20)",
    )


# --- at work -----------------------------------------------------------------------------------------


def test_train_releases_it(request: pytest.FixtureRequest) -> None:
    on()  # first, as a shop takes some seconds to learn
    world: Trained = request.getfixturevalue("shop_world")
    (recipe,) = (world.var / "recipes").glob("**/recipe.json")
    policy = json.loads(recipe.read_text())["policy"]
    must(policy.get("fair") is True, "train: the recipe that it registers does not have the switch")


def test_a_night_says_who_is_short(request: pytest.FixtureRequest) -> None:
    on()
    shop: Shop = request.getfixturevalue("shop")
    night = shop.night()
    for name in ("newcomers", "newcomers_short"):
        must(name in night.figures, f"batch: the night's figures have no {name}")
    made = Table.open(shop.tables / str(table.current(shop.tables)))
    users, pages = made.first_ten()
    fixed = [page for user, page in zip(users, pages.tolist(), strict=True) if not made.explored(made.row(user))]
    new = [item for item, flag in enumerate(made.extras.new) if flag]
    must(
        night.figures["newcomers"] == len(new),
        f"batch: the night counts {night.figures['newcomers']:.0f} newcomers, the table has {len(new)}",
    )
    wanted = owed(len(fixed), max(1, len(new)))
    short = sum(sum(item in page for page in fixed) < wanted for item in new)
    must(
        night.figures["newcomers_short"] == short,
        f"batch: {short} new items are on fewer than {wanted} first pages, the night says "
        f"{night.figures['newcomers_short']:.0f}",
    )
