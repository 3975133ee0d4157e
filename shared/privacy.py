"""What stands for a person's name: keyed pseudonyms in records, and masks in dead letters and lines of the logs."""

import hashlib
import hmac
import re

PSEUDONYM = re.compile("[0-9a-f]{32}")

# A card number is 13 to 19 digits, maybe in groups; a phone number begins with a plus or a zero, so that seconds since
# the epoch are none. Letters on either side belong to another kind of name. All lengths are bounded, so that a hostile
# text costs no more than another one.
CARD = re.compile(r"(?<![\w.])(?:\d[ -]?){12,18}\d(?!\w)")
PHONE = re.compile(r"(?<![\w.])(?:\+\d|\(0|00\d)[\d ()/-]{6,18}\d(?!\w)")
MAIL = re.compile(r"[^\s@,;:<>()\[\]{}\"'=]{1,64}@[^\s@,;:<>()\[\]{}\"'=]{1,250}\.[A-Za-z]{2,}")
HANDLE = re.compile(r"(?<!\w)@\w{2,}")


def pseudonym(name: str, key: bytes) -> str:
    """A stable stand-in, 32 hexadecimal digits (HMAC-SHA256, cut); nobody without the key can link it."""
    # [7.3] Under the GDPR it stays personal data, but a leaked topic names nobody, and destroying
    # the key makes the whole history anonymous.
    return hmac.digest(key, name.encode(), hashlib.sha256)[:16].hex()


def pseudonymised(name: str, key: bytes) -> str:
    """The stand-in of a name; one that is a stand-in already stays. For where names come in from outside."""
    return name if PSEUDONYM.fullmatch(name) else pseudonym(name, key)


def masked(text: str) -> str:
    """The text without card numbers, e-mail addresses, phone numbers and handles; a name in words is not found."""
    text = MAIL.sub("[e-mail address]", text)
    text = CARD.sub(lambda found: "[card number]" if _is_card(found[0]) else found[0], text)
    return HANDLE.sub("[handle]", PHONE.sub("[phone number]", text))


def _is_card(text: str) -> bool:
    """Whether the check digit is right (Luhn): of other long numbers nine in ten stay."""
    digits = [int(digit) for digit in reversed(text) if digit.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
