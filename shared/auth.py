"""API keys."""

import hmac
from collections.abc import Callable

from fastapi import HTTPException, Security
from fastapi.security import APIKeyHeader

HEADER = APIKeyHeader(name="X-API-Key", auto_error=False)


def require_key(key: bytes) -> Callable[[str | None], None]:
    """A FastAPI dependency that lets in who knows the key; compared in constant time."""

    def check(given: str | None = Security(HEADER)) -> None:
        if given is None or not hmac.compare_digest(given.encode("latin-1"), key):
            raise HTTPException(401, "header X-API-Key is missing or wrong")

    return check
