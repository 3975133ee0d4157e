"""Keyed pseudonyms: the log and all behind it never see the name itself."""

import hashlib
import hmac


def pseudonym(name: str, key: bytes) -> str:
    """A stable stand-in, 32 hexadecimal digits (HMAC-SHA256, cut); nobody without the key can link it."""
    # [7.3] Under the GDPR it stays personal data, but a leaked topic names nobody, and destroying
    # the key makes the whole history anonymous.
    return hmac.digest(key, name.encode(), hashlib.sha256)[:16].hex()
