"""The edge over HTTP, on a real log and a real batch view."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from sentiment.config import BODY_LIMIT, HOUR, MAX_TEXT
from sentiment.edge import Edge
from sentiment.schema import AUDITS, COMMANDS, CORRECTIONS, POSTS, Audit, Command, Correction, Tombstone
from sentiment.serve import make_app
from shared.auth import Role
from shared.clock import monotonic, sleep
from shared.eventlog.port import Entry
from tests.roles import keys, shown
from tests.sentiment.crowd import KEY, TODAY, Crowd, post
from tests.sentiment.test_stream import ODD, REFUSED

HEADERS = {"X-API-Key": "secret"}
REGISTRY = "mlflow ui --backend-store-uri sqlite:///var/mlflow.db"


@contextmanager
def serving(crowd: Crowd, *, visitor: str = "", workers: Callable[[], bool] = lambda: True) -> Iterator[httpx.Client]:
    """The service without a worker, on a free port, and a client that knows the key; with a `visitor` a demo's."""
    app = make_app(
        lambda metrics: Edge(
            crowd.log, crowd.champion(), folder=crowd.var / "batch", clock=crowd.clock, metrics=metrics
        ),
        crowd.reader,
        clock=crowd.clock,
        keys=keys("sentiment"),
        pseudonym_key=KEY,
        workers=workers,
        models=crowd.var / "models",
        registry=REGISTRY,
        stopping=lambda: server.should_exit,
        visitor=visitor,
    )
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, http="httptools"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, headers=HEADERS, timeout=30.0) as client:
                until(lambda: client.get("/health/ready").status_code == 200)
                yield client
        finally:
            server.should_exit = True
            thread.join()


def test_a_command_before_the_releases_are_read_is_503_and_no_false_conflict(crowd: Crowd) -> None:
    with serving(crowd) as client:
        wanted = {"kind": "withdraw", "expected_champion": "1"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Edge, "caught_up", False)
            answer = client.post("/v1/commands", json=wanted | {"expected_champion": "7"})
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert client.post("/v1/commands", json=wanted | {"expected_champion": "7"}).status_code == 409
        assert client.post("/v1/commands", json=wanted).status_code == 202


def test_without_a_worker_it_answers_and_warns(crowd: Crowd) -> None:
    with serving(crowd, workers=lambda: False) as client:
        ready = client.get("/health/ready")
        assert ready.status_code == 200
        assert any("no worker runs" in warning for warning in ready.json()["warnings"])


@pytest.fixture
def client(crowd: Crowd) -> Iterator[httpx.Client]:
    """A crowd of three posts, one hour of it published; the follower has read all."""
    three(crowd)
    with serving(crowd) as client:
        yield client


def three(crowd: Crowd) -> None:
    """Posts, of which two are in a published hour."""
    crowd.post(post("@northair is great", id="p-1"), post("@northair is awful and @voltcars too", id="p-2"))
    crowd.tick(TODAY + HOUR + 600)
    crowd.post(post("<b>northair</b> is fine", id="p-3", at=TODAY + HOUR + 660))
    crowd.stream()
    crowd.publish()


def until(done: Callable[[], object], *, seconds: float = 30.0) -> None:
    limit = monotonic() + seconds
    while not done():
        assert monotonic() < limit, "it did not happen"
        sleep(0.02)


def problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = response.json()
    return content


def eventually(client: httpx.Client, path: str, wanted: int) -> list[Any]:
    until = monotonic() + 10
    while len(found := client.get(path).json()) != wanted:
        assert monotonic() < until, found
        sleep(0.02)
    return list(found)


def test_a_timeline_says_which_view_has_counted_each_point(client: httpx.Client) -> None:
    span = {"from": TODAY, "to": TODAY + 2 * HOUR}
    told = client.get("/v1/brands/northair/timeline", params=span).json()
    assert told["seam"] == TODAY + HOUR
    assert [point["parts"][0]["view"] for point in told["points"]] == ["batch", "speed"]
    assert [point["parts"][0]["raw"] for point in told["points"]] == [2, 1]
    assert [point["parts"][0]["models"] for point in told["points"]] == [["1"], ["1"]]
    everything = client.get("/v1/brands/*/timeline", params=span | {"step": "day"}).json()
    assert sum(part["raw"] for part in everything["points"][0]["parts"]) == 3


def test_minutes_can_be_asked_for(client: httpx.Client) -> None:
    span: dict[str, int | str] = {"from": TODAY, "to": TODAY + HOUR, "step": "minute"}
    points = client.get("/v1/brands/northair/timeline", params=span).json()["points"]
    assert len(points) == 60
    assert [point["at"] for point in points if point["parts"][0]["raw"]] == [TODAY + 60]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/v1/brands/unknown/timeline?from={TODAY}&to={TODAY + HOUR}", 404),
        (f"/v1/brands/northair/timeline?from={TODAY}&to={TODAY}", 422),
        (f"/v1/brands/northair/timeline?from=0&to={TODAY}&step=minute", 422),
        (f"/v1/brands/northair/timeline?from={TODAY}&to={TODAY + 1}&step=second", 422),
        ("/v1/brands/northair/timeline?from=x&to=y", 422),
        ("/v1/brands/North%20Air/timeline?from=0&to=3600", 422),
        ("/v1/brands?hours=0", 422),
        ("/v1/nothing", 404),
    ],
)
def test_what_cannot_be_answered_is_a_problem_with_a_reason(client: httpx.Client, path: str, status: int) -> None:
    assert problem(client.get(path), status)["detail"]


def test_without_the_key_nothing_is_told(client: httpx.Client) -> None:
    for path in ("/v1/brands", "/v1/opinions", "/v1/audits", "/v1/alarms", "/v1/model", "/v1/reports"):
        problem(client.get(path, headers={"X-API-Key": "wrong"}), 401)


def test_brands_are_told_most_negative_first(client: httpx.Client) -> None:
    told = client.get("/v1/brands").json()
    assert {line["brand"] for line in told} >= {"*", "northair", "volt"}
    shares = [(line["window"]["counted"] or [0])[0] for line in told]
    assert shares == sorted(shares, reverse=True)


def test_a_typed_text_gets_an_opinion_and_the_words_that_moved_it(client: httpx.Client) -> None:
    said = client.post("/v1/opinions", json={"text": "The @northair app is terrible"}).json()
    assert said["brands"] == ["northair"]
    assert said["model"] == "1"
    assert sum(said["score"]) == pytest.approx(1)
    assert [word["word"] for word in said["words"]] == said["seen"].split()
    assert {word["word"]: word["moved"] for word in said["words"]}["terrible"] > 0.05
    assert said["label"] == "negative"


@pytest.mark.parametrize("text", ["", "x" * (MAX_TEXT + 1)])
def test_no_text_and_too_much_of_it_are_refused(client: httpx.Client, text: str) -> None:
    problem(client.post("/v1/opinions", json={"text": text}), 422)


def test_a_megabyte_is_refused_before_it_is_read(client: httpx.Client) -> None:
    problem(client.post("/v1/opinions", content=b"x" * (BODY_LIMIT + 1)), 413)


UNREADABLE = {
    "nothing": b"",
    "no JSON": b"{",
    "broken UTF-8": b'{"text": "\xff"}',
    "half a surrogate pair": b'{"text": "\\ud800"}',
    "very deep": b"[" * 5_000,
    "a list": b"[1]",
    "a number": b'{"text": 7, "post": 7, "kind": 7}',
    "ancient times": b'{"text": "a", "post": "p-1", "label": "neutral", "reader": "anna", "kind": "retrain", "at": 0}',
}


@pytest.mark.parametrize("path", ["/v1/opinions", "/v1/corrections", "/v1/audits", "/v1/commands"])
def test_what_cannot_be_read_is_refused_with_a_reason_and_written_nowhere(
    client: httpx.Client, crowd: Crowd, path: str
) -> None:
    for name, body in UNREADABLE.items():
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), (name, answer.text)
        assert problem(answer, answer.status_code)["detail"], name
    assert [record for topic in (CORRECTIONS, AUDITS, COMMANDS) for record in crowd.read(topic)] == []


def test_odd_texts_that_are_typed_get_an_opinion(client: httpx.Client) -> None:
    for name, text in ODD.items():
        said = client.post("/v1/opinions", json={"text": text}).json()
        assert sum(said["score"]) == pytest.approx(1), name
        assert said["why_not"] == (None if said["label"] else "unsure"), name


def test_other_languages_and_spam_that_are_typed_are_said_to_be_so(client: httpx.Client) -> None:
    for text, why in REFUSED:
        said = client.post("/v1/opinions", json={"text": text}).json()
        assert (said["why_not"], said["label"], said["score"], said["words"]) == (why, None, None, [])


def test_script_comes_back_as_the_text_it_is(client: httpx.Client) -> None:
    answer = client.post("/v1/opinions", json={"text": "<script>alert(1)</script> @northair"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["seen"].startswith("<script>")


def test_the_latest_opinions_come_newest_first(client: httpx.Client) -> None:
    assert {opinion["id"] for opinion in client.get("/v1/opinions").json()} == {"p-1", "p-2", "p-3"}
    assert len(client.get("/v1/opinions", params={"limit": 1}).json()) == 1


def test_a_correction_keeps_what_was_shown_and_hides_the_reader(client: httpx.Client, crowd: Crowd) -> None:
    given = {"post": "p-1", "label": "negative", "reader": "anna"}
    assert client.post("/v1/corrections", json=given).status_code == 202
    (said,) = (Correction.model_validate_json(record.value) for record in crowd.read(CORRECTIONS))
    assert (said.post, said.label, said.model) == ("p-1", "negative", "1")
    assert said.shown == crowd.opinion("p-1").label
    assert said.reader != "anna"
    problem(client.post("/v1/corrections", json=given | {"post": "unknown"}), 404)
    problem(client.post("/v1/corrections", json=given | {"label": "angry"}), 422)


def test_a_typed_text_can_be_corrected_and_is_kept_nowhere(client: httpx.Client, crowd: Crowd) -> None:
    said = client.post("/v1/opinions", json={"text": "The @northair app is terrible"}).json()
    given = {"post": said["id"], "label": "neutral", "reader": "anna"}
    assert client.post("/v1/corrections", json=given).status_code == 202
    (record,) = crowd.read(CORRECTIONS)
    assert Correction.model_validate_json(record.value).shown == said["label"]
    assert b"terrible" not in record.value
    assert client.get(f"/v1/opinions/{said['id']}").json()["text"] == ""
    assert client.post("/v1/opinions", json={"text": "The @northair app is terrible"}).json()["id"] == said["id"]
    assert {opinion["id"] for opinion in client.get("/v1/opinions").json()} == {"p-1", "p-2", "p-3"}


def test_one_opinion_can_be_asked_for(client: httpx.Client, crowd: Crowd) -> None:
    assert client.get("/v1/opinions/p-2").json() == crowd.opinion("p-2").model_dump(mode="json")
    problem(client.get("/v1/opinions/unknown"), 404)


def test_a_client_reads_opinions_on_texts_that_were_sent_here_and_no_posts(client: httpx.Client) -> None:
    said = client.post("/v1/opinions", json={"text": "The @northair app is terrible"}).json()
    assert client.get(f"/v1/opinions/{said['id']}", headers=shown(Role.CLIENT)).json()["label"] == said["label"]
    assert problem(client.get("/v1/opinions/p-2", headers=shown(Role.CLIENT)), 404)["detail"] == (
        "no opinion on post 'p-2' is at hand"
    )
    assert client.get("/v1/opinions/p-2", headers=shown(Role.ANALYST)).json()["id"] == "p-2"


def test_audits_are_drawn_given_once_and_hide_what_the_model_said(client: httpx.Client, crowd: Crowd) -> None:
    asked = [audit(number) for number in range(3)]
    crowd.log.append([Entry(AUDITS, one.post, one.model_dump_json().encode()) for one in asked])
    waiting = eventually(client, "/v1/audits", 3)
    assert waiting[0] == {"post": "p-0", "at": TODAY, "text": "@northair is number 0", "brands": ["northair"]}
    given = {"post": "p-0", "label": "neutral"}
    assert client.post("/v1/audits", json=given).status_code == 202
    assert client.post("/v1/audits", json={"post": "p-1", "label": "none"}).status_code == 202
    eventually(client, "/v1/audits", 1)
    problem(client.post("/v1/audits", json=given), 404)
    *_, first, second = (Audit.model_validate_json(record.value) for record in crowd.read(AUDITS))
    assert first == asked[0].model_copy(update={"label": "neutral", "known_at": crowd.clock.now()})
    assert (second.label, second.known_at) == (None, crowd.clock.now()), "a person says that it is no opinion"


def audit(number: int) -> Audit:
    """A question about a post."""
    return Audit(
        post=f"p-{number}",
        at=TODAY,
        model="1",
        score=(0.7, 0.2, 0.1),
        inclusion=0.2,
        drawn={"northair": (12, 60)},
        text=f"@northair is number {number}",
        brands=("northair",),
    )


def test_a_deleted_post_is_shown_no_more(client: httpx.Client, crowd: Crowd) -> None:
    assert client.delete("/v1/posts/p-2").status_code == 202
    crowd.stream()
    assert {opinion["id"] for opinion in eventually(client, "/v1/opinions", 2)} == {"p-1", "p-3"}
    assert any(b"tombstone" in record.value for record in crowd.read(POSTS))
    problem(client.delete("/v1/posts/a%20b"), 422)


def test_commands_go_through_the_log(client: httpx.Client, crowd: Crowd) -> None:
    wanted = {"kind": "rollback", "why": "it is wrong", "expected_champion": "1"}
    answer = client.post("/v1/commands", json=wanted)
    assert answer.status_code == 202
    (said,) = (Command.model_validate_json(record.value) for record in crowd.read(COMMANDS))
    assert (said.kind, said.key) == ("rollback", answer.json()["key"])
    problem(client.post("/v1/commands", json=wanted | {"kind": "delete everything"}), 422)


def test_model_alarms_reports_and_metrics_are_told(client: httpx.Client) -> None:
    assert client.get("/v1/model").json()["champion"]["version"] == "1"
    assert client.get("/v1/alarms").json() == []
    assert client.get("/v1/reports").json() == []
    metrics = client.get("/metrics").text
    assert "sentiment_lag 0.0" in metrics
    assert 'sentiment_opinions_total{label="' in metrics
    assert client.get("/health/live").status_code == 200


def test_a_damaged_view_is_said_and_the_rest_goes_on(crowd: Crowd) -> None:
    three(crowd)
    (crowd.var / "batch" / "manifest.json").write_text("{")
    with serving(crowd) as client:
        problem(client.get("/v1/brands"), 503)
        assert client.get("/v1/model").status_code == 200


def test_a_post_that_comes_after_its_deletion_is_never_shown(crowd: Crowd) -> None:
    crowd.post(Tombstone(id="p-9", at=TODAY), post("@northair is great", id="p-9"))
    crowd.stream()
    with serving(crowd) as client:
        assert client.get("/v1/opinions/p-9").status_code == 404
        assert client.get("/v1/audits").json() == []


def test_no_text_or_reader_reaches_a_file_or_a_line_of_the_logs(
    client: httpx.Client, crowd: Crowd, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    said = client.post("/v1/opinions", json={"text": "Jane-Doe says @northair is awful"}).json()
    correction = {"post": said["id"], "label": "neutral", "reader": "Jane-Doe"}
    assert client.post("/v1/corrections", json=correction).status_code == 202
    for path, body in (
        ("opinions", {"text": "Jane-Doe" * 9_999}),
        ("corrections", correction | {"reader": "Jane-Doe!"}),
    ):
        refused = client.post(f"/v1/{path}", json=body)
        assert refused.status_code >= 400
        assert "Jane-Doe" not in refused.text
    files = {path: path.read_bytes() for path in crowd.var.rglob("*") if path.is_file()}
    assert [path for path, content in files.items() if b"Jane-Doe" in content] == []
    assert any(said["id"].encode() in content for content in files.values())  # so one would have seen it there
    captured = capfd.readouterr()
    ours = [x.getMessage() for x in caplog.records if not x.name.startswith("http")]  # not the client's own
    assert [text for text in (*ours, captured.out, captured.err) if "Jane-Doe" in text] == []
