"""The transformer: learnt in torch, served without it, and deaf to a post's neighbours."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sentiment.artifact import Artifact, drift_frame, reference
from sentiment.config import DAY
from sentiment.explanation import moved
from sentiment.features import normalise
from sentiment.finetune import finetune, pretrained
from sentiment.grammar import LIVE
from sentiment.model import ModelCorrupt, Transformer
from sentiment.opinions import seen
from sentiment.policy import LABELS
from sentiment.recipe import Recipe
from sentiment.simulate import Crisis, simulate
from sentiment.train import BLOCK
from shared import drift
from shared.checklist import ROOT
from tests.e2e.test_sentiment_kill import compare, kill
from tests.sentiment.crowd import BRANDS, START, TODAY, Crowd, Trained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def folder(tuned: Trained) -> Path:
    return tuned.var / "models" / tuned.release.digest


@pytest.fixture(scope="session")
def transformer(folder: Path) -> Transformer:
    return Transformer(folder)


def test_it_reaches_what_the_budget_says_and_passes_the_gate(tuned: Trained) -> None:
    """.70 to .80 in words that it has not learnt, and the linear model .60 to .70: there is something left to audit."""
    figures = tuned.release.figures
    assert 0.70 <= figures["macro_recall"] <= 0.80
    assert 0.58 <= figures["linear_macro_recall"] <= 0.72


def test_a_score_hangs_on_no_neighbour(transformer: Transformer) -> None:
    texts = ["the app is great", "so slow today", "x " * 200, "pouting face"]
    alone = [transformer.score(text) for text in texts]
    assert [transformer.score(text) for text in reversed(texts)][::-1] == alone
    assert all(sum(score) == pytest.approx(1) for score in alone)


def texts(**more: object) -> list[str]:
    posts = simulate(seed=9, start=START, days=1, posts_a_day=700, grammar=LIVE, **more)  # type: ignore[arg-type]  # handed on as they come
    return [
        seen(text, BRANDS)
        for text in posts.filter(~pl.col("kind").is_in(["foreign", "spam"]))["text"].unique(maintain_order=True)
    ]


def test_new_words_lie_where_nothing_lay_and_a_crisis_does_not(folder: Path) -> None:
    artifact = Artifact.load(folder)
    normal, limits = reference(folder)

    def far(said: list[str]) -> set[str]:
        rows = said[:BLOCK]
        frame = drift_frame(rows, [artifact.score(text, "transformer") for text in rows], artifact)
        found = drift.Reference.of(normal).distances(frame)
        return {name for name, limit in limits.items() if found[name] > limit}

    assert "distance" in limits
    assert far(texts()) == set()
    assert far(texts(crises=[Crisis("northair", START)])) == set()
    assert "distance" in far(texts(slang_from=START))


def test_the_words_that_moved_it_are_found_by_the_model_that_served(folder: Path) -> None:
    """The deletion test, and "not" among the first three words of a negation."""
    artifact, rng = Artifact.load(folder), np.random.default_rng(1)
    moving, any_two, negations = list[float](), list[float](), list[bool]()
    for text in texts()[:80]:
        score, words = artifact.score(text, "transformer"), text.split()
        best = int(np.argmax(score))
        found = moved(text, LABELS[best], artifact)
        order = sorted(range(len(found)), key=lambda place: -found[place].moved)
        for places, into in ((order[:2], moving), (rng.permutation(len(words))[:2].tolist(), any_two)):
            left = " ".join(word for place, word in enumerate(words) if place not in places)
            into.append(score[best] - artifact.score(left, "transformer")[best])
    for thing in ("app", "crew", "seat", "bill", "network", "support", "screen", "bread"):
        text = f"the northair {thing} is not good"
        found = moved(text, LABELS[int(np.argmax(artifact.score(text, "transformer")))], artifact)
        first = sorted(found, key=lambda word: -abs(word.moved))[:3]
        negations.append("not" in {word.word for word in first if word.moved})
    assert np.mean(moving) > 2 * np.mean(any_two)
    assert np.mean(negations) > 0.5


def test_a_word_that_is_none_is_counted(transformer: Transformer) -> None:
    assert transformer.pieces("the app") == (2, 0)
    assert transformer.pieces("the 🫠") == (2, 1)


def test_a_retrain_goes_on_from_the_weights(folder: Path, tmp_path: Path) -> None:
    """Two new emoji of opposite meaning, that are names by then, become separable."""
    texts = [normalise(f"that app {emoji} {n}") for n in range(160) for emoji in ("🫠", "🫶")]
    labels = ["negative", "positive"] * 160
    finetune(texts, labels, tmp_path, recipe=Recipe(posts=320, epochs=1, rate=2e-4), seed=1, start=folder)
    again = Transformer(tmp_path)
    assert np.argmax(again.score(normalise("that app 🫠"))) == 0
    assert np.argmax(again.score(normalise("that app 🫶"))) == 2


def test_weights_that_are_not_the_known_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (pretrained() / "tokenizer.json").exists()
    monkeypatch.setattr("sentiment.finetune.SHA256", "0" * 64)
    with pytest.raises(ModelCorrupt, match="SHA-256"):
        pretrained()


WITHOUT = """
import sys
from pathlib import Path
from importlib.machinery import ModuleSpec
class Blocked:  # it may be looked for, as polars does, and not be imported
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.split(".")[0] in ("torch", "transformers") else None
    def create_module(self, spec):
        raise ImportError(f"{spec.name} is blocked")
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Blocked())
import sentiment.serve, sentiment.stream, sentiment.batch
from sentiment.model import Transformer
print(Transformer(Path(sys.argv[1])).score("the app is great"))
"""


def test_what_serves_needs_neither_torch_nor_transformers(folder: Path, transformer: Transformer) -> None:
    command = [sys.executable, "-c", WITHOUT, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(transformer.score("the app is great"))


@pytest.mark.kill
@pytest.mark.e2e
def test_one_that_scores_with_the_transformer_is_killed_and_says_the_same(tuned: Trained, tmp_path: Path) -> None:
    posts = tuned.posts.filter(pl.col("at") < TODAY + DAY).head(250)
    with closing(Crowd(tuned, tmp_path / "killed")) as killed, closing(Crowd(tuned, tmp_path / "quiet")) as quiet:
        kill(killed, posts, 1)
        compare(killed, quiet, posts)
        paths = {opinion.path for opinion in killed.opinions() if opinion.score}
        assert paths == {"transformer"}
