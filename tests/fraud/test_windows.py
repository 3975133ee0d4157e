"""A card's windows, on cards with a handful of payments."""

from pathlib import Path

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from fraud.config import ALLOWED_LATENESS, CARD_WINDOWS, DAY, HABIT, HOUR
from fraud.windows import MONTH, Card, Seen
from shared.public_data import load
from tests.worlds import START

PHONE, HOME = 7, 1  # codes of a device and a country


def card(*payments: tuple[int, int]) -> Card:
    """A card with these (time, cents), in the order of their arrival."""
    mine = Card()
    for at, cents in payments:
        mine.add(at, cents, PHONE, HOME, median=mine.see(at, PHONE, HOME).median)
    return mine


def see(mine: Card, at: int) -> Seen:
    return mine.see(at, PHONE, HOME)


def test_a_window_ends_just_before_its_width() -> None:
    for place, width in enumerate(CARD_WINDOWS.values()):
        mine = card((START, 500))
        assert (see(mine, START + width - 1).counts[place], see(mine, START + width - 1).cents[place]) == (1, 500)
        assert (see(mine, START + width).counts[place], see(mine, START + width).cents[place]) == (0, 0)


def test_what_came_before_in_the_same_second_counts() -> None:
    seen = see(card((START, 500)), START)
    assert seen.counts == (1, 1, 1, 1, 1)
    assert seen.since == 0


def test_what_happened_later_but_came_before_does_not_count() -> None:
    assert see(card((START + 1, 500)), START) == see(Card(), START)


def test_nothing_is_said_of_an_empty_past() -> None:
    assert see(Card(), START) == Seen((0,) * 5, (0,) * 5, 0, 0, (0, 0), -1, 0, 0, 0, -1)


def test_a_late_payment_is_put_where_it_belongs() -> None:
    late = card((START, 100), (START + 2 * HOUR, 400), (START + HOUR, 200))
    assert see(late, START + HOUR + 60).cents[2] == 300
    assert see(late, START + 3 * HOUR).cents[2] == 700
    assert see(late, START + 3 * HOUR).since == HOUR


def test_payments_of_one_second_stand_in_the_order_of_arrival() -> None:
    assert list(card((START, 1), (START, 2), (START, 3)).cents) == [1, 2, 3]


def test_median_and_maximum_are_of_the_last_payments_only() -> None:
    many = card((START, 9_999), *((START + k, 100 + k) for k in range(1, HABIT + 1)))
    seen = see(many, START + DAY)
    assert seen.counts[3] == HABIT + 1
    assert (seen.median, seen.maximum) == (100 + HABIT // 2 + 1, 100 + HABIT)


def test_large_is_more_than_three_times_the_median_before() -> None:
    assert see(card((START, 100), (START + 1, 300)), START + 2).large == (0, 0)
    assert see(card((START, 100), (START + 1, 301)), START + 2).large == (1, 1)
    assert see(card((START, 301)), START + 2).large == (0, 0)  # nothing to compare the first with
    assert see(card((START, 100), (START + 1, 301)), START + 1 + DAY).large == (0, 1)


def test_a_late_payment_makes_no_other_large_or_ordinary() -> None:
    """What was decided about a payment when it came stays."""
    mine = card((START, 100), (START + 2, 301), (START + 1, 10_000))
    assert see(mine, START + 3).large == (2, 2)


def test_devices_and_countries_are_counted_among_the_last_payments() -> None:
    mine = card((START, 100), (START + 1, 100))
    mine.add(START + 2, 100, PHONE + 1, HOME, median=100)
    assert (see(mine, START + 3).same_device, see(mine, START + 3).same_country) == (2, 3)
    assert mine.see(START + 3, PHONE + 2, HOME + 1)[-4:-2] == (0, 0)


def test_a_fraud_counts_from_the_second_it_is_known_for_a_month() -> None:
    mine = Card()
    mine.learn(START)
    frauds = [see(mine, at)[-2:] for at in (START - 1, START, START + MONTH - 1, START + MONTH)]
    assert frauds == [(0, -1), (1, 0), (1, MONTH - 1), (0, -1)]


def test_a_fraud_taken_back_is_gone_and_the_other_stays() -> None:
    mine = Card()
    mine.learn(START + 5)
    mine.learn(START)
    mine.unlearn(START + 5)
    mine.unlearn(START + 7)  # never learnt, or forgotten since
    assert see(mine, START + 10)[-2:] == (1, 10)


def test_forgetting_frees_what_no_window_reaches() -> None:
    mine = card(*((START + k, 100) for k in range(100)))
    mine.learn(START)
    mine.forget(START + 80)
    assert len(mine.at) == 19
    assert len(mine.total) == len(mine.large) == 20
    mine.forget(START + 2 * DAY)
    assert not mine.frauds


Steps = st.lists(
    st.tuples(
        st.integers(0, 5 * DAY),  # since the one before
        st.integers(0, ALLOWED_LATENESS),  # how late it comes
        st.integers(0, 100_00),
        st.integers(0, 3),  # device; 3: a fraud becomes known instead
    ),
    min_size=20,
    max_size=80,
)


@given(Steps)
def test_forgetting_never_changes_an_answer(steps: list[tuple[int, int, int, int]]) -> None:
    keeps, forgets, watermark = Card(), Card(), START
    for since, late, cents, device in steps:
        watermark += since
        at = watermark - late
        assert forgets.see(at, device, HOME) == keeps.see(at, device, HOME)
        for mine in (keeps, forgets):
            if device == 3:
                mine.learn(at)
            else:
                mine.add(at, cents, device, HOME, median=mine.see(at, device, HOME).median)
        forgets.forget(watermark - ALLOWED_LATENESS - MONTH)


def test_windows_are_those_that_the_handbook_has_counted(data: Path) -> None:
    """Of one card in fifty, over its check week. A payment is in the Handbook's own window, and not in ours."""
    theirs = pl.read_parquet(load("handbook_features_check", data))
    rows = pl.scan_parquet(load("handbook_fraud", data)).filter(pl.col("CUSTOMER_ID") % 50 == 7)
    rows = rows.with_columns(
        at=pl.col("TX_DATETIME").dt.epoch("s"), cents=(100 * pl.col("TX_AMOUNT")).round().cast(pl.Int64)
    )
    cards, checked = dict[int, Card](), 0
    numbers = dict(zip(theirs["TRANSACTION_ID"], theirs.iter_rows(named=True), strict=True))
    some = rows.filter(pl.col("TRANSACTION_ID") <= max(numbers)).select("CUSTOMER_ID", "TRANSACTION_ID", "at", "cents")
    for name, number, at, cents in some.collect().iter_rows():
        mine = cards.setdefault(name, Card())
        seen = see(mine, at)
        if (expected := numbers.get(number)) is not None:
            checked += 1
            for days in (1, 7, 30):
                place = list(CARD_WINDOWS).index(f"{days}d")
                count, total = seen.counts[place] + 1, seen.cents[place] + cents
                assert count == expected[f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"]
                mean = expected[f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"]
                assert abs(total / count / 100 - mean) < 1e-6
        mine.add(at, cents, PHONE, HOME, median=seen.median)
    assert checked > 1_000
