"""The serving view: published hours come from the batch view, all others from the speed view."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Literal, TypeVar

import polars as pl

from sentiment import config
from sentiment.aggregates import Minutes, Told, by_number, counted, from_table
from sentiment.config import HOUR
from sentiment.hours import COLUMNS, HoursCorrupt, Manifest, Published, read_counts, read_hour, stamp
from sentiment.schema import MINUTE, MINUTES, Calibration, Counts, Late, Minute, Score, Seal
from sentiment.shares import Corrections, first_number
from shared.clock import monotonic
from shared.eventlog.port import Record
from shared.messages import Message

View = Literal["batch", "speed"]
Key = TypeVar("Key")
Value = TypeVar("Value")
KEPT = 1_000  # hours of the batch view whose counts are in memory
ROWS = 48  # hours whose mentions are
NONE = Corrections()
MOSTLY = 0.6  # of the scored posts of a window, that its corrected share has to stand on


class Part(Message):
    """What one view has of a window."""

    view: View
    raw: int
    negative: int
    neutral: int
    positive: int
    shed: int = 0  # by the linear model, for want of time
    models: tuple[str, ...] = ()  # the versions that scored
    versions: dict[int, int] = {}  # noqa: RUF012  # of a batch hour
    late_pending: int = 0  # posts that came after their hour was sealed, and are in none of these numbers yet


class Point(Message):
    """One step of a timeline; one that straddles the seam has a part of each view."""

    at: int  # its start
    until: int
    parts: tuple[Part, ...]
    counted: Score | None = None  # shares as classified
    corrected: Score | None = None  # and as the audits correct them; batch hours only
    low: Score | None = None
    high: Score | None = None
    # Of the scored posts, how many the corrected share stands on: of a version without audits or of few posts it knows
    # nothing.
    covers: float | None = None
    audits: int | None = None  # of this very brand and day: then the corrected share is final

    @property
    def counts(self) -> Counts:
        """Of both views together."""
        return Counts(*(sum(getattr(part, name) for part in self.parts) for name in Counts._fields))


class Speed:
    """The speed view: the highest revision of each minute, as the log gives them. Threads may share it.

    It holds what batch does not have, and for a while what batch has just taken over.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._minutes: dict[str, dict[int, dict[int, Minute]]] = {}  # by brand, hour, start
        self._late: dict[tuple[str, int], dict[str, Late]] = {}  # by brand and hour, by post
        self._manifest: Manifest | None = None
        self._leaving: dict[int, float] = {}  # by hour, when this process saw it become batch's
        self.marks = [0] * MINUTES.partitions

    @property
    def watermark(self) -> int:
        return min(self.marks)

    def take(self, records: Iterable[Record]) -> None:
        for record in records:
            self.enter(record)

    def enter(self, record: Record) -> None:
        """Raises ValidationError for a record that cannot be read, and changes nothing then."""
        message = MINUTE.validate_json(record.value)
        with self._lock:
            if isinstance(message, Seal):
                self.marks[message.partition] = max(self.marks[message.partition], message.at)
                return
            number = message.at // HOUR
            published = self._manifest.hours.get(number) if self._manifest else None
            if isinstance(message, Late):
                if _pending([message], published):
                    self._late.setdefault((message.brand, number), {})[message.post] = message
            elif published is None or number in self._leaving:
                # Absolute and idempotent: a record read twice, or one of an owner that died, changes nothing.
                hour = self._minutes.setdefault(message.brand, {}).setdefault(number, {})
                if message.at not in hour or hour[message.at].revision <= message.revision:
                    hour[message.at] = message

    def hand_over(self, manifest: Manifest) -> None:
        """Drop what batch has, but of an hour that it has just taken over only when no request can still look here."""
        now = monotonic()
        with self._lock:
            if manifest is not self._manifest:
                before, self._manifest = self._manifest, manifest
                if before is None:  # no request is older than the first manifest
                    self._drop(set(manifest.hours))
                else:
                    self._leaving |= dict.fromkeys(manifest.hours.keys() - before.hours.keys(), now)
                for key, posts in list(self._late.items()):
                    if not _pending(posts.values(), manifest.hours.get(key[1])):
                        del self._late[key]
            old = {hour for hour, seen in self._leaving.items() if now - seen > config.RETENTION}
            if old:
                self._drop(old)
                self._leaving = {hour: seen for hour, seen in self._leaving.items() if hour not in old}

    def _drop(self, hours: set[int]) -> None:
        for brand in self._minutes.values():
            for hour in brand.keys() & hours:
                del brand[hour]

    def window(self, brand: str, hour: int, since: int, until: int) -> Told:
        with self._lock:
            minutes = [
                minute for at, minute in self._minutes.get(brand, {}).get(hour, {}).items() if since <= at < until
            ]
        counts = sum((minute.counts for minute in minutes), Counts())
        return Told(counts, sum(m.shed for m in minutes), frozenset(m.model for m in minutes if m.model))

    def minutes(self, brand: str, hour: int) -> dict[int, Minute]:
        """Of an hour, by start."""
        with self._lock:
            return dict(self._minutes.get(brand, {}).get(hour, {}))

    def late(self, brand: str, hour: int, published: Published | None) -> set[str]:
        """Posts that came late, and since the hour was published if it was."""
        with self._lock:
            return _pending(self._late.get((brand, hour), {}).values(), published)

    def hours(self, brand: str) -> set[int]:
        with self._lock:
            return set(self._minutes.get(brand, {})) | {hour for name, hour in self._late if name == brand}


def _pending(posts: Iterable[Late], published: Published | None) -> set[str]:
    return {late.post for late in posts if published is None or late.offset >= published.until[late.partition]}


class Timeline:
    """Both views of all brands. `folder` is the batch view's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.speed = Speed()
        self._lock = Lock()
        self._counts: OrderedDict[tuple[int, int], Minutes] = OrderedDict()  # by hour and version
        self._rows: OrderedDict[tuple[int, int], pl.DataFrame] = OrderedDict()
        self._manifest: Manifest | None = None
        self._stamp: tuple[int, ...] | None = None  # of the manifest that was read last
        self.damage = ""  # why the manifest could not be read last; the one before it is served meanwhile
        with suppress(HoursCorrupt):  # so that the speed view takes nothing in that batch has
            self.manifest()

    def manifest(self) -> Manifest:
        """The pointer, as it is now: take it once a request. Raises HoursCorrupt if none was ever readable."""
        found = stamp(self._folder)
        if self._manifest is None or found != self._stamp:
            try:
                self._manifest, self.damage, self._stamp = Manifest.read(self._folder), "", found
            except HoursCorrupt as error:
                self.damage = str(error)
                if self._manifest is None:
                    raise
        self.speed.hand_over(self._manifest)
        return self._manifest

    def points(
        self,
        manifest: Manifest,
        brand: str,
        *,
        since: int,
        until: int,
        step: int,
        corrections: Corrections = NONE,
    ) -> Iterator[Point]:
        """Windows of `step` seconds from `since` on; a part of a minute is none.

        `corrections`: what is known for corrected shares; a whole day may have a final one.
        """
        for at in range(since, until, step):
            end = min(at + step, until)
            point = Point(at=at, until=end, parts=tuple(self._parts(manifest, brand, at, end)))
            point = point.model_copy(update={"counted": _counted(point.counts)})
            if step >= HOUR and all(part.view == "batch" for part in point.parts):
                day = at // config.DAY
                final = corrections.finals.get((day, brand))
                known = {version: of for (of_day, version), of in corrections.known.items() if of_day == day}
                if final is not None and (at, end) == (day * config.DAY, (day + 1) * config.DAY):
                    told = {name: getattr(final, name) for name in ("corrected", "low", "high", "audits")}
                    point = point.model_copy(update=told | {"covers": 1.0})
                elif known:
                    point = _corrected(point, self.voting(manifest, brand, since=at, until=end), known)
            yield point

    def hour(self, hour: int, version: int) -> pl.DataFrame:
        """The rows of a published hour; it never changes, so it is read once. Raises HoursCorrupt."""
        return self._kept(self._rows, (hour, version), lambda: read_hour(self._folder, hour, version), most=ROWS)

    def counts(self, brand: str, hour: int, version: int) -> Counts:
        """Of a published hour. Raises HoursCorrupt."""
        return _within(self._minutes(hour, version), brand, hour * HOUR, (hour + 1) * HOUR).counts

    def voting(self, manifest: Manifest, brand: str, *, since: int, until: int) -> pl.DataFrame:
        """The rows whose opinions published hours of a window count. Raises HoursCorrupt."""
        hours = [hour for hour in range(since // HOUR, (until - 1) // HOUR + 1) if hour in manifest.hours]
        frames = [self.hour(hour, manifest.hours[hour].version) for hour in hours]
        rows = pl.concat(frames) if frames else pl.DataFrame(schema=COLUMNS)
        return _voting(rows.filter((pl.col("brand") == brand) & pl.col("at").is_between(since, until, closed="left")))

    def _parts(self, manifest: Manifest, brand: str, at: int, end: int) -> list[Part]:
        """A part for each view that owns an hour of the window."""
        hours = range(at // HOUR, (end - 1) // HOUR + 1)
        parts = []
        for view in ("batch", "speed"):
            owned = [hour for hour in hours if (hour in manifest.hours) == (view == "batch")]
            told, versions, pending = Told(), {}, 0
            for hour in owned:
                published = manifest.hours.get(hour)
                if published is None:
                    window = self.speed.window(brand, hour, at, end)
                else:
                    versions[hour] = published.version
                    minutes = self._minutes(hour, published.version)
                    window = _within(minutes, brand, max(at, hour * HOUR), min(end, (hour + 1) * HOUR))
                told = Told(told.counts + window.counts, told.shed + window.shed, told.models | window.models)
                pending += len(self.speed.late(brand, hour, published))
            if owned:
                parts.append(
                    Part(
                        view=view,
                        **told.counts._asdict(),
                        shed=told.shed,
                        models=tuple(sorted(told.models, key=by_number)),
                        versions=versions,
                        late_pending=pending,
                    )
                )
        return parts

    def _minutes(self, hour: int, version: int) -> Minutes:
        """The counts of a published hour. Raises HoursCorrupt."""

        def read() -> Minutes:
            table = read_counts(self._folder, hour, version)
            return counted(self.hour(hour, version)) if table is None else from_table(table)

        return self._kept(self._counts, (hour, version), read, most=KEPT)

    def _kept(self, known: OrderedDict[Key, Value], key: Key, read: Callable[[], Value], *, most: int) -> Value:
        """What `read` gives, of the latest that were asked for from memory."""
        with self._lock:
            if (found := known.get(key)) is not None:
                known.move_to_end(key)
                return found
        value = read()
        with self._lock:
            known[key] = value
            if len(known) > most:
                known.popitem(last=False)
        return value


def _within(minutes: Minutes, brand: str, since: int, until: int) -> Told:
    found = [minutes[brand, at] for at in range(since, until, config.MINUTE) if (brand, at) in minutes]
    counts = sum((told.counts for told in found), Counts())
    return Told(counts, 0, frozenset().union(*(told.models for told in found)))


def _counted(total: Counts) -> Score | None:
    n = total.opinions
    return (total.negative / n, total.neutral / n, total.positive / n) if n else None


def _corrected(point: Point, voting: pl.DataFrame, known: Mapping[str, Calibration]) -> Point:
    """Each version that scored by its own audits of earlier days; `covers` says of how much."""
    scored = voting.filter(pl.col("negative").is_not_null())
    mine = [
        (known[str(version)], rows)
        for (version,), rows in scored.group_by("model", maintain_order=True)
        if str(version) in known
    ]
    covered = sum(rows.height for _, rows in mine)
    if covered < MOSTLY * scored.height:
        return point
    parts = [(rows.select("negative", "neutral", "positive").to_numpy(), of) for of, rows in mine]
    found = first_number(parts, [author for _, rows in mine for author in rows["author"]])
    if found is None:
        return point
    return point.model_copy(update=found._asdict() | {"covers": covered / scored.height})


def _voting(rows: pl.DataFrame) -> pl.DataFrame:
    """Those of one brand's rows that have an opinion to count: not a bot's, and of each text the first in its hour."""
    kept = rows.filter(pl.col("removed").is_null()).with_columns(hour=pl.col("at") // HOUR).sort("at", "post")
    return kept.unique(["hour", "text"], keep="first", maintain_order=True)
