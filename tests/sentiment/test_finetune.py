"""The transformer: learnt in torch, served without it, and deaf to a post's neighbours."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sentiment.config import LABELS
from sentiment.features import normalise
from sentiment.finetune import Recipe, finetune, pretrained
from sentiment.grammar import LEARNT
from sentiment.model import ModelCorrupt, Transformer
from sentiment.simulate import simulate
from shared.checklist import ROOT
from tests.sentiment.crowd import START

SHORT = Recipe(posts=320, epochs=1, rate=2e-4)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    posts = simulate(seed=5, start=START, days=1, posts_a_day=500, grammar=LEARNT)
    made = tmp_path_factory.mktemp("transformer")
    finetune([normalise(text) for text in posts["text"]], posts["label"].to_list(), made, recipe=SHORT, seed=1)
    return made


@pytest.fixture(scope="module")
def transformer(folder: Path) -> Transformer:
    return Transformer(folder)


def test_it_has_learnt_something(transformer: Transformer) -> None:
    posts = simulate(seed=6, start=START, days=1, posts_a_day=200, grammar=LEARNT).filter(kind="plain")
    said = [LABELS[int(np.argmax(transformer.score(normalise(text))))] for text in posts["text"]]
    right = np.mean([a == b for a, b in zip(said, posts["label"], strict=True)])
    assert right > 0.5


def test_a_score_hangs_on_no_neighbour(transformer: Transformer) -> None:
    texts = ["the app is great", "so slow today", "x " * 200, "pouting face"]
    alone = [transformer.score(text) for text in texts]
    assert [transformer.score(text) for text in reversed(texts)][::-1] == alone
    assert all(sum(score) == pytest.approx(1) for score in alone)


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
