"""API keys and their roles, the permissions of each role, and the browser session of the page."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, HTTPException, Request, Response

HEADER = "X-API-Key"
READS = ("GET", "HEAD")


class Role(IntEnum):
    """What a caller is, by the key that they show. Each role may do what those before it may."""

    ANYONE = 0  # without a key
    CLIENT = 1
    ANALYST = 2
    OPERATOR = 3

    def __str__(self) -> str:
        return self.name.lower()


Access = dict[str, Role]  # by method and path of a route, the least role that it answers

# The routes that every service has. Health names no person, and a page shows nothing before its browser has a session.
SHARED: Access = {
    "GET /health/live": Role.ANYONE,
    "GET /health/ready": Role.ANYONE,
    "GET /metrics": Role.OPERATOR,
    "GET /docs": Role.ANYONE,
    "GET /docs/oauth2-redirect": Role.ANYONE,
    "GET /": Role.ANYONE,
    "GET /page/{name:path}": Role.ANYONE,
    "GET /favicon.ico": Role.ANYONE,
    "GET /session": Role.ANYONE,
    "POST /session": Role.ANYONE,
    "GET /design": Role.ANYONE,
    "GET /source/{name:path}": Role.ANYONE,
}


@dataclass(frozen=True)
class Keys:
    """The secrets of a service, one a role. Raises ValueError: two are the same, so that a role would be none."""

    service: str
    client: bytes
    analyst: bytes
    operator: bytes

    def __post_init__(self) -> None:
        if len({self.client, self.analyst, self.operator}) < 3:
            raise ValueError("the keys of client, analyst and operator must differ: the same key would be every role's")

    def role(self, given: str) -> Role:
        """The role of a header's text. Every key is compared, in constant time."""
        known = {Role.CLIENT: self.client, Role.ANALYST: self.analyst, Role.OPERATOR: self.operator}
        found = [role for role, key in known.items() if is_key(given, key)]
        return found[0] if found else Role.ANYONE


def guard(access: Access, keys: Keys) -> Callable[[Request], Awaitable[None]]:
    """A FastAPI dependency of all routes: answers 401 without a key, and 403 when the key's role may not ask for this.

    A route that `access` does not name is refused for every caller: KeyError, which is a 500.
    """

    async def check(request: Request) -> None:
        needed = access[f"{request.method} {request.scope['route'].path}"]
        if (given := request.headers.get(HEADER)) is not None:
            role = keys.role(given)
        elif in_session(request, keys):
            role = Role.OPERATOR
        else:
            role = Role.ANYONE
        if needed > Role.ANYONE >= role:
            raise HTTPException(401, f"header {HEADER} is missing or wrong")
        if role < needed:
            raise HTTPException(403, f"this needs the key of the role {needed}; the key that was sent is the {role}'s")
        request.state.role = role

    return check


def _role(request: Request) -> Role:
    role: Role = request.state.role
    return role


Caller = Annotated[Role, Depends(_role)]  # the role of the caller, in the arguments of a route


def describe_roles(app: FastAPI, access: Access) -> None:
    """Let the OpenAPI say which routes need a key, and of which role."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        schema.setdefault("components", {})["securitySchemes"] = {
            HEADER: {"type": "apiKey", "in": "header", "name": HEADER}
        }
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                needed = access[f"{method.upper()} {path}"]
                if needed > Role.ANYONE:
                    operation["security"] = [{HEADER: []}]
                    operation["responses"]["401"] = {"description": "The key is missing or wrong."}
                    operation["responses"]["403"] = {"description": f"It is not the key of the role {needed} or above."}
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's own documents extend it


def is_key(given: str, key: bytes) -> bool:
    """Compared in constant time; `given` is a header's text."""
    return hmac.compare_digest(given.encode("latin-1"), key)


def open_session(request: Request, response: Response, keys: Keys) -> None:
    """Let this browser in as the operator until it is closed, or the key is changed. No script can read the cookie."""
    name, secure = _cookie(keys.service), request.url.scheme == "https"
    response.set_cookie(name, _session(keys), httponly=True, samesite="strict", secure=secure, path="/")


def in_session(request: Request, keys: Keys) -> bool:
    """Whether the cookie is right, and it is our own page that asks for a change."""
    given = request.cookies.get(_cookie(keys.service), "").encode("utf-8", "replace")
    return hmac.compare_digest(given, _session(keys).encode()) and (request.method in READS or same_origin(request))


def same_origin(request: Request) -> bool:
    """SameSite tells sites apart, not ports: another page of this machine is told by its origin."""
    return urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host")


def _cookie(service: str) -> str:
    """Cookies know no ports: two services of one host would end each other's sessions under one name."""
    return f"{service}-session"


def _session(keys: Keys) -> str:
    """Of the operator's key, and not the key: a thief of the cookie cannot compute that; a new key ends the session."""
    return hmac.digest(keys.operator, f"a session of the page of {keys.service}".encode(), "sha256").hex()
