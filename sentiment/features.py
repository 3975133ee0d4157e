"""Post -> Text. One normaliser, so that training and serving show a model the same text.

Pure: no clock, no I/O.
"""

import hashlib
import re
import unicodedata
from functools import lru_cache

from sentiment.schema import Text
from sentiment.text import ESCAPE, decoded

HANDLE = re.compile(r"@\w{1,50}")
LINK = re.compile(r"(?:https?://|www\.)\S+")
BLANKS = re.compile(r"\s+")
LENGTHENED = re.compile(r"(\w)\1{3,}")  # soooooo: four or more of a letter say no more than three
PICTURES = ("So", "Sk")  # Unicode categories: emoji are "other symbols", skin tones "modifier symbols"
UNSEEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Me")  # controls, marks of direction, joiners, halves of pairs

# A model and an audit are only of use to the normaliser that they were made with.
DEFINITION = hashlib.sha256(
    repr((1, ESCAPE.pattern, HANDLE.pattern, LINK.pattern, LENGTHENED.pattern, PICTURES, UNSEEN)).encode()
).hexdigest()[:12]


def normalise(text: str) -> Text:
    """What a model is shown of a text; empty when nothing in it can be read.

    >>> normalise("@anna I can\\\\u2019t &amp; won\\\\u2019t 😡 https://t.co/x")
    "@user I can't & won't pouting face"
    """
    return cleaned(decoded(text))


def cleaned(text: str) -> Text:
    """`normalise` of a text that is decoded already: decoding twice would decode what its author wrote as code."""
    text = HANDLE.sub("@user", LINK.sub(" ", text))
    if not text.isascii():
        text = "".join(_readable(character) for character in text)
    else:
        text = "".join(c if c.isprintable() else " " for c in text)
    return BLANKS.sub(" ", LENGTHENED.sub(r"\1\1\1", text)).strip()


def digest(text: Text) -> int:
    """Names a text: the same words again, in any case and with any link, have the same."""
    return int.from_bytes(hashlib.blake2b(text.casefold().encode(), digest_size=7).digest())


@lru_cache(maxsize=4_096)
def _readable(character: str) -> str:
    category = unicodedata.category(character)
    # Emoji as their names: to a vocabulary of words nearly all of them are one and the same unknown piece.
    if category in PICTURES and not character.isascii():
        return f" {unicodedata.name(character, '').lower()} " if unicodedata.name(character, "") else " "
    return " " if category in UNSEEN or unicodedata.name(character, "").startswith("VARIATION") else character
