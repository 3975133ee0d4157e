"""The tiny bank of tests/fraud and the tiny shop of tests/recsys, for tests that run commands on them; a browser."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from tests.e2e.browser import launched, opened
from tests.fraud.conftest import any_bank, bank, open_bank, world
from tests.recsys.conftest import open_shop, shop, shop_world

__all__ = ["any_bank", "bank", "open_bank", "open_shop", "shop", "shop_world", "world"]


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:  # not for the session: it keeps a loop, and other tests have theirs
        yield playwright


@pytest.fixture(scope="module")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    browser = launched(playwright)
    yield browser
    browser.close()


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Page]:
    """A browser of one's own."""
    with opened(chromium) as page:
        yield page
