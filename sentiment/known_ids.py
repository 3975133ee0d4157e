"""Deduplication of posts, the same in both views: the first record of an id counts, in log order."""

from sentiment import config
from sentiment.config import DAY, HOUR, LATENESS


def sealed(hour: int, watermark: int) -> bool:
    """Whether an hour (since the epoch) takes no more posts in the stream at this event time."""
    return (hour + 1) * HOUR + LATENESS <= watermark


class KnownIds:
    """The ids that one partition of posts has had, by the event day of their records, and how far its time has come.

    A record whose id is known is a repeat, whatever time or text it bears. An id is known until each day that its
    records name has been over for REOPEN; a repeat with the same time is then too late for any hour. This hangs on
    nothing but the order of the log, so stream and batch agree, and each agrees with itself after a restart.
    """

    def __init__(self, watermark: int = 0) -> None:
        self.watermark = watermark
        self._days: dict[int, set[str]] = {}
        self._starts: dict[int, int] = {}  # by day, the offset of its first record

    def new(self, id: str, at: int, offset: int) -> bool:
        """Remember a record; whether its id was not known before."""
        first = not any(id in ids for ids in self._days.values())
        if not self._over(day := at // DAY):
            self._days.setdefault(day, set()).add(id)
            self._starts.setdefault(day, offset)
        return first

    def days(self, id: str) -> list[int]:
        """The event days of the records of an id, as far as they are known."""
        return [day for day, ids in self._days.items() if id in ids]

    def observe(self, at: int) -> None:
        """A record of this event time has passed."""
        self.watermark = max(self.watermark, at)
        for day in [day for day in self._days if self._over(day)]:
            del self._days[day], self._starts[day]

    def since(self, default: int) -> int:
        """The offset from which on the log says all that is known here."""
        return min(self._starts.values(), default=default)

    def _over(self, day: int) -> bool:
        return (day + 1) * DAY + config.REOPEN <= self.watermark
