"""The page in a real browser: it shows what the API says, obeys its operator, and survives what can go wrong."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import Page, expect

from fraud.monitor import Monitor, entry
from fraud.schema import COMMANDS, DECISIONS, STORY, Alarm
from shared.eventlog.port import Entry
from shared.story import Scene
from tests.e2e.browser import (
    HOSTILE,
    PHONE,
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
from tests.fraud.bank import TODAY, Bank, Trained, days, open_registry
from tests.fraud.test_serve import PAYMENT, REGISTRY, edge, eventually, working

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning"),
]


class Service(NamedTuple):
    bank: Bank
    client: httpx.Client

    @property
    def url(self) -> str:
        return str(self.client.base_url).rstrip("/")

    def get(self, path: str) -> Any:
        return self.client.get(path).raise_for_status().json()


@pytest.fixture
def service(bank: Bank) -> Iterator[Service]:
    with working(bank), edge(bank, visitor=TOKEN) as client:
        yield Service(bank, client)


def lived(service: Service, world: Trained, *, last: int = 4) -> None:
    """Some days by topic, and some requests."""
    service.bank.send(days(world, 0, last))
    for number in range(30):
        payment = PAYMENT | {
            "id": f"page-{number}",
            "at": service.bank.clock.now(),
            "cents": 1_000 + 40_000 * (number % 9),
        }
        assert service.client.post("/v1/decisions", json=payment).status_code == 200
    eventually(lambda: service.bank.undecided() == 0)


def settled(tab: Page, service: Service) -> Any:
    """What the API says, once the page has had time to say the same."""
    watched = service.get("/v1/watch")
    payments = watched["state"]["now"]["payments"]
    expect(tab.locator("#sample")).to_contain_text(f"of {payments:,}")
    tab.wait_for_timeout(1_200)
    return watched


# --- who may look ------------------------------------------------------------------------------------


def test_the_key_opens_the_page_once_a_browser_and_no_other_word_does(tab: Page, service: Service) -> None:
    tab.goto(service.url)
    tab.fill("#key", "wrong")
    press(tab, "Open")
    expect(tab.locator("#key-said")).to_have_text("this is not the operator's key")
    keep(tab, "login")
    assert serious(tab) == []
    tab.fill("#key", "secret")
    press(tab, "Open")
    tab.wait_for_selector("#watching:not([hidden])")
    tab.reload()
    tab.wait_for_selector("#watching:not([hidden])")
    (cookie,) = tab.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert "secret" not in cookie["value"]
    assert tab.evaluate("document.cookie") == ""


def test_the_printed_address_opens_it_once(tab: Page, service: Service) -> None:
    visit(tab, service.url)
    assert tab.url == f"{service.url}/"
    tab.context.clear_cookies()
    tab.goto(f"{service.url}/?token={TOKEN}")
    tab.wait_for_selector("#login:not([hidden])")


# --- what it shows -----------------------------------------------------------------------------------


def test_it_shows_what_the_api_says(tab: Page, service: Service, world: Trained) -> None:
    visit(tab, service.url)
    expect(tab.locator("#rows")).to_contain_text("No payment yet")
    keep(tab, "empty")
    lived(service, world)
    said = settled(tab, service)
    state, told = said["state"], said["told"]
    facts = tab.inner_text("#now")
    for action, number in state["now"]["actions"].items():
        assert f"{number:,}" in facts, action
    amount = round(abs(state["money"]["expected"]))
    assert tab.inner_text("#saved") == f"{'−' if state['money']['expected'] < 0 else ''}€ {amount:,}"
    assert f"{state['money']['payments']:,} payments" in tab.inner_text("#saved-covers")
    assert f"version {told['champion']['version']}" in tab.inner_text("#model")
    assert service.get("/v1/model")["champion"] == told["champion"]
    row = said["recent"][-1]
    first = tab.locator("#rows tr").first
    expect(first).to_contain_text(f"€ {row['cents'] / 100:,.2f}")
    expect(first).to_contain_text({"approve": "Approved", "review": "Review", "decline": "Declined"}[row["action"]])
    assert tab.locator("#charts canvas").count() == 4
    for link in tab.locator("a.figure").all():  # a number's own call
        assert service.client.get(str(link.get_attribute("href"))).status_code == 200
    keep(tab, "normal")
    everywhere(tab, "normal")


def test_the_payments_are_sorted_and_held_until_they_are_let_go(tab: Page, service: Service, world: Trained) -> None:
    visit(tab, service.url)
    lived(service, world, last=2)
    settled(tab, service)

    def amounts() -> list[float]:
        return [
            float(cell.replace("€", "").replace(",", ""))
            for cell in tab.locator("#rows td:nth-child(2)").all_inner_texts()
        ]

    newest = amounts()
    press(tab, "Amount")
    expect(tab.locator("#hold")).to_have_attribute("aria-pressed", "true")
    expect(tab.locator("th[data-sort=cents]")).to_have_attribute("aria-sort", "descending")
    largest = amounts()
    assert largest == sorted(largest, reverse=True)
    press(tab, "Amount")
    assert amounts() == sorted(amounts())
    assert service.client.post("/v1/decisions", json=PAYMENT | {"id": "while-held"}).status_code == 200
    tab.wait_for_timeout(1_500)
    assert amounts() == sorted(amounts())
    press(tab, "Hold")
    assert amounts() == [float(str(PAYMENT["cents"])) / 100, *newest][: len(newest)]


def test_its_links_work_without_a_network(tab: Page, service: Service) -> None:
    visit(tab, service.url)
    press_link(tab, "Design")
    expect(tab.get_by_role("heading", level=1)).to_contain_text("fraud detection")
    keep(tab, "design")
    assert serious(tab) == []
    tab.get_by_role("link", name="Worker.step", exact=True).click()
    expect(tab.locator(":target")).to_contain_text("def step")
    tab.goto(f"{service.url}/docs")
    expect(tab.get_by_text("/v1/decisions", exact=True).first).to_be_visible(timeout=30_000)
    keep(tab, "api")
    visit(tab, service.url)
    press_link(tab, "MLflow")
    expect(tab.locator("#mlflow-command")).to_have_text(REGISTRY)
    assert serious(tab) == []
    keep(tab, "mlflow")
    press(tab, "Close")
    press_link(tab, "Metrics")
    expect(tab.locator("body")).to_contain_text("fraud_request_seconds")


def test_a_payment_is_explained_by_keyboard_with_the_numbers_of_the_api(
    tab: Page, service: Service, world: Trained
) -> None:
    visit(tab, service.url)
    lived(service, world)
    settled(tab, service)
    tab.click("#show-some")
    identity = service.get("/v1/watch")["stopped"][-1]["identity"]
    button = tab.locator("#rows button").first
    button.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#detail .push", timeout=60_000)
    keep(tab, "payment")
    assert serious(tab) == []
    decision, why = (service.get(f"/v1/decisions/{identity}{more}") for more in ("", "/explanation"))
    shown = tab.inner_text("#detail")
    for action, cost in decision["costs"].items():
        assert f"€ {cost:,.2f}" in shown, action
    for name, added in list(why["contributions"].items())[:3]:
        assert f"{added:+.2f}".replace("-", "−") in shown, name
    assert tab.evaluate("document.activeElement.closest('dialog') !== null")
    tab.keyboard.press("Escape")
    expect(tab.locator("#detail")).not_to_be_visible()
    expect(button).to_be_focused()
    tab.set_viewport_size(PHONE)  # type: ignore[arg-type]  # a dictionary is enough for it
    button.click()
    tab.wait_for_selector("#detail .push")
    keep(tab, "payment-phone")


def test_hostile_text_is_shown_and_not_run(tab: Page, service: Service, world: Trained) -> None:
    visit(tab, service.url)
    said = service.client.post("/v1/decisions", json=PAYMENT).json()
    forged = said | {"id": "forged", "model": None, "mark": HOSTILE, "reasons": [HOSTILE], "action": "decline"}
    alarm = Alarm(kind="drift", at=TODAY + 1, message=HOSTILE, action=HOSTILE)
    scene = Scene(number=1, title=HOSTILE, at=TODAY, outcome=HOSTILE, marks=HOSTILE)
    service.bank.log.append(
        [
            Entry(DECISIONS, f"{said['card']}.forged", json.dumps(forged).encode()),
            entry(alarm),
            Entry(STORY, "scene", scene.model_dump_json().encode()),
        ]
    )
    service.bank.release(world.release.model_copy(update={"who": HOSTILE, "why": HOSTILE, "at": TODAY + 2}))
    expect(tab.locator("#alarms")).to_contain_text(HOSTILE)
    expect(tab.locator("#rows")).to_contain_text(HOSTILE)
    expect(tab.locator("#history")).to_contain_text(HOSTILE)
    expect(tab.locator("#act")).to_contain_text(HOSTILE)
    tab.locator("#rows tr").first.click()
    expect(tab.locator("#detail")).to_contain_text(HOSTILE)
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("img, main script").count() == 0


# --- what it does ------------------------------------------------------------------------------------


def wishes(bank: Bank) -> list[str]:
    return [json.loads(record.value)["wish"] for record in bank.read(STORY)]


def test_each_button_does_what_it_says(tab: Page, service: Service, world: Trained) -> None:
    bank = service.bank
    registry = open_registry(bank.var)
    for odds, gate in ((0.1, "passed"), (0.2, "costs too much")):
        folder = bank.var / "models" / bank.variant(world.release, version="", log_odds=odds).digest
        registry.register(folder, params={}, figures=world.release.figures, tags={"gate": gate})
    monitor = Monitor(
        bank.log,
        bank.lake,
        registry,
        clock=bank.clock,
        seed=1,
        fetch=lambda artifact, digest: registry.fetch(artifact, digest=digest, into=bank.var / "models"),
        pages=bank.var / "fraud" / "reports",
    )

    def commands() -> list[tuple[str, str | None, bool]]:
        read = [json.loads(record.value) for record in bank.read(COMMANDS)]
        return [(command["kind"], command["version"], command["force"]) for command in read]

    visit(tab, service.url)
    with monitoring(monitor):
        tab.fill("#version", "2")
        press(tab, "Promote")
        expect(tab.locator("#operator")).to_contain_text("version 2 not promoted: costs too much; nothing changed.")
        tab.check("#force")
        press(tab, "Promote")
        expect(tab.locator("#sure-title")).to_have_text("Promote version 2, even if the gate has refused it?")
        keep(tab, "sure")
        press(tab, "No")
        press(tab, "Promote")
        press(tab, "Yes")
        expect(tab.locator("#standing")).to_contain_text("Version 2 decides", timeout=15_000)
        assert commands() == [("promote", "2", False), ("promote", "2", True)]
        bank.clock.observe(TODAY + 60)
        press(tab, "Roll back to version 1")
        expect(tab.locator("#standing")).to_contain_text("Version 1 decides", timeout=15_000)
        assert service.get("/v1/model")["champion"]["action"] == "rollback"
        bank.clock.observe(TODAY + 120)
        press(tab, "Retrain now")
        expect(tab.locator("#operator")).to_contain_text("the champion goes on.", timeout=60_000)  # no newer labels
        challenger = service.get("/v1/model")["challenger"]
        expect(tab.locator("#model")).to_contain_text(f"version {challenger['version']}")
        own, theirs = (challenger["figures"][f"{whose}average_precision"] for whose in ("", "champion_"))
        expect(tab.locator("#model")).to_contain_text(f"{own:.3f}, champion {theirs:.3f}")
        keep(tab, "challenger")
        assert commands()[2:] == [("rollback", None, False), ("retrain", None, False)]
    press(tab, "Start the attack")
    expect(tab.locator("#wishes")).to_contain_text("Heard")
    press(tab, "Release a bad model")
    press(tab, "Yes")
    eventually(lambda: wishes(bank) == ["attack", "bad release"])
    attack = Scene(number=4, title="Attack", at=TODAY + 180, marks="attack")
    bank.log.append([Entry(STORY, "scene", attack.model_dump_json().encode())])
    expect(tab.get_by_role("button", name="The attack has begun")).to_be_disabled()
    keep(tab, "attack")


def test_a_demo_s_buttons_are_a_demo_s_only(tab: Page, bank: Bank) -> None:
    with working(bank), edge(bank) as client:
        assert client.post("/v1/wishes", json={"wish": "attack"}).status_code == 404
        tab.goto(str(client.base_url))
        tab.fill("#key", "secret")
        press(tab, "Open")
        expect(tab.get_by_role("button", name="Retrain now")).to_be_visible()
        assert tab.get_by_role("button", name="Start the attack").count() == 0


# --- what can go wrong -------------------------------------------------------------------------------


def test_a_log_that_is_away_is_said_and_comes_back_by_itself(tab: Page, bank: Bank, world: Trained) -> None:
    with edge(bank, visitor=TOKEN) as client, closing(sqlite3.connect(bank.var / "log.db")) as foreign:
        service = Service(bank, client)
        visit(tab, service.url)
        with working(bank):
            lived(service, world, last=1)
        settled(tab, service)
        foreign.execute("BEGIN IMMEDIATE")
        assert client.post("/v1/decisions", json=PAYMENT | {"id": "locked"}).status_code == 503
        foreign.execute("ROLLBACK")
        expect(tab.locator("#standing")).to_contain_text("1 request of the last minute got no decision")
        foreign.execute("ALTER TABLE records RENAME TO gone")
        expect(tab.locator("#notices")).to_contain_text("is away", timeout=15_000)
        expect(tab.locator("#model")).to_contain_text("version 1")  # it is not forgotten
        keep(tab, "log-away")
        foreign.execute("ALTER TABLE gone RENAME TO records")
        expect(tab.locator("#notices")).to_be_empty(timeout=15_000)


def test_a_lost_connection_is_said_with_its_age_and_comes_back_by_itself(tab: Page, service: Service) -> None:
    visit(tab, service.url)
    cut_off_and_back(tab, "lost")
