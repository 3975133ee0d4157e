"""Drift: the distance of a block of rows from a reference, and the verdict.

The distance is Jensen-Shannon's, base 2, on bins fixed by the reference: 0 for the same shares, 1 for
nothing in common. It is an effect size: more rows make it less noisy, not larger, so blocks have one
size, and a smaller one counts for less. A value that goes from 3 % to 5 % of the rows is 0.04, whatever its column.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import rel_entr

Array = npt.NDArray[np.float64]

# Few bins, as each adds noise that hides a change in one; the outer two are small, because what
# drifts in a heavy-tailed column is often its tail alone.
QUANTILES = (0.05, 0.5, 0.95)
ATOM = 0.01  # of the reference's rows: a value this common (0, -1 = never, a flag) is a bin of its own

# Thirty columns over sixty days are 1,800 chances of a false alarm. At 3.5 standard deviations and two
# blocks in a row, 120 simulated runs of that length had none (blocks of 2,000 and 4,000 rows); and a flag
# that goes from 3 % to 5 % was found within three blocks 88 and 97 times in a hundred.
DEVIATIONS = 3.5
FLOOR = 0.02  # a smaller move, such as from 3.0 % to 3.8 % of the rows, raises no alarm, however certain
BLOCKS_IN_A_ROW = 2  # one odd day, a holiday or a broken till, is not drift


@dataclass(frozen=True)
class Reference:
    """What a model learnt from, as bins: built once per model, and per weekday where weekdays differ."""

    cuts: Mapping[str, Array]  # by column, ascending; the last is infinity, above which missing values sort
    shares: Mapping[str, Array]  # by column, of the rows in each bin: one more than cuts

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Self:
        """From numeric or boolean columns; 8,000 rows or more, as its own noise is in every distance."""
        cuts = {column: _cuts(_values(frame, column)) for column in frame.columns}
        return cls(cuts, {column: _shares(_values(frame, column), edges) for column, edges in cuts.items()})

    def distances(self, current: pl.DataFrame, *, block: int = 1) -> dict[str, float]:
        """Jensen-Shannon distance in [0, 1] by column that both have.

        `block`: the rows of a full block. The distance of fewer is made smaller as its noise is larger, by the root of
        their number, so that a day with little to do is not further away for nothing.

        Raises ValueError for a frame without rows: it has no shares to compare.
        """
        certain = min(1.0, current.height / block) ** 0.5
        return {
            column: certain * _distance(self.shares[column], _shares(_values(current, column), edges))
            for column, edges in self.cuts.items()
            if column in current.columns
        }


def thresholds(quiet: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By column, the distance that drift must exceed, from the distances of blocks without drift.

    The blocks have the size of those to be judged, are compared with the same reference and are no
    part of it; two dozen are enough. Raises statistics.StatisticsError for fewer than two.
    """
    spread = {column: statistics.stdev(block[column] for block in quiet) for column in quiet[0]}
    # Sampling noise of this distance hardly depends on the column, so a column that shows less than
    # the typical one had luck, and would alarm later.
    typical = statistics.median(spread.values())
    return {
        column: max(FLOOR, statistics.fmean(block[column] for block in quiet) + DEVIATIONS * max(own, typical))
        for column, own in spread.items()
    }


def drifted(history: Sequence[Mapping[str, float]], thresholds: Mapping[str, float]) -> tuple[str, ...]:
    """The columns beyond their threshold in each of the last two blocks of `history`, oldest first."""
    if len(history) < BLOCKS_IN_A_ROW:
        return ()
    recent = history[-BLOCKS_IN_A_ROW:]
    # A reference of before may have columns that are watched no more.
    return tuple(c for c, limit in thresholds.items() if all(block.get(c, 0.0) > limit for block in recent))


def spread(rows: pl.DataFrame, block: int) -> pl.DataFrame:
    """At most `block` rows, evenly over all of them: of the last as many as of the first, whatever their number."""
    return rows[np.linspace(0, rows.height - 1, min(block, rows.height)).round().astype(int)]


def report(reference: pl.DataFrame, current: pl.DataFrame, path: Path) -> None:
    """Write evidently's page of histograms, for people; its tests are its own, `drifted` is what counts."""
    # Seven seconds to import and three to run: a caller that only asks for distances must not wait for it.
    from evidently import Report
    from evidently.presets import DataDriftPreset

    path.parent.mkdir(parents=True, exist_ok=True)
    page = Report([DataDriftPreset()]).run(current.to_pandas(), reference.to_pandas())
    temporary = path.with_name(f".{path.name}")
    page.save_html(str(temporary))
    temporary.replace(path)


def _values(frame: pl.DataFrame, column: str) -> Array:
    return frame[column].cast(pl.Float64).to_numpy()


def _cuts(values: Array) -> Array:
    known = values[~np.isnan(values)]
    distinct, counts = np.unique(known, return_counts=True)
    atoms = distinct[counts >= ATOM * len(values)]
    quantiles = np.quantile(known, QUANTILES, method="nearest") if len(known) else known
    return np.unique(np.concatenate([quantiles, atoms, np.nextafter(atoms, np.inf), [np.inf]]))


def _shares(values: Array, cuts: Array) -> Array:
    if not len(values):
        raise ValueError("a block without rows has no distance; wait until it is full")
    bins = np.searchsorted(cuts, values, side="right")
    return np.bincount(bins, minlength=len(cuts) + 1) / len(values)


def _distance(p: Array, q: Array) -> float:
    # Not scipy.spatial.distance.jensenshannon: of nearly equal shares it takes the root of -1e-17, a NaN.
    middle = (p + q) / 2
    divergence = (rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2 / np.log(2)
    return float(np.sqrt(max(0.0, divergence)))
