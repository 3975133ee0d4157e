"""What the gate of a table is told: of tiny tables, by hand."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from recsys import config, table
from recsys.batch import _distance, _overlap, _volume
from recsys.releases import published
from recsys.schema import Interactions, Ranked, TopK
from recsys.table import Extras, Manifest, Table
from tests.recsys.shop import TODAY, Shop, known

ITEMS = ["a", "b", "c", "d"]


def made(
    tables: Path, lists: dict[str, str], *, items: Sequence[str] = ITEMS, recipe: str = "1", titles: int = 4
) -> Table:
    """A table of lists, an item a letter, as a night leaves it."""
    number = {item: place for place, item in enumerate(items)}
    top = np.full((len(lists), config.STORED), -1, np.int32)
    for row, shown in enumerate(lists.values()):
        top[row, : len(shown)] = [number[item] for item in shown]
    none, rows = [0] * len(items), len(lists)
    extras = Extras(list(items), {"": []}, none, none, [False] * len(items), [False] * len(items), [])
    about = {"date": "2026-03-12", "cut": TODAY, "recipe": recipe, "recipe_digest": "", "offsets": {}}
    manifest = table.write(
        tables / "new",
        Manifest.model_validate(about | {"tables": {}, "files": {}, "samples": {}}),
        users=list(lists),
        top=TopK(top, np.zeros_like(top, np.int8), np.zeros(rows, bool), np.zeros(rows, np.int16)),
        history=np.full((rows, 1), -1),
        scores=np.zeros((rows, 10), np.float32),
        neighbours=np.full((len(items), 1), -1, np.int32),
        extras=extras._replace(titles=["a title"] * titles + [""] * (len(items) - titles)),
    )
    return Table.open((tables / "new").rename(tables / manifest.version), verify=False)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Shop]:
    """A shop in which nothing has happened."""
    with closing(Shop(tmp_path)) as shop:
        shop.tables.mkdir()
        yield shop


def ranked(*counts: int) -> Ranked:
    """So many candidates of each user."""
    users = np.repeat(np.arange(len(counts)), counts)
    return Ranked(users, users, users.astype(np.float32), users)


def force(shop: Shop, made: Table, **figures: float) -> None:
    releases = shop.nights().releases
    with releases.changing():
        releases.publish(published(made, figures, at=TODAY, who="", why="", key=made.version))


# --- what is compared with yesterday ------------------------------------------------------------


def test_overlap_is_the_mean_share_of_yesterday_s_first_ten_that_is_shown_again(tmp_path: Path) -> None:
    ten = "abcdefghij"
    old = made(tmp_path, {"ann": ten, "bob": ten, "gone": ten}, items=[*ten, "z"])
    new = made(tmp_path, {"new": ten, "bob": "zjihgklmno", "ann": "jihgfedcba"}, items=sorted(f"{ten}klmnoz"))
    assert _overlap(old, new) == pytest.approx((1.0 + 0.4) / 2), "ann has them all, whatever the order"
    assert _overlap(old, made(tmp_path, {"eve": ten}, items=[*ten, "z"])) == 0, "no shopper is in both"


def test_an_item_that_is_gone_is_not_found_on_an_empty_place(tmp_path: Path) -> None:
    old, new = made(tmp_path, {"ann": "abcd"}), made(tmp_path, {"ann": "cd"}, items=["c", "d"])
    assert _overlap(old, new) == pytest.approx(0.8), "two of four, and the six that are empty in both"
    assert _overlap(new, old) == 1, "nothing that was shown is gone"
    other = made(tmp_path, {"ann": "efgh"}, items=["e", "f", "g", "h"])
    assert _overlap(old, other) == pytest.approx(0.6), "a number is another item's there"
    assert _overlap(made(tmp_path, {"ann": "bcd"}), made(tmp_path, {"ann": "abcdabcdab"})) == pytest.approx(0.3)


def test_scores_that_stay_have_not_moved() -> None:
    scores = np.random.default_rng(1).random((200, 10)).astype(np.float32)
    assert _distance(scores, scores) == pytest.approx(0, abs=1e-6)
    assert _distance(scores, scores + 1) > config.MAX_SHIFT


def test_a_place_without_a_candidate_is_a_fallback(bare: Shop) -> None:
    world, nights = known([], users=2, items=4), bare.nights()
    two = made(bare.tables, {"ann": "abcd" * 20, "bob": "abcd"}, titles=3)  # 80 places, of which 50 can be shown, and 4
    figures = nights._figures(two, world, ranked(70, 1))
    assert figures["fallbacks"] == pytest.approx(1 - (50 + 1) / 54)
    assert (figures["users"], figures["stored"], figures["ranked"]) == (2, 84, 71)
    assert (figures["for_sale"], figures["titled"]) == (4, 3)
    assert nights._figures(two, world, ranked(50, 60))["fallbacks"] == 0, "more candidates than places"
    empty = made(bare.tables, {"ann": ""})
    assert nights._figures(empty, world, ranked(1))["fallbacks"] == 1


def test_the_first_table_and_the_one_in_force_are_compared_with_nothing(bare: Shop) -> None:
    world, one = known([], users=1, items=4), made(bare.tables, {"ann": "abcd"})
    assert not [name for name in bare.nights()._figures(one, world, ranked(4)) if "yesterday" in name]
    force(bare, one)
    told = bare.nights()._figures(one, world, ranked(4))
    assert not {"users_yesterday", "overlap", "shift"} & set(told)


def test_yesterday_s_figures_are_those_of_the_table_in_force(bare: Shop) -> None:
    world = known([], users=1, items=4)
    old, between = made(bare.tables, {"ann": "abcd", "bob": "ab"}, titles=2), made(bare.tables, {"ann": "dabc"})
    force(bare, old, for_sale=7, fallbacks=0.4)
    force(bare, between, for_sale=8, fallbacks=0.5)
    bare.roll_back()
    told = bare.nights()._figures(made(bare.tables, {"ann": "abdc"}), world, ranked(4))
    assert (told["users_yesterday"], told["titled_yesterday"], told["overlap"]) == (2, 2, 1)
    assert (told["for_sale_yesterday"], told["fallbacks_yesterday"]) == (7, 0.4)
    assert "shift" in told
    other = made(bare.tables, {"ann": "bacd"}, recipe="2")
    assert "shift" not in bare.nights()._figures(other, world, ranked(4)), "another recipe has other scores"


# --- volume -------------------------------------------------------------------------------------


def volume(*ago: float) -> tuple[float, float]:
    """Input, and what is usual, of purchases so many days ago."""
    told = _volume(known([(0, 0, days) for days in ago], users=1, items=1))
    return told["input"], told["input_usual"]


def test_the_input_is_that_of_the_last_day_and_the_usual_that_of_the_seven_before() -> None:
    old = [100.0]  # a shop that has been there
    weekly = [7.5] * 50 + [14.5, 21.5, 28.5]
    assert volume(*old, *weekly, 0.0, 0.01, 0.5, 1.0, 1.0001)[0] == 3, "the cut is tomorrow's, a day ago is today's"
    assert volume(*old, *weekly, 1.0, 1.0001, 8.0)[1] == pytest.approx(52 / 7), "from the eighth day on"
    assert volume(*old, *weekly, 8.0001)[1] == pytest.approx(50 / 7)


def test_what_is_looked_at_is_input_too() -> None:
    world: Interactions = known([(0, 0, 0.5)], users=1, items=1)
    seen = world.bought.select("user", "item", "at", kind=world.bought["order"])
    assert _volume(world._replace(seen=seen))["input"] == 2


def test_a_young_shop_is_measured_by_the_days_it_has_had() -> None:
    assert volume(4.0, 3.0, 2.0)[1] == pytest.approx(3 / 3)
    assert volume(3.5, 3.0, 2.0)[1] == pytest.approx(3 / 2.5)
    assert volume(1.5, 1.5, 0.5) == (1, 2), "less than a day counts as one"
    assert volume(0.5) == (1, 0)
    assert volume() == (0, 0)


def test_a_weekday_on_which_the_shop_rests_has_no_usual_input() -> None:
    """At most what the busiest of the same weekdays had, of those that lie within the shop's life."""
    busy = [day + 0.5 for day in (1, 2, 3, 4, 5, 6)] * 70
    assert volume(*busy, 60.0)[1] == 0
    for week in (1, 2, 3, 4):
        at = 7 * week
        assert volume(*busy, 60.0, at + 0.5)[1] == 1, "was no day of rest"
        assert volume(*busy, 60.0, at + 1.0)[1] == 1, "from its first second"
        assert volume(*busy, 60.0, at)[1] == 0, "to its last"
    assert volume(*busy, 60.0, 35.5)[1] == 0, "five weeks ago is forgotten"
    assert volume(*busy, 60.0, 21.5, 14.5, 14.5)[1] == 2, "the busiest"
    assert volume(*busy)[1] == pytest.approx(6 * 70 / 5.5), "a shop of six days has no such weekday"
    assert volume(*busy, 8.0)[1] == 1, "that of its first day is one"
