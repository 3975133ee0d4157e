"""The page of sentiment in a browser: it shows what the API says, obeys its operator, survives what can go wrong."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import Page, expect

from sentiment.config import DAY, HOUR
from sentiment.monitor import Monitor, entry
from sentiment.schema import COMMANDS, CORRECTIONS, OPINIONS, STORY, Alarm, Calibration, Confusion, Opinion, Report
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
from tests.sentiment.conftest import crowd, world
from tests.sentiment.crowd import BRANDS, KEY, TODAY, Crowd, Trained, open_registry, post
from tests.sentiment.test_serve import REGISTRY, serving

__all__ = ["crowd", "world"]
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning"),
]

WORDS = {"negative": "Negative", "neutral": "Neutral", "positive": "Positive", None: "Not counted"}
KNOWN = Confusion(((0.7, 0.2, 0.1), (0.15, 0.7, 0.15), (0.1, 0.2, 0.7)), (30, 30, 30))
AUDITED = Calibration(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), (0.0, 0.1, 0.0), (0.002,) * 3, 9)


class Service(NamedTuple):
    crowd: Crowd
    client: httpx.Client

    @property
    def url(self) -> str:
        return str(self.client.base_url).rstrip("/")

    def get(self, path: str) -> Any:
        return self.client.get(path).raise_for_status().json()

    def lives(self, hours: int) -> None:
        """So many hours of the crowd, read, counted and published."""
        posts = self.crowd.world.posts
        self.crowd.send(posts.filter(posts["sent"] < TODAY + hours * HOUR))
        self.crowd.tick(TODAY + hours * HOUR)
        self.crowd.stream()
        self.crowd.publish()


@pytest.fixture
def service(crowd: Crowd) -> Iterator[Service]:
    with serving(crowd, visitor=TOKEN) as client:
        yield Service(crowd, client)


def judged(day: int) -> Report:
    """A day of which enough was audited."""
    return Report(
        day=day,
        posts=400,
        dropped={},
        version="1",
        drift={"words": 0.2, "unknown": 0.01},
        drifted=("words",),
        audits=90,
        macro_recall=0.61,
        confusion=KNOWN,
        calibration=AUDITED,
    )


def test_it_shows_what_the_api_says(tab: Page, service: Service) -> None:
    visit(tab, service.url)
    expect(tab.locator("#rows")).to_contain_text("No post yet")
    expect(tab.locator("#brands-cover")).to_contain_text("Nothing is published yet")
    keep(tab, "sentiment-empty")
    assert serious(tab) == []
    day = TODAY // DAY
    service.crowd.log.append([entry(judged(day - 1)), entry(judged(day))])
    scene = Scene(number=4, title="Crisis", at=TODAY + 20 * HOUR, marks="crisis")
    alarm = Alarm(
        kind="crisis", at=TODAY + 22 * HOUR, message="volt: 9 of 10", action="told", brand="volt", since=TODAY
    )
    service.crowd.log.append([Entry(STORY, scene.kind, scene.model_dump_json().encode()), entry(alarm)])
    service.lives(38)
    posts, published = len(service.crowd.opinions()), len(service.crowd.published())
    expect(tab.locator("#sample")).to_contain_text(f"of {posts:,};", timeout=30_000)
    expect(tab.locator("#now")).to_contain_text(f"Hours that batch has{published}", timeout=30_000)
    tab.wait_for_timeout(1_200)
    said = service.get("/v1/watch")
    state, told = said["state"], said["told"]
    facts = tab.inner_text("#now")
    for label, number in state["now"]["labels"].items():
        assert f"{number:,} ({number / posts:.0%}".replace("%", " %") in facts, label
    whole = next(line["window"] for line in service.get("/v1/brands") if line["brand"] == "*")
    assert tab.inner_text("#share") == f"{100 * whole['corrected'][0]:.1f} %"
    assert f"{100 * whole['low'][0]:.1f} % to {100 * whole['high'][0]:.1f} %" in tab.inner_text("#share-band")
    assert f"{100 * whole['counted'][0]:.1f} %" in tab.inner_text("#share-raw")
    expect(tab.locator("#standing")).to_contain_text("Version 1 scores since")
    expect(tab.locator("#standing")).to_contain_text("by 90 audits its macro-recall is 0.61")
    assert f"version {told['champion']['version']}" in tab.inner_text("#model")
    expect(tab.locator("#drift")).to_contain_text("words in a post")
    expect(tab.locator("#alarms")).to_contain_text("volt: 9 of 10")
    marks = tab.inner_text("#marks")
    for words in ("the mood turns", "crisis of volt, alarm", "version 1 released", "the seam"):
        assert words in marks
    assert tab.locator("#charts canvas").count() == len(said["series"]["tracks"]) + 1
    first, row = tab.locator("#rows tr").first, said["recent"][-1]
    expect(first).to_contain_text(row["text"])
    expect(first).to_contain_text(WORDS[row["label"]])
    lines = tab.locator("#brands tbody tr").all_inner_texts()
    assert [line.split("\t")[0].replace("all brands", "*") for line in lines] == [
        line["brand"] for line in service.get("/v1/brands")
    ]
    for link in {str(link.get_attribute("href")) for link in tab.locator("main a.figure, #brands a").all()}:
        assert service.client.get(link).status_code == 200, link  # a number's own call
    keep(tab, "sentiment")
    assert serious(tab) == []
    everywhere(tab, "sentiment")


def test_a_post_is_explained_by_keyboard_and_corrected_with_a_click(tab: Page, service: Service) -> None:
    service.crowd.post(
        post("The @northair crew is terrible", id="p-1"),
        post("@voltcars is great, thank you", id="p-2", at=TODAY + 61),
        post("¡Qué horror de vuelo con North Air, nunca más vuelvo a volar!", id="p-3", at=TODAY + 62),
        post("🛫 שלום @northair", id="p-4", at=TODAY + 63),
    )
    service.crowd.stream()
    visit(tab, service.url)
    expect(tab.locator("#rows tr")).to_have_count(4)
    press(tab, "Post")
    expect(tab.locator("#hold")).to_have_attribute("aria-pressed", "true")
    texts = tab.locator("#rows td:nth-child(3)").all_inner_texts()
    assert texts == sorted(texts, key=str.lower)
    button = tab.locator("#rows tr", has_text="terrible").get_by_role("button")
    button.focus()
    tab.keyboard.press("Enter")
    expect(tab.locator("#detail .word.moved", has_text="terrible")).to_be_visible(timeout=30_000)
    assert serious(tab) == []
    keep(tab, "sentiment-post")
    said = service.get("/v1/opinions/p-1")
    assert f"{said['score'][0]:.0%}".replace("%", " %") in tab.inner_text("#detail")
    tab.locator("#detail").get_by_role("button", name="Positive").click()
    expect(tab.locator("#detail .came")).to_have_text("Taken down: positive.")
    (correction,) = (json.loads(record.value) for record in service.crowd.read(CORRECTIONS))
    assert (correction["post"], correction["shown"], correction["label"]) == ("p-1", said["label"], "positive")
    tab.keyboard.press("Escape")
    expect(button).to_be_focused()
    expect(tab.locator("#rows")).to_contain_text("Not English")
    service.client.delete("/v1/posts/p-2")
    service.crowd.stream()
    press(tab, "Hold")
    expect(tab.locator("#rows")).to_contain_text("Deleted by its author.")
    expect(tab.locator("#rows")).not_to_contain_text("thank you")


def test_a_sentence_says_which_words_moved_it_and_is_corrected_with_a_click(tab: Page, service: Service) -> None:
    visit(tab, service.url)
    tab.fill("#text", "The @northair app is terrible")
    tab.keyboard.press("Enter")
    moved = tab.locator("#tried .word.moved", has_text="terrible")
    expect(moved).to_be_visible(timeout=30_000)
    said = service.client.post("/v1/opinions", json={"text": "The @northair app is terrible"}).json()
    points = {word["word"]: word["moved"] for word in said["words"]}["terrible"]
    expect(moved.locator("small")).to_have_text(f"+{100 * points:.0f}")
    expect(tab.locator("#tried .verdict")).to_have_text("Negative")
    tab.locator("#tried").get_by_role("button", name="Positive").click()
    expect(tab.locator("#tried .came")).to_have_text("Taken down: positive.")
    (correction,) = (json.loads(record.value) for record in service.crowd.read(CORRECTIONS))
    assert (correction["post"], correction["label"]) == (said["id"], "positive")
    keep(tab, "sentiment-tried")
    tab.fill("#text", HOSTILE)
    press(tab, "What does it say?")
    expect(tab.locator("#tried")).to_contain_text("names no brand")
    expect(tab.locator("#tried .words, #tried p.quiet").first).to_be_visible()
    assert tab.evaluate("window.hacked") is None
    tab.fill("#text", "#win #now #free @a @b @c http://x.example http://y.example")
    press(tab, "What does it say?")
    expect(tab.locator("#tried")).to_contain_text("It is not counted")


def test_hostile_text_is_shown_and_not_run(tab: Page, service: Service, world: Trained) -> None:
    crowd = service.crowd
    visit(tab, service.url)
    crowd.post(post(f"@northair {HOSTILE}", id="p-1"))
    crowd.stream()
    forged = Opinion(id="forged", at=TODAY, text=HOSTILE, brands=(HOSTILE,), label="negative", score=(0.9, 0.1, 0.0))
    scene = Scene(number=1, title=HOSTILE, at=TODAY, outcome=HOSTILE, marks=HOSTILE)
    release = world.release.model_copy(update={"who": HOSTILE, "why": HOSTILE, "at": TODAY + 1})
    alarm = Alarm(kind="drift", at=TODAY + 2, message=HOSTILE, action=HOSTILE)
    crowd.log.append(
        [
            Entry(OPINIONS, "forged", forged.model_dump_json().encode()),
            Entry(STORY, "scene", scene.model_dump_json().encode()),
            *[entry(noun) for noun in (alarm, release)],
        ]
    )
    for place in ("#alarms", "#history", "#act", "#standing"):
        expect(tab.locator(place)).to_contain_text(HOSTILE)
    expect(tab.locator("#rows tr", has_text=HOSTILE)).to_have_count(2)
    for row in range(2):
        tab.locator("#rows tr").nth(row).click()
        expect(tab.locator("#detail blockquote")).to_contain_text(HOSTILE)
        expect(tab.locator("#detail .words, #detail p.quiet").first).to_be_visible()
        tab.keyboard.press("Escape")
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("img, main script").count() == 0


def test_each_button_does_what_it_says(tab: Page, service: Service, world: Trained, tmp_path: Path) -> None:
    crowd = service.crowd
    shutil.copy(world.var / "mlflow.db", tmp_path / "mlflow.db")
    registry = open_registry(tmp_path)
    other = tmp_path / "other"  # the champion with another policy: a version of its own
    shutil.copytree(crowd.var / "models" / world.release.digest, other)
    (other / "policy.json").write_text(json.dumps({"sure": 0.5}))
    registry.register(other, params={}, figures=world.release.figures, tags={"gate": "it costs too much"})
    monitor = Monitor(
        crowd.log,
        crowd.lake,
        lambda: registry,
        BRANDS,
        clock=crowd.clock,
        seed=1,
        fetch=lambda artifact, digest: registry.fetch(artifact, digest=digest, into=crowd.var / "models"),
        folder=crowd.var / "batch",
        recipe=None,
        secret=KEY,
    )
    visit(tab, service.url)
    with monitoring(monitor):
        tab.fill("#version", "2")
        press(tab, "Promote")
        expect(tab.locator("#operator")).to_contain_text(
            "version 2 not promoted: it costs too much; nothing changed.", timeout=15_000
        )
        tab.check("#force")
        press(tab, "Promote")
        expect(tab.locator("#sure-title")).to_have_text("Promote version 2, even if the gate has refused it?")
        press(tab, "No")
        press(tab, "Promote")
        press(tab, "Yes")
        expect(tab.locator("#standing")).to_contain_text("Version 2 scores", timeout=15_000)
        crowd.clock.observe(TODAY + 60)
        press(tab, "Roll back to version 1")
        expect(tab.locator("#standing")).to_contain_text("Version 1 scores", timeout=15_000)
        assert service.get("/v1/model")["champion"]["action"] == "rollback"
        expect(tab.locator("#history")).to_contain_text("roll back to version 1")
        keep(tab, "sentiment-rolled-back")
        press(tab, "Retrain now")
        expect(tab.locator("#operator")).to_contain_text("not retrained", timeout=60_000)  # no labels in this lake
    commands = [json.loads(record.value) for record in crowd.read(COMMANDS)]
    assert [(command["kind"], command["version"], command["force"]) for command in commands] == [
        ("promote", "2", False),
        ("promote", "2", True),
        ("rollback", None, False),
        ("retrain", None, False),
    ]


def test_its_links_work_and_what_is_away_is_said_and_comes_back(tab: Page, service: Service) -> None:
    visit(tab, service.url)
    press_link(tab, "MLflow")
    expect(tab.locator("#mlflow-command")).to_have_text(REGISTRY)
    press(tab, "Close")
    press_link(tab, "Design")
    expect(tab.get_by_role("heading", level=1)).to_be_visible()
    press_link(tab, "Live")
    press_link(tab, "Metrics")
    expect(tab.locator("body")).to_contain_text("sentiment_opinions")
    tab.go_back()
    tab.wait_for_selector("#watching:not([hidden])")
    cut_off_and_back(tab, "sentiment-lost")
    with closing(sqlite3.connect(service.crowd.var / "log.db")) as foreign:
        foreign.execute("ALTER TABLE records RENAME TO gone")
        expect(tab.locator("#notices")).to_contain_text("is away", timeout=15_000)
        expect(tab.locator("#standing")).to_contain_text("cannot be read")
        keep(tab, "sentiment-away")
        foreign.execute("ALTER TABLE gone RENAME TO records")
        expect(tab.locator("#notices")).to_be_empty(timeout=15_000)


def test_without_a_demo_the_key_opens_the_page(tab: Page, crowd: Crowd) -> None:
    with serving(crowd) as client:
        tab.goto(str(client.base_url))
        tab.fill("#key", "wrong")
        press(tab, "Open")
        expect(tab.locator("#key-said")).to_have_text("this is not the operator's key")
        tab.fill("#key", "secret")
        press(tab, "Open")
        expect(tab.locator("#rows")).to_contain_text("run make demo-sentiment")
        assert tab.locator("#story").is_hidden()
