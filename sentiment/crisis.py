"""Minute -> Alarm. Watches the brands as they are counted, and says when the mood of one has turned."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import ValidationError

from sentiment import config
from sentiment.config import BASELINE_DAYS, BASELINE_NEEDED, BIN, DAY, GAP_POSTS, GRACE
from sentiment.policy import Cusum
from sentiment.schema import ALL, MINUTE, Alarm, Counts, Late, Minute, Seal
from shared.eventlog.port import Record, partition_of

AGAIN = DAY  # seconds before a brand's manager is called again
MAJORITY = 0.5  # stands in for a baseline that is not known any more

logger = logging.getLogger(__name__)


@dataclass
class LateBin:
    """What has come of one bin after its hour was sealed. It is judged once no more is to be expected."""

    due: int  # event time
    counts: Counts = field(default_factory=Counts)
    texts: set[int] = field(default_factory=set)

    def add(self, late: Late) -> None:
        """The same text again is no second opinion."""
        first = late.label is not None and late.text not in self.texts
        self.texts.add(late.text)
        self.counts += Counts(raw=1) + (Counts(**{late.label: 1}) if first and late.label else Counts())


class Brand:
    """What is known of one brand's mood."""

    def __init__(self) -> None:
        self.test = Cusum()
        self.minutes: dict[int, Minute] = {}  # of bins not yet judged
        self.late: dict[int, LateBin] = {}  # by start
        self.came: dict[int, Counts] = {}  # of late bins that were judged, by start
        self.days: dict[int, Counts] = {}  # of judged bins
        self._alarmed: set[int] = set()  # days with an alarm
        self._silent_until = 0  # a crisis that goes on is told once a day
        self.judged = 0  # the end of the last bin judged
        self._known: tuple[int, float | None] | None = None  # a day and what is usual on it

    def usual(self, day: int) -> float | None:
        """The share of negative opinions on the days before; None while they are too few."""
        if self._known is None or self._known[0] != day:
            known = [at for at in self.days if day - BASELINE_DAYS <= at < day and at not in self._alarmed]
            past = sum((self.days[at] for at in known), Counts())
            self._known = day, past.negative / past.opinions if past.opinions >= BASELINE_NEEDED else None
        return self._known[1]

    def judge(self, start: int, counts: Counts) -> bool:
        """Take the next bin in, or one that came late; whether it makes an alarm. A bin without posts is none."""
        self.judged = max(self.judged, start + BIN)
        day, usual = start // DAY, self.usual(start // DAY)
        told = usual is not None and self.test.add(counts.negative, counts.opinions, usual=usual)
        # Whole days are learnt, or the bins that look bad by chance would be missing; and none with an alarm, or a
        # baseline that has learnt from a crisis would call it usual.
        self.days[day] = self.days.get(day, Counts()) + counts
        if told:
            self._alarmed.add(day)
            told = start >= self._silent_until
            self._silent_until = max(self._silent_until, start + AGAIN * told)
        oldest = max(self.days) - BASELINE_DAYS
        self.days = {at: known for at, known in self.days.items() if at >= oldest}
        self._alarmed = {at for at in self._alarmed if at >= oldest}
        return told


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
        """One that was told before this start: the seals that a gap is found by are compacted away after a day."""
        if alarm.kind == "gap" and alarm.since is not None:
            self._arrivals.away(alarm.since)

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
                self._brands[message.brand].late.setdefault(message.at // BIN * BIN, LateBin(due)).add(message)
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
        recent = brand.judged - DAY // 4
        brand.minutes = {at: minute for at, minute in brand.minutes.items() if at >= recent}
        brand.came = {start: counts for start, counts in brand.came.items() if start >= recent - config.REOPEN}

    def usual(self, brand: str, at: int) -> float | None:
        return self._brands[brand].usual(at // DAY)


def _alarm(name: str, brand: Brand, at: int) -> Alarm:
    since = at - 2 * config.HOUR
    said = [m.counts for start, m in brand.minutes.items() if since <= start < at]
    said += [counts for start, counts in brand.came.items() if since <= start < at]
    recent = sum(said, Counts())
    usual = brand.usual((at - 1) // DAY) or 0.0
    return Alarm(
        kind="crisis",
        brand=name,
        at=at,
        since=since,
        message=f"{name}: {recent.negative} of {recent.opinions} opinions in two hours are negative, "
        f"{usual:.0%} are usual",
        usual=usual,
        action="its manager is called; the batch view will confirm or retract",
    )


def _gap_alarm(since: int, usual: int, *, at: int) -> Alarm:
    when = datetime.fromtimestamp(since, UTC)
    return Alarm(
        kind="gap",
        at=at,
        since=since,
        message=f"no post has come since {when:%Y-%m-%d %H:%M} UTC, on the days before there were at least {usual}",
        action="see whether the collectors run; until then no crisis can be told, and what comes late is judged then",
    )


def confirmed(counts: Counts, usual: float) -> bool:
    """Whether counts without bots bear an alarm out: more negatives than two standard deviations of a quiet window."""
    n = counts.opinions
    return n > 0 and counts.negative - n * usual > 2 * (n * usual * (1 - usual)) ** 0.5
