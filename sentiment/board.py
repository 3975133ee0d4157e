"""Time series for the page: brands compared over time, from both views."""

from collections.abc import Collection, Sequence
from threading import Lock

from sentiment.config import DAY, HOUR
from sentiment.hours import Manifest
from sentiment.schema import ALL, Counts
from sentiment.shares import Corrections
from sentiment.timeline import Point, Timeline, View
from shared.messages import Message

HOURS = 14 * 24  # shown
FINE = 6  # hours that are told by minute; older ones that batch does not have yet, by hour


class BrandNow(Message):
    """A brand over the last hours, compared with the others by its interval."""

    brand: str
    window: Point


class Day(Message):
    """A published day of a brand: the share of its opinions that are negative."""

    at: int
    until: int
    corrected: float | None
    low: float | None
    high: float | None


class Compared(Message):
    """What changes when an hour is published or audits become known."""

    brands: list[BrandNow]  # most negative first
    days: dict[str, list[Day]]


class Track(Message):
    """One brand, by place in `Series.at`."""

    opinions: list[int]
    negative: list[int]


class Series(Message):
    """Hours that batch owns and minutes that the stream has counted; a gap is a point that is not there."""

    since: int  # from here on it takes the place of what was told before
    seam: int | None  # the first second that is not batch's
    at: list[int]
    view: list[View]
    posts: list[int]  # of all brands
    tracks: dict[str, Track]


class Board:
    """Asked by threads; what is published never changes, so it is counted once."""

    def __init__(self, timeline: Timeline, names: Sequence[str]) -> None:
        self._timeline, self.names = timeline, (ALL, *names)
        self._lock = Lock()
        self._hours: dict[tuple[str, int, int], Counts] = {}  # by brand, hour and version
        self._days: dict[tuple[str, int], tuple[object, Day]] = {}  # by brand and day, with what it hangs on

    def brands(self, manifest: Manifest, corrections: Corrections, *, hours: int) -> list[BrandNow]:
        """Every brand over its last published hours, most negative first."""
        if not manifest.hours:
            return []
        until = (max(manifest.hours) + 1) * HOUR
        since = max(until - hours * HOUR, min(manifest.hours) * HOUR)
        found = [
            BrandNow(brand=name, window=self._point(manifest, corrections, name, since, until)) for name in self.names
        ]
        return sorted(found, key=lambda line: -(line.window.corrected or line.window.counted or (0.0,))[0])

    def compared(self, manifest: Manifest, corrections: Corrections, *, hours: int) -> Compared:
        """The brands as `brands` gives them, and each one's days."""
        return Compared(
            brands=self.brands(manifest, corrections, hours=hours),
            days=self._published_days(manifest, corrections),
        )

    def series(self, manifest: Manifest, *, since: int = 0) -> Series:
        """From hour `since` (of the epoch) on. Raises HoursCorrupt."""
        speed = self._timeline.speed
        waiting = speed.hours(ALL) - manifest.hours.keys()
        hours = _latest({*manifest.hours, *waiting})
        newest = hours[-1] if hours else 0
        at, view = list[int](), list[View]()
        counts: dict[str, list[Counts]] = {name: [] for name in self.names}
        for hour in [hour for hour in hours if hour >= since]:
            if (published := manifest.hours.get(hour)) is not None:
                at.append(hour * HOUR)
                view.append("batch")
                for name in self.names:
                    counts[name].append(self._counted(name, hour, published.version))
                continue
            minutes = {name: speed.minutes(name, hour) for name in self.names}
            starts = sorted(minutes[ALL])
            groups = [[start] for start in starts] if newest - hour < FINE else [starts] if starts else []
            for group in groups:
                at.append(group[0])
                view.append("speed")
                for name, known in minutes.items():
                    counts[name].append(sum((known[start].counts for start in group if start in known), Counts()))
        return Series(
            since=max(since, hours[0] if hours else 0) * HOUR,
            seam=(max(manifest.hours) + 1) * HOUR if manifest.hours else None,
            at=at,
            view=view,
            posts=[count.raw for count in counts[ALL]],
            tracks={
                name: Track(
                    opinions=[count.opinions for count in line],
                    negative=[count.negative for count in line],
                )
                for name, line in counts.items()
            },
        )

    def _counted(self, brand: str, hour: int, version: int) -> Counts:
        with self._lock:
            known = self._hours.get((brand, hour, version))
        if known is None:
            known = self._timeline.counts(brand, hour, version)
            with self._lock:
                if len(self._hours) >= 4 * HOURS * len(self.names):
                    self._hours.clear()
                self._hours[brand, hour, version] = known
        return known

    def _published_days(self, manifest: Manifest, corrections: Corrections) -> dict[str, list[Day]]:
        """By brand, the days of which batch has every hour; a day at a time, so that its files are opened once."""
        days = sorted({hour // 24 for hour in _latest(manifest.hours)})
        found: dict[str, list[Day]] = {name: [] for name in self.names}
        for day in [day for day in days if all(hour in manifest.hours for hour in range(day * 24, day * 24 + 24))]:
            versions = tuple(manifest.hours[hour].version for hour in range(day * 24, day * 24 + 24))
            known_of = sorted(version for of, version in corrections.known if of == day)
            for brand in self.names:
                hangs_on = versions, known_of, corrections.finals.get((day, brand))
                with self._lock:
                    known = self._days.get((brand, day))
                if known is None or known[0] != hangs_on:
                    known = hangs_on, _day(self._point(manifest, corrections, brand, day * DAY, (day + 1) * DAY))
                    with self._lock:
                        self._days[brand, day] = known
                found[brand].append(known[1])
        with self._lock:
            self._days = {key: known for key, known in self._days.items() if key[1] >= min(days, default=0)}
        return found

    def _point(self, manifest: Manifest, corrections: Corrections, brand: str, since: int, until: int) -> Point:
        window = {"since": since, "until": until, "step": until - since}
        return next(self._timeline.points(manifest, brand, **window, corrections=corrections))


def _latest(hours: Collection[int]) -> list[int]:
    """Those that are shown, in order."""
    newest = max(hours, default=0)
    return sorted(hour for hour in hours if hour > newest - HOURS)


def _day(point: Point) -> Day:
    corrected, low, high = (
        None if shares is None else shares[0] for shares in (point.corrected, point.low, point.high)
    )
    return Day(at=point.at, until=point.until, corrected=corrected, low=low, high=high)
