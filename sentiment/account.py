"""The closing report of a demo or replay: recount of all hours, share errors against the truth, false alarms."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import polars as pl

from sentiment import config
from sentiment.config import BIN, DAY, HOUR, LABELS
from sentiment.crisis import Brand
from sentiment.dataset import day_of
from sentiment.schema import ALL, MENTION, MENTIONS, MINUTES, Confusion, Counts, Mention
from sentiment.shares import Corrections
from sentiment.simulate import HOURS
from sentiment.timeline import Point, Timeline
from shared.eventlog.port import EventLog, beginning
from shared.settings import Settings

Table = tuple[list[str], list[list[str]]]
MONTH = 30  # days
THREADS = 0.03  # correlation of two opinions of one hour


def opened(settings: Settings, log: EventLog) -> Timeline:
    """Both views as they are now, read afresh."""
    timeline = Timeline(settings.var / "batch")
    reader = log.reader(beginning([MINUTES]))
    while records := reader.poll(10_000, 0.0):
        timeline.speed.take(records)
    reader.close()
    return timeline


def mentioned(log: EventLog) -> dict[tuple[str, int], set[str]]:
    """By brand and hour, the posts that the log says were mentions: what any view must add up to."""
    reader, found = log.reader(beginning([MENTIONS])), defaultdict[tuple[str, int], set[str]](set)
    while records := reader.poll(10_000, 0.0):
        for record in records:
            message = MENTION.validate_json(record.value)
            if isinstance(message, Mention):
                found[message.brand, message.at // HOUR].add(message.post)
    reader.close()
    return dict(found)


def seam(timeline: Timeline, log: EventLog) -> tuple[int, int]:
    """Hours of a brand that were recounted by force, and those that differ from what the timeline serves."""
    manifest, posts = timeline.manifest(), mentioned(log)
    brands = {brand for brand, _ in posts}
    hours = {hour for _, hour in posts} | set(manifest.hours)
    wrong = 0
    for brand in brands:
        for hour in hours:
            (point,) = timeline.points(manifest, brand, since=hour * HOUR, until=(hour + 1) * HOUR, step=HOUR)
            served = point.counts.raw + sum(part.late_pending for part in point.parts)
            wrong += len(point.parts) != 1 or served != len(posts.get((brand, hour), ()))
    return len(brands) * len(hours), wrong


class Difference(NamedTuple):
    """What the batch view made of hours that the stream had counted, in mentions."""

    stream: int
    late: int  # came after the hour was sealed
    removed: int  # of bots
    rescored: int  # opinions whose label is another one
    batch: int

    def table(self) -> Table:
        rows = [
            ["counted by the stream", f"{self.stream:,}"],
            ["came late, taken in", f"+{self.late:,}"],
            ["of bots, removed", f"−{self.removed:,}"],
            ["counted by batch", f"{self.batch:,}"],
            ["of them with another label than the stream's", f"{self.rescored:,}"],
        ]
        return ["mentions", ""], rows


def difference(timeline: Timeline, log: EventLog) -> Difference:
    """Between the views over all published hours, split by cause."""
    manifest = timeline.manifest()
    streamed: dict[tuple[str, str], Mention] = {}
    reader = log.reader(beginning([MENTIONS]))
    while records := reader.poll(10_000, 0.0):
        for record in records:
            message = MENTION.validate_json(record.value)
            if isinstance(message, Mention) and message.brand != ALL and message.at // HOUR in manifest.hours:
                streamed.setdefault((message.brand, message.post), message)
    reader.close()
    late = removed = rescored = batch = 0
    for hour, published in manifest.hours.items():
        for row in timeline.hour(hour, published.version).filter(pl.col("brand") != ALL).iter_rows(named=True):
            said = streamed.get((row["brand"], row["post"]))
            late += said is not None and said.late
            removed += row["removed"] is not None
            batch += row["removed"] is None
            rescored += row["removed"] is None and said is not None and said.label != row["label"]
    on_time = sum(not mention.late for mention in streamed.values())
    return Difference(on_time, late, removed, rescored, batch)


def compared(timeline: Timeline, truth: pl.DataFrame) -> tuple[int, float | None]:
    """Opinions that published hours count of posts naming two brands, and the share of them that is wrong.

    `truth` (post, brand, label): one opinion a post is a limit, and this is what it costs. In all comparisons
    that `grammar` has, an author who is for the one brand is against the other.
    """
    manifest = timeline.manifest()
    known = {post: (brand, label) for post, brand, label in truth.select("post", "brand", "label").iter_rows()}
    other = {"negative": "positive", "neutral": "neutral", "positive": "negative"}
    wrong = list[bool]()
    for hour, published in manifest.hours.items():
        rows = timeline.hour(hour, published.version).filter(
            (pl.col("brand") != ALL) & pl.col("removed").is_null() & pl.col("label").is_not_null()
        )
        for row in rows.filter(pl.len().over("post") == 2).iter_rows(named=True):
            brand, label = known.get(row["post"], (None, None))
            if brand is not None and label is not None:
                wrong.append(row["label"] != (label if row["brand"] == brand else other[label]))
    return len(wrong), round(float(np.mean(wrong)), 3) if wrong else None


class ShareErrors(NamedTuple):
    """Over brand-days with enough opinions: mean absolute error of a share, and how often intervals hold the truth."""

    days: int  # with a final number
    raw: float | None
    first: float | None
    first_coverage: float | None
    corrected: float | None  # by the final number
    coverage: float | None
    rows: list[list[str]]

    def table(self) -> Table:
        return [
            "brand and day",
            "opinions",
            "truth, negative",
            "as counted",
            "first",
            "final",
            "90 % interval",
        ], self.rows


class Errors:
    """Of numbers of one kind."""

    def __init__(self) -> None:
        self.off: list[float] = []
        self.held: list[bool] = []

    def add(self, point: Point, labels: list[str]) -> None:
        """`labels`: the true ones of the posts that the point is of."""
        if point.corrected is None or point.low is None or point.high is None or len(labels) < config.SHARE_NEEDED:
            return
        true = np.array([labels.count(label) for label in LABELS]) / len(labels)
        self.off += list(abs(np.array(point.corrected) - true))
        self.held += list((np.array(point.low) <= true) & (true <= np.array(point.high)))

    @property
    def mean(self) -> float | None:
        return round(float(np.mean(self.off)), 4) if self.off else None

    @property
    def coverage(self) -> float | None:
        return round(float(np.mean(self.held)), 4) if self.held else None


def share_errors(
    timeline: Timeline, truth: pl.DataFrame, corrections: Corrections, *, audited: set[str]
) -> ShareErrors:
    """Against `truth` (post, at, brand, label): of the posts that a day's window counts.

    The first number is judged without the `audited` posts, as the next days' calibrations learn from them.
    """
    manifest = timeline.manifest()
    raw, first, final, rows = list[float](), Errors(), Errors(), list[list[str]]()
    labels = dict(truth.select("post", "label").iter_rows())
    brands = sorted({brand for brand in truth["brand"].unique() if brand})
    for day in range(min(manifest.hours) // 24, max(manifest.hours) // 24 + 1):
        for brand in brands:
            window = {"since": day * DAY, "until": (day + 1) * DAY, "step": DAY}
            early = next(timeline.points(manifest, brand, **window, corrections=corrections._replace(finals={})))
            late = next(timeline.points(manifest, brand, **window, corrections=corrections._replace(known={})))
            posts = timeline.voting(manifest, brand, since=day * DAY, until=(day + 1) * DAY)["post"]
            known = [labels[post] for post in posts if post in labels]
            first.add(early, [labels[post] for post in posts if post in labels and post not in audited])
            final.add(late, known)
            if late.corrected is None or late.low is None or late.high is None or len(known) < config.SHARE_NEEDED:
                continue
            assert late.counted is not None
            true = np.array([known.count(label) for label in LABELS]) / len(known)
            raw += list(abs(np.array(late.counted) - true))
            shown = [f"{share[0]:.0%}" if share else "–" for share in (late.counted, early.corrected, late.corrected)]
            interval = f"{late.low[0]:.0%} to {late.high[0]:.0%}"
            rows.append([f"{brand}, {day_of(day * DAY)}", str(len(known)), f"{true[0]:.0%}", *shown, interval])
    mean = round(float(np.mean(raw)), 4) if raw else None
    return ShareErrors(len(rows), mean, first.mean, first.coverage, final.mean, final.coverage, rows)


def false_alarms(known: Confusion, *, months: int = 100, seed: int = 1, posts_a_day: float = 250.0) -> int:
    """How often a brand's manager is called in so many simulated brand-months in which nothing happens.

    Opinions are drawn from the audited confusion, moods change from day to day, and threads last an hour.
    """
    rng = np.random.default_rng(seed)
    confusion = np.array(known.rows)
    alarms = 0
    for _ in range(months):
        brand, mood = Brand(), rng.dirichlet((4.0, 4.0, 4.0))
        for day in range(MONTH + config.BASELINE_DAYS):
            said = rng.dirichlet(mood * 400) @ confusion
            together = rng.dirichlet(said / said.sum() * (1 / THREADS - 1), 24)
            bins = rng.multinomial(
                rng.poisson(np.repeat(posts_a_day * HOURS * BIN / HOUR, HOUR // BIN)),
                np.repeat(together, HOUR // BIN, axis=0),
            )
            for number, opinions in enumerate(bins.tolist()):
                counts = Counts(sum(opinions), *opinions)
                told = brand.judge(day * DAY + number * BIN, counts)
                alarms += told and day >= config.BASELINE_DAYS
    return alarms
