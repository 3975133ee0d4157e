"""What the page asks for: all of it as JSON and as a stream; the rest is seen in a browser."""

import json

from sentiment.config import DAY, HOUR
from sentiment.monitor import entry
from sentiment.schema import STORY, Alarm, Confusion, Report
from shared.eventlog.port import Entry
from shared.story import Scene
from tests.sentiment.crowd import TODAY, Crowd, post
from tests.sentiment.test_serve import serving, three, until


def test_the_page_is_public_and_what_it_shows_is_not(crowd: Crowd) -> None:
    with serving(crowd) as client:
        stranger = {"X-API-Key": "wrong"}
        assert "Say what people think of a brand" in client.get("/", headers=stranger).text
        for path in ("/v1/watch", "/v1/stream", "/v1/opinions/p-1"):
            assert client.get(path, headers=stranger).status_code == 401


def test_before_the_first_post_it_shows_nothing_and_breaks_nothing(crowd: Crowd) -> None:
    with serving(crowd) as client:
        said = client.get("/v1/watch").json()
        assert (said["state"]["seam"], said["state"]["lag"], said["state"]["now"]["posts"]) == (None, 0, 0)
        assert (said["compared"]["brands"], said["recent"], said["series"]["at"]) == ([], [], [])
        assert said["told"]["champion"]["version"] == "1"
        assert said["told"]["limits"]


def test_it_shows_posts_views_and_what_was_said(crowd: Crowd) -> None:
    three(crowd)
    shaky = Confusion(((1, 0, 0), (0, 1, 0), (0, 0, 1)), (9, 9, 9))
    report = Report(
        day=TODAY // DAY,
        posts=3,
        dropped={},
        version="1",
        drift={"words": 0.1},
        drifted=(),
        audits=70,
        macro_recall=0.7,
        confusion=shaky,
    )
    crowd.log.append([entry(report), entry(Alarm(kind="drift", at=TODAY, message="m", action="a"))])
    crowd.post(post("not read yet", id="p-4"))
    with serving(crowd) as client:
        said = client.get("/v1/watch").json()
        state, told = said["state"], said["told"]
        assert (state["seam"], state["published"], state["lag"], state["now"]["posts"]) == (TODAY + HOUR, 1, 1, 3)
        assert {row["id"] for row in said["recent"]} == {"p-1", "p-2", "p-3"}
        assert [row["id"] for row in said["negative"]] == [
            row["id"] for row in said["recent"] if row["label"] == "negative"
        ]
        assert said["series"]["view"] == ["batch", "speed"]
        assert said["series"]["posts"] == [2, 1]
        assert {line["brand"] for line in said["compared"]["brands"]} == {
            line["brand"] for line in client.get("/v1/brands").json()
        }
        assert (told["reports"][0]["macro_recall"], told["reports"][0]["confusion"]) == (0.7, None)
        assert client.get("/v1/reports").json()[0]["confusion"] is not None
        assert told["alarms"][0]["message"] == "m"


def test_a_deleted_post_leaves_the_page(crowd: Crowd) -> None:
    three(crowd)
    with serving(crowd) as client:
        assert client.delete("/v1/posts/p-2").status_code == 202
        crowd.stream()
        until(lambda: "awful" not in json.dumps(client.get("/v1/watch").json()))
        (gone,) = [row for row in client.get("/v1/watch").json()["recent"] if row["gone"]]
        assert (gone["id"], gone["text"]) == ("p-2", "")


def test_a_damaged_view_is_said_and_comes_back(crowd: Crowd) -> None:
    three(crowd)
    manifest = crowd.var / "batch" / "manifest.json"
    whole = manifest.read_text()
    with serving(crowd) as client, client.stream("GET", "/v1/stream") as answer:
        events = answer.iter_lines()

        def state() -> str:
            while not next(events).startswith("event: state"):
                pass
            return str(json.loads(next(events).removeprefix("data: "))["trouble"])

        assert state() == ""
        manifest.write_text("{")
        said = client.get("/v1/watch").json()
        assert "manifest.json is damaged" in said["state"]["trouble"]
        assert said["state"]["published"] == 1, "it goes on with what it had"
        until(lambda: "manifest.json is damaged" in state())
        manifest.write_text(whole)
        until(lambda: state() == "")


def test_a_stream_brings_all_and_then_what_is_new(crowd: Crowd) -> None:
    three(crowd)
    scene = Scene(number=1, title="Dawn", at=TODAY)
    with serving(crowd, visitor="once") as client, client.stream("GET", "/v1/stream") as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("event: "))
        assert next(lines) == "event: all"
        crowd.log.append([Entry(STORY, scene.kind, scene.model_dump_json().encode())])
        crowd.tick(TODAY + 2 * HOUR + 600)
        crowd.stream()
        crowd.publish()
        until(lambda: client.get("/v1/watch").json()["state"]["published"] == 2)
        seen = {next(lines) for _ in range(20)}
        assert seen == {f"event: {name}" for name in ("told", "rows", "tail", "compared", "state")}
        told = client.get("/v1/watch").json()["told"]
        assert (told["scenes"][0]["title"], told["demo"]) == ("Dawn", True)
