"""API keys, and the session of a browser that has shown one."""

import hmac
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import HTTPException, Request, Response, Security
from fastapi.security import APIKeyHeader

HEADER = APIKeyHeader(name="X-API-Key", auto_error=False)
READS = ("GET", "HEAD")


def require_key(key: bytes, *, service: str) -> Callable[[Request, str | None], None]:
    """A FastAPI dependency that lets in who knows the key, or comes with a session of the service."""

    def check(request: Request, given: str | None = Security(HEADER)) -> None:
        if given is None and in_session(request, key, service=service):
            return
        if given is None or not is_key(given, key):
            raise HTTPException(401, "header X-API-Key is missing or wrong")

    return check


def is_key(given: str, key: bytes) -> bool:
    """Compared in constant time; `given` is a header's text."""
    return hmac.compare_digest(given.encode("latin-1"), key)


def open_session(request: Request, response: Response, key: bytes, *, service: str) -> None:
    """Let this browser in until it is closed, or the key is changed. No script can read the cookie."""
    name, secure = _cookie(service), request.url.scheme == "https"
    response.set_cookie(name, _session(key, service), httponly=True, samesite="strict", secure=secure, path="/")


def in_session(request: Request, key: bytes, *, service: str) -> bool:
    """Whether the cookie is right, and it is our own page that asks for a change."""
    given = request.cookies.get(_cookie(service), "").encode("utf-8", "replace")
    return hmac.compare_digest(given, _session(key, service).encode()) and (
        request.method in READS or same_origin(request)
    )


def same_origin(request: Request) -> bool:
    """SameSite tells sites apart, not ports: another page of this machine is told by its origin."""
    return urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host")


def _cookie(service: str) -> str:
    """Cookies know no ports: two services of one host would end each other's sessions under one name."""
    return f"{service}-session"


def _session(key: bytes, service: str) -> str:
    """Of the key, and not the key: a thief of the cookie cannot compute the key, and a new key ends the session."""
    return hmac.digest(key, f"a session of the page of {service}".encode(), "sha256").hex()
