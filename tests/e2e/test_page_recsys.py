"""The page of recsys in a real browser: it shows what the API says, obeys its operator, survives what can go wrong."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import Page, expect

from recsys.config import DAY, HOUR
from recsys.schema import COMMANDS, IMPRESSIONS, STORY, Alarm, Books, Impression, Night, Wish, entry
from shared.clock import sleep
from shared.eventlog.port import Entry
from shared.story import Scene
from tests.e2e.browser import (
    HOSTILE,
    TOKEN,
    cut_off_and_back,
    everywhere,
    keep,
    monitoring,
    press,
    press_link,
    serious,
    visit,
)
from tests.recsys.shop import TODAY, Shop, Trained, open_registry
from tests.recsys.test_serve import REGISTRY, client, until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning"),
]


class Service(NamedTuple):
    shop: Shop
    client: httpx.Client

    @property
    def url(self) -> str:
        return str(self.client.base_url).rstrip("/")

    def get(self, path: str) -> Any:
        return self.client.get(path).raise_for_status().json()

    def lives(self, shoppers: int) -> None:
        """Each is shown a list, every third clicks, every sixth buys."""
        for number in range(shoppers):
            user = f"u{number:06}"
            given = self.get(f"/v1/recommendations/{user}")
            deed = {"user": user, "item": given["items"][1]["item"], "list_id": given["list_id"], "position": 2}
            for kind in ("click",) * (number % 3 == 0) + ("purchase",) * (number % 6 == 0):
                answer = self.client.post("/v1/events", json=deed | {"kind": kind, "id": f"{kind}-{number}"})
                assert answer.status_code == 202
            sleep(0.05)  # at more speed the page is told of a sample


@pytest.fixture
def service(shop: Shop) -> Iterator[Service]:
    with client(shop, visitor=TOKEN) as asking:
        yield Service(shop, asking)


def standing(tab: Page, words: str) -> None:
    expect(tab.locator("#standing")).to_contain_text(words, timeout=30_000)


def test_it_shows_what_the_api_says(tab: Page, service: Service) -> None:
    shop = service.shop
    version = shop.night().version
    told: list[Scene | Books] = [
        Scene(number=3, title="Nights and days", at=TODAY),
        *(
            Books(day=TODAY // DAY + n, earned={"none": 10, "served": 30 + n, "popularity": 20, "oracle": 99})
            for n in range(3)
        ),
    ]
    shop.log.append([Entry(STORY, noun.kind, noun.model_dump_json().encode()) for noun in told])
    visit(tab, service.url)
    service.lives(30)
    expect(tab.locator("#sample")).to_contain_text("of 30;")
    tab.wait_for_timeout(1_200)
    said = service.get("/v1/watch")
    now = said["state"]["now"]
    facts = tab.inner_text("#now")
    assert f"{now['lists']:,}" in facts
    assert f"{now['clicks']} ({now['clicks'] / now['lists']:.2f} a list)" in facts
    assert (now["clicks"], now["by_list"]) == (10, 5)
    standing(tab, f"Table {version} is shown")
    assert tab.inner_text("#worth") == f"€ {said['told']['money']['sum']:,.0f}" == "€ 63"
    assert version in tab.inner_text("#table")
    assert "recipe 1" in tab.inner_text("#recipe")
    assert tab.inner_text("#act") == "Nights and days …"
    assert tab.locator("#charts canvas").count() == 4
    press(tab, "Taken up")
    expect(tab.locator("#rows tr")).to_have_count(10)
    assert tab.locator("#rows .bought").count() == 5
    press(tab, "All")
    for link in {str(link.get_attribute("href")) for link in tab.locator("a.figure").all()}:  # a number's own call
        assert service.client.get(link).status_code == 200
    keep(tab, "recsys")
    everywhere(tab, "recsys")


def test_a_shopper_is_picked_and_a_list_opened_by_keyboard(tab: Page, service: Service) -> None:
    service.shop.night()
    visit(tab, service.url)
    service.lives(7)
    tab.fill("#user", "u000003")
    tab.keyboard.press("Enter")
    seen = service.get("/v1/shoppers/u000003")
    expect(tab.locator("#shopper-said")).to_contain_text(seen["user"][:8])
    shown = tab.inner_text("#shopper-shown")
    for place in seen["shown"]:
        assert place["title"] in shown
        assert place["reason"] in shown
    for place in (*seen["popular"], *seen["history"]):
        assert place["title"] in shown
    tab.fill("#user", "u-unknown")
    press(tab, "Show")
    expect(tab.locator("#shopper-said")).to_contain_text("from popularity")
    press(tab, "Taken up")
    expect(tab.locator("#rows tr")).to_have_count(3)
    expect(tab.locator("#rows .bought")).to_have_count(2)
    button = tab.locator("#rows button").first
    button.focus()
    tab.keyboard.press("Enter")
    expect(tab.locator("#detail")).to_contain_text("A stranger, by popularity")
    expect(tab.locator("#detail tbody .bought")).to_have_count(1)
    keep(tab, "recsys-list")
    assert serious(tab) == []
    tab.keyboard.press("Escape")
    expect(button).to_be_focused()


def test_each_button_does_what_it_says(tab: Page, service: Service, shop_world: Trained) -> None:
    shop, first = service.shop, ""
    visit(tab, service.url)
    standing(tab, "No table has been published yet")
    keep(tab, "recsys-empty")
    with monitoring(shop.monitor(open_registry(shop_world.var))):
        press(tab, "Run tonight")
        standing(tab, "is shown")
        first = service.get("/v1/table")["version"]
        expect(tab.locator("#operator")).to_contain_text(f"Done: {first} is published.")
        shop.send(shop_world.live[0])
        shop.clock.observe(TODAY + DAY + 2 * HOUR)
        press(tab, "Run tonight")
        expect(tab.get_by_role("button", name=f"Roll back to {first}")).to_be_enabled(timeout=30_000)
        second = service.get("/v1/table")["version"]
        shop.clock.observe(TODAY + 2 * DAY + 2 * HOUR)  # and nothing has come in since
        press(tab, "Run tonight")
        standing(tab, "Tonight's was refused")
        expect(tab.locator("#operator")).to_contain_text("yesterday's table stays.")
        expect(tab.locator("#history")).to_contain_text("Refused")
        assert service.get("/v1/table")["version"] == second
        keep(tab, "recsys-refused")
        press(tab, f"Roll back to {first}")
        standing(tab, "operator rolled back to it")
        assert service.get("/v1/table")["version"] == first
        keep(tab, "recsys-rolled-back")
        tab.fill("#version", "77")
        tab.check("#force")
        press(tab, "Promote")
        expect(tab.locator("#sure-title")).to_have_text("Promote recipe 77, even if its gate has refused it?")
        press(tab, "Yes")
        expect(tab.locator("#operator")).to_contain_text("not promoted", timeout=15_000)
    press(tab, "Train a recipe")  # no monitor runs any more: the record is all that a button writes
    until(lambda: shop.said(COMMANDS)[-1]["kind"] == "train")
    press(tab, "Break tonight's input")
    expect(tab.locator("#wishes")).to_contain_text("Heard")
    press(tab, "Force a bad recipe")
    press(tab, "Yes")
    until(lambda: len(shop.said(STORY)) == 2)
    assert [Wish.model_validate(said).wish for said in shop.said(STORY)] == ["no input", "bad recipe"]


def test_hostile_text_is_shown_and_not_run(tab: Page, service: Service, shop_world: Trained) -> None:
    shop = service.shop
    shop.night()
    visit(tab, service.url)
    forged = Impression(
        list_id="f", user="u", at=TODAY, version=HOSTILE, path="table", items=(HOSTILE,), sources=(HOSTILE,)
    )
    scene = Scene(number=1, title=HOSTILE, at=TODAY, outcome=HOSTILE, marks=HOSTILE)
    night = Night(date="2026-03-13", at=TODAY + DAY, refused=HOSTILE, recipe=HOSTILE, seconds={}, figures={})
    release = shop_world.release.model_copy(update={"who": HOSTILE, "why": HOSTILE})
    alarm = Alarm(kind="drift", at=TODAY + DAY, message=HOSTILE, action=HOSTILE)
    shop.log.append(
        [
            Entry(IMPRESSIONS, "u", forged.model_dump_json().encode()),
            Entry(STORY, "scene", scene.model_dump_json().encode()),
            *[entry(noun) for noun in (alarm, night, release)],
        ]
    )
    for place in ("#alarms", "#rows", "#history", "#act", "#standing"):
        expect(tab.locator(place)).to_contain_text(HOSTILE)
    tab.locator("#rows tr").first.click()
    expect(tab.locator("#detail")).to_contain_text(HOSTILE)
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("img, main script").count() == 0


def test_its_links_work_and_what_is_away_is_said_and_comes_back(tab: Page, service: Service) -> None:
    visit(tab, service.url)
    press_link(tab, "MLflow")
    expect(tab.locator("#mlflow-command")).to_have_text(REGISTRY)
    press(tab, "Close")
    press_link(tab, "Design")
    expect(tab.get_by_role("heading", level=1)).to_be_visible()
    press_link(tab, "Live")
    press_link(tab, "Metrics")
    expect(tab.locator("body")).to_contain_text("recsys_request_seconds")
    tab.go_back()
    tab.wait_for_selector("#watching:not([hidden])")
    cut_off_and_back(tab, "recsys-lost")
    with closing(sqlite3.connect(service.shop.var / "log.db")) as foreign:
        foreign.execute("ALTER TABLE records RENAME TO gone")
        expect(tab.locator("#notices")).to_contain_text("The log is away", timeout=15_000)
        foreign.execute("ALTER TABLE gone RENAME TO records")
        expect(tab.locator("#notices")).to_be_empty(timeout=15_000)


def test_without_a_demo_there_is_a_login_and_no_wish(tab: Page, shop: Shop) -> None:
    shop.night()
    with client(shop) as asking:
        tab.goto(str(asking.base_url))
        tab.fill("#key", "secret")
        press(tab, "Open")
        expect(tab.get_by_role("button", name="Run tonight")).to_be_visible()
        assert tab.get_by_role("button", name="Break tonight's input").count() == 0
        expect(tab.locator("#worth-name")).to_have_text("Clicks a list")
