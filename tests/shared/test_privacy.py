"""A pseudonym is stable, needs the key, and fits where names of cards go."""

import re

import pytest

from shared.privacy import pseudonym, pseudonymised

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


def test_without_the_key_nobody_can_link_it() -> None:
    assert pseudonym("4711", KEY) != pseudonym("4711", b"another key")


def test_a_name_that_comes_in_twice_is_replaced_once() -> None:
    assert pseudonymised("ann", KEY) == pseudonym("ann", KEY) == pseudonymised(pseudonym("ann", KEY), KEY)
    for name in ("0" * 31, "0" * 33, "G" * 32, "ABCDEF0123456789" * 2, "0" * 32 + "\n"):
        assert pseudonymised(name, KEY) == pseudonym(name, KEY)
