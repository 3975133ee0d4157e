"""The crisis detector: watches each brand's minutes, and raises an alarm when its mood has turned."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from sentiment import config
from sentiment.config import BASELINE_DAYS, BASELINE_NEEDED, BIN, DAY, GAP_POSTS, GRACE, HOUR
from sentiment.policy import Cusum, rise
from sentiment.schema import ALL, MINUTE, Alarm, Counts, Late, Minute, Seal
from shared.eventlog.port import Record, partition_of

AGAIN = DAY  # seconds before a brand's manager is called again
WEEK = 7 * 24  # hours
# A share by hour of the week is drawn towards that of its hour of the day, and this towards the brand's, as if each had
# so many opinions more: a week has one look at each of its hours. Moods and threads are drawn towards what brands have,
# as if so many days and pairs were seen.
SEEN, SEEN_WEEKLY = 90.0, 360.0
MOOD, DAYS = 0.03, 4.0
TOGETHER, PAIRS = 0.03, 300.0
DOUBTED = 0.7  # standard deviations above what is usual, from which a rise is measured
Array = NDArray[np.float64]

logger = logging.getLogger(__name__)


@dataclass
class LateBin:
    """What has come of one bin after its hour was sealed. It is judged once no more is to be expected."""

    due: int  # event time
    counts: Counts = field(default_factory=Counts)

    def add(self, late: Late, texts: set[int]) -> None:
        """`texts`: of the hour; the same again is no second opinion."""
        first = late.label is not None and late.text not in texts
        texts.add(late.text)
        self.counts += Counts(raw=1) + (Counts(**{late.label: 1}) if first and late.label else Counts())


class Usual(NamedTuple):
    """What is known of a brand's quiet days."""

    share: tuple[float, ...]  # of negative opinions, by hour of the week
    doubt: float  # how far above it a quiet day may well lie: moods change from day to day, and few posts tell little
    together: float  # correlation of two opinions of one hour

    @classmethod
    def of(cls, hours: Mapping[int, Counts]) -> Self | None:
        """From counts by hour since the epoch; None while they are too few."""
        at = np.array(list(hours), dtype=np.int64)
        n = np.array([counts.opinions for counts in hours.values()], dtype=np.float64)
        k = np.array([counts.negative for counts in hours.values()], dtype=np.float64)
        if n.sum() < BASELINE_NEEDED:
            return None
        whole, of_day = k.sum() / n.sum(), at % 24
        # Each hour beside the others of its time of day: beside itself it would look usual, whatever it was.
        others = [np.bincount(of_day, weights=values, minlength=24)[of_day] - values for values in (k, n)]
        beyond = k - n * (others[0] + SEEN * whole) / (others[1] + SEEN)
        single = n * whole * (1 - whole)
        together = float(beyond @ beyond - single.sum() + PAIRS * TOGETHER) / float(single @ (n - 1) + PAIRS)
        together = min(max(together, TOGETHER), 0.3)
        worth = 1 + np.maximum(0.0, n - 1) * together  # so many opinions of an hour tell as much as one alone
        days = np.unique(at // 24)
        noise, off = (np.array([values[at // 24 == day].sum() for day in days]) for values in (single * worth, beyond))
        posts = np.array([n[at // 24 == day].sum() for day in days]).clip(1.0)
        mood = max(0.0, float(np.sum((off**2 - noise) / posts**2)) + DAYS * MOOD**2) / (len(days) + DAYS)
        doubt = float(np.sqrt(mood * (1 + 1 / len(days)) + noise.sum() / n.sum() ** 2))
        alone = k / worth, n / worth
        daily = _drawn(np.full(24, whole), *alone, of_day, seen=SEEN)
        weekly = _drawn(np.tile(daily, 7), *alone, at % WEEK, seen=SEEN_WEEKLY)
        return cls(tuple(weekly.tolist()), doubt, together)

    def at(self, hour: int) -> float:
        """The share of an hour since the epoch."""
        return self.share[hour % WEEK]


def _drawn(towards: Array, k: Array, n: Array, of: NDArray[np.int64], *, seen: float) -> Array:
    """Shares by group, each drawn towards another one as if there were `seen` opinions more."""
    negative, opinions = (np.bincount(of, weights=values, minlength=len(towards)) for values in (k, n))
    return np.asarray((negative + seen * towards) / (opinions + seen))


class Brand:
    """What is known of one brand's mood."""

    def __init__(self) -> None:
        self.test, self.calm = Cusum(), Cusum(falls=True)
        self.minutes: dict[int, Minute] = {}  # of bins not yet judged
        self.late: dict[int, LateBin] = {}  # by start
        self.late_texts: dict[int, set[int]] = {}  # by hour since the epoch, of the last days
        self.came: dict[int, Counts] = {}  # of late bins that were judged, by start
        self.hours: dict[int, Counts] = {}  # of judged bins, by hour since the epoch
        self.crisis: int | None = None  # the hour in which the one under way began; nothing is learnt from then on
        self.accepted: list[int] = []  # when a person accepted a new level, of bins not judged yet
        self._silent_until = 0  # a crisis that goes on is told once a day
        self.judged = 0  # the end of the last bin judged
        self._known: tuple[int, Usual | None] | None = None  # a day and what is usual on it

    def usual(self, day: int) -> Usual | None:
        """What was usual on the days before; None while they are too few. It stands still during a crisis."""
        if self._known is None or (self._known[0] != day and self.crisis is None):
            first = (day - BASELINE_DAYS) * 24
            known = {hour: counts for hour, counts in self.hours.items() if first <= hour < day * 24}
            self._known = day, Usual.of(known) if known else None
        return self._known[1]

    def judge(self, start: int, counts: Counts) -> bool:
        """Take the next bin in, or one that came late; whether it makes an alarm. A bin without posts is none."""
        self.judged = max(self.judged, start + BIN)
        while self.accepted and self.accepted[0] <= start:
            self.accepted.pop(0)
            self._accept()
        usual, hour = self.usual(start // DAY), start // HOUR
        # Whole days are learnt, or the bins that look bad by chance would be missing.
        self.hours[hour] = self.hours.get(hour, Counts()) + counts
        oldest = max(self.hours) - BASELINE_DAYS * 24
        self.hours = {at: known for at, known in self.hours.items() if at >= oldest}
        if usual is None:
            return False
        share = min(usual.at(hour) + DOUBTED * usual.doubt, 0.98)
        opinions = counts.negative, counts.opinions
        told = self.test.add(start, *opinions, usual=share, together=usual.together)
        if self.crisis is not None and self.calm.add(start, *opinions, usual=share, together=usual.together):
            self._over(hour)
        if told:
            if self.crisis is None:
                self.crisis, self.calm = self.test.since // HOUR, Cusum(falls=True)
            told = start >= self._silent_until
            self._silent_until = max(self._silent_until, start + AGAIN * told)
        return told

    def _over(self, hour: int) -> None:
        """The mood is as it was: nothing of the crisis is learnt, or a baseline would call the next one usual."""
        self.hours = {at: known for at, known in self.hours.items() if not (self.crisis or 0) <= at <= hour}
        self.crisis, self.test = None, Cusum()

    def _accept(self) -> None:
        """A person has said that the level of the crisis under way is what is usual from now on."""
        if self.crisis is not None:
            self.hours = {at: known for at, known in self.hours.items() if at >= self.crisis}
            self.crisis, self._known, self.test = None, None, Cusum()


class Arrivals:
    """How many posts came when, of all brands together: a source that is away is a gap, and not calm."""

    def __init__(self) -> None:
        self._posts: dict[int, int] = {}  # by minute, of the last days
        self._first = self._last = -1  # minutes with posts
        self._away: set[int] = set()  # days with a gap, which say nothing about what is usual
        self._told = -1  # the last minute before the gap that was told

    def add(self, minute: Minute) -> None:
        self._posts[minute.at] = minute.counts.raw
        self._first = minute.at if self._first < 0 else min(self._first, minute.at)
        self._last = max(self._last, minute.at)

    def away(self, since: int) -> None:
        """A gap that began then was told."""
        self._away.add(since // DAY)

    def gap(self, over: int) -> tuple[int, int] | None:
        """Since when no post has come, and how many were usual, if that is too many for chance; told once.

        `over`: the minutes before it are over.
        """
        since = max(self._last + config.MINUTE, over - DAY)
        if self._last in (-1, self._told) or since >= over:
            return None
        known = [
            sum(self._posts.get(at - days * DAY, 0) for at in range(since, over, config.MINUTE))
            for days in range(1, BASELINE_DAYS + 1)
            if since - days * DAY >= self._first and since // DAY - days not in self._away
        ]
        if min(known, default=0) < GAP_POSTS:
            return None
        self._told = self._last
        self.away(since)
        return since, min(known)

    def forget(self, before: int) -> None:
        """Posts of that time and earlier are needed no more."""
        self._posts = {at: posts for at, posts in self._posts.items() if at >= before}
        self._away = {day for day in self._away if day >= before // DAY}


class Watch:
    """One sequential test a brand, in bins of event time. The same minutes, the same alarms: a restart reads again."""

    def __init__(self) -> None:
        self._brands: dict[str, Brand] = defaultdict(Brand)
        self._arrivals = Arrivals()
        self.marks = [0] * config.BRAND_PARTITIONS

    @property
    def watermark(self) -> int:
        return min(self.marks)

    def remember(self, alarm: Alarm) -> None:
        """One that was told before this start: the seals that a gap is found by are compacted away after a day, and
        that a person has accepted a level stands nowhere else.
        """
        if alarm.kind == "gap" and alarm.since is not None:
            self._arrivals.away(alarm.since)
        elif alarm.kind == "accepted" and alarm.brand is not None:
            self.accept(alarm.brand, alarm.at)

    def take(self, records: Iterable[Record]) -> Iterator[Alarm]:
        """The alarms that records give; those that cannot be read are left out."""
        for record in records:
            try:
                message = MINUTE.validate_json(record.value)
            except ValidationError as error:
                logger.error("skipped %s/%s offset %s: %s", record.topic, record.partition, record.offset, error.title)
                continue
            if isinstance(message, Minute) and message.brand == ALL:
                self._arrivals.add(message)
            elif isinstance(message, Minute):
                brand = self._brands[message.brand]
                if message.at >= brand.judged:
                    brand.minutes[message.at] = message
            elif isinstance(message, Late) and message.brand != ALL:
                due = self.marks[record.partition] + BIN
                brand = self._brands[message.brand]
                texts = brand.late_texts.setdefault(message.at // HOUR, set())
                brand.late.setdefault(message.at // BIN * BIN, LateBin(due)).add(message, texts)
            elif isinstance(message, Seal):
                yield from self._pass(message)

    def _pass(self, seal: Seal) -> Iterator[Alarm]:
        """Time has passed in a partition: judge the bins of its brands that are over."""
        before, self.marks[seal.partition] = self.marks[seal.partition], max(self.marks[seal.partition], seal.at)
        if seal.partition == partition_of(ALL, config.BRAND_PARTITIONS):
            over = (seal.at - GRACE) // BIN * BIN
            if (gap := self._arrivals.gap(over)) is not None:
                yield _gap_alarm(*gap, at=over)
            if seal.at // DAY > before // DAY:
                self._arrivals.forget(over - (BASELINE_DAYS + 1) * DAY)
        for name in sorted(self._brands):
            if partition_of(name, config.BRAND_PARTITIONS) == seal.partition:
                yield from self._judge(name, seal.at)

    def _judge(self, name: str, watermark: int) -> Iterator[Alarm]:
        """Every bin that is over, in order; and after them those that came late."""
        brand = self._brands[name]
        over = (watermark - GRACE) // BIN * BIN
        for start in sorted({at // BIN * BIN for at in brand.minutes if brand.judged <= at < over}):
            counts = sum((m.counts for at, m in brand.minutes.items() if start <= at < start + BIN), Counts())
            if brand.judge(start, counts):
                yield _alarm(name, brand, start + BIN)
        due = [start for start, late in brand.late.items() if late.due <= watermark and start + BIN <= over]
        for start in sorted(due):
            counts = brand.late.pop(start).counts
            brand.came[start] = brand.came.get(start, Counts()) + counts
            if brand.judge(start, counts):
                yield _alarm(name, brand, start + BIN)
        recent = brand.judged - DAY
        brand.minutes = {at: minute for at, minute in brand.minutes.items() if at >= recent}
        brand.came = {start: counts for start, counts in brand.came.items() if start >= recent - config.REOPEN}
        brand.late_texts = {
            hour: texts for hour, texts in brand.late_texts.items() if hour * HOUR >= recent - config.REOPEN
        }

    def usual(self, brand: str, at: int) -> Usual | None:
        return self._brands[brand].usual(at // DAY)

    def accept(self, brand: str, at: int) -> None:
        """From `at` on the level of the crisis that is under way then is what is usual, as a person has said."""
        self._brands[brand].accepted.append(at)


def _alarm(name: str, brand: Brand, at: int) -> Alarm:
    since = max(brand.test.since, at - DAY)
    said = [m.counts for start, m in brand.minutes.items() if since <= start < at]
    said += [counts for start, counts in brand.came.items() if since <= start < at]
    recent = sum(said, Counts())
    known = brand.usual((at - 1) // DAY)
    assert known is not None
    hours = range(since // HOUR, (at - 1) // HOUR + 1)
    usual = sum(map(known.at, hours)) / len(hours)
    return Alarm(
        kind="crisis",
        brand=name,
        at=at,
        since=since,
        message=f"{name}: {recent.negative} of {recent.opinions} opinions in {_lasting(at - since)} are negative, "
        f"{usual:.0%} are usual",
        usual=usual,
        together=known.together,
        action="its manager is called; the batch view will confirm or retract",
    )


def _lasting(seconds: int) -> str:
    return f"{seconds / HOUR:.0f} hours" if seconds >= 2 * HOUR else f"{seconds // 60} minutes"


def _gap_alarm(since: int, usual: int, *, at: int) -> Alarm:
    when = datetime.fromtimestamp(since, UTC)
    return Alarm(
        kind="gap",
        at=at,
        since=since,
        message=f"no post has come since {when:%Y-%m-%d %H:%M} UTC, on the days before there were at least {usual}",
        action="see whether the collectors run; until then no crisis can be told, and what comes late is judged then",
    )


def confirmed(hours: Iterable[Counts], *, usual: float, together: float) -> bool:
    """Whether the hours without bots bear an alarm out: by a third of the evidence that it took, as they are counted
    otherwise.
    """
    evidence = sum(rise(said.negative, said.opinions, usual=usual, together=together) for said in hours)
    return evidence >= Cusum.LIMIT / 3
