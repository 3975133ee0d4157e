"""The normaliser: one definition of what a model is shown."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentiment.features import digest, normalise


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("can\\u2019t wait", "can't wait"),
        ("fish &amp; chips &lt;b&gt;", "fish & chips <b>"),
        ("\\ud83d\\ude00", "grinning face"),
        ("half a pair \\ud83d here", "half a pair here"),
        ("😡", "pouting face"),
        ("👍🏽", "thumbs up sign emoji modifier fitzpatrick type-4"),
        ("❤️ it", "heavy black heart it"),
        ("@anna and @bob_1: hi", "@user and @user: hi"),
        ("see https://t.co/abc now", "see now"),
        ("a\x00b\x07c\u200bd", "a b c d"),
        ("\u202eevil\u202c", "evil"),
        ("שלום עולם", "שלום עולם"),
        ("cafe\u0301", "café"),
        ("sooooooo good", "sooo good"),
        ("  \n\t ", ""),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
    ],
)
def test_what_is_written_becomes_what_is_read(written: str, read: str) -> None:
    assert normalise(written) == read


@given(st.text(max_size=200))
def test_any_text_becomes_one_that_can_be_read(text: str) -> None:
    read = normalise(text)
    assert read == read.strip()
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in read)
    read.encode()


def test_two_emoji_of_opposite_meaning_are_two_texts() -> None:
    assert normalise("that app 🫶") != normalise("that app 🫠")


def test_the_same_words_have_the_same_digest() -> None:
    assert digest(normalise("Great APP https://t.co/1")) == digest(normalise("great app"))
    assert digest("great app") != digest("great map")
