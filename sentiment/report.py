"""The daily report: drift of a closed day, and quality of the opinions on its audited posts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sentiment import config
from sentiment.artifact import Artifact, drift_frame, reference
from sentiment.audits import questions
from sentiment.config import CORRECTIONS_A_DAY, DAY, LABELS, READERS
from sentiment.dataset import FILTERS, answers, answers_on_filtered, day_of
from sentiment.evaluate import best, macro_recall
from sentiment.mentions import Brands
from sentiment.opinions import seen
from sentiment.policy import fallen
from sentiment.schema import Audit, Calibration, Confusion, Final, Report
from sentiment.shares import SHIFT, calibrated, calibration, confusion, final_number, shifted
from sentiment.train import BLOCK
from shared import drift
from shared.lake import Lake
from shared.releases import Release

WINDOW = 3  # days of audits that quality is measured on
SURELY = 1.64  # standard errors: nineteen in twenty recalls are not below
MEMORY = 14  # days of audits that a confusion is made of


def promised(figures: Mapping[str, float]) -> dict[str, float]:
    """By label, the recall that the gate's posts promise for sure: few of them promise little."""
    found = {}
    for label in LABELS:
        if (recall := figures.get(f"recall_{label}")) is not None:
            posts = figures.get(f"posts_{label}", figures.get("posts", 0.0) / len(LABELS))
            found[label] = recall - SURELY * float(np.sqrt(recall * (1 - recall) / max(1.0, posts)))
    return found


class Judge:
    """Reads the lake. `fetch` gives the folder of a release's artifact."""

    def __init__(self, lake: Lake, brands: Brands, *, fetch: Callable[[str, str], Path]) -> None:
        self._lake, self._brands, self._fetch = lake, brands, fetch

    def served_by(self, day: int) -> str | None:
        """The version that most of the day's opinions name. Raises LakeCorrupt."""
        opinions = self._lake.read("opinions", since=day_of(day * DAY), until=day_of((day + 1) * DAY))
        named = Counter(opinions["model"].drop_nulls()) if opinions.height else Counter[str]()
        return max(named, key=lambda version: (named[version], version), default=None)

    def judge(self, day: int, past: Sequence[Report], champion: Release | None, *, drifting: bool = True) -> Report:
        """Report on a day, given the days before it; `drifting`: also on drift, for which the version is loaded.

        Raises:
            LakeCorrupt: naming the file that cannot be read.
            ModelCorrupt, Corrupt, Unavailable: the version cannot be loaded.
        """
        opinions = self._lake.read("opinions", since=day_of(day * DAY), until=day_of((day + 1) * DAY))
        if opinions.height:
            opinions = opinions.filter(pl.col("kind") == "opinion")
        dropped = opinions.group_by("why_not").len().drop_nulls() if opinions.height else pl.DataFrame()
        version = champion.version if champion else None
        distances: dict[str, float] = {}
        beyond: tuple[str, ...] = ()
        if champion is not None and opinions.height and drifting:
            distances, limits = self._distances(opinions, champion)
            history = [report.drift for report in past if report.version == version and report.drift]
            beyond = drift.drifted([*history, distances], limits) if distances else ()
        recall, audits = self._quality(day, version)
        known, probable, moved = self._corrected_by(day, version, past)
        return Report(
            day=day,
            posts=opinions.height,
            dropped=dict(dropped.iter_rows()),
            version=version,
            drift=distances,
            drifted=beyond,
            audits=audits,
            macro_recall=recall,
            fallen=self._fallen(day, champion, past),
            confusion=known,
            calibration=probable,
            shifted=moved,
            corrections=self._corrections(day),
            dropped_wrongly=self._dropped_wrongly(day),
        )

    def _distances(self, opinions: pl.DataFrame, champion: Release) -> tuple[dict[str, float], dict[str, float]]:
        """Of the day's posts that the champion scored, spread evenly over it, from what it was trained on."""
        folder = self._fetch(champion.artifact, champion.digest)
        artifact = Artifact.load(folder)
        scored = opinions.filter((pl.col("model") == champion.version) & (pl.col("path") == artifact.path))
        scored = scored.unique("text", keep="first")  # a flood of one text is no new language
        rows = drift.spread(scored.sort("at", "id"), BLOCK)
        normal, limits = reference(folder)
        if rows.height < BLOCK or not limits:  # a smaller one would be further away for nothing
            return {}, {}
        scores = [(row[0], row[1], row[2]) for row in rows["score"].to_list()]
        frame = drift_frame([seen(text, self._brands) for text in rows["text"]], scores, artifact)
        return drift.Reference.of(normal).distances(frame), limits

    def _audited(self, since: int, until: int, version: str | None) -> pl.DataFrame:
        """Labels that became known in these days, of posts that the version scored as it is served."""
        rows = answers(self._lake, since=day_of(since * DAY), until=day_of(until * DAY))
        if rows.is_empty() or version is None:
            return rows.clear()
        written = rows["of"].drop_nulls().min()  # a deletion stands at no earlier time than its post
        gone = self._lake.read("tombstones", since=day_of(int(written)) if isinstance(written, int) else None)
        if gone.height:
            rows = rows.join(gone.select(post="id"), on="post", how="anti", maintain_order="left")
        rows = rows.filter((pl.col("model") == version) & pl.col("score").is_not_null())
        # An older version asked about what the stream said: of what was shed, that is another model's word.
        if (rows["path"] == "transformer").any():
            rows = rows.filter(pl.col("path").is_null() | (pl.col("path") == "transformer"))
        # One word of a flood is enough: a hundred bots with one text would be most of what there is of its label.
        return rows.unique("text", keep="first", maintain_order=True)

    def _quality(self, day: int, version: str | None) -> tuple[float | None, int]:
        rows = self._audited(day - WINDOW + 1, day + 1, version)
        if rows.height < config.AUDITS_NEEDED:
            return None, rows.height
        said = best(np.array(rows["score"].to_list()))
        return macro_recall(rows["label"].to_list(), said, (1 / rows["inclusion"]).to_list()), rows.height

    def _fallen(self, day: int, champion: Release | None, past: Sequence[Report]) -> float:
        """The evidence against what the gate measured, from each day's own audits: none of them counts twice."""
        if champion is None:
            return 0.0
        before = next((report.fallen for report in reversed(past) if report.version == champion.version), 0.0)
        rows = self._audited(day, day + 1, champion.version)
        said = np.array(best(np.array(rows["score"].to_list()).reshape(rows.height, -1)) if rows.height else [])
        truth = rows["label"].to_numpy() if rows.height else said
        right = {label: (said == truth)[truth == label] for label in np.unique(truth).tolist()}
        audited = {label: (int(told.sum()), int((~told).sum())) for label, told in right.items()}
        return fallen(before, audited, promised(champion.figures))

    def _corrected_by(
        self, day: int, version: str | None, past: Sequence[Report]
    ) -> tuple[Confusion | None, Calibration | None, tuple[str, ...]]:
        """What corrects the next day, and the labels whose posts have begun to read otherwise."""
        # [5.3] The prior may shift, as PACC undoes it; that a label's posts read otherwise is what it cannot undo, and
        # what only audits can tell. Those from before it say nothing about the posts of today.
        turned = [report.day - SHIFT + 1 for report in past if report.version == version and report.shifted]
        first = max([day - MEMORY + 1, *turned])
        fresh = self._confusion(day - SHIFT + 1, day, version)
        known = self._confusion(first, day - SHIFT, version)
        moved = shifted(known, fresh) if known and fresh else ()
        since = day - SHIFT + 1 if moved else first
        return self._confusion(since, day, version), self._calibration(since, day, version), moved

    def _confusion(self, first: int, last: int, version: str | None) -> Confusion | None:
        """From audits that became known on these days; what is known when a day is over corrects the next one."""
        rows = self._audited(first, last + 1, version)
        if rows.is_empty():
            return None
        rows = rows.filter(pl.col("brands").list.len() > 0)  # of no other posts is there a share
        weights = (1 / rows["inclusion"]).to_list()
        brands = rows["brands"].list.join(" ").to_list()
        return confusion(np.array(rows["score"].to_list()), rows["label"].to_list(), weights, seed=last, brands=brands)

    def _calibration(self, first: int, last: int, version: str | None) -> Calibration | None:
        """From the same audits."""
        rows = self._audited(first, last + 1, version)
        if rows.is_empty():
            return None
        rows = rows.filter(pl.col("brands").list.len() > 0)
        scores, days = np.array(rows["score"].to_list()), (rows["of"] // DAY).to_list()
        return calibration(scores, rows["label"].to_list(), brands=rows["brands"].list.first().to_list(), days=days)

    def finals(
        self, day: int, reports: Sequence[Report], voting: Callable[[str], pl.DataFrame], *, known_by: int
    ) -> tuple[Final, ...]:
        """Of a day and each brand that enough of its posts were audited of; `voting` gives the rows that are counted.

        `reports`: up to the last, whose calibrations make the prediction sharper; that it is unbiased hangs on the
        audits alone, as they are drawn at random. `known_by`: event time.
        """
        rows = answers(self._lake, since=day_of(day * DAY), until=day_of(known_by + DAY))
        rows = rows.filter((pl.col("of") // DAY == day) & (pl.col("at") < known_by) & pl.col("score").is_not_null())
        if rows.is_empty():
            return ()
        known = {report.version: report.calibration for report in reports if report.calibration}
        found = []
        for brand in self._brands.names:
            counted = voting(brand).filter(pl.col("negative").is_not_null()).sort("model")
            said = _probable(counted, known)
            labels = _by_text(rows, brand, counted)
            truth = {
                place: labels[text]
                for place, text in enumerate(counted["text"])
                if labels.get(text) in LABELS[: said.shape[1]]
            }
            final = final_number(said, truth, counted["author"].to_list())
            if final is not None:
                found.append(Final(day, brand, *final, opinions=counted.height, audits=len(truth)))
        return tuple(found)

    def questions(self, day: int, voting: Callable[[str], pl.DataFrame], *, secret: bytes) -> list[Audit]:
        """Of which of a closed day's posts people are asked; `voting` gives a brand's rows that are counted."""
        read = partial(self._lake.read, since=day_of(day * DAY), until=day_of((day + 1) * DAY))
        posts, opinions = read("posts"), read("opinions")
        if posts.is_empty() or opinions.is_empty():
            return []
        gone = self._lake.read("tombstones", since=day_of((day - 1) * DAY))
        if gone.height:
            posts, opinions = (rows.join(gone.select("id"), on="id", how="anti") for rows in (posts, opinions))
        filtered = opinions.filter(pl.col("why_not").is_in(FILTERS) & (pl.col("text") != ""))
        counted = {brand: voting(brand) for brand in self._brands.names}
        return questions(day, counted, posts, filtered.unique("id", keep="first"), secret=secret)

    def _dropped_wrongly(self, day: int) -> tuple[int, int] | None:
        """Of the filtered posts that people were asked about lately: opinions after all, and how many they were."""
        rows = answers_on_filtered(self._lake, since=day_of((day + 1 - MEMORY) * DAY), until=day_of((day + 1) * DAY))
        return (rows["label"].count(), rows.height) if rows.height else None

    def _corrections(self, day: int) -> int:
        """Posts on which so many readers agree; who sends too many a day is heard for none of them."""
        rows = self._lake.read("corrections", since=day_of(day * DAY), until=day_of((day + 1) * DAY))
        if rows.is_empty():
            return 0
        kept = rows.filter(pl.len().over("reader") <= CORRECTIONS_A_DAY)
        agreed = kept.group_by("post", "label").agg(pl.col("reader").n_unique())
        return agreed.filter(pl.col("reader") >= READERS)["post"].n_unique()


def _by_text(answered: pl.DataFrame, brand: str, counted: pl.DataFrame) -> dict[int, str]:
    """What people say of the texts that were drawn for a brand: of each text it is one answer."""
    mine = answered.filter(pl.col("drawn").is_null() | pl.col("drawn").list.contains(brand)).sort("at")
    return dict(counted.join(mine.select("post", said="label"), on="post").select("text", "said").iter_rows())


def _probable(counted: pl.DataFrame, known: Mapping[str | None, Calibration]) -> NDArray[np.float64]:
    """Probabilities of the rows, in order of `model`: calibrated where the version has a calibration."""
    parts = [np.zeros((0, 3))]
    for (version,), rows in counted.group_by("model", maintain_order=True):
        scores = rows.select("negative", "neutral", "positive").to_numpy()
        of = known.get(str(version))
        parts.append(scores if of is None else calibrated(scores, of))
    return np.vstack(parts)
