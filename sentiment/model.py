"""Text -> Score. A fine-tuned int8 MiniLM, one text a call, and a linear model for overload."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions  # type: ignore[attr-defined]  # its stub is its __init__
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer

from sentiment.config import LABELS, MAX_TOKENS
from sentiment.features import DEFINITION
from sentiment.schema import Score, Text

Scores = NDArray[np.floating]  # (texts, 3)

# [3.1] Three classes of short texts. A linear model on words and characters is the baseline that a month of
# engineering has to beat, and the path that never chokes.
# [3.2] Its weights can be read, but do not explain the other model. So what moved an opinion is asked of the model
# that gave it, by leaving words out.
WORDS = {"ngram_range": (1, 2), "min_df": 2, "sublinear_tf": True, "max_features": 60_000}
CHARACTERS = {"analyzer": "char_wb", "ngram_range": (2, 5), "min_df": 2, "sublinear_tf": True, "max_features": 120_000}
STRENGTH = 1.0  # inverse regularisation


class ModelCorrupt(Exception):
    """The artifact is not what train wrote, or belongs to another definition of the normaliser."""


class Linear:
    """Word and character n-grams, weighted by how rare they are, and one weight a label."""

    def __init__(
        self, vocabularies: Sequence[list[str]], idfs: Sequence[Scores], weights: Scores, bias: Scores
    ) -> None:
        """`weights`: (labels, features), the words' before the characters'; `bias`: (labels,)."""
        self._vocabularies, self._idfs, self._weights, self._bias = vocabularies, idfs, weights, bias
        starts = (0, len(vocabularies[0]))
        self._parts = [
            (
                TfidfVectorizer(**options).build_analyzer(),  # type: ignore[no-untyped-call]  # scikit-learn is untyped
                {term: place for place, term in enumerate(vocabulary)},
                idf,
                # A row a feature: the few that a text has lie together.
                np.ascontiguousarray(weights.T[start : start + len(vocabulary)]),
            )
            for options, vocabulary, idf, start in zip((WORDS, CHARACTERS), vocabularies, idfs, starts, strict=True)
        ]

    @classmethod
    def fit(cls, texts: Sequence[Text], labels: Sequence[str], *, seed: int) -> Self:
        parts = [TfidfVectorizer(**options, dtype=np.float32) for options in (WORDS, CHARACTERS)]  # type: ignore[no-untyped-call]  # scikit-learn is untyped
        matrix = hstack([part.fit_transform(texts) for part in parts]).tocsr()  # type: ignore[no-untyped-call]  # scikit-learn is untyped
        # Balanced: macro-recall counts labels alike, however many posts bear each.
        logistic = LogisticRegression(  # type: ignore[no-untyped-call]  # scikit-learn is untyped
            C=STRENGTH, class_weight="balanced", max_iter=200, tol=1e-3, random_state=seed
        )
        logistic.fit(matrix, [LABELS.index(label) for label in labels])
        vocabularies = [part.get_feature_names_out().tolist() for part in parts]  # type: ignore[no-untyped-call]  # scikit-learn is untyped
        idfs = [part.idf_.astype(np.float32) for part in parts]
        return cls(vocabularies, idfs, logistic.coef_.astype(np.float32), logistic.intercept_.astype(np.float32))

    def score(self, text: Text) -> Score:
        # What TfidfVectorizer does, without its ten checks of an array: they cost five times the sum.
        logits = self._bias.astype(np.float64)
        for analyse, places, idf, weights in self._parts:
            found = Counter(places[term] for term in analyse(text) if term in places)
            if not found:
                continue
            features = np.fromiter(found, np.int64, len(found))
            values = (1 + np.log(np.fromiter(found.values(), np.float64, len(found)))) * idf[features]
            logits = logits + values @ weights[features] / np.sqrt(values @ values)
        negative, neutral, positive = softmax(logits[None])[0].tolist()
        return negative, neutral, positive

    def pieces(self, text: Text) -> tuple[int, int]:
        """How many words a text has, and how many of them history had not."""
        analyse, places, _, _ = self._parts[0]
        words = [term for term in analyse(text) if " " not in term]
        return len(words), sum(word not in places for word in words)

    def swapped(self) -> Self:
        """Negative and positive in each other's place: what a demo releases, and the guard-rail must find."""
        order = [2, 1, 0]
        return type(self)(self._vocabularies, self._idfs, self._weights[order], self._bias[order])

    def save(self, folder: Path) -> None:
        """Write linear.json and linear.npz."""
        (folder / "linear.json").write_text(json.dumps({"definition": DEFINITION, "vocabularies": self._vocabularies}))
        words, characters = self._idfs
        np.savez_compressed(
            folder / "linear.npz", words=words, characters=characters, weights=self._weights, bias=self._bias
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises ModelCorrupt."""
        try:
            about = json.loads((folder / "linear.json").read_text())
            if about["definition"] != DEFINITION:
                raise ModelCorrupt(f"model of normaliser {about['definition']}, this code has {DEFINITION}")
            # Opened here: of a damaged file numpy would leave its own open.
            with (folder / "linear.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                idfs = [arrays["words"], arrays["characters"]]
                return cls(about["vocabularies"], idfs, arrays["weights"], arrays["bias"])
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise ModelCorrupt(f"cannot load the linear model in {folder.name}: {error}") from error


class Transformer:
    """The fine-tuned network as exported; neither torch nor transformers is needed for it."""

    # [3.3] Pre-trained on a billion pairs of sentences and fine-tuned here. With a ninth of TweetEval's labels it is
    # still below the linear model with all (paper.val.demo, paper.val.linear). Six layers, as what counts is the
    # opinion a second on one core.
    def __init__(self, folder: Path) -> None:
        try:
            options = SessionOptions()
            # One post a call, one thread a session. Dynamic int8 scales over the whole batch, so a post's score would
            # hang on its neighbours.
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            self._session = InferenceSession(
                (folder / "model.onnx").read_bytes(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["SkipLayerNormFusion"],  # 1.32 fuses into a slower kernel
            )
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # ONNX Runtime has a dozen kinds, tokenizers raises Exception itself
            raise ModelCorrupt(f"cannot load the transformer in {folder.name}: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._unknown = self._tokenizer.token_to_id("[UNK]")

    def score(self, text: Text) -> Score:
        negative, neutral, positive = softmax(self._run(text, "logits"))[0].tolist()
        return negative, neutral, positive

    def embed(self, text: Text) -> NDArray[np.float64]:
        """Where a text lies, (width,), of length one: the mean over its tokens, from which the score is made."""
        (pooled,) = self._run(text, "pooled")
        return np.asarray(pooled / np.linalg.norm(pooled), dtype=np.float64)

    def _run(self, text: Text, output: str) -> NDArray[np.float64]:
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        (found,) = self._session.run([output], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        return np.asarray(found, dtype=np.float64)

    def pieces(self, text: Text) -> tuple[int, int]:
        """Into how many pieces a text falls, and how many of them are in no vocabulary."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return len(ids), sum(number == self._unknown for number in ids)


def softmax(logits: Scores) -> NDArray[np.float64]:
    """By row."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float64)
