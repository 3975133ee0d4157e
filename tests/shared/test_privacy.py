"""A pseudonym is stable, needs the key, and fits where names of cards go."""

import re

import pytest

from shared.clock import perf_counter
from shared.privacy import masked, pseudonym, pseudonymised

KEY = b"a key"
NAMES = ["", "4711", "名前", "x" * 100_000]


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_the_pattern_of_a_card(name: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", pseudonym(name, KEY))
    assert re.fullmatch(r"^[A-Za-z0-9_-]{1,64}$", pseudonym(name, KEY))


def test_it_never_changes() -> None:
    """HMAC-SHA256 of RFC 4231, test case 2, cut: the history would fall apart."""
    assert pseudonym("what do ya want for nothing?", b"Jefe") == "5bdcc146bf60754e6a042426089575c7"


def test_other_names_have_other_pseudonyms() -> None:
    assert len({pseudonym(str(n), KEY) for n in range(1_000)}) == 1_000


def test_without_the_key_it_cannot_be_linked() -> None:
    assert pseudonym("4711", KEY) != pseudonym("4711", b"another key")


def test_a_name_that_comes_in_twice_is_replaced_once() -> None:
    assert pseudonymised("ann", KEY) == pseudonym("ann", KEY) == pseudonymised(pseudonym("ann", KEY), KEY)
    for name in ("0" * 31, "0" * 33, "G" * 32, "ABCDEF0123456789" * 2, "0" * 32 + "\n"):
        assert pseudonymised(name, KEY) == pseudonym(name, KEY)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("pay 4111111111111111 now", "pay [card number] now"),
        ("4111 1111 1111 1111", "[card number]"),
        ("card=3782-822463-10005,", "card=[card number],"),
        ("{4111111111111111", "{[card number]"),
        ("4111111111111111 123", "[card number] 123"),
        ("4111111111111111-737", "[card number]-737"),
        ("4111 1111 1111 1111 12/27", "[card number] 12/27"),
        ("4111 1111 1111 1111 25.00", "[card number] 25.00"),
        ("1 4111111111111111", "1 [card number]"),
        ("2026-11-28 4111111111111111", "2026-11-28 [card number]"),
        ("PAN4111111111111111", "PAN[card number]"),
        ("pan_5500005555555559x", "pan_[card number]x"),
        ("99411111111111111199", "99[card number]99"),
        ("4111111111111111 5500 0055 5555 5559", "[card number] [card number]"),
        ("mail alice.b+c@example.co.uk.", "mail [e-mail address]."),
        ("call +44 7700 900123, please", "call [phone number], please"),
        ("(030) 123 456 78", "[phone number]"),
        ("00491701234567", "[phone number]"),
        ("ask @JaneDoe_1984!", "ask [handle]!"),
    ],
)
def test_what_names_a_person_is_masked_wherever_it_stands(text: str, seen: str) -> None:
    assert masked(text) == seen


@pytest.mark.parametrize(
    "text",
    [
        "1767225600",  # epoch seconds
        "567588278875213824",  # id of a post: no card number ends in this check digit
        "2026-03-12-aad56c22",
        "2026-03-12T04:05:06+00:00",
        "fraud.events/3/1700000",
        "0.0125 of 12,345.67",
        "5bdcc146bf60754e6a042426089575c7",
    ],
)
def test_numbers_dates_and_pseudonyms_stay(text: str) -> None:
    assert masked(text) == text


def test_a_hostile_text_costs_in_proportion_to_its_length() -> None:
    began = perf_counter()
    masked("4" * 5_000)
    masked("4 " * 5_000 + "x")
    assert perf_counter() - began < 2  # it takes a fifth of that
