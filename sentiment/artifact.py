"""The model bundle that training hands to serving: models, policy, golden samples and drift reference."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sentiment.model import Linear, ModelCorrupt, Transformer
from sentiment.policy import Policy
from sentiment.schema import Path as By
from sentiment.schema import Score, Text

Places = NDArray[np.float64]  # (labels, width): mean places, whose lengths say how close to them posts lie
GOLDEN = 40  # samples that every process must score as train did
# Not bit by bit: int8 kernels differ between processors, and `exp` in the last bit. A NaN is near nothing.
NEAR = {"linear": 1e-6, "transformer": 0.05}


class Artifact(NamedTuple):
    """Without a transformer the linear model scores everything: a first evening, or a machine that has none."""

    linear: Linear
    transformer: Transformer | None
    policy: Policy
    places: Places | None = None  # where the quiet posts of each label lay; none without a transformer

    @property
    def path(self) -> By:
        return "linear" if self.transformer is None else "transformer"

    def score(self, text: Text, path: By) -> Score:
        if self.transformer is None or path == "linear":
            return self.linear.score(text)
        return self.transformer.score(text)

    def pieces(self, text: Text) -> tuple[int, int]:
        """Pieces of a text, and those among them that the model does not know."""
        return (self.transformer or self.linear).pieces(text)

    def placed(self, texts: Sequence[Text], scores: Sequence[Score]) -> Self:
        """With the places of the labels, from quiet posts and their scores."""
        if self.transformer is None:
            return self
        found = np.array([self.transformer.embed(text) for text in texts])
        said = np.array(scores).argmax(axis=1)
        return self._replace(places=np.array([found[said == label].mean(axis=0) for label in np.unique(said)]))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read, warm up and self-test.

        Raises:
            ModelCorrupt: a part is unreadable, or a golden sample comes out otherwise than in training.
        """
        try:
            policy = Policy(**json.loads((folder / "policy.json").read_text()))
            golden = json.loads((folder / "golden.json").read_text())
            places = np.load(folder / "places.npy", allow_pickle=False) if (folder / "places.npy").exists() else None
        except (OSError, ValueError, TypeError) as error:
            raise ModelCorrupt(f"cannot read policy, samples or places in {folder.name}: {error}") from error
        transformer = Transformer(folder) if (folder / "model.onnx").exists() else None
        artifact = cls(Linear.load(folder), transformer, policy, places)
        if len(golden) != GOLDEN:
            raise ModelCorrupt(f"{len(golden)} golden samples in {folder.name} instead of {GOLDEN}")
        for number, sample in enumerate(golden):
            for path, then in sample["scores"].items():
                now = artifact.score(sample["text"], path)
                if not all(abs(a - b) <= NEAR[path] for a, b in zip(now, then, strict=True)):
                    raise ModelCorrupt(f"golden sample {number} by {path}: {now}, in training {then}")
        return artifact

    def save(self, folder: Path, *, texts: Sequence[Text], reference: pl.DataFrame, limits: dict[str, float]) -> None:
        """Write what is not in the folder yet: `finetune` has put the transformer's files there.

        `texts`: quiet posts, GOLDEN or more, and `reference` their drift frame; `limits`: by column, the distance
        that drift has to exceed.
        """
        self.linear.save(folder)
        (folder / "policy.json").write_text(json.dumps(self.policy._asdict(), indent=1))
        chosen = [texts[place] for place in np.linspace(0, len(texts) - 1, GOLDEN).astype(int)]
        paths: tuple[By, ...] = ("linear",) if self.transformer is None else ("linear", "transformer")
        golden = [{"text": text, "scores": {path: self.score(text, path) for path in paths}} for text in chosen]
        (folder / "golden.json").write_text(json.dumps(golden))
        reference.write_parquet(folder / "reference.parquet")
        if self.places is not None:
            np.save(folder / "places.npy", self.places, allow_pickle=False)
        (folder / "limits.json").write_text(json.dumps(limits, indent=1))


def drift_frame(texts: Sequence[Text], scores: Sequence[Score], artifact: Artifact) -> pl.DataFrame:
    """What drift is measured on, a row a text: how it is written, how much of it is unknown, how it is scored."""
    # [5.3] New words show before any label does: a word that falls into many pieces, or is none at all, is one
    # that the model has not met.
    pieces = [artifact.pieces(text) for text in texts]
    words = [max(1, len(text.split())) for text in texts]
    frame = pl.DataFrame(
        {
            "words": words,
            "pieces_per_word": [count / n for (count, _), n in zip(pieces, words, strict=True)],
            "unknown": [unknown / max(1, count) for count, unknown in pieces],
            "negative": [score[0] for score in scores],
            "positive": [score[2] for score in scores],
            "confidence": [max(score) for score in scores],
        },
        schema_overrides={"words": pl.Float64},
    )
    if artifact.transformer is None or artifact.places is None:
        return frame
    return frame.with_columns(
        distance=_distances([artifact.transformer.embed(text) for text in texts], artifact.places)
    )


def _distances(found: Sequence[NDArray[np.float64]], places: Places) -> NDArray[np.float64]:
    """How far texts lie from the nearest label, as a multiple of what is usual for that label.

    From the nearest, and by its own measure: a crisis moves posts from one label to another, and that is no drift.
    """
    # The length of a mean of unit vectors is the mean cosine between them and it.
    lengths = np.linalg.norm(places, axis=1)
    cosines = np.array(found) @ (places / lengths[:, None]).T
    nearest = cosines.argmax(axis=1)
    return np.asarray((1.0 - cosines[np.arange(len(nearest)), nearest]) / (1.0 - lengths[nearest]))


def reference(folder: Path) -> tuple[pl.DataFrame, dict[str, float]]:
    """The reference of drift, and its limits by column."""
    return pl.read_parquet(folder / "reference.parquet"), limits(folder)


def limits(folder: Path) -> dict[str, float]:
    """By column, the distance that drift has to exceed."""
    found: dict[str, float] = json.loads((folder / "limits.json").read_text())
    return found
