"""A browser that looks at a page of ours, and what every page's tests ask of it."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, expect

from shared.checklist import ROOT
from shared.settings import Settings

AXE = (ROOT / "tests" / "e2e" / "axe" / "axe.min.js").read_text()
SWITCHES = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
SWITCHES += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
TOKEN = "a-token-for-one-visit"
HOSTILE = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>'
EXPECTED = (  # asked for by the test
    "ERR_INTERNET_DISCONNECTED",
    "ERR_INCOMPLETE_CHUNKED_ENCODING",
    "status of 401",
    "ERR_CONNECTION_REFUSED",  # the service ends before the browser, whose page asks for it again
)


def launched(playwright: Playwright) -> Browser:
    where = shutil.which("chromium")
    if where is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    return playwright.chromium.launch(executable_path=where, args=SWITCHES)


@contextmanager
def opened(chromium: Browser) -> Iterator[Page]:
    """A browser of one's own; at the end it has complained of nothing, and made no other requests."""
    context = chromium.new_context(viewport=DESK, color_scheme="light", reduced_motion="reduce")  # type: ignore[arg-type]  # a dictionary is enough for it
    page, said, asked = context.new_page(), [], set()

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            said.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.add(request.url.split("/")[2].split(":")[0]))
    yield page
    context.close()
    assert [text for text in said if not any(word in text for word in EXPECTED)] == []
    assert asked <= {"127.0.0.1"}


def visit(tab: Page, url: str) -> None:
    """By the address that a demo prints."""
    tab.goto(f"{url}/?token={TOKEN}")
    tab.wait_for_selector("#watching:not([hidden])")


def press(tab: Page, name: str) -> None:
    tab.get_by_role("button", name=name, exact=True).click()


def press_link(tab: Page, name: str) -> None:
    tab.get_by_role("link", name=name, exact=True).click()


def keep(tab: Page, name: str) -> None:
    """For people to look at: in var/screenshots."""
    folder = Settings().var / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=folder / f"{name}.png", full_page=not tab.locator("dialog[open]").count())


def everywhere(tab: Page, name: str) -> None:
    """In the dark and on a telephone it fits, and is accessible."""
    for scheme, size, kind in (("dark", DESK, "-dark"), ("dark", PHONE, "-phone-dark"), ("light", PHONE, "-phone")):
        tab.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # a dictionary is enough for it
        tab.set_viewport_size(size)  # type: ignore[arg-type]  # a dictionary is enough for it
        tab.wait_for_timeout(700)
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "scrolls sideways"
        found = serious(tab)
        assert not found, f"{kind}: {found}"
        keep(tab, name + kind)


def cut_off_and_back(tab: Page, name: str) -> None:
    """A lost connection is said, and comes back by itself."""
    tab.context.set_offline(True)
    tab.wait_for_timeout(500)
    tab.evaluate("window.stop()")
    expect(tab.locator("#notices")).to_contain_text("The connection is lost", timeout=20_000)
    keep(tab, name)
    tab.context.set_offline(False)
    expect(tab.locator("#notices")).to_be_empty(timeout=20_000)


class Steps(Protocol):
    """A monitor."""

    def step(self) -> object: ...

    def close(self) -> None: ...


@contextmanager
def monitoring(monitor: Steps) -> Iterator[None]:
    """It carries out what the page's buttons command."""
    stopping = threading.Event()

    def watch() -> None:
        while not stopping.is_set():
            monitor.step()
            stopping.wait(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        monitor.close()


def serious(tab: Page) -> list[str]:
    """What axe finds that keeps people out."""
    tab.evaluate(AXE)
    found = tab.evaluate("axe.run()")["violations"]
    return [
        f"{each['id']}: {node['html'][:200]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
