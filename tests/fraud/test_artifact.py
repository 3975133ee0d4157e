"""What train hands over proves itself, or is refused."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from fraud import config
from fraud.artifact import BLOCK, GOLDEN, Artifact, block, drift_frame, reference
from fraud.features import NAMES
from fraud.model import Matrix, Model, ModelCorrupt, fit
from fraud.policy import Policy
from tests.worlds import learnable

LIMITS = {"amount": 0.1, "score": 0.2}


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return learnable(2_000, seed=1)[0]


@pytest.fixture(scope="module")
def trained() -> Artifact:
    matrix, frauds = learnable(2_000, seed=1)
    return Artifact(fit(matrix, frauds, np.ones(2_000), seed=1), Policy(review_price=3.0))


@pytest.fixture
def folder(trained: Artifact, matrix: Matrix, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    trained.save(folder, matrix=matrix, reference=drift_frame(matrix, trained.model.scores(matrix)), limits=LIMITS)
    return folder


def test_what_was_saved_comes_back(trained: Artifact, folder: Path, matrix: Matrix) -> None:
    again = Artifact.load(folder)
    assert again.policy == trained.policy
    assert (again.model.scores(matrix) == trained.model.scores(matrix)).all()
    frame, limits = reference(folder)
    assert limits == LIMITS
    assert_frame_equal(frame, drift_frame(matrix, trained.model.scores(matrix)))


def test_golden_samples_span_the_scores_and_the_actions(folder: Path) -> None:
    samples = json.loads((folder / "golden.json").read_text())
    scores = [sample["numbers"][0] for sample in samples]
    assert len(samples) == GOLDEN
    assert scores == sorted(scores)
    assert {sample["action"] for sample in samples} == {"approve", "review", "decline"}


def test_a_model_with_one_tree_less_fails_its_self_test(trained: Artifact, folder: Path) -> None:
    """Whole by its own digest, but not the one that was trained."""
    shorter = trained.model._booster.model_to_string(num_iteration=trained.model._booster.num_trees() - 1)
    other = Model(type(trained.model._booster)(model_str=shorter), slope=1.0, intercept=0.0)
    other.save(folder)
    with pytest.raises(ModelCorrupt, match="golden sample"):
        Artifact.load(folder)


@pytest.mark.parametrize("price", [3.01, 2.99, 30.0, -1.0, float("nan"), float("inf")])
def test_another_price_of_review_fails_the_self_test(folder: Path, price: float) -> None:
    (folder / "policy.json").write_text(json.dumps({"review_price": price}))
    with pytest.raises(ModelCorrupt, match="golden sample 0"):
        Artifact.load(folder)


@pytest.mark.parametrize("name", ["CHARGEBACK_FEE", "DECLINE_PRICE", "DECLINE_SHARE", "REVIEW_CATCH"])
def test_another_price_in_the_code_fails_the_self_test(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until a version keeps all of its prices, a change of one needs a training."""
    monkeypatch.setattr(config, name, 0.5 * getattr(config, name))
    with pytest.raises(ModelCorrupt, match="golden sample"):
        Artifact.load(folder)


@pytest.mark.parametrize("text", ["", "[]", "7", '{"review_price": "3"}', '{"review_price": 3.0, "other": 1}', "{"])
def test_an_unreadable_policy_is_refused(folder: Path, text: str) -> None:
    (folder / "policy.json").write_text(text)
    with pytest.raises(ModelCorrupt):
        Artifact.load(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]", "7", "[" + ", ".join(["{}"] * GOLDEN) + "]"])
def test_no_self_test_is_no_pass(folder: Path, text: str) -> None:
    (folder / "golden.json").write_text(text)
    with pytest.raises(ModelCorrupt):
        Artifact.load(folder)


@pytest.mark.parametrize("part", ["policy.json", "golden.json", "model.txt", "model.json"])
def test_a_missing_part_is_refused(folder: Path, part: str) -> None:
    (folder / part).unlink()
    with pytest.raises(ModelCorrupt, match=part):
        Artifact.load(folder)


def test_drift_is_not_measured_on_what_labels_told(matrix: Matrix) -> None:
    frame = drift_frame(matrix, np.zeros(len(matrix)))
    assert {"amount", "score", "weekday"} < set(frame.columns)
    assert not [name for name in frame.columns if "fraud" in name or "risk" in name]
    assert not [name for name in frame.columns if name.startswith("terminal")]  # nor on how busy the shops are
    assert set(frame.columns) <= {*NAMES, "score"}


@pytest.mark.parametrize("rows", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 3 * BLOCK + 7])
def test_a_block_is_spread_over_the_day_and_never_larger_than_promised(rows: int) -> None:
    part = block(pl.DataFrame({"second": range(rows)}))
    assert part.height == min(rows, BLOCK)
    quarters = (part["second"] * 4 // rows).value_counts()["count"]
    assert rows == 1 or quarters.to_list() == pytest.approx([part.height / 4] * 4, abs=1)
