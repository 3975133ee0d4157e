"""The models as they are served, and the artifact they travel in."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from sentiment.artifact import GOLDEN, Artifact, drift_frame, reference
from sentiment.explanation import NOISE, moved
from sentiment.features import normalise
from sentiment.grammar import LEARNT, LIVE
from sentiment.model import CHARACTERS, WORDS, Linear, ModelCorrupt, softmax
from sentiment.policy import LABELS
from sentiment.simulate import simulate
from tests.sentiment.crowd import START, Trained


@pytest.fixture(scope="module")
def learnt() -> tuple[list[str], list[str]]:
    posts = simulate(seed=5, start=START, days=1, posts_a_day=600, grammar=LEARNT)
    return [normalise(text) for text in posts["text"]], posts["label"].to_list()


@pytest.fixture(scope="module")
def linear(learnt: tuple[list[str], list[str]]) -> Linear:
    return Linear.fit(*learnt, seed=1)


@pytest.fixture
def folder(world: Trained, tmp_path: Path) -> Path:
    """A copy of the artifact that may be damaged."""
    return Path(shutil.copytree(world.var / "models" / world.release.digest, tmp_path / "model"))


def test_scores_are_what_sklearn_says(linear: Linear, learnt: tuple[list[str], list[str]]) -> None:
    texts, labels = learnt
    parts = [TfidfVectorizer(**options, dtype=np.float32) for options in (WORDS, CHARACTERS)]  # type: ignore[no-untyped-call]  # scikit-learn is untyped
    logits = linear._bias.astype(float)
    start = 0
    for part in parts:
        matrix = part.fit_transform(texts)  # type: ignore[no-untyped-call]  # scikit-learn is untyped
        logits = logits + (matrix @ linear._weights[:, start : start + matrix.shape[1]].T)
        start += matrix.shape[1]
    expected = softmax(logits)
    assert np.abs(np.array([linear.score(text) for text in texts]) - expected).max() < 1e-5
    assert len(labels) == len(texts)


def test_it_comes_back_as_it_was_saved(linear: Linear, tmp_path: Path) -> None:
    linear.save(tmp_path)
    again = Linear.load(tmp_path)
    for text in ("that app is great", "", "@user 123", "pouting face"):
        assert again.score(text) == linear.score(text)


def test_unknown_words_are_counted(linear: Linear) -> None:
    assert linear.pieces("the app zonked") == (3, 1)


def test_an_artifact_passes_its_self_test(folder: Path) -> None:
    artifact = Artifact.load(folder)
    assert artifact.path == "linear"
    assert artifact.score("that is great", "transformer") == artifact.linear.score("that is great")
    assert len(json.loads((folder / "golden.json").read_text())) == GOLDEN
    frame, limits = reference(folder)
    assert frame.height >= GOLDEN
    assert set(limits) <= set(frame.columns)


def alter(folder: Path, name: str, change: str) -> None:
    golden = json.loads((folder / "golden.json").read_text())
    if change == "score":
        golden[3]["scores"]["linear"][0] += 0.01
    elif change == "fewer":
        golden = golden[:-1]
    (folder / name).write_text(json.dumps(golden))


@pytest.mark.parametrize("change", ["score", "fewer"])
def test_golden_samples_that_come_out_otherwise_are_seen(folder: Path, change: str) -> None:
    alter(folder, "golden.json", change)
    with pytest.raises(ModelCorrupt, match="golden"):
        Artifact.load(folder)


@pytest.mark.parametrize("name", ["linear.npz", "linear.json", "policy.json", "golden.json"])
def test_a_damaged_part_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[: (folder / name).stat().st_size // 2])
    with pytest.raises(ModelCorrupt):
        Artifact.load(folder)


def test_another_normaliser_is_refused(folder: Path) -> None:
    about = json.loads((folder / "linear.json").read_text())
    (folder / "linear.json").write_text(json.dumps(about | {"definition": "another"}))
    with pytest.raises(ModelCorrupt, match="normaliser"):
        Artifact.load(folder)


def test_a_transformer_that_cannot_be_read_is_refused(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ModelCorrupt, match="transformer"):
        Artifact.load(folder)


def test_what_is_new_shows_in_the_drift_frame(folder: Path) -> None:
    artifact = Artifact.load(folder)
    known, new = ["the app is great"] * 4, ["zonked skylark grizzle twirl"] * 4
    frames = [drift_frame(texts, [artifact.score(t, "linear") for t in texts], artifact) for texts in (known, new)]
    assert frames[0]["unknown"].mean() == 0
    assert frames[1]["unknown"].mean() == 1


def test_the_word_that_moved_most_is_found_and_a_filler_is_not(folder: Path) -> None:
    artifact = Artifact.load(folder)
    words = {word.word: word.moved for word in moved("my app is terrible", "negative", artifact)}
    assert max(words, key=words.__getitem__) == "terrible"
    assert all(value == 0 or abs(value) > NOISE["linear"] for value in words.values())


def test_without_the_words_that_moved_it_an_opinion_falls_further_than_without_any_others(folder: Path) -> None:
    """The deletion test: two words left out, the most moving ones or any."""
    artifact, rng = Artifact.load(folder), np.random.default_rng(1)
    posts = simulate(seed=9, start=START, days=1, posts_a_day=150, grammar=LIVE).filter(kind="plain")
    moving, any_two = list[float](), list[float]()
    for text in map(normalise, posts["text"]):
        scores = artifact.score(text, artifact.path)
        best, words = int(np.argmax(scores)), text.split()
        label = LABELS[best]
        found = moved(text, label, artifact)
        first = sorted(range(len(found)), key=lambda place: -found[place].moved)[:2]
        for places, into in ((first, moving), (rng.permutation(len(words))[:2].tolist(), any_two)):
            left = " ".join(word for place, word in enumerate(words) if place not in places)
            into.append(scores[best] - artifact.score(left, artifact.path)[best])
    assert np.mean(moving) > 2 * np.mean(any_two)
