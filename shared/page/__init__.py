"""The shell of all pages: static files under a strict content policy, and the browser session."""

import secrets
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, NamedTuple

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from shared.auth import Keys, in_session, is_key, open_session, same_origin

SHELL = Path(__file__).parent
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# [7.3] What a field of a payment says is never run: no script but our own files, and no text becomes HTML.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'; require-trusted-types-for 'script'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class File(NamedTuple):
    content: bytes
    headers: Mapping[str, str]


class Key(BaseModel):
    model_config = ConfigDict(extra="forbid")
    key: Annotated[str, Field(max_length=1_000)]


def add_page(app: FastAPI, folder: Path, *, pattern: str, keys: Keys, visitor: str = "") -> None:
    """`folder/index.html` in the shell's frame at `/`, other files below `/page/`, and `POST /session`.

    The frame loads the folder's `<service>.js` and `<service>.css`. `visitor`: a token that opens a session once, for
    an address that is printed. Who looks at a page is an operator.
    """
    service = keys.service
    files = _read(SHELL) | _read(folder)
    frame, main = (files.pop(part).content.decode() for part in ("frame.html", "index.html"))
    whole = frame.format(title=service.capitalize(), name=service, pattern=pattern, main=main)
    files["index.html"] = tagged(whole.encode(), TYPES[".html"])
    tokens = {visitor} - {""}

    @app.get("/", include_in_schema=False)
    async def index(request: Request, token: str = "") -> Response:
        if not token:
            return answer(request, files["index.html"])
        response = RedirectResponse("/", 303, {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"})
        known = next((known for known in tokens if secrets.compare_digest(known.encode(), token.encode())), None)
        if known is not None:
            tokens.discard(known)
            open_session(request, response, keys)
        return response

    @app.get("/page/{name:path}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        if name not in files:  # a look-up: no name reaches the file system
            raise HTTPException(404, f"the page has no file {name!r}")
        return answer(request, files[name])

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon(request: Request) -> Response:  # what a browser asks for beside JSON or text
        return answer(request, files["icon.svg"])

    @app.get("/session", include_in_schema=False)
    async def asked(request: Request) -> dict[str, bool]:
        """Whether this browser is in; a 401 would stand in its console as a failure."""
        return {"open": in_session(request, keys)}

    @app.post("/session", status_code=204, include_in_schema=False)
    async def session(request: Request, response: Response, given: Key) -> None:
        if not same_origin(request) or not is_key(given.key.encode().decode("latin-1"), keys.operator):
            raise HTTPException(401, "this is not the operator's key")
        open_session(request, response, keys)


def _read(folder: Path) -> dict[str, File]:
    """By name below the folder: what a browser may have, and no Python."""
    files = {}
    for path in folder.rglob("*"):
        if path.suffix in TYPES:
            files[path.relative_to(folder).as_posix()] = tagged(path.read_bytes(), TYPES[path.suffix])
    return files


def tagged(content: bytes, media_type: str) -> File:
    return File(content, HEADERS | {"ETag": f'"{sha256(content).hexdigest()[:16]}"', "Content-Type": media_type})


def answer(request: Request, file: File) -> Response:
    """The file, or word that the browser has it."""
    if request.headers.get("if-none-match") == file.headers["ETag"]:
        return Response(status_code=304, headers=file.headers)
    return Response(file.content, headers=file.headers)
