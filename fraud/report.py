"""The daily report: drift of a closed day, and quality of the decisions whose labels have matured."""

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from fraud import config, dataset, evaluate
from fraud.artifact import BLOCK, block, drift_frame, reference
from fraud.features import NAMES
from fraud.history import EVENT_COLUMNS
from fraud.schema import Report
from shared import drift
from shared.background_job import BackgroundJob
from shared.lake import Lake
from shared.releases import Ledger, Release

MIN_SCORED = 100  # decisions of a day below which no distance is computed

logger = logging.getLogger(__name__)


class NotJudged(Exception):
    """The drift of a day cannot be judged; says why."""


class Judge:
    """Reads the lake. `fetch` gives the folder of a release's artifact; `pages` is where evidently's reports go."""

    def __init__(self, lake: Lake, *, fetch: Callable[[str, str], Path], pages: Path) -> None:
        self._lake, self._fetch, self._pages = lake, fetch, pages
        self.painting: BackgroundJob[None] = BackgroundJob()

    def judge(self, day: int, past: Sequence[Report], ledger: Ledger[Release], *, paint: bool) -> tuple[Report, str]:
        """Report on a day, given the days before it; and why its drift is not judged, if it cannot be.

        The version judged is the one that decided most payments, as the decisions say, which may not be the ledger's
        champion. `paint`: what has drifted gets a page for people.

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
            version=_deciding(decisions),
        )
        release = next((line for line in reversed(ledger.lines) if line.version == report.version), None)
        trouble = ""
        try:
            report = self._with_drift(report, decisions, past, release, paint=paint)
        except Exception as error:  # whatever is wrong with the reference, the day has its counts and its quality
            if not isinstance(error, NotJudged):
                logger.exception("the drift of day %d cannot be judged", day)
            trouble = f"drift from version {report.version} is not judged: {error}"
        return self._with_quality(report, day - config.MATURITY // config.DAY, past, release), trouble

    def close(self) -> None:
        self.painting.close()

    def _decisions(self, day: int) -> pl.DataFrame:
        """A day's decisions, the first of each payment, without probes."""
        rows = dataset.decisions(self._lake, since=date_of(day), until=date_of(day + 1))
        return rows.filter(~pl.col("probe")).unique(["card", "id"], keep="first", maintain_order=True).sort("at")

    def _with_drift(
        self, report: Report, decisions: pl.DataFrame, past: Sequence[Report], release: Release | None, *, paint: bool
    ) -> Report:
        scored = decisions.filter(pl.col("path") == "model", pl.col("model") == report.version)
        if scored.height < MIN_SCORED:
            return report
        if release is None:
            raise NotJudged("it is in no ledger")
        comparable = scored.filter(pl.col("features").list.len() == len(NAMES))
        if comparable.height < MIN_SCORED:
            raise NotJudged("it has other features than this code")
        rows = block(comparable)
        current = drift_frame(np.array(rows["features"].to_list()), rows["probability"].to_numpy())
        normal, limits = reference(self._fetch(release.artifact, release.digest))
        same_weekday = normal.filter(pl.col("weekday") == current["weekday"][0]).drop("weekday")
        if same_weekday.is_empty():
            raise NotJudged(f"its reference has no {date_of(report.day):%A}")
        distances = drift.Reference.of(same_weekday).distances(current.drop("weekday"), block=BLOCK)
        history = [before.drift for before in past if before.version == report.version and before.drift]
        beyond = drift.drifted([*history, distances], limits)
        if beyond and paint and not self.painting.doing:
            pair = drift.spread(same_weekday, rows.height).select(beyond), current.select(beyond)
            path = self._pages / f"drift-{date_of(report.day)}.html"
            self.painting.start("writing the drift page", partial(_paint, *pair, path))
        return report.model_copy(update={"drift": distances, "drifted": beyond})

    def _with_quality(self, report: Report, matured: int, past: Sequence[Report], release: Release | None) -> Report:
        """How good the decisions were, over the last week whose labels have all arrived."""
        week = [self._decisions(day) for day in range(matured - 6, matured + 1)]
        scored = pl.concat(
            [part.filter(pl.col("path") == "model").drop("features") for part in week if part.height] or week[:1]
        )
        if scored.is_empty():
            return report
        labels = self._lake.read("events", since=date_of(matured - 6), until=date_of(report.day + 1))
        labels = dataset.complete(labels, EVENT_COLUMNS)
        known = dataset.labelled(scored.drop("action", "propensity"), labels, scored)
        seen = known.filter(pl.col("weight") > 0)
        if seen.is_empty():  # all declined
            return report
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
                "evidence": _evidence(approved, matured, [r for r in past if r.version == report.version], release),
            }
        )


def _deciding(decisions: pl.DataFrame) -> str | None:
    """The version that decided most; of two that decided as many, the later one."""
    counts = decisions.filter(pl.col("path") == "model").group_by("model").len()
    if counts.is_empty():
        return None
    version: str | None = counts.sort("len", pl.col("model").cast(pl.Int64, strict=False))["model"][-1]
    return version


def _evidence(approved: pl.DataFrame, matured: int, past: Sequence[Report], release: Release | None) -> float | None:
    """Against the promise of the version that approved these payments of a week, up to the day whose labels are new."""
    before = next((report.evidence for report in reversed(past) if report.evidence is not None), None)
    today = approved.filter(pl.col("at") // config.DAY == matured)
    if today.is_empty() or release is None:
        return before
    # What the gate has seen already is no news.
    known = max(1.0, release.figures.get("missed_over_promised", 1.0))
    frauds = approved.filter("fraud")
    hit = frauds.select("card", pl.col("at") // config.DAY).unique().height
    return evaluate.evidence(
        before or 0.0,
        frauds=int(today["fraud"].sum()),
        promised=known * float(today["probability"].sum()),
        burst=frauds.height / hit if hit else 1.0,
    )


def _paint(normal: pl.DataFrame, current: pl.DataFrame, path: Path) -> None:
    """evidently's page for people, in a process of its own: its imports alone take seconds of a core."""
    painter = multiprocessing.get_context("spawn").Process(target=drift.report, args=(normal, current, path))
    painter.start()
    painter.join()
    if painter.exitcode:
        raise ChildProcessError(f"{path.name} could not be written; the monitor's log says more")


def date_of(day: int) -> date:
    """The date of an event day, counted since the epoch."""
    return dataset.day_of(day * config.DAY)
