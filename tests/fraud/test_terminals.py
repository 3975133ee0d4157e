"""The terminal book, on one shop and a handful of hours."""

import random

from fraud.config import BOOK_LAG, DAY, HOUR, PARTITIONS, SILENT
from fraud.schema import Cell
from fraud.terminals import KEEP, MONTH, NEVER, Book, OpenHour, Visited, usable
from tests.worlds import START

H0 = START // HOUR  # the first hour of the worlds below


def cell(hour: int, payments: int = 0, frauds: int = 0, *, partition: int = 0, until: int | None = None) -> Cell:
    counts = {"shop": (payments, frauds)} if payments or frauds else {}
    return Cell(partition=partition, hour=hour, until=hour if until is None else until, counts=counts)


def closed(until: int, partitions: range = range(PARTITIONS)) -> list[Cell]:
    """All hours up to `until` are closed, and nothing was in the last."""
    return [cell(until, partition=partition) for partition in partitions]


def book(*cells: Cell, until: int = H0 + 5_000) -> Book:
    made = Book()
    made.add(cells)
    made.add(closed(until))
    return made


def at(hour: int) -> int:
    """The first moment at which a payment may use `hour`."""
    return (hour + 1 + BOOK_LAG) * HOUR


def test_an_hour_is_usable_once_it_ended_a_lag_ago() -> None:
    assert usable(at(H0)) == H0
    assert usable(at(H0) - 1) == H0 - 1


def test_an_open_hour_is_closed_by_the_first_event_past_it() -> None:
    hour = OpenHour()
    hour.advance(START, 4)
    hour.count("shop", 1, 0)
    hour.count("shop", 1, 1)
    assert hour.advance(START + HOUR - 1, 4) is None
    assert hour.advance(START + HOUR, 4) == Cell(partition=4, hour=H0, until=H0, counts={"shop": (2, 1)})
    assert hour.counts == {}


def test_hours_without_events_close_with_the_one_before_them() -> None:
    hour = OpenHour()
    hour.advance(START, 0)
    assert hour.advance(START + 5 * HOUR, 0) == cell(H0, until=H0 + 4)


def test_the_book_is_complete_as_far_as_its_slowest_partition() -> None:
    made = Book()
    made.add([cell(H0, 3), cell(H0 + 1, 3)])
    made.add(closed(H0 + 1, range(1, PARTITIONS - 1)))
    assert made.complete == -1
    made.add(closed(H0, range(PARTITIONS - 1, PARTITIONS)))
    assert made.complete == H0
    assert made.see("shop", at(H0 + 1)).payments == (3, 3, 3)  # of hour H0 alone


def test_a_terminal_is_the_sum_over_partitions() -> None:
    assert book(cell(H0, 3, 1), cell(H0, 4, partition=1)).see("shop", at(H0)) == Visited((7, 7, 7), (1, 1, 1), 0)


def test_a_cell_seen_twice_changes_nothing() -> None:
    once, twice = book(cell(H0, 3, 1)), book(cell(H0, 3, 1), cell(H0, 3, 1))
    twice.add([cell(H0, 3, 1)])
    assert twice.see("shop", at(H0)) == once.see("shop", at(H0))


def test_a_window_of_hours_ends_just_before_its_width() -> None:
    made = book(cell(H0, 2, 1))
    for place, hours in enumerate((24, 7 * 24, 28 * 24)):
        assert made.see("shop", at(H0 + hours - 1)).payments[place] == 2
        assert made.see("shop", at(H0 + hours)).payments[place] == 0


def test_hours_since_the_last_fraud_are_counted_within_the_longest_window() -> None:
    made = book(cell(H0, 1, 1), cell(H0 + 10, 1))
    assert made.see("shop", at(H0 + 10)).since_fraud == 10
    assert made.see("shop", at(H0 + MONTH - 1)).since_fraud == MONTH - 1
    assert made.see("shop", at(H0 + MONTH)).since_fraud == -1


def test_a_verdict_taken_back_leaves_its_hour_as_it_was() -> None:
    """Records are never edited: the hour in which it was taken back has one less, but no window less than none."""
    made = book(cell(H0, 1, 1), cell(H0 + 30, 0, -1))
    assert made.see("shop", at(H0 + 29)).frauds == (0, 1, 1)
    assert made.see("shop", at(H0 + 30)) == Visited((0, 1, 1), (0, 0, 0), -1)
    assert made.see("shop", at(H0 + MONTH)).frauds == (0, 0, 0)
    again = book(cell(H0, 1, 1), cell(H0 + 10, 1, 1), cell(H0 + 30, 0, -1))
    assert again.see("shop", at(H0 + 31)) == Visited((1, 2, 2), (0, 1, 1), 21)


def test_nothing_is_known_of_a_terminal_before_its_first_hour() -> None:
    made = book(cell(H0, 1))
    assert made.see("shop", at(H0) - 1) == made.see("elsewhere", at(H0)) == NEVER


def test_the_order_of_partitions_does_not_matter() -> None:
    cells = [cell(H0 + hour, hour % 5, hour % 3 == 0, partition=p) for p in range(PARTITIONS) for hour in range(60)]
    expected = book(*cells)
    for seed in range(5):
        queues = [cells[p * 60 : p * 60 + 60] for p in range(PARTITIONS)]
        made, draw = Book(), random.Random(seed)
        while any(queues):
            made.add([draw.choice([queue for queue in queues if queue]).pop(0)])
        made.add(closed(H0 + 5_000))
        assert all(made.see("shop", at(H0 + hour)) == expected.see("shop", at(H0 + hour)) for hour in range(700))


def test_what_the_book_lets_go_of_is_out_of_reach() -> None:
    whole, pruned = book(*(cell(H0 + hour, 1) for hour in range(100)), until=H0 + 99), Book()
    last = H0 + 3 * KEEP
    pruned.add(cell(H0 + hour, 1) for hour in range(100))
    pruned.add([cell(last - 10, 2), cell(last, 1)])
    pruned.add(closed(last, range(1, PARTITIONS)))
    assert whole.see("shop", at(H0 + 99)).payments == (24, 100, 100)
    assert pruned.see("shop", at(last)).payments == (3, 3, 3)
    assert pruned.see("shop", at(H0 + 99)).payments == (0, 0, 0)  # no payment may ask any more


def test_a_terminal_that_is_silent_for_half_a_year_is_forgotten_and_looks_as_it_did() -> None:
    made, days = Book(), 400
    for day in range(days):
        hour = H0 + 24 * day
        made.add([Cell(partition=0, hour=hour, until=hour, counts={f"shop-{day}": (3, 1), "open": (1, 0)})])
        made.add(closed(hour, range(1, PARTITIONS)))
    last = H0 + 24 * (days - 1)
    assert len(made._terminals) <= SILENT // DAY + 3
    assert made.see("shop-0", at(last)) == NEVER
    assert made.see("open", at(last)).payments == (1, 7, 28)
    made.add([Cell(partition=0, hour=last + 24, until=last + 24, counts={"shop-0": (2, 0)})])
    made.add(closed(last + 24, range(1, PARTITIONS)))
    assert made.see("shop-0", at(last + 24)) == Visited((2, 2, 2), (0, 0, 0), -1)
