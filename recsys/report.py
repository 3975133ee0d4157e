"""The daily report: lists and clicks against the same weekday's, and drift of the purchases."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from recsys import config, dataset
from recsys.recipe import reference
from recsys.schema import Report
from recsys.train import moved, watched
from shared import drift
from shared.lake import Lake

WEEKS = 4  # whose weekday is the usual


def judge(lake: Lake, day: int, before: Sequence[Report], *, version: str, recipe: Path | None) -> Report:
    """The report on an event day (since the epoch); `recipe`: the folder with the reference of drift."""
    since, until = day * config.DAY, (day + 1) * config.DAY
    first, end = dataset.day_of(since), dataset.day_of(until)
    rows = lake.read("events", since=first, until=end)
    # A list of the evening before may be clicked on after midnight; one that is not in the log counts on neither side.
    shown = dataset.impressions(lake, since=dataset.day_of(max(0, since - config.DAY)), until=end)
    known = [] if shown.is_empty() else shown["list_id"].to_list()
    clicks, purchases, distances = 0, 0, dict[str, float]()
    drifted: tuple[str, ...] = ()
    if not rows.is_empty():
        rows = rows.unique(["user", "id"], keep="first", maintain_order=True)
        clicks = rows.filter((pl.col("kind") == "click") & pl.col("list_id").is_in(known)).height
        purchases = rows.filter(pl.col("kind") == "purchase").height
    if recipe is not None and purchases:
        usual, limits = reference(recipe)
        today = watched(rows, dataset.catalogue(lake, cut=until))
        if limits and (distances := moved(today, usual)):
            history = [
                report.drift for report in before if report.day == day - 1 and report.drift.keys() == limits.keys()
            ]
            drifted = drift.drifted([*history[-1:], distances], limits)
    alike = [report for report in before if (day - report.day) % 7 == 0 and report.lists][-WEEKS:]
    lists = sum(report.lists for report in alike)
    return Report(
        day=day,
        version=version,
        lists=shown.filter(pl.col("at") >= since).height,
        clicks=clicks,
        usual_clicks=sum(report.clicks for report in alike) / lists if lists else None,
        purchases=purchases,
        drift=distances,
        drifted=drifted,
    )
