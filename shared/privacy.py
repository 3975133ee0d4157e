"""Keyed pseudonyms for persons, and masks for dead letters and log lines."""

import hashlib
import hmac
import re

PSEUDONYM = re.compile("[0-9a-f]{32}")

# A card number is 13 to 19 digits, maybe in groups, and other digits may stand beside it: its code, a date, an amount.
# So it is looked for within a run of digits. The decimals of a fraction are none.
DIGITS = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,}")
WORD = re.compile(r"\w")
# As the large networks number their cards: known among other digits and letters, too.
NETWORKS = re.compile(r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3[0689]\d{12}|35\d{14}|6\d{15}")
# A phone number begins with a plus or a zero, so that seconds since the epoch are none. All lengths are bounded, so
# that a hostile text costs no more than another one.
PHONE = re.compile(r"(?<![\w.])(?:\+\d|\(0|00\d)[\d ()/-]{6,18}\d(?!\w)")
MAIL = re.compile(r"[^\s@,;:<>()\[\]{}\"'=]{1,64}@[^\s@,;:<>()\[\]{}\"'=]{1,250}\.[A-Za-z]{2,}")
HANDLE = re.compile(r"(?<!\w)@\w{2,}")


def pseudonym(name: str, key: bytes) -> str:
    """A stable stand-in, 32 hexadecimal digits (HMAC-SHA256, cut); it cannot be linked without the key."""
    # [7.3] Under the GDPR it stays personal data, but a leaked topic contains no names. Destroying the key cuts the
    # link to the name; what else a record says, as times, places and amounts, may tell a person still.
    return hmac.digest(key, name.encode(), hashlib.sha256)[:16].hex()


def pseudonymised(name: str, key: bytes) -> str:
    """The stand-in of a name; one that is a stand-in already stays. For where names come in from outside."""
    return name if PSEUDONYM.fullmatch(name) else pseudonym(name, key)


def masked(text: str) -> str:
    """The text without card numbers, e-mail addresses, phone numbers and handles; a name in words is not found."""
    text = MAIL.sub("[e-mail address]", text)
    text = DIGITS.sub(_without_cards, text)
    return HANDLE.sub("[handle]", PHONE.sub("[phone number]", text))


def _without_cards(found: re.Match[str]) -> str:
    """A run of digits, in which every part that may be a card number is masked."""
    text = found.string
    places = [place for place in range(*found.span()) if text[place] not in " -"]
    digits = "".join(str(int(text[place])) for place in places)
    kept, end = "", found.start()
    for first in range(len(digits)):
        for size in range(13, min(19, len(digits) - first) + 1):
            number, start, stop = digits[first : first + size], places[first], places[first + size - 1] + 1
            # Within a longer number one part in ten has a right check digit, so the network must be known there.
            beside = text[max(0, start - 1) : start] + text[stop : stop + 1]
            if (NETWORKS.fullmatch(number) or not WORD.search(beside)) and _is_card(number):
                kept += text[end:start] + "[card number]" * (start >= end)
                end = max(end, stop)
    return kept + text[end : found.end()]


def _is_card(number: str) -> bool:
    """Whether the check digit is right (Luhn): of other long numbers nine in ten stay."""
    digits = [int(digit) for digit in reversed(number)]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
