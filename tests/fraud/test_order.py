"""Which event is next, over several partitions."""

from hypothesis import given
from hypothesis import strategies as st

from fraud.config import PARTITIONS
from fraud.order import Order
from fraud.schema import Cell
from fraud.terminals import Book


def close(book: Book, until: int) -> None:
    book.add(Cell(partition=partition, hour=until, until=until, counts={}) for partition in range(PARTITIONS))


def drained(order: Order[str], *, patient: bool = True) -> list[tuple[int, str]]:
    items = []
    while (item := order.pop(patient=patient)) is not None:
        items.append(item)
    return items


def test_the_earliest_of_all_partitions_goes_first() -> None:
    order = Order[str](Book())
    for partition, at in ((0, 30), (1, 10), (2, 20), (1, 25)):
        order.push(partition, f"at {at}", at=at)
    assert drained(order) == [(1, "at 10"), (2, "at 20"), (1, "at 25"), (0, "at 30")]


def test_within_a_partition_the_offset_is_the_order() -> None:
    order = Order[str](Book())
    order.push(0, "first, though later", at=100)
    order.push(0, "second", at=1)
    order.push(1, "other", at=50)
    assert drained(order) == [(1, "other"), (0, "first, though later"), (0, "second")]


def test_who_looks_at_the_book_waits_for_it() -> None:
    book = Book()
    order = Order[str](book)
    order.push(0, "waits", at=1, needs=7)
    order.push(0, "behind it", at=2)
    order.push(1, "free", at=3)
    assert drained(order) == [(1, "free")]
    close(book, 6)
    assert order.pop() is None
    close(book, 7)
    assert drained(order) == [(0, "waits"), (0, "behind it")]


def test_impatient_takes_the_earliest_of_those_that_wait() -> None:
    order = Order[str](Book())
    for partition, at in ((0, 20), (1, 10)):
        order.push(partition, f"at {at}", at=at, needs=7)
    assert order.pop() is None
    assert order.pop(patient=False) == (1, "at 10")
    assert order.pop() is None
    assert drained(order, patient=False) == [(0, "at 20")]


def test_a_dropped_partition_is_gone_and_may_come_back() -> None:
    order = Order[str](Book())
    for partition in (0, 1, 2):
        order.push(partition, "old", at=partition, needs=7 if partition == 1 else -1)
    assert order.pop() == (0, "old")
    order.push(0, "old", at=9)
    assert order.pop() == (2, "old")  # and 1 is parked
    order.drop(0)
    order.drop(1)
    assert len(order) == 0
    order.push(1, "new", at=5)
    assert drained(order, patient=False) == [(1, "new")]


Pushed = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(-1, 12)), max_size=60)


@given(Pushed, st.lists(st.integers(0, 12)))
def test_nothing_is_lost_repeated_reordered_or_early(pushed: list[tuple[int, int, int]], hours: list[int]) -> None:
    book = Book()
    order = Order[tuple[int, int]](book)
    taken: list[tuple[int, tuple[int, int]]] = []
    ahead = list(enumerate(pushed))
    for hour in [*sorted(hours), 12]:
        share = len(ahead) // 2 if hour < 12 else len(ahead)
        for number, (partition, at, needs) in ahead[:share]:
            order.push(partition, (number, needs), at=at, needs=needs)
        del ahead[:share]
        close(book, hour)
        while (item := order.pop()) is not None:
            assert item[1][1] <= book.complete
            taken.append(item)
    assert sorted(number for _, (number, _) in taken) == list(range(len(pushed)))
    for partition in range(4):
        numbers = [number for place, (number, _) in taken if place == partition]
        assert numbers == sorted(numbers)
    assert len(order) == 0
