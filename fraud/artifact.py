"""The model bundle that training hands to serving: model, policy, golden samples and drift reference."""

import json
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl

from fraud.features import NAMES
from fraud.model import Matrix, Model, ModelCorrupt, Vector
from fraud.policy import Policy, decide
from shared import drift

BLOCK = 4_000  # payments of a day that drift is measured on
GOLDEN = 50  # samples that every process must score and decide as train did


class Artifact(NamedTuple):
    model: Model
    policy: Policy

    def save(self, folder: Path, *, matrix: Matrix, reference: pl.DataFrame, limits: dict[str, float]) -> None:
        """Write all parts; golden samples are drawn evenly from `matrix`, (n, features), n >= GOLDEN.

        `reference`: features, `score` and `weekday` of quiet payments; `limits`: the distance by column
        that drift has to exceed.
        """
        folder.mkdir(parents=True)
        self.model.save(folder)
        (folder / "policy.json").write_text(json.dumps(self.policy._asdict(), indent=1))
        order = np.argsort(self.model.margins(matrix), kind="stable")
        rows = matrix[order[np.linspace(0, len(order) - 1, GOLDEN).astype(int)]]
        samples = [{"features": row} | self._outcome(row) for row in rows.tolist()]
        (folder / "golden.json").write_text(json.dumps(samples))
        reference.write_parquet(folder / "reference.parquet")
        (folder / "limits.json").write_text(json.dumps(limits, indent=1))

    def _outcome(self, row: list[float]) -> dict[str, Any]:
        """What is decided, and the numbers behind it: any other parameter of the policy shows in the costs."""
        score, cents = self.model.score(row), round(row[NAMES.index("amount")] * 100)
        verdict = decide(score, cents, self.policy, free=True, draw=lambda: 1.0)
        return {"action": verdict.action, "numbers": [score, *verdict.costs.values()]}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read, warm up and self-test.

        Raises:
            ModelCorrupt: a part is unreadable, or a golden sample comes out otherwise than in training.
        """
        try:
            policy = Policy(**json.loads((folder / "policy.json").read_text()))
            golden = json.loads((folder / "golden.json").read_text())
            artifact = cls(Model.load(folder), policy)
            if len(golden) != GOLDEN:
                raise ModelCorrupt(f"{len(golden)} golden samples in {folder.name} instead of {GOLDEN}")
            for number, sample in enumerate(golden):
                artifact._test(number, sample)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelCorrupt(f"cannot read the policy in {folder.name}: {error}") from error
        return artifact

    def _test(self, number: int, sample: dict[str, Any]) -> None:
        now = self._outcome(sample["features"])
        pairs = zip(now["numbers"], sample["numbers"], strict=True)
        # Not bit by bit: another platform's `exp` may differ in the last one. A NaN is near nothing.
        if now["action"] != sample["action"] or not all(abs(a - b) <= 1e-9 for a, b in pairs):
            then = f"{sample['action']} {sample['numbers']}"
            raise ModelCorrupt(f"golden sample {number}: {now['action']} {now['numbers']}; in training {then}")


def drift_frame(matrix: Matrix, scores: Vector) -> pl.DataFrame:
    """What drift is measured on: how people pay, `score`, and `weekday`; (n, features) -> n rows."""
    # [5.3] What the labels told is left out: terminals and cards with frauds come and go in a quiet world too. So is
    # how busy the terminals are: with more customers all of them are, and no customer has changed.
    frame = pl.DataFrame(matrix, schema=list(NAMES), orient="row")
    others = [name for name in NAMES if "fraud" in name or name.startswith("terminal")]
    return frame.drop(others).with_columns(pl.col("weekday").cast(pl.Int64), score=pl.Series(scores))


def block(rows: pl.DataFrame) -> pl.DataFrame:
    """At most BLOCK rows, spread evenly over the day: a distance depends on the number that it is made of."""
    return drift.spread(rows, BLOCK)


def reference(folder: Path) -> tuple[pl.DataFrame, dict[str, float]]:
    """The reference of drift, and its limits by column."""
    limits: dict[str, float] = json.loads((folder / "limits.json").read_text())
    return pl.read_parquet(folder / "reference.parquet"), limits
