"""The model bundle that training hands to the nightly job: source parameters, ranker, policy, drift reference.

A night refits the sources and keeps the ranker: sources forget what they have not seen today, a ranker does not.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from recsys.candidates import BLOCK, candidates
from recsys.features import NAMES, Facts
from recsys.model import Model, ModelCorrupt
from recsys.policy import Policy
from recsys.schema import SOURCES, Candidates, Floats, Ints, Ranked
from recsys.sources import Parameters, Sources

GOLDEN = 50  # samples that every process must score as train did
PLAIN = np.array([0.3, 0.3, 0.25, 0.05, 0.1], dtype=np.float32)  # of SOURCES, until one is learnt


class Recipe(NamedTuple):
    parameters: Parameters = Parameters()
    model: Model = Model(PLAIN)
    policy: Policy = Policy()

    def candidates(self, facts: Facts, sources: Sources, users: Ints) -> tuple[Candidates, Floats]:
        """Candidates and their features, (n, features), of all these users."""
        blocks = [users[start : start + BLOCK] for start in range(0, users.size, BLOCK)]
        pairs = [candidates(sources, block, pool=self.parameters.pool) for block in blocks]
        matrices = [facts.matrix(block) for block in pairs if block.users.size]
        joined = Candidates(*(np.concatenate(part) for part in zip(*pairs, strict=True)))
        return joined, np.concatenate(matrices) if matrices else np.empty((0, len(NAMES)), np.float32)

    def rank(self, facts: Facts, sources: Sources, users: Ints, *, most: int) -> Ranked:
        """The best `most` of each user, block by block: no more than one block's features a core are in memory."""
        empty = np.empty(0, dtype=np.int64)
        none = Ranked(empty, empty, np.empty(0, np.float32), empty)

        def best(block: Ints) -> Ranked:
            pairs = candidates(sources, block, pool=self.parameters.pool)
            if not pairs.users.size:
                return none
            ranked = self.model.rank(pairs, facts.matrix(pairs))
            starts = np.flatnonzero(np.diff(ranked.users, prepend=-1))
            place = np.arange(ranked.users.size) - np.repeat(starts, np.diff(starts, append=ranked.users.size))
            kept = place < most
            return Ranked(ranked.users[kept], ranked.items[kept], ranked.scores[kept], ranked.sources[kept])

        # Threads, since all of this leaves Python's lock to others; blocks keep their order, so no result changes.
        blocks = [users[start : start + BLOCK] for start in range(0, users.size, BLOCK)]
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(best, blocks))
        return Ranked(*(np.concatenate(part) for part in zip(none, *found, strict=True)))

    def save(self, folder: Path, *, matrix: Floats, reference: pl.DataFrame, limits: dict[str, float]) -> None:
        """All parts; golden samples come evenly from `matrix`, (n, features).

        `reference`: columns of drift and `weekday` of quiet days; `limits`: the distance that drift has to exceed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save(folder)
        about = {"parameters": self.parameters._asdict(), "policy": self.policy._asdict()}
        (folder / "recipe.json").write_text(json.dumps(about, indent=1))
        rows = matrix[np.linspace(0, len(matrix) - 1, GOLDEN).astype(int)]
        golden = {"features": rows.tolist(), "scores": self.model.scores(rows).tolist()}
        (folder / "golden.json").write_text(json.dumps(golden))
        reference.write_parquet(folder / "reference.parquet")
        (folder / "limits.json").write_text(json.dumps(limits, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read, warm up and self-test.

        Raises:
            ModelCorrupt: a part is unreadable, or a golden sample comes out otherwise than in training.
        """
        try:
            about = json.loads((folder / "recipe.json").read_text())
            golden = json.loads((folder / "golden.json").read_text())
            recipe = cls(Parameters(**about["parameters"]), Model.load(folder), Policy(**about["policy"]))
            rows = np.array(golden["features"], dtype=np.float32)
            if rows.shape != (GOLDEN, len(NAMES)):
                raise ModelCorrupt(f"golden samples of shape {rows.shape} in {folder.name}")
            if not np.allclose(recipe.model.scores(rows), golden["scores"], rtol=0, atol=1e-5):
                raise ModelCorrupt(f"golden samples of {folder.name} come out otherwise than in training")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelCorrupt(f"cannot read the recipe in {folder.name}: {error}") from error
        return recipe

    def describe(self) -> dict[str, str | int | float]:
        """For the registry."""
        weights = {f"weight_{name}": float(w) for name, w in zip(SOURCES, self.model.weights, strict=True)}
        trees = self.model.booster.num_trees() if self.model.booster else 0
        return {**self.parameters._asdict(), **self.policy._asdict(), **weights, "trees": trees}


def reference(folder: Path) -> tuple[pl.DataFrame, dict[str, float]]:
    """The reference of drift, and its limits by column.

    Raises:
        ModelCorrupt: a file is missing or damaged.
    """
    try:
        limits: dict[str, float] = json.loads((folder / "limits.json").read_text())
        return pl.read_parquet(folder / "reference.parquet"), limits
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise ModelCorrupt(f"cannot read the reference of drift in {folder.name}: {error}") from error
