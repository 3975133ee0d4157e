"""Recognises the label scale of a file from all values of the column, or takes the user's mapping."""

from collections.abc import Mapping
from itertools import chain

import polars as pl

from sentiment.config import LABELS
from shared.table_files.cells import Parsed, Spelling, Undecided, as_text, faults
from shared.unusable import Unusable

NUMBER = r"^([+-]?\d+)(?:\.0*)?$"
WORDS = {label: label for label in LABELS} | {f"label_{number}": label for number, label in enumerate(LABELS)}
SIGNS = {"-2": "negative", "-1": "negative", "0": "neutral", "1": "positive", "2": "positive"}
THREE = {"0": "negative", "1": "neutral", "2": "positive"}  # TweetEval
FOUR = {"0": "negative", "2": "neutral", "4": "positive"}  # Sentiment140
STARS = {"1": "negative", "2": "negative", "3": "neutral", "4": "positive", "5": "positive"}
# A scale; values that have to occur before it is believed, as no other scale has all of them; and the least share of
# the labelled rows that it has to know: a scale of 1 to 6 is none of five stars.
SCALES = (
    ("words", WORDS, (), 0.5),
    ("-2 to 2", SIGNS, ("-1",), 0.95),
    ("-2 to 2", SIGNS, ("-2",), 0.95),
    ("0, 1, 2", THREE, ("0", "1", "2"), 0.95),
    ("0, 2, 4", FOUR, ("0", "4"), 0.95),
    ("1 to 5 stars", STARS, ("5",), 0.95),
)


class LabelScale:
    """A kind of column: negative, neutral, positive. `given`: what its values mean, where a person has said so."""

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self._given = dict(given or {})

    def __call__(self, cells: pl.Series, _: Spelling) -> Parsed:
        """Raises Undecided: the values could be of several scales, or are of none."""
        text = as_text(cells).str.to_lowercase().str.replace(NUMBER, "$1").str.strip_prefix("+")
        if text.drop_nulls().is_empty():
            return Parsed(text, faults(text.is_not_null(), ""), [])
        name, scale = ("as said", self._given) if self._given else _scale(text.drop_nulls())
        labels = text.replace_strict(scale, default=None, return_dtype=pl.String)
        shown = ", ".join(f"{value} {label}" for value, label in scale.items() if value in set(text))
        note = [] if name == "words" else [f"labels are read as {shown} ({name})"]
        wrong = text.is_not_null() & labels.is_null()
        return Parsed(labels, faults(wrong, f"is no label of the scale {', '.join(scale)}"), note)


def _scale(values: pl.Series) -> tuple[str, dict[str, str]]:
    """The one scale that has nearly all values, and of which these are no other one's. Raises Undecided."""
    found = set(values)
    fitting = [
        (name, scale)
        for name, scale, needed, least in SCALES
        if found.issuperset(needed) and values.is_in(list(scale)).sum() >= least * values.len()
    ]
    alone = len(found) == 1 and not found <= WORDS.keys()  # one number may be of any scale
    if not fitting or alone or any(scale != fitting[0][1] for _, scale in fitting):
        known = sorted(found & set(chain(*(scale for _, scale, _, _ in SCALES))))
        said = f"the values {', '.join(known)} fit several scales or none" if known else "no value is known"
        raise Undecided(f"has labels whose scale cannot be told: {said}; say LABELS=negative=0,neutral=1,positive=2")
    return fitting[0]


def given(text: str) -> dict[str, str]:
    """What a person says of the labels, such as `negative=0,neutral=1,positive=2`; several values may mean one label.

    Raises:
        Unusable: it says something else.
    """
    pairs = [part.strip().lower().partition("=") for part in text.split(",") if part.strip()]
    if wrong := next((label for label, _, value in pairs if label not in LABELS or not value), None):
        said = f"{wrong!r} is none of {', '.join(LABELS)}, or has no value"
        raise Unusable(f"LABELS: {said}; write LABELS=negative=0,neutral=1,positive=2")
    return {value.strip(): label.strip() for label, _, value in pairs}
