"""Decodes the text of a post, and folds spellings so that variants of a word compare equal.

Pure: no clock, no I/O.
"""

import html
import re
import unicodedata
from functools import lru_cache

ESCAPE = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")
APOSTROPHES = str.maketrans("\u2018\u2019\u02bc", "'''")  # left, right, and the letter


def decoded(text: str) -> str:
    """The text that its author saw: without escapes and entities that an exporter left, accents composed.

    >>> decoded("AT&amp;T can\\\\u2019t")
    "AT&T can't"
    """
    text = html.unescape(ESCAPE.sub(_unescaped, text))
    return text if text.isascii() else unicodedata.normalize("NFC", text).replace("’", "'")


def folded(text: str) -> str:
    """The decoded text as it is matched and looked up: compatible forms (NFKC) and cases are one.

    >>> folded("Straße &#65;ir")
    'strasse air'
    """
    return folded_by_character(decoded(text))[0]


def folded_by_character(text: str) -> tuple[str, list[int]]:
    """A decoded text folded, and for each character of the result the place of the one that it came from.

    One character may become several, as `ß` becomes `ss`, so positions in the one are none in the other.
    """
    if text.isascii():
        return text.casefold(), list(range(len(text)))
    parts = [_fold(character) for character in text]
    return "".join(parts), [place for place, part in enumerate(parts) for _ in part]


@lru_cache(maxsize=4_096)
def _fold(character: str) -> str:
    # Folding the case takes some letters apart, so they are composed again.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", character).casefold()).translate(APOSTROPHES)


def _unescaped(match: re.Match[str]) -> str:
    """What escapes stand for; halves of a pair are joined, and dropped when the other half is missing."""
    units = bytes.fromhex(match[0].replace("\\u", ""))
    return units.decode("utf-16-be", errors="ignore")
