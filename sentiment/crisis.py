"""Minute -> Alarm. Watches the brands as they are counted, and says when the mood of one has turned."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from sentiment import config
from sentiment.config import BASELINE_DAYS, BASELINE_NEEDED, BIN, DAY, GRACE
from sentiment.policy import Cusum
from sentiment.schema import ALL, MINUTE, Alarm, Counts, Minute, Seal
from shared.eventlog.port import Record, partition_of

AGAIN = DAY  # seconds before a brand's manager is called again
MAJORITY = 0.5  # stands in for a baseline that is not known any more

logger = logging.getLogger(__name__)


class Brand:
    """What is known of one brand's mood."""

    def __init__(self) -> None:
        self.test = Cusum()
        self.minutes: dict[int, Minute] = {}  # of bins not yet judged
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
        """Take the next bin in; whether it makes an alarm."""
        self.judged = start + BIN
        day, usual = start // DAY, self.usual(start // DAY)
        told = usual is not None and self.test.add(counts.negative, counts.opinions, usual=usual)
        # Whole days are learnt, or the bins that look bad by chance would be missing; and none with an alarm, or a
        # baseline that has learnt from a crisis would call it usual.
        self.days[day] = self.days.get(day, Counts()) + counts
        if told:
            self._alarmed.add(day)
            told = start >= self._silent_until
            self._silent_until = max(self._silent_until, start + AGAIN * told)
        self.days.pop(day - BASELINE_DAYS - 1, None)
        return told


class Watch:
    """One sequential test a brand, in bins of event time. The same minutes, the same alarms: a restart reads again."""

    def __init__(self) -> None:
        self._brands: dict[str, Brand] = defaultdict(Brand)
        self.marks = [0] * config.BRAND_PARTITIONS

    @property
    def watermark(self) -> int:
        return min(self.marks)

    def take(self, records: Iterable[Record]) -> Iterator[Alarm]:
        """The alarms that records give; those that cannot be read are left out."""
        for record in records:
            try:
                message = MINUTE.validate_json(record.value)
            except ValidationError as error:
                logger.error("skipped %s/%s offset %s: %s", record.topic, record.partition, record.offset, error.title)
                continue
            if isinstance(message, Minute) and message.brand != ALL:
                brand = self._brands[message.brand]
                if message.at >= brand.judged:
                    brand.minutes[message.at] = message
            elif isinstance(message, Seal):
                self.marks[message.partition] = max(self.marks[message.partition], message.at)
                mine = [
                    name for name in self._brands if partition_of(name, config.BRAND_PARTITIONS) == message.partition
                ]
                for name in sorted(mine):
                    yield from self._judge(name, message.at)

    def _judge(self, name: str, watermark: int) -> Iterator[Alarm]:
        """Every bin that is over, in order."""
        brand = self._brands[name]
        over = (watermark - GRACE) // BIN * BIN
        for start in sorted({at // BIN * BIN for at in brand.minutes if brand.judged <= at < over}):
            counts = sum((m.counts for at, m in brand.minutes.items() if start <= at < start + BIN), Counts())
            if brand.judge(start, counts):
                yield _alarm(name, brand, start + BIN)
        brand.minutes = {at: minute for at, minute in brand.minutes.items() if at >= brand.judged - DAY // 4}

    def usual(self, brand: str, at: int) -> float | None:
        return self._brands[brand].usual(at // DAY)


def _alarm(name: str, brand: Brand, at: int) -> Alarm:
    since = at - 2 * config.HOUR
    recent = sum((m.counts for start, m in brand.minutes.items() if since <= start < at), Counts())
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


def confirmed(counts: Counts, usual: float) -> bool:
    """Whether counts without bots bear an alarm out: more negatives than two standard deviations of a quiet window."""
    n = counts.opinions
    return n > 0 and counts.negative - n * usual > 2 * (n * usual * (1 - usual)) ** 0.5
