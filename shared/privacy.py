"""Keyed pseudonyms: the log and all behind it never see the name itself."""

import hashlib
import hmac
import re

PSEUDONYM = re.compile("[0-9a-f]{32}")


def pseudonym(name: str, key: bytes) -> str:
    """A stable stand-in, 32 hexadecimal digits (HMAC-SHA256, cut); nobody without the key can link it."""
    # [7.3] Under the GDPR it stays personal data, but a leaked topic names nobody, and destroying
    # the key makes the whole history anonymous.
    return hmac.digest(key, name.encode(), hashlib.sha256)[:16].hex()


def pseudonymised(name: str, key: bytes) -> str:
    """The stand-in of a name; one that is a stand-in already stays. For where names come in from outside."""
    return name if PSEUDONYM.fullmatch(name) else pseudonym(name, key)
