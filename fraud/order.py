"""Merges the events of several partitions in event-time order, once their terminal features are final."""

from collections import deque
from heapq import heappop, heappush, heapreplace
from typing import Generic, TypeVar

from fraud.terminals import Book

Item = TypeVar("Item")


class Order(Generic[Item]):
    """Queues of items, one a partition, each in offset order.

    Within a partition nothing is reordered. Across partitions the order decides no result, since a
    payment waits for the hours that it looks at; taking the earliest first keeps the waits short.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._queues: dict[int, deque[tuple[int, int, Item]]] = {}
        self._heads: list[tuple[int, int]] = []  # (event time, partition)
        self._parked: list[tuple[int, int]] = []  # heads that wait for the book
        self._complete = book.complete

    def push(self, partition: int, item: Item, *, at: int, needs: int = -1) -> None:
        """Queue an item with its event time, and the last hour of the book that it looks at."""
        queue = self._queues.setdefault(partition, deque())
        if not queue:
            heappush(self._heads, (at, partition))
        queue.append((at, needs, item))

    def pop(self, *, patient: bool = True) -> tuple[int, Item] | None:
        """The next (partition, item), or None when all that is left waits for the book.

        Not `patient`: take the earliest of those that wait.
        """
        if self._parked and (self._book.complete > self._complete or not patient):
            for head in self._parked:
                heappush(self._heads, head)
            self._parked = []
        self._complete = self._book.complete
        while self._heads:
            partition = self._heads[0][1]
            queue = self._queues[partition]
            if patient and queue[0][1] > self._complete:
                self._parked.append(heappop(self._heads))
                continue
            item = queue.popleft()[2]
            if queue:
                heapreplace(self._heads, (queue[0][0], partition))
            else:
                heappop(self._heads)
            return partition, item
        return None

    def drop(self, partition: int) -> None:
        """Forget a partition that another worker owns by now."""
        self._queues.pop(partition, None)
        self._heads = sorted(head for head in self._heads if head[1] != partition)
        self._parked = [head for head in self._parked if head[1] != partition]

    def __len__(self) -> int:
        """Items not yet taken."""
        return sum(map(len, self._queues.values()))
