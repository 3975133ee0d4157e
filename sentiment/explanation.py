"""Explains an opinion: leaves each word out once, and scores the rest with the same model."""

from sentiment.artifact import Artifact
from sentiment.config import EXPLAINED, LABELS
from sentiment.schema import Label, Path, Text
from shared.messages import Message

# Rounding to int8 moves a probability by so much when a word that says nothing goes; less is shown as none.
NOISE: dict[Path, float] = {"transformer": 0.02, "linear": 0.001}


class Word(Message):
    """One word of a text as the model sees it."""

    word: str
    moved: float  # how much of the label's probability goes when the word does; 0 within the noise


def moved(text: Text, label: Label, artifact: Artifact) -> list[Word]:
    """The first EXPLAINED words of a text, in order, each with what it did for the label."""
    # [1.3] A manager asks "why is this negative?". The answer is counterfactual and of the served model: without
    # this word it would have said so much less. Weights of another model would be a guess about this one.
    words, place = text.split(), LABELS.index(label)
    whole, noise = artifact.score(text, artifact.path)[place], NOISE[artifact.path]
    found = []
    for number, word in enumerate(words[:EXPLAINED]):
        without = artifact.score(" ".join(words[:number] + words[number + 1 :]), artifact.path)[place]
        change = whole - without
        found.append(Word(word=word, moved=round(change, 4) if abs(change) > noise else 0.0))
    return found
