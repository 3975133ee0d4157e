"""Sliding windows of one card: counts and sums, exact to the second, in whole cents.

A payment j counts for payment i if it came first (its offset is smaller) and t_i - w < t_j <= t_i.
"""

from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

from fraud.config import CARD_WINDOWS, HABIT, LARGE

MINUTES, HOUR, DAY, WEEK, MONTH = CARD_WINDOWS.values()


class Seen(NamedTuple):
    """A card's past as one payment sees it."""

    counts: tuple[int, ...]  # payments by window of CARD_WINDOWS
    cents: tuple[int, ...]  # their sum
    median: int  # cents, over the last HABIT payments; 0 without any, as is the maximum
    maximum: int
    large: tuple[int, int]  # unusually large payments within 1 day and 7 days
    since: int  # seconds since the payment before; -1: none
    same_device: int  # of the last HABIT payments
    same_country: int
    frauds: int  # that became known within the longest window
    since_fraud: int  # seconds since the last of them became known; -1: none


class Card:
    """Columns of one card's payments by (time, arrival); running totals make every window two look-ups."""

    # [4.3] Packed arrays, not tuples: 26 bytes a payment, so that a million cards fit one machine,
    # and nothing in them that the garbage collector would walk.
    __slots__ = ("at", "cents", "country", "device", "frauds", "large", "total")

    def __init__(self) -> None:
        self.at = array("I")
        self.cents = array("I")
        self.total = array("Q", [0])  # total[k]: cents of the first k payments
        self.large = array("I", [0])  # large[k]: unusually large ones among them
        self.device = array("I")
        self.country = array("H")
        self.frauds = array("I")  # times at which frauds became known

    @property
    def last(self) -> int:
        """The time of the latest payment, or of the latest fraud that became known; 0 without any."""
        return max(self.at[-1] if self.at else 0, self.frauds[-1] if self.frauds else 0)

    def see(self, at: int, device: int, country: int) -> Seen:
        """The card's past at `at`, as a payment with this device and country sees it."""
        times, total, large = self.at, self.total, self.large
        end = bisect_right(times, at)
        # Windows lie in one another, so each search is shorter than the one before.
        month = bisect_right(times, at - MONTH, 0, end)
        week = bisect_right(times, at - WEEK, month, end)
        day = bisect_right(times, at - DAY, week, end)
        hour = bisect_right(times, at - HOUR, day, end)
        minutes = bisect_right(times, at - MINUTES, hour, end)
        sum_to, large_to = total[end], large[end]
        first = max(month, end - HABIT)
        habit = sorted(self.cents[first:end])
        frauds = since_fraud = 0
        if self.frauds:
            known = bisect_right(self.frauds, at)
            frauds = known - bisect_right(self.frauds, at - MONTH)
            since_fraud = at - self.frauds[known - 1] if frauds else 0
        return Seen(
            (end - minutes, end - hour, end - day, end - week, end - month),
            (
                sum_to - total[minutes],
                sum_to - total[hour],
                sum_to - total[day],
                sum_to - total[week],
                sum_to - total[month],
            ),
            habit[len(habit) // 2] if habit else 0,
            habit[-1] if habit else 0,
            (large_to - large[day], large_to - large[week]),
            at - times[end - 1] if habit else -1,
            self.device[first:end].count(device),
            self.country[first:end].count(country),
            frauds,
            since_fraud if frauds else -1,
        )

    def spent(self, start: int, end: int) -> int:
        """Cents of all payments from `start` until before `end`, in whatever order they came."""
        return self.total[bisect_left(self.at, end)] - self.total[bisect_left(self.at, start)]

    def add(self, at: int, cents: int, device: int, country: int, *, median: int) -> None:
        """Count a payment from here on; `median` is what its own `see` said."""
        unusual = int(median > 0 and cents > LARGE * median)
        here = bisect_right(self.at, at)
        self.at.insert(here, at)
        self.cents.insert(here, cents)
        self.device.insert(here, device)
        self.country.insert(here, country)
        self.total.insert(here + 1, self.total[here])
        self.large.insert(here + 1, self.large[here])
        for k in range(here + 1, len(self.total)):  # one step, but for a late payment
            self.total[k] += cents
            self.large[k] += unusual

    def learn(self, at: int) -> None:
        """A fraud on this card became known."""
        self.frauds.insert(bisect_right(self.frauds, at), at)

    def unlearn(self, at: int) -> None:
        """The fraud that became known at `at` was none."""
        if at in self.frauds:
            self.frauds.remove(at)

    def forget(self, before: int) -> None:
        """Let go of payments that no window can reach any more; waits until it is worth the copy."""
        gone = bisect_right(self.at, before)
        if gone > 16 and gone * 4 > len(self.at):
            for column in (self.at, self.cents, self.device, self.country, self.total, self.large):
                del column[:gone]
        if self.frauds and self.frauds[0] < before - DAY:
            del self.frauds[: bisect_right(self.frauds, before)]
