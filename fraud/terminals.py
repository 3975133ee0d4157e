"""Terminal aggregates: payments and frauds of each terminal by closed hour, over all cards.

Payments of one terminal arrive in many partitions. The owner of a partition counts them by hour and
emits a Cell when its own time passes the end of the hour; the book is the sum of all cells. Records
are never edited: what comes after its hour was closed is counted in the hour that is open.
"""

from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from fraud.config import BOOK_LAG, HOUR, PARTITIONS, SILENT, TERMINAL_WINDOWS
from fraud.schema import Cell

DAY, WEEK, MONTH = TERMINAL_WINDOWS.values()  # hours
KEEP = MONTH + BOOK_LAG + 48


def usable(at: int) -> int:
    """The last hour that a payment at `at` may look at: it ended at least BOOK_LAG hours ago."""
    return at // HOUR - BOOK_LAG - 1


class OpenHour:
    """One partition's counts for the hour that is open."""

    __slots__ = ("counts", "hour")

    def __init__(self) -> None:
        self.hour = -1  # none yet
        self.counts: dict[str, tuple[int, int]] = {}

    def count(self, terminal: str, payments: int, frauds: int) -> None:
        before = self.counts.get(terminal, (0, 0))
        self.counts[terminal] = (before[0] + payments, before[1] + frauds)

    def advance(self, watermark: int, partition: int) -> Cell | None:
        """Close the hour once the partition's time has passed it; later hours without events close with it."""
        now = watermark // HOUR
        if now <= self.hour:
            return None
        cell = Cell.model_construct(partition=partition, hour=self.hour, until=now - 1, counts=self.counts)
        self.hour, self.counts = now, {}
        return cell


class History(NamedTuple):
    """A terminal's closed hours with running totals."""

    hours: "array[int]"
    payments: "array[int]"  # payments[k]: in the first k hours
    frauds: "array[int]"
    last_fraud: "array[int]"  # last_fraud[k]: the last hour with a fraud among the first k; -1: none


class Visited(NamedTuple):
    """A terminal's past as one payment sees it."""

    payments: tuple[int, ...]  # by window of TERMINAL_WINDOWS
    frauds: tuple[int, ...]  # that became known
    since_fraud: int  # hours since the last of them; -1: none


NEVER = Visited((0, 0, 0), (0, 0, 0), -1)


class Book:
    """The sum over partitions, complete up to the hour that every partition has closed."""

    def __init__(self) -> None:
        self.closed = [-1] * PARTITIONS  # by partition: the last hour closed
        self.complete = -1
        self._waiting: dict[int, list[Cell]] = defaultdict(list)
        self._parts: dict[int, dict[int, Cell]] = {}  # by partition: of the cell that is not whole yet, by number
        self._terminals: dict[str, History] = {}

    def add(self, cells: Iterable[Cell]) -> None:
        """Take cells in; those seen before change nothing."""
        for record in cells:
            if record.until > self.closed[record.partition] and (cell := self._whole(record)) is not None:
                self.closed[cell.partition] = cell.until
                if cell.counts:
                    self._waiting[cell.hour].append(cell)
        complete = min(self.closed)
        if complete > self.complete:
            if complete // DAY > self.complete // DAY:  # once a day: it looks at every terminal
                self._forget(complete - SILENT // HOUR)
            self.complete = complete
            for hour in sorted(hour for hour in self._waiting if hour <= complete):
                self._close(hour, self._waiting.pop(hour))

    def _whole(self, cell: Cell) -> Cell | None:
        """The cell, once all its parts are there."""
        if cell.parts == 1:
            return cell
        parts = self._parts.setdefault(cell.partition, {})
        if any(other.hour != cell.hour for other in parts.values()):
            parts.clear()
        parts[cell.part] = cell
        if len(parts) < cell.parts:
            return None
        counts = {name: counted for part in parts.values() for name, counted in part.counts.items()}
        del self._parts[cell.partition]
        return cell.model_copy(update={"counts": counts, "part": 0, "parts": 1})

    def _close(self, hour: int, cells: list[Cell]) -> None:
        counts: dict[str, tuple[int, int]] = {}
        for cell in cells:
            for terminal, (payments, frauds) in cell.counts.items():
                before = counts.get(terminal, (0, 0))
                counts[terminal] = (before[0] + payments, before[1] + frauds)
        for terminal, (payments, frauds) in counts.items():
            history = self._terminals.get(terminal)
            if history is None:
                history = History(array("i"), array("i", [0]), array("i", [0]), array("i", [-1]))
                self._terminals[terminal] = history
            history.hours.append(hour)
            history.payments.append(history.payments[-1] + payments)
            history.frauds.append(history.frauds[-1] + frauds)
            history.last_fraud.append(hour if frauds > 0 else history.last_fraud[-1])
            if history.hours[0] < hour - 2 * KEEP:
                gone = bisect_right(history.hours, hour - KEEP)
                for column in history:
                    del column[:gone]

    def _forget(self, before: int) -> None:
        """Let go of terminals without an event since the hour `before`."""
        for terminal in [name for name, history in self._terminals.items() if history.hours[-1] < before]:
            del self._terminals[terminal]

    def see(self, terminal: str, at: int) -> Visited:
        """What is settled about a terminal, as a payment at `at` may know it."""
        history = self._terminals.get(terminal)
        if history is None:
            return NEVER
        hour = usable(at)
        hours, payments, frauds, last_fraud = history
        end = bisect_right(hours, hour)
        month = bisect_right(hours, hour - MONTH, 0, end)
        week = bisect_right(hours, hour - WEEK, month, end)
        day = bisect_right(hours, hour - DAY, week, end)
        payments_to, frauds_to, last = payments[end], frauds[end], last_fraud[end]
        # A verdict that was taken back counts -1 in a later hour than the 1 that it undoes: a window may hold it alone.
        known = [max(0, frauds_to - frauds[begin]) for begin in (day, week, month)]
        return Visited(
            (payments_to - payments[day], payments_to - payments[week], payments_to - payments[month]),
            (known[0], known[1], known[2]),
            hour - last if known[2] and last > hour - MONTH else -1,
        )
