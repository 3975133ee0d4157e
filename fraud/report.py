"""A closed event day, judged: how far it has drifted, and how good the decisions were whose labels have matured."""

import multiprocessing
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from fraud import config, dataset, evaluate
from fraud.artifact import block, drift_frame, reference
from fraud.schema import Release, Report
from shared import drift
from shared.lake import Lake


class Judge:
    """Reads the lake. `fetch` gives the folder of a release's artifact; `pages` is where evidently's reports go."""

    def __init__(self, lake: Lake, *, fetch: Callable[[str, str], Path], pages: Path) -> None:
        self._lake, self._fetch, self._pages = lake, fetch, pages
        self._painters: list[multiprocessing.context.SpawnProcess] = []

    def judge(self, day: int, past: Sequence[Report], champion: Release | None, *, paint: bool) -> Report:
        """Report on a day, given the days before it; `paint`: what has drifted gets a page for people.

        Raises:
            LakeCorrupt: naming the file that cannot be read.
        """
        decisions = self._decisions(day)
        counts = dict(decisions.group_by("action").len().iter_rows())
        report = Report(
            day=day,
            payments=decisions.height,
            actions={action: counts.get(action, 0) for action in ("approve", "review", "decline")},
            drift={},
            drifted=(),
            version=champion and champion.version,
        )
        if champion is not None:
            report = self._with_drift(report, decisions, past, champion, paint=paint)
        return self._with_quality(report, day - config.MATURITY // config.DAY)

    def close(self) -> None:
        for painter in self._painters:
            painter.join()

    def _decisions(self, day: int) -> pl.DataFrame:
        """A day's decisions, the first of each payment, without probes."""
        rows = self._lake.read("decisions", since=date_of(day), until=date_of(day + 1))
        if rows.is_empty():
            return pl.DataFrame(schema={"action": pl.String, "path": pl.String, "probe": pl.Boolean})
        return rows.filter(~pl.col("probe")).unique(["card", "id"], keep="first", maintain_order=True).sort("at")

    def _with_drift(
        self, report: Report, decisions: pl.DataFrame, past: Sequence[Report], champion: Release, *, paint: bool
    ) -> Report:
        scored = decisions.filter(pl.col("path") == "model")
        if scored.height < 100:
            return report
        rows = block(scored)
        current = drift_frame(np.array(rows["features"].to_list()), rows["probability"].to_numpy())
        normal, limits = reference(self._fetch(champion.artifact, champion.digest))
        same_weekday = normal.filter(pl.col("weekday") == current["weekday"][0]).drop("weekday")
        distances = drift.Reference.of(same_weekday).distances(current.drop("weekday"))
        history = [before.drift for before in past if before.version == report.version and before.drift]
        beyond = drift.drifted([*history, distances], limits)
        if beyond and paint:
            self._paint(same_weekday.head(rows.height).select(beyond), current.select(beyond), report.day)
        return report.model_copy(update={"drift": distances, "drifted": beyond})

    def _with_quality(self, report: Report, matured: int) -> Report:
        """How good the decisions were, over the last week whose labels have all arrived."""
        week = [self._decisions(day) for day in range(matured - 6, matured + 1)]
        scored = pl.concat(
            [part.filter(pl.col("path") == "model").drop("features") for part in week if part.height] or week[:1]
        )
        if scored.is_empty():
            return report
        labels = self._lake.read("events", since=date_of(matured - 6), until=date_of(report.day + 1))
        known = dataset.labelled(scored.drop("action", "propensity"), labels, scored)
        seen = known.filter(pl.col("weight") > 0)
        mine = seen.filter(pl.col("model") == report.version)  # a champion answers for its own promises only
        approved = mine.filter((pl.col("action") == "approve") & ~pl.col("explored"))
        ranking = evaluate.ranking(seen, seen["probability"].to_numpy())
        weight = float(seen["weight"].sum())
        return report.model_copy(
            update={
                "matured_day": matured,
                "average_precision": ranking["average_precision"],
                "card_precision_100": ranking["card_precision_100"],
                "recall": evaluate.caught(known),
                "cost_per_1000": 1_000 * evaluate.cost(seen, evaluate.meant(seen)) / weight,
                "rules_cost_per_1000": 1_000 * evaluate.cost(seen, list(seen["rules"])) / weight,
                "frauds_promised": float(approved["probability"].sum()),
                "frauds_missed": int(approved["fraud"].sum()),
            }
        )

    def _paint(self, normal: pl.DataFrame, current: pl.DataFrame, day: int) -> None:
        """evidently's page for people, in a process of its own: it takes ten seconds that nobody should wait for."""
        path = self._pages / f"drift-{date_of(day)}.html"
        painter = multiprocessing.get_context("spawn").Process(target=drift.report, args=(normal, current, path))
        painter.start()
        self._painters.append(painter)


def date_of(day: int) -> date:
    """The date of an event day, counted since the epoch."""
    return dataset.day_of(day * config.DAY)
