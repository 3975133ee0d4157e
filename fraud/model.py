"""Features -> Score. A calibrated LightGBM model, stored as text and JSON and never as a pickle."""

import ctypes
import hashlib
import json
from math import exp, inf, isfinite
from pathlib import Path
from typing import Self

import lightgbm as lgb
import numpy as np
from lightgbm.libpath import _LIB
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from fraud.features import DEFINITION, NAMES
from fraud.schema import Features, Score

Matrix = NDArray[np.float64]  # (payments, features)
Vector = NDArray[np.float64]  # (payments,)

# [3.1] A table with labels, few frauds and money on the ranking: boosted trees, then Platt scaling, since
# the policy multiplies the probability by an amount. Anomaly detection would ignore the labels.
# [3.2] Few leaves and strong shrinkage: frauds are one in a hundred, and a small tree is one that an
# analyst can follow. Many bins, because fraud rules are sharp in the amount and a histogram blurs them.
PARAMETERS: dict[str, str | int | float] = {
    "objective": "binary",
    "num_leaves": 8,
    "learning_rate": 0.1,
    "lambda_l2": 10.0,
    "min_data_in_leaf": 50,
    "max_bin": 1023,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,  # two spin for one another: beside a busy worker a fit took ten times as long, for the same trees
    "verbosity": -1,
}
# [3.3] Nothing pre-trained: a shop's name or a card's habit means nothing in another bank, and what does carry
# over, the windows, is in the features. The trees are learnt anew in seconds, so there is nothing to transfer.
TREES = 200
LARGEST = 700.0  # log-odds against fraud whose exponential is still a number
RAW_SCORE, CONTRIBUTIONS, FLOAT64 = 1, 3, 1  # LightGBM's C constants


class ModelCorrupt(Exception):
    """The artifact is not what train wrote, or belongs to another definition of the features."""


class SingleRow:
    """LightGBM's own entry for one row: through Booster.predict the wrapping costs five times the trees."""

    def __init__(self, booster: lgb.Booster, kind: int, outputs: int) -> None:
        self._booster = booster  # owns the memory that the handle points to
        self._row = (ctypes.c_double * len(NAMES))()
        self._out = (ctypes.c_double * outputs)()
        self._count = ctypes.c_int64()
        self._handle = ctypes.c_void_p()
        failed = _LIB.LGBM_BoosterPredictForMatSingleRowFastInit(
            booster._handle, kind, 0, -1, FLOAT64, len(NAMES), b"num_threads=1", ctypes.byref(self._handle)
        )
        if failed:
            raise ModelCorrupt(ctypes.string_at(_LIB.LGBM_GetLastError()).decode())

    def __del__(self) -> None:
        if self._handle:
            _LIB.LGBM_FastConfigFree(self._handle)

    def __call__(self, features: Features) -> "ctypes.Array[ctypes.c_double]":
        self._row[:] = features  # type: ignore[assignment]  # ctypes takes floats; its stub forgets that
        _LIB.LGBM_BoosterPredictForMatSingleRowFast(self._handle, self._row, ctypes.byref(self._count), self._out)
        return self._out


class Model:
    def __init__(self, booster: lgb.Booster, *, slope: float, intercept: float) -> None:
        self._booster, self.slope, self.intercept = booster, slope, intercept
        self._margin = SingleRow(booster, RAW_SCORE, 1)
        self._contributions = SingleRow(booster, CONTRIBUTIONS, len(NAMES) + 1)

    def score(self, features: Features) -> Score:
        """The calibrated probability of fraud of one payment."""
        return 1 / (1 + exp(min(LARGEST, -self.log_odds(features))))

    def log_odds(self, features: Features) -> float:
        """The same as log-odds, which can be told apart where probabilities are all but 0 or 1."""
        return self.slope * self._margin(features)[0] + self.intercept

    def scores(self, matrix: Matrix) -> Vector:
        """The same for many payments: (n, features) -> (n,)."""
        return np.asarray(1 / (1 + np.exp(np.minimum(LARGEST, -self.slope * self.margins(matrix) - self.intercept))))

    def margins(self, matrix: Matrix) -> Vector:
        """The uncalibrated log-odds."""
        return np.asarray(self._booster.predict(matrix, raw_score=True), dtype=np.float64)

    def contributions(self, features: Features) -> dict[str, float]:
        """What each feature added to the log-odds of one payment (SHAP values, computed by LightGBM)."""
        return dict(zip(NAMES, self._contributions(features), strict=False))  # the last is the mean

    def importances(self) -> dict[str, float]:
        """By feature, the loss that its splits have saved in training."""
        gains = self._booster.feature_importance("gain").tolist()
        return dict(sorted(zip(NAMES, gains, strict=True), key=lambda item: -item[1]))

    def calibrated(self, matrix: Matrix, frauds: Vector, weights: Vector) -> Self:
        """The same trees under a new Platt scaling, which keeps the ranking without ties."""
        # Platt's own targets: a fraud and a legitimate payment more, each as likely to be either. A block that the
        # margins part without a mistake would have no end of slope.
        margins, positive = self.margins(matrix)[:, None], float((weights * frauds).sum())
        negative = float(weights.sum()) - positive
        target = np.where(frauds == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
        platt = LogisticRegression(C=np.inf)  # type: ignore[no-untyped-call]  # sklearn has no annotations
        halves = np.concatenate([weights * target, weights * (1 - target)])
        platt.fit(np.concatenate([margins, margins]), np.repeat([1, 0], len(margins)), halves)
        return type(self)(self._booster, slope=float(platt.coef_[0, 0]), intercept=float(platt.intercept_[0]))

    def shifted(self, log_odds: float) -> Self:
        """The same ranking under other odds."""
        return type(self)(self._booster, slope=self.slope, intercept=self.intercept + log_odds)

    def save(self, folder: Path) -> None:
        """Write model.txt (LightGBM's own text) and model.json."""
        text = self._booster.model_to_string().encode()
        (folder / "model.txt").write_bytes(text)
        about = {"definition": DEFINITION, "names": NAMES, "slope": self.slope, "intercept": self.intercept}
        (folder / "model.json").write_text(json.dumps(about | {"sha256": _digest(text)}, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ModelCorrupt: unreadable, or made for another definition of the features.
        """
        try:
            about = json.loads((folder / "model.json").read_text())
            if about["definition"] != DEFINITION:
                raise ModelCorrupt(f"model of feature definition {about['definition']}, this code has {DEFINITION}")
            if not (0 < about["slope"] < inf and isfinite(about["intercept"])):
                raise ModelCorrupt(f"calibration {about['slope']}, {about['intercept']} keeps no ranking")
            text = (folder / "model.txt").read_bytes()
            # A text cut in half makes LightGBM end the whole process, so it gets to see none.
            if _digest(text) != about["sha256"]:
                raise ModelCorrupt(f"model.txt in {folder.name} is not what was saved")
            return cls(lgb.Booster(model_str=text.decode()), slope=about["slope"], intercept=about["intercept"])
        except (OSError, ValueError, KeyError, TypeError, lgb.basic.LightGBMError) as error:
            raise ModelCorrupt(f"cannot load the model in {folder.name}: {error}") from error


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def fit(matrix: Matrix, frauds: Vector, weights: Vector, *, seed: int) -> Model:
    """Train on (n, features), labels 0 or 1, and weights that undo what the policy has hidden."""
    data = lgb.Dataset(matrix, frauds, weight=weights, feature_name=list(NAMES))
    return Model(lgb.train(PARAMETERS | {"seed": seed}, data, TREES), slope=1.0, intercept=0.0)
