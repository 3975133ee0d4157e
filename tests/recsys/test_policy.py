"""What a list owes: to the shopper, to variety, to small sellers and to newcomers."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from recsys import config
from recsys.policy import PAGE, Policy, Rules, allowed, compose
from tests.recsys.shop import known


def rules(count: int, **changes: list[int] | list[bool]) -> Rules:
    plain = {"category": list(range(count)), "family": [-1] * count, "small": [False] * count, "new": [False] * count}
    return Rules(**(plain | changes))  # type: ignore[arg-type]  # a mixture by name


def test_one_variant_of_a_family_is_enough() -> None:
    assert compose([0, 1, 2], rules(3, family=[7, 7, -1]), Policy()) == [0, 2]
    assert compose([0, 1, 2], rules(3, family=[0, -1, 0]), Policy()) == [0, 1], "the first family, too"
    assert compose([0, 1, 2], rules(3, family=[-1, -1, -1]), Policy()) == [0, 1, 2], "no family is none"


def test_a_category_fills_no_page() -> None:
    items = list(range(30))
    category = [0] * 15 + [1] * 15
    order = compose(items, rules(30, category=category), Policy(per_category=5, small_sellers=0, newcomers=0))
    assert [category[place] for place in order[:PAGE]] == [0] * 5 + [1] * 5
    assert sorted(order) == items, "later pages have them"


def test_a_page_is_filled_when_there_is_nothing_else() -> None:
    items = list(range(12))
    assert len(compose(items, rules(12, category=[0] * 12), Policy(per_category=3))) == 12


def test_small_sellers_and_newcomers_have_a_seat_at_the_end_of_the_first_page() -> None:
    small, new = [place == 15 for place in range(20)], [place == 18 for place in range(20)]
    order = compose(list(range(20)), rules(20, small=small, new=new), Policy())
    assert {15, 18} <= set(order[:PAGE])
    assert order[:8] == list(range(8)), "the best ones stay where they are"


def test_who_is_there_already_needs_no_seat() -> None:
    order = compose(list(range(20)), rules(20, small=[True] * 20, new=[True] * 20), Policy())
    assert order == list(range(20))


def test_who_gives_up_a_place_stands_right_behind_the_page() -> None:
    small = [place == 15 for place in range(20)]
    order = compose(list(range(20)), rules(20, small=small), Policy(newcomers=0))
    assert order == [*range(9), 15, *range(9, 15), *range(16, 20)]


def test_without_other_wishes_four_of_a_category_and_a_seat_for_one_small_seller_and_one_newcomer() -> None:
    late = [place in (15, 16) for place in range(20)]
    for kind in ({"small": late}, {"new": late}):
        assert 16 not in compose(list(range(20)), rules(20, **kind), Policy())[:PAGE]
        assert 15 in compose(list(range(20)), rules(20, **kind), Policy())[:PAGE]
    two = compose(list(range(30)), rules(30, category=[0] * 15 + [1] * 15), Policy())
    assert two[:8] == [0, 1, 2, 3, 15, 16, 17, 18]


def test_each_page_has_its_own_variety() -> None:
    order = compose(list(range(23)), rules(23, category=[0] * 20 + [1] * 3), Policy(1, 0, 0))
    assert order[:PAGE] == [0, 20, *range(1, 9)], "filled up with what is left"
    assert order[PAGE : PAGE + 2] == [9, 21]


def test_what_is_known_of_items() -> None:
    world = known([], users=1, items=4, category=["b", "a", "b", "c"])
    edge = world.cut - config.NEW
    products = world.products.with_columns(
        family=pl.Series(["", "f", "", "f"]), since=pl.Series([edge - 1, edge, edge + 1, world.cut])
    )
    found = Rules.of(world._replace(products=products))
    assert found.new == [False, False, True, True]
    assert found.family[0] == found.family[2] == -1, "no family is none that is shared"
    assert found.family[1] == found.family[3] >= 0
    assert found.category[0] == found.category[2]
    assert len(set(found.category)) == 3


def test_who_would_not_be_stored_has_no_seat() -> None:
    late = [place == 15 for place in range(25)]
    for most in (10, 20):
        order = compose(list(range(25)), rules(25, new=late, small=late), Policy(), most=most)
        assert len(order) == most
        assert (15 in order[:PAGE]) == (most == 20)


def test_a_seat_pushes_no_other_seat_out() -> None:
    new = [place in (9, 15, 17) for place in range(20)]
    small = [place in (7, 18) for place in range(20)]
    order = compose(list(range(20)), rules(20, small=small, new=new), Policy(small_sellers=2, newcomers=3))
    assert {7, 9, 15, 17, 18} <= set(order[:PAGE])
    assert sorted(order) == list(range(20))


def test_the_filter_keeps_the_order() -> None:
    assert allowed([5, 3, 9, 1], {3, 1}) == [0, 2]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 3), st.booleans(), st.booleans()), max_size=60),
    st.integers(1, 6),
)
def test_a_composed_list_is_a_permutation_of_what_families_leave(
    items: list[tuple[int, int, bool, bool]], cap: int
) -> None:
    about = Rules(*([list(column) for column in zip(*items, strict=True)] if items else [[], [], [], []]))
    order = compose(list(range(len(items))), about, Policy(per_category=cap))
    families = {items[place][1] for place in order if items[place][1] >= 0}
    assert len(order) == len(set(order)) == sum(f < 0 for _, f, _, _ in items) + len(families)
