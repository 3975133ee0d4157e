"""Post -> Opinion -> Mention -> Minute. The batch view: closed hours, scored again by one version, without bots.

A run takes the topic into the lake, publishes every hour that has closed, and once a day publishes again
those that are dirty. It may be killed anywhere: an hour's file counts from the moment the manifest names it.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import polars as pl

from sentiment import config
from sentiment.aggregates import as_table, counted
from sentiment.artifact import Artifact
from sentiment.config import DAY, HOUR, LATENESS
from sentiment.hours import (
    COLUMNS,
    HoursCorrupt,
    Manifest,
    Published,
    Search,
    digest,
    latest_versions,
    publishing,
    read_hour,
    write_counts,
    write_hour,
)
from sentiment.ingest import POST_COLUMNS, Ingest
from sentiment.mentions import BrandTables
from sentiment.opinions import Reader
from sentiment.schema import ALARMS, RELEASES, Alarm, Mention, Opinion, Post
from shared.champion import Champion, ChampionFollower
from shared.clock import monotonic
from shared.dependencies import DEPENDENCY_ERRORS
from shared.eventlog.port import Entry, EventLog, Fenced, LogUnavailable
from shared.lake import Lake
from shared.privacy import PSEUDONYM, pseudonymised

BITE = 2_000  # records that are taken in a step, of a partition
SEARCHED = 31  # days of the lake in which a night looks for deleted posts whose day is not known
RETRY = 30.0  # seconds before what failed is tried again
WHOLE = ("ingest", "work")  # a dependency that is away holds all of it up

logger = logging.getLogger(__name__)


class Batch:
    """`folder` is where the view stands; `told` is given every hour that has been published."""

    # [4.1] Why not one stream, reprocessed when something changes: a count that was told must not flicker, a bot shows
    # only over hours, and a deletion reaches back months. Files a version make each of these a new version of an hour.
    def __init__(
        self,
        log: EventLog,
        lake: Lake,
        champion: Champion[Artifact],
        reader: Reader,
        folder: Path,
        *,
        told: Callable[[int, Published], None] = lambda *_: None,
    ) -> None:
        self._log, self._lake, self._champion, self._reader = log, lake, champion, reader
        self._folder, self._told = folder, told
        self._tables = BrandTables(folder / "aliases")
        self._readers = {reader.brands.version: reader}  # by version of the brands' table
        self._ingest = Ingest(log, lake, secret=reader.secret, member="batch")
        self._releases = ChampionFollower(log, RELEASES, champion)
        self._next = 0  # of the hours from the first one on, all below it are published
        self._all_scored = -1  # the revision of the manifest in which no hour is without a model
        self._retry_at: dict[int | str, float] = {}  # by hour, or kind of work
        self._alarmed: dict[int | str, str] = {}  # by hour or kind of work that fails, what was said of it last
        self._damage = ""  # why the manifest could not be read; until it is complete again, the new one is not written
        try:
            self.manifest = Manifest.read(folder)
        except HoursCorrupt as error:
            self._damage, self.manifest = str(error), Manifest()
        # By hour, the latest version on disk that a lost manifest may have named: readers still know what it says.
        self._written = {} if self.manifest.revision else latest_versions(folder)

    def step(self) -> bool:
        """Take in what is there, publish one hour if one is due; whether there was anything to do.

        Raises:
            Fenced, LogUnavailable: make a new one.
        """
        taken = self._guarded("ingest", self._take_in)
        for reason in self._releases.poll():
            logger.error("not released: %s", reason)
        if self._damage:
            self._raise("manifest", self._damage, action="all hours are published again from the lake")
        return self._guarded("work", self._work) or taken

    def close(self) -> None:
        self._ingest.consumer.close()
        self._releases.close()

    def _take_in(self) -> bool:
        """Records into the lake; whether there were any. Once it has caught up it is known when a new table begins."""
        taken = self._ingest.step(BITE)
        if taken < BITE:  # the running hour is linked by the one before
            self._tables.adopt(self._reader.brands, since=self._ingest.watermark // HOUR + 1)
        return taken > 0

    def _reader_at(self, hour: int) -> Reader:
        """With the table of brands that was in force."""
        brands = self._tables.at(hour) or self._reader.brands
        if brands.version not in self._readers:
            self._readers[brands.version] = Reader(brands, secret=self._reader.secret)
        return self._readers[brands.version]

    def _work(self) -> bool:
        """The next hour, or the night's work; whether there was any."""
        hour = self._due()
        if hour is None and self._damage:
            with self._publishing():
                damage, self._damage = self._damage, ""
                try:
                    self._switch(self.manifest)
                except BaseException:
                    self._damage = damage
                    raise
        if hour is None:
            hour = self._unscored()
        if hour is None:
            return self._guarded("night", self._night)
        self._guarded(hour, partial(self._publish, hour))
        return True

    def _guarded(self, key: int | str, work: Callable[[], bool]) -> bool:
        """Do a piece of work, unless it has failed a moment ago; when it raises, all other work goes on."""
        if self._waits(key):
            return False
        try:
            worked = work()
            self._retry_at.pop(key, None)
            self._alarmed.pop(key, None)  # when it fails again, that is told again
            return worked
        except (Fenced, LogUnavailable):
            raise
        except Exception as error:
            if isinstance(error, DEPENDENCY_ERRORS) and key not in WHOLE:  # it would befall every hour alike
                raise
            self._retry_at[key] = monotonic() + RETRY
            what = f"hour {key} cannot be published" if isinstance(key, int) else f"the {key} of batch has failed"
            logger.exception("%s", what)
            self._raise(key, f"{what}: {error}", action="it is tried again; all else goes on")
            return False

    def _waits(self, key: int | str) -> bool:
        return monotonic() < self._retry_at.get(key, -math.inf)

    def _raise(self, key: int | str, message: str, *, action: str) -> None:
        """An alarm, once until that works again."""
        if self._alarmed.get(key) != message:
            self._alarmed[key] = message
            alarm = Alarm(kind="lake", at=self._ingest.watermark, message=message, action=action)
            self._log.append([Entry(ALARMS, alarm.kind, alarm.model_dump_json().encode())])

    # --- closed hours ----------------------------------------------------------------------------

    def _due(self) -> int | None:
        """The next hour that every partition has passed and that is not published."""
        closed = (self._ingest.watermark - LATENESS) // HOUR  # hours below it are closed
        if closed <= 0:
            return None
        if self.manifest.start is None:
            dates = self._lake.dates("posts")
            if not dates:
                return None
            first = self._rows(days(dates[0]), days(dates[0]) + 1)["at"].min()
            assert isinstance(first, int)
            self.manifest = self.manifest._replace(start=first // HOUR)
        assert self.manifest.start is not None
        self._next = max(self._next, self.manifest.start)
        while self._next in self.manifest.hours:
            self._next += 1
        missing = (h for h in range(self._next, closed) if h not in self.manifest.hours and not self._waits(h))
        return next(missing, None)

    def _publish(self, hour: int) -> bool:
        """Write an hour's next version and switch the manifest to it, unless it says the same as the one before."""
        before = self.manifest.hours.get(hour)
        until = self._ingest.until
        if before is not None:  # the lake still has what was taken in before the group's offsets were lost
            until = tuple(map(max, until, before.until))
        reader = self._reader_at(hour)
        rows = self._count(hour, until, reader)
        content = digest(rows)
        with self._publishing():
            if before is not None and before.digest == content:
                published = before._replace(until=until, model=self._champion.version, aliases=reader.brands.version)
            else:
                version = 1 + max(self._written.get(hour, 0), 0 if before is None else before.version)
                write_hour(self._folder, hour, version, rows)
                write_counts(self._folder, hour, version, as_table(counted(rows)))
                published = Published(version, self._champion.version, content, until, reader.brands.version)
            hours = {**self.manifest.hours, hour: published}
            self._switch(self.manifest._replace(hours=hours))
        self._told(hour, published)
        return True

    def _publishing(self) -> AbstractContextManager[None]:
        return publishing(self._folder, None if self._damage else self.manifest.revision)

    def _switch(self, manifest: Manifest) -> None:
        aliases = self._reader.brands.version
        manifest = manifest._replace(revision=manifest.revision + 1, aliases=aliases)
        if not self._damage:
            manifest.write(self._folder)
        self.manifest = manifest

    def _count(self, hour: int, until: tuple[int, ...], reader: Reader) -> pl.DataFrame:
        """The hour's mentions; those of bots and deleted posts bear a reason in `removed`, or are gone."""
        day = self._rows(hour * HOUR // DAY, hour * HOUR // DAY + 1).filter(_within(until))
        # A deletion stands at a time that its post had passed; a version before this one wrote what the producer said.
        gone = self._lake.read("tombstones", since=date_of(hour * HOUR // DAY - 1))
        if gone.height:
            day = day.join(gone.filter(_within(until)).select("id"), on="id", how="anti", maintain_order="left")
        bots = robots(day, hour)
        posts = day.filter(pl.col("at") // HOUR == hour).sort("at", "id")
        known = self._known(hour, posts, reader)
        rows: list[dict[str, object]] = []
        for row in posts.iter_rows(named=True):
            post = Post(id=row["id"], author=row["author"], at=row["at"], text=row["text"])
            place = (row["partition"], row["offset"])
            opinion, mentions = reader.judged(
                post, self._champion.model, self._champion.version, place=place, known=known.get(post.id)
            )
            rows += [_row(mention, opinion, removed="bot" if post.author in bots else None) for mention in mentions]
        return pl.DataFrame(rows, schema=COLUMNS)

    def _known(self, hour: int, posts: pl.DataFrame, reader: Reader) -> dict[str, Opinion]:
        """By post, what this very model has said, in the stream or the version before: nothing is scored twice."""
        known = self._streamed(hour, posts, reader)
        before = self.manifest.hours.get(hour)
        # While no version is in force the opinions of the one before stand: an hour that is reopened loses none.
        if before is None or self._champion.version not in (before.model, None):
            return known
        if (before.aliases or self.manifest.aliases) != reader.brands.version:  # it found other brands in the same text
            return known
        try:
            rows = read_hour(self._folder, hour, before.version)
        except HoursCorrupt as error:
            logger.error("%s", error)
            return known
        return known | dict(_opinions(rows))

    def _streamed(self, hour: int, posts: pl.DataFrame, reader: Reader) -> dict[str, Opinion]:
        """What the stream said by the model at its best: not by another version, and not for want of time."""
        day = hour * HOUR // DAY
        said = self._lake.read("opinions", since=date_of(day), until=date_of(day + 1))
        if said.is_empty():
            return {}
        mine = said.filter(
            (pl.col("model") == pl.lit(self._champion.version, pl.String))
            & (pl.col("definition") == reader.definition)
            & pl.col("mark").is_null()
        ).select("id", "text", "label", "why_not", "score", "model")
        # The text, too: of an id that comes again with other words the stream may have read the other ones.
        rows = posts.select("id", "at", "text", "partition", "offset").join(mine, on=["id", "text"])
        return {row["id"]: Opinion(**row) for row in rows.iter_rows(named=True)}

    def _rows(self, since: int, until: int) -> pl.DataFrame:
        """The lake's posts of these event days that count."""
        rows = self._lake.read("posts", since=date_of(since), until=date_of(until))
        if rows.is_empty():  # it knows no columns then
            return pl.DataFrame(schema=POST_COLUMNS)
        # An older version kept repeats and what had expired in this table.
        rows = rows.remove("expired") if "expired" in rows.columns else rows
        return self._pseudonymised(rows.select(POST_COLUMNS.keys()).unique("id", keep="first", maintain_order=True))

    def _pseudonymised(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Authors by the one name that they have now: an older version took them in as producers sent them."""
        raw = rows.filter(~pl.col("author").str.contains(f"^{PSEUDONYM.pattern}$"))["author"].unique()
        return rows.with_columns(
            pl.col("author").replace({name: pseudonymised(name, self._reader.secret) for name in raw})
        )

    # --- dirty hours -------------------------------------------------------------------------------

    def _night(self) -> bool:
        """Once an event day has passed: publish again what came late or was deleted; whether it was time."""
        today = self._ingest.watermark // DAY
        if today <= self.manifest.night or not self.manifest.hours:
            return False
        tombstones = self._ingest.until
        deleted, search = self._deleted()
        dirty = sorted(self._late() | deleted)
        done = [self._guarded(hour, partial(self._publish, hour)) for hour in dirty]
        erased = today
        if not all(done):  # what was deleted is looked for again the next night
            tombstones, erased, search = self.manifest.tombstones, self.manifest.erased, self.manifest.search
        others = self._lake.read("uncounted", since=date_of(today - config.MAX_AGE // DAY - 1))
        expired = others.filter(why="expired").height if others.height else 0
        with self._publishing():
            known = self.manifest._replace(erased=erased, tombstones=tombstones, search=search)
            self._switch(known._replace(night=today, expired=expired))
        return True

    def _late(self) -> set[int]:
        """Hours to which posts have come since they were published, or that lie before the first one."""
        start = self.manifest.start or 0
        last = max(self.manifest.night, start * HOUR // DAY)  # what has come since may be as old as the oldest then
        since = last - config.REOPEN // DAY - 1
        # Before its first night this version looks at all posts: an older one did not note which were late.
        begun = self.manifest.erased >= 0
        rows = self._lake.read("late", since=date_of(since)) if begun else self._rows(since, days(date.max))
        found = rows.select("partition", "offset", hour=pl.col("at") // HOUR).iter_rows()
        hours = self.manifest.hours
        return {
            hour
            for partition, offset, hour in found
            if (offset >= hours[hour].until[partition] if hour in hours else hour < start)
        }

    def _unscored(self) -> int | None:
        """The next hour that was published while no model was in force, now that one is."""
        if self._champion.version is None or self._all_scored == self.manifest.revision:
            return None
        unscored = [hour for hour, published in self.manifest.hours.items() if published.model is None]
        if not unscored:
            self._all_scored = self.manifest.revision
        return next((hour for hour in unscored if not self._waits(hour)), None)

    def _deleted(self) -> tuple[set[int], Search]:
        """Published hours of posts that were deleted since the last night, and the posts still to look for."""
        since = date_of(self.manifest.erased - 1) if self.manifest.erased > 0 else None
        gone = self._lake.read("tombstones", since=since)
        if gone.height and self.manifest.tombstones:
            gone = gone.filter(~_within(self.manifest.tombstones))
        missing, hours = set(gone["id"]) if gone.height else set[str](), set[int]()
        for day in sorted(set(gone["days"].explode().drop_nulls())) if "days" in gone.columns else ():
            missing -= self._found(day, missing, hours)
        # Of what was deleted more than a week after it was written no day is known, nor of what the lake never had.
        posts, before, waiting = self.manifest.search
        waiting, dates = (*waiting, *sorted(missing)), [*map(days, reversed(self._lake.dates("posts")))]
        for _ in range(SEARCHED):
            if not posts:
                posts, before, waiting = waiting, Search().before, ()
            day = next((day for day in dates if day < before), None)
            if not posts or day is None:  # none is sought, or the lake does not have these
                posts = ()
                continue
            found = self._found(day, set(posts), hours)
            posts, before = tuple(id for id in posts if id not in found), day
        return hours & set(self.manifest.hours), Search(posts, before, waiting)

    def _found(self, day: int, posts: set[str], hours: set[int]) -> set[str]:
        """Those of the posts that stand in a day of the lake; adds their hours."""
        rows = self._rows(day, day + 1).filter(pl.col("id").is_in(posts))
        hours |= {at // HOUR for at in rows["at"]}
        return set(rows["id"])


def robots(day: pl.DataFrame, hour: int) -> set[str]:
    """Authors of the hour that write too much in it, or the same too often in the day up to its end."""
    now = day.filter(pl.col("at") // HOUR == hour)
    busy = now.group_by("author").len().filter(pl.col("len") > config.BOT_POSTS)
    said = day.filter(pl.col("at") // HOUR <= hour).group_by("author", "text").len()
    again = said.filter(pl.col("len") >= config.BOT_REPEATS)
    return {*busy["author"], *again["author"]} & set(now["author"])


def days(when: date) -> int:
    """Days since the epoch."""
    return (when - date(1970, 1, 1)).days


def date_of(day: int) -> date:
    """The date of an event day, counted since the epoch."""
    return date(1970, 1, 1) + timedelta(days=day)


def _within(until: tuple[int, ...]) -> pl.Expr:
    """Rows whose offset is below that of their partition."""
    ends = pl.DataFrame({"partition": range(len(until)), "end": until})
    return pl.col("offset") < pl.col("partition").replace_strict(ends["partition"], ends["end"], default=0)


def _row(mention: Mention, opinion: Opinion, *, removed: str | None) -> dict[str, object]:
    score = opinion.score or (None, None, None)
    return {
        "brand": mention.brand,
        "aspect": mention.aspect,
        "post": mention.post,
        "author": mention.author,
        "label": mention.label,
        "model": mention.model,
        "removed": removed,
        "at": mention.at,
        "text": mention.text,
        "partition": mention.partition,
        "offset": mention.offset,
        "negative": score[0],
        "neutral": score[1],
        "positive": score[2],
    }


def _opinions(rows: pl.DataFrame) -> Iterator[tuple[str, Opinion]]:
    """What the version before says of each post, by id."""
    for row in rows.unique("post", keep="first", maintain_order=True).iter_rows(named=True):
        score = (row["negative"], row["neutral"], row["positive"])
        yield (
            row["post"],
            Opinion(
                id=row["post"],
                at=row["at"],
                label=row["label"],
                score=None if row["negative"] is None else score,
                model=row["model"],
                partition=row["partition"],
                offset=row["offset"],
            ),
        )
