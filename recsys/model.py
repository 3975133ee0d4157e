"""Candidates -> Ranked. Gradient-boosted trees, or a weighted blend of the sources; stored as text and JSON."""

import hashlib
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from recsys.features import DEFINITION, NAMES
from recsys.schema import SOURCES, Candidates, Floats, Ints, Ranked

PARAMETERS: dict[str, str | int | float | list[int]] = {
    "num_leaves": 15,
    "learning_rate": 0.15,
    "min_data_in_leaf": 100,
    "lambda_l2": 10.0,
    "feature_fraction": 0.7,
    "lambdarank_truncation_level": 30,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 0,  # all cores: "deterministic" keeps their number out of the result
    "verbosity": -1,
}
TREES, PATIENCE = 60, 10  # a night scores a hundred pairs a shopper: trees are what it pays for
OBJECTIVES = ("lambdarank", "binary")  # which one orders better differs from shop to shop: validation decides


class ModelCorrupt(Exception):
    """The files are not what train wrote, or belong to another definition of the features."""


class Model:
    """`booster` orders; without one the weights of the sources do."""

    def __init__(self, weights: Floats, booster: lgb.Booster | None = None) -> None:
        self.weights, self.booster = weights, booster

    def scores(self, matrix: Floats) -> Floats:
        """(n, features) -> (n,): more is better, within a user."""
        if self.booster is None:
            return np.asarray(np.nan_to_num(matrix[:, : len(SOURCES)]) @ self.weights, dtype=np.float32)
        return np.asarray(self.booster.predict(matrix, num_threads=1), dtype=np.float32)

    def rank(self, pairs: Candidates, matrix: Floats) -> Ranked:
        """Best first within each user; ties by popularity, then by item, as the candidates come."""
        scores, popular = self.scores(matrix), np.nan_to_num(matrix[:, SOURCES.index("popular")])
        order = np.lexsort((-popular, -scores, pairs.users))  # stable
        ranks = matrix[order, len(SOURCES) : 2 * len(SOURCES)]
        # A source gives a reason only where it has a score; popularity is what is left.
        best = np.where(np.isnan(ranks), np.inf, ranks)
        source = np.where(np.isfinite(best).any(axis=1), best.argmin(axis=1), SOURCES.index("popular"))
        return Ranked(pairs.users[order], pairs.items[order], scores[order], source)

    def save(self, folder: Path) -> None:
        text = b"" if self.booster is None else self.booster.model_to_string().encode()
        about = {"definition": DEFINITION, "weights": self.weights.tolist(), "sha256": hashlib.sha256(text).hexdigest()}
        (folder / "model.txt").write_bytes(text)
        (folder / "model.json").write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises ModelCorrupt: a file is missing or altered, or the features have another definition."""
        try:
            about = json.loads((folder / "model.json").read_text())
            if about["definition"] != DEFINITION:
                raise ModelCorrupt(f"model of feature definition {about['definition']}, this code has {DEFINITION}")
            text = (folder / "model.txt").read_bytes()
            # A text cut in half makes LightGBM end the whole process, so it gets to see none.
            if hashlib.sha256(text).hexdigest() != about["sha256"]:
                raise ModelCorrupt(f"model.txt in {folder.name} is not what was saved")
            weights = np.array(about["weights"], dtype=np.float32)
            if weights.shape != (len(SOURCES),):
                raise ModelCorrupt(f"{weights.size} weights for {len(SOURCES)} sources")
            return cls(weights, lgb.Booster(model_str=text.decode()) if text else None)
        except (OSError, ValueError, KeyError, TypeError, lgb.basic.LightGBMError) as error:
            raise ModelCorrupt(f"cannot load the model in {folder.name}: {error}") from error


def single(source: str) -> Model:
    """One source alone."""
    return Model(np.array([float(name == source) for name in SOURCES], dtype=np.float32))


class Labelled:
    """Candidates of some users with what each of these then bought (n rows); others have nothing to teach."""

    def __init__(self, pairs: Candidates, matrix: Floats, bought: NDArray[np.bool_]) -> None:
        # [7.1] A purchase outside lists counts, not a click: so what a list pushed is no positive. A candidate that was
        # not bought counts as passed over, shown or not: the shop shows all its items, and a ranker that learns from
        # what its own lists have shown puts what they have not shown anywhere.
        ends = np.flatnonzero(np.diff(pairs.users, append=-1)) + 1
        groups = np.diff(ends, prepend=0)
        useful = np.logical_or.reduceat(bought, ends - groups)
        rows = np.repeat(useful, groups)
        self.pairs = Candidates(pairs.users[rows], pairs.items[rows], pairs.scores[rows])
        self.matrix, self.bought, self.groups = matrix[rows], bought[rows], groups[useful]

    def data(self, like: lgb.Dataset | None = None) -> lgb.Dataset:
        """Binned, as `like` is if it is given."""
        labels = self.bought.astype(np.int32)
        return lgb.Dataset(self.matrix, labels, group=self.groups, reference=like, feature_name=list(NAMES))


def fit(train: Labelled, stop: Labelled, *, seed: int) -> list[lgb.Booster]:
    """Trees on one period, by each of OBJECTIVES; how many is told by the next one."""
    data = train.data()
    later = stop.data(like=data)
    boosters = []
    for objective in OBJECTIVES:
        metric = "ndcg" if objective == "lambdarank" else "binary_logloss"
        parameters = PARAMETERS | {"objective": objective, "seed": seed, "metric": metric, "eval_at": [20]}
        stopping: list[Callable[..., Any]] = [lgb.early_stopping(PATIENCE, verbose=False)]
        boosters.append(lgb.train(parameters, data, TREES, valid_sets=[later], callbacks=stopping))
    return boosters


def lists(ranked: Ranked) -> dict[int, tuple[Ints, Ints]]:
    """By user: items best first, and the source of each."""
    starts = [*np.flatnonzero(np.diff(ranked.users, prepend=-1)), ranked.users.size]
    return {int(ranked.users[a]): (ranked.items[a:b], ranked.sources[a:b]) for a, b in pairwise(starts)}
