"""The shell of the pages: what a browser may have, and how it comes in."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from shared.api import create_app
from shared.auth import SHARED, Keys, Role
from shared.checklist import ROOT, tracked
from shared.health import Health
from shared.page import add_page
from shared.page.document import add_document
from tests.asgi import ask

KEYS = Keys("shop", client=b"till", analyst=b"desk", operator=b"sesame")
OWN = {"Origin": "http://test"}


@asynccontextmanager
async def nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    app = create_app(
        title="t",
        description="t",
        body_limit=1_000,
        health=Health(needed=[]),
        lifespan=nothing,
        metrics=CollectorRegistry(),
        keys=KEYS,
        access=SHARED | {"POST /v1/change": Role.OPERATOR},
    )
    (tmp_path / "index.html").write_text("<p>what is watched</p>")
    (tmp_path / "icon.svg").write_text("<svg/>")
    (tmp_path / "secret.py").write_text("KEY = 1")
    add_page(app, tmp_path, pattern="batch", keys=KEYS, visitor="once")

    @app.post("/v1/change")
    def change() -> str:
        return "changed"

    return app


def session(answer: httpx.Response) -> dict[str, str]:
    return {"Cookie": answer.headers["set-cookie"].split(";")[0]}


def test_a_file_comes_with_its_type_and_a_policy_that_runs_nothing_else(app: FastAPI) -> None:
    answer = ask(app, "GET", "/page/live.js")
    assert answer.headers["content-type"].startswith("text/javascript")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    again = ask(app, "GET", "/page/live.js", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_what_a_service_shows_stands_in_the_frame_of_all(app: FastAPI) -> None:
    page = ask(app, "GET", "/").text
    assert "<title>Shop: live</title>" in page
    assert "/page/shop.js" in page
    assert page.index('id="watching"') < page.index("<p>what is watched</p>") < page.index("</main>\n</div>")


@pytest.mark.parametrize("name", ["secret.py", "__init__.py", "../auth.py", "..%2fauth.py", "%2e%2e/auth.py", "uplot/"])
def test_nothing_else_is_given(app: FastAPI, name: str) -> None:
    assert ask(app, "GET", f"/page/{name}").status_code == 404


def test_the_key_opens_a_session_that_no_script_can_read_and_that_is_not_the_key(app: FastAPI) -> None:
    answer = ask(app, "POST", "/session", json={"key": "sesame"}, headers=OWN)
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "sesame" not in cookie
    assert ask(app, "GET", "/session", headers=session(answer)).json() == {"open": True}
    assert ask(app, "GET", "/session").json() == {"open": False}
    assert ask(app, "POST", "/v1/change", headers=session(answer) | OWN).status_code == 200


@pytest.mark.parametrize("origin", [{}, {"Origin": "http://test:81"}, {"Origin": "null"}, {"Origin": "http://evil"}])
def test_another_page_cannot_use_a_session_or_open_one(app: FastAPI, origin: dict[str, str]) -> None:
    opened = session(ask(app, "POST", "/session", json={"key": "sesame"}, headers=OWN))
    assert ask(app, "POST", "/v1/change", headers=opened | origin).status_code == 401
    assert ask(app, "POST", "/session", json={"key": "sesame"}, headers=origin).status_code == 401


@pytest.mark.parametrize("key", ["", "sesam", "Sesame", "desk", "till", "сезам", "\U0001f511"])
def test_another_key_opens_nothing(app: FastAPI, key: str) -> None:
    answer = ask(app, "POST", "/session", json={"key": key}, headers=OWN)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("cookie", ["shop-session=", "shop-session=sesame", "shop-session=\xff", "other=1"])
def test_a_made_up_session_is_none(app: FastAPI, cookie: str) -> None:
    headers = {b"Cookie": cookie.encode("latin-1"), b"Origin": b"http://test"}
    assert ask(app, "POST", "/v1/change", headers=headers).status_code == 401


def test_a_token_opens_once_and_leaves_no_trace_in_the_address(app: FastAPI) -> None:
    answer = ask(app, "GET", "/?token=once")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert ask(app, "GET", "/session", headers=session(answer)).json() == {"open": True}
    assert "set-cookie" not in ask(app, "GET", "/?token=once").headers
    assert "set-cookie" not in ask(app, "GET", "/?token=wrong").headers


def test_services_of_one_host_and_one_key_do_not_end_one_anothers_sessions(app: FastAPI, tmp_path: Path) -> None:
    """A browser has one cookie jar for all ports of a host."""
    opened = session(ask(app, "POST", "/session", json={"key": "sesame"}, headers=OWN))["Cookie"]
    other = FastAPI()
    add_page(other, tmp_path, pattern="stream", keys=replace(KEYS, service="bank"))
    also = session(ask(other, "POST", "/session", json={"key": "sesame"}, headers=OWN))["Cookie"]
    assert opened.partition("=")[0] != also.partition("=")[0]
    assert opened.partition("=")[2] != also.partition("=")[2]
    both = {"Cookie": f"{opened}; {also}"}
    assert [ask(each, "GET", "/session", headers=both).json() for each in (app, other)] == [{"open": True}] * 2
    assert ask(other, "GET", "/session", headers={"Cookie": opened}).json() == {"open": False}


@pytest.fixture
def documented(app: FastAPI) -> FastAPI:
    add_document(app, ROOT / "fraud" / "DESIGN.md")
    return app


def test_a_document_is_a_page_whose_links_lead_to_the_definition(documented: FastAPI) -> None:
    page = ask(documented, "GET", "/design")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "<h3>4.3 Scalability and fault tolerance</h3>" in page.text
    assert "&lt;!--" not in page.text
    links = re.findall(r'href="(/source/[^"#]+)#?([^"]*)"', page.text)
    assert len(links) > 30
    for address, symbol in links:
        source = ask(documented, "GET", address)
        assert source.status_code == 200, address
        assert not symbol or f'<span id="{symbol}">' in source.text, f"{address} shows no {symbol}"


@pytest.mark.parametrize("name", ["fraud/edge.pyc", "README.md", "../page/shared/STYLE.md", ".git/config", "%2e%2e/x"])
def test_a_file_that_the_document_does_not_name_is_not_given(documented: FastAPI, name: str) -> None:
    assert ask(documented, "GET", f"/source/{name}").status_code == 404


def test_source_is_shown_as_text(tmp_path: Path, app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.page.document.ROOT", tmp_path)
    (tmp_path / "code.py").write_text("class A:\n    def b(self) -> None:\n        '<script>'\n\nC = 1\n    def d()\n")
    (tmp_path / "D.md").write_text("<script>alert()</script> [code](code.py#A.b) [out](../elsewhere.py)")
    add_document(app, tmp_path / "D.md")
    page, source = (ask(app, "GET", path).text for path in ("/design", "/source/code.py"))
    assert "<script>" not in page + source
    assert 'href="/source/code.py#A.b"' in page
    assert 'href="../elsewhere.py"' in page
    assert re.findall(r'<span id="([^"]+)">', source) == ["A", "A.b", "C"]


@pytest.mark.parametrize("path", [path for path in tracked() if path.name == "VENDORED.json"], ids=str)
def test_what_is_vendored_is_what_was_published_and_has_its_licence(path: Path) -> None:
    folder, about = (ROOT / path).parent, json.loads((ROOT / path).read_text())
    assert about["sha256"] == {name: sha256((folder / name).read_bytes()).hexdigest() for name in about["sha256"]}
    assert (folder / "LICENSE").read_text()


def test_no_file_of_a_page_comes_from_elsewhere_or_makes_html_of_text() -> None:
    own = [path for path in tracked() if "page" in path.parts and path.suffix in (".js", ".html", ".css")]
    texts = {path: (ROOT / path).read_text() for path in own if "uplot" not in path.parts}
    assert len(texts) > 5
    ways = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://", "style=")
    assert [(path, way) for path, text in texts.items() for way in ways if way in text] == []
