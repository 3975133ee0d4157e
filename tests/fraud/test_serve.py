"""The edge over HTTP, on a real log and store, with a real worker in a thread beside it, or none."""

import logging
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, get_args

import httpx
import pytest
import uvicorn

from fraud import config, dataset
from fraud.config import DAY, MAX_AGE, MAX_AHEAD
from fraud.ingest import Ingest
from fraud.monitor import Monitor, entry
from fraud.schema import DECISIONS, EVENTS, Action, Alarm, Report
from fraud.serve import make_app
from shared.clock import monotonic, sleep
from shared.store import open_store
from tests.fraud.bank import KEY, TODAY, Bank, Trained, open_registry
from tests.roles import keys
from tests.servers import RedisServer

CARD = "4111111111111111"
REGISTRY = ".venv/bin/mlflow ui"
PAYMENT = {
    "card": CARD,
    "id": "tx-1",
    "terminal": "t0001",
    "at": TODAY,
    "cents": 4_250,
    "country": "BE",
    "device": "a-telephone",
}
PROBLEM = "application/problem+json"


def eventually(done: Callable[[], object], *, seconds: float = 10.0) -> None:
    until = monotonic() + seconds
    while not done():
        assert monotonic() < until, "it did not happen"
        sleep(0.01)


@contextmanager
def working(bank: Bank, *, slot: int = 0, between: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A worker in a thread of its own; what it does `between` steps holds it up."""
    worker, stopping = bank.worker(slot=slot), threading.Event()
    bank.settle(worker)

    def work() -> None:
        while not stopping.is_set():
            worker.step(0.05)
            between()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        bank.leave(worker)


@contextmanager
def edge(
    bank: Bank,
    *,
    key: str = "secret",
    url: str = "",
    visitor: str = "",
    deciders: Callable[[], bool] = lambda: True,
    keep: int | None = None,
) -> Iterator[httpx.Client]:
    """The service without a worker, on a free port; a client that knows `key`. With a `visitor` it is a demo's.

    `keep`: seconds for which its view of decisions keeps them.
    """
    store = open_store(url or f"sqlite:///{bank.var}/store.db", clock=bank.clock, keep=keep)
    app = make_app(
        bank.log,
        store,
        clock=bank.clock,
        keys=keys("fraud"),
        pseudonym_key=KEY,
        deciders=deciders,
        models=bank.var / "models",
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
            with httpx.Client(base_url=url, headers=[(b"X-API-Key", key.encode("latin-1"))], timeout=10.0) as client:
                eventually(lambda: client.get("/health/ready").status_code == 200)
                yield client
        finally:
            server.should_exit = True
            thread.join()
    store.close()


@pytest.fixture
def alone(bank: Bank) -> Iterator[httpx.Client]:
    with edge(bank) as client:
        yield client


@pytest.fixture
def client(bank: Bank) -> Iterator[httpx.Client]:
    with working(bank), edge(bank) as client:
        yield client


def metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    content: dict[str, Any] = response.json()
    assert content["status"] == status
    return content


# --- decisions --------------------------------------------------------------------------------------


def test_a_payment_is_decided_by_the_model_and_can_be_asked_for(client: httpx.Client) -> None:
    answer = client.post("/v1/decisions", json=PAYMENT)
    assert answer.status_code == 200
    said = answer.json()
    assert (said["path"], said["model"], said["cents"]) == ("model", "1", 4_250)
    assert said["action"] in get_args(Action)
    again = client.get(answer.headers["location"])
    assert again.json() == said


def test_the_same_payment_again_gets_the_first_decision_and_another_one_409(client: httpx.Client, bank: Bank) -> None:
    first = client.post("/v1/decisions", json=PAYMENT)
    assert client.post("/v1/decisions", json=PAYMENT).content == first.content
    answer = problem(client.post("/v1/decisions", json=PAYMENT | {"cents": 1}), 409)
    assert "'tx-1'" in answer["detail"]
    assert client.get(first.headers["location"]).content == first.content
    eventually(lambda: metric(client, "fraud_outcomes_total") == 2)
    assert [(x.field, x.value) for x in bank.letters()] == [("id", "tx-1")]


def test_an_owner_that_is_late_is_stood_in_for_and_what_it_says_later_does_not_count(
    alone: httpx.Client, bank: Bank
) -> None:
    answer = alone.post("/v1/decisions", json=PAYMENT | {"cents": 1_600_00})
    said = answer.json()
    assert (said["path"], said["mark"], said["model"]) == ("stand-in", "owner-late", None)
    assert (said["action"], said["reasons"]) == ("review", ["high_amount"])
    with working(bank):
        eventually(lambda: metric(alone, "fraud_superseded_total") == 1)
    assert len(bank.read(DECISIONS)) == 2
    assert alone.get(answer.headers["location"]).content == answer.content
    assert alone.post("/v1/decisions", json=PAYMENT | {"cents": 1_600_00}).content == answer.content
    rows = dataset_of(bank)
    assert rows == [("review", "stand-in")]


def dataset_of(bank: Bank) -> list[tuple[str, str]]:
    """The decisions that a training would go by."""
    ingest = Ingest(bank.log, bank.lake)
    ingest.catch_up()
    ingest.consumer.close()
    rows = bank.lake.read("decisions").unique(["card", "id"], keep="first", maintain_order=True)
    return [(action, path) for action, path in rows.select("action", "path").iter_rows()]


def test_a_locked_log_is_503_in_time_and_the_next_try_is_answered(alone: httpx.Client, bank: Bank) -> None:
    with closing(sqlite3.connect(bank.var / "log.db", isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        began = monotonic()
        answer = alone.post("/v1/decisions", json=PAYMENT)
        assert monotonic() - began < config.ANSWER_DEADLINE + 0.5
        assert answer.headers["retry-after"] == "1"
        assert "stand-in rules" in problem(answer, 503)["detail"]
    with working(bank):
        eventually(lambda: alone.post("/v1/decisions", json=PAYMENT).status_code == 200)
    assert len(bank.said()) == 1


def test_who_gives_up_waiting_leaves_the_others_their_answers(
    alone: httpx.Client, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "ANSWER_DEADLINE", 0.1)
    with closing(sqlite3.connect(bank.var / "log.db", isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        for number in range(5):
            assert alone.post("/v1/decisions", json=PAYMENT | {"id": f"tx-{number}"}).status_code == 503
    with working(bank):
        eventually(lambda: alone.post("/v1/decisions", json=PAYMENT | {"id": "tx-9"}).status_code == 200)


def test_a_full_log_is_503_and_appends_nothing(alone: httpx.Client, bank: Bank) -> None:
    with closing(sqlite3.connect(bank.var / "log.db", isolation_level=None)) as db:
        db.execute(
            "CREATE TRIGGER full BEFORE INSERT ON records BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
        )
        assert "disk is full" in problem(alone.post("/v1/decisions", json=PAYMENT), 503)["detail"]
        assert bank.read(EVENTS) == []
        db.execute("DROP TRIGGER full")
    assert alone.post("/v1/decisions", json=PAYMENT).status_code == 200


def test_an_edge_that_starts_again_knows_what_was_decided(bank: Bank) -> None:
    with working(bank), edge(bank) as client:
        first = client.post("/v1/decisions", json=PAYMENT)
    with edge(bank) as client:
        assert client.get(first.headers["location"]).content == first.content
        asked = {"kind": "rollback", "expected_champion": "1"}
        assert client.post("/v1/commands", json=asked).status_code == 202
    (bank.var / "store.db").unlink()  # a view: the log gives it back
    with edge(bank) as client:
        assert client.get(first.headers["location"]).content == first.content


@pytest.mark.kill
@pytest.mark.parametrize("noticed", [True, False], ids=["down for a while", "back at once"])
def test_a_killed_store_is_503_and_the_log_gives_all_of_it_back(
    bank: Bank, mortal_redis: RedisServer, noticed: bool
) -> None:
    with working(bank), edge(bank, url=mortal_redis.url) as client:
        said = [client.post("/v1/decisions", json=PAYMENT | {"id": f"tx-{number}"}) for number in range(3)]
        mortal_redis.kill()
        if noticed:
            problem(client.get(said[0].headers["location"]), 503)
            eventually(lambda: client.get("/health/ready").status_code == 503)
        mortal_redis.start()
        said.append(client.post("/v1/decisions", json=PAYMENT | {"id": "tx-9"}))
        assert said[-1].status_code in (200, 503)  # it may have fallen into the gap: then the till asks again
        again = client.post("/v1/decisions", json=PAYMENT | {"id": "tx-0"})
        assert again.content == said[0].content or again.status_code == 503
        eventually(lambda: client.get("/health/ready").status_code == 200)
        for answer in said:
            if answer.status_code == 200:
                assert client.get(answer.headers["location"]).content == answer.content


def test_a_store_emptied_while_nothing_happens_is_filled_again(bank: Bank, redis_server: RedisServer) -> None:
    redis_server.empty()
    with working(bank), edge(bank, url=redis_server.url) as client:
        first = client.post("/v1/decisions", json=PAYMENT)
        redis_server.empty()
        eventually(lambda: client.get(first.headers["location"]).content == first.content)
        assert client.post("/v1/decisions", json=PAYMENT).content == first.content


def test_a_decision_is_answered_for_as_long_as_its_topic_is_kept(bank: Bank) -> None:
    with working(bank), edge(bank, keep=30 * DAY) as client:
        identity = client.post("/v1/decisions", json=PAYMENT).headers["Location"]
        bank.clock.observe(bank.clock.now() + 30 * DAY)
        assert client.get(identity).status_code == 200
        bank.clock.observe(bank.clock.now() + 1)
        assert "in the lake only" in problem(client.get(identity), 404)["detail"]


def test_an_unknown_payment_is_404(alone: httpx.Client) -> None:
    assert "unknown.tx-1" in problem(alone.get("/v1/decisions/unknown.tx-1"), 404)["detail"]
    problem(alone.get("/v1/decisions/no identity"), 422)


# --- labels -----------------------------------------------------------------------------------------


def test_the_latest_verdict_on_a_decided_payment_wins(client: httpx.Client, bank: Bank) -> None:
    problem(client.post("/v1/labels", json={"payment": "unknown.tx-1", "fraud": True, "source": "analyst"}), 404)
    said = client.post("/v1/decisions", json=PAYMENT).json()
    identity = f"{said['card']}.{said['id']}"
    for fraud, source in ((True, "chargeback"), (False, "analyst")):
        verdict = {"payment": identity, "fraud": fraud, "source": source}
        assert client.post("/v1/labels", json=verdict).status_code == 202
    eventually(lambda: bank.undecided() == 0)
    dataset_of(bank)
    rows = dataset.events(bank.lake, as_of=TODAY + DAY)
    assert rows.filter(offset=2, partition=said["partition"])["fraud"].to_list() == [False]
    paid = rows.filter(rows["id"] == "tx-1", rows["kind"] == "payment").drop("fraud")
    assert dataset.labelled(paid, rows, bank.lake.read("decisions"))["fraud"].to_list() == [False]


def test_a_test_payment_gets_no_verdict(client: httpx.Client, bank: Bank) -> None:
    said = client.post("/v1/decisions", json=PAYMENT | {"probe": True}).json()
    verdict = {"payment": f"{said['card']}.{said['id']}", "fraud": True, "source": "analyst"}
    (error,) = problem(client.post("/v1/labels", json=verdict), 422)["errors"]
    assert error["field"] == "payment"
    assert len(bank.read(EVENTS)) == 1


# --- operators --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")
def test_commands_are_carried_out_and_seen_in_ledger_and_alarms(
    client: httpx.Client, bank: Bank, world: Trained
) -> None:
    first = client.get("/v1/model").json()
    assert (first["champion"]["version"], first["challenger"]) == ("1", None)
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

    def command(**wanted: object) -> None:
        seen = client.get("/v1/watch").json()["told"]["in_force"]
        asked = {"why": "a test", "expected_champion": seen} | wanted
        assert client.post("/v1/commands", json=asked).status_code == 202
        while monitor.step():
            pass

    def ledger() -> list[tuple[str, str]]:
        return [(x["action"], x["version"]) for x in client.get("/v1/model").json()["ledger"]]

    command(kind="promote", version="1")
    eventually(lambda: client.get("/v1/alarms").json())
    assert client.get("/v1/alarms").json()[0]["message"] == "version 1 is in force already"
    command(kind="promote", version="2")
    eventually(lambda: len(client.get("/v1/alarms").json()) == 2)
    assert client.get("/v1/alarms").json()[0]["message"] == "version 2 not promoted: costs too much"
    assert ledger() == [("promote", "1")]
    command(kind="promote", version="2", force=True)
    eventually(lambda: ledger()[0] == ("promote", "2"))
    assert client.post("/v1/decisions", json=PAYMENT).json()["model"] == "2"
    command(kind="rollback")
    eventually(lambda: ledger()[0] == ("rollback", "1"))
    assert client.get("/v1/model").json()["champion"]["who"] == "operator"
    monitor.close()


def test_alarms_and_reports_are_shown_newest_first(alone: httpx.Client, bank: Bank) -> None:
    for number in range(2):
        alarm = Alarm(kind="drift", at=TODAY + number, message=f"{number}", action="")
        report = Report(day=number, payments=1, actions={"approve": 1}, drift={"hour": 0.1}, drifted=())
        bank.log.append([entry(alarm), entry(report)])
    eventually(lambda: len(alone.get("/v1/reports").json()) == 2)
    assert [x["message"] for x in alone.get("/v1/alarms").json()] == ["1", "0"]
    assert [x["day"] for x in alone.get("/v1/reports").json()] == [1, 0]


def test_metrics_count_decisions_by_action_and_path(client: httpx.Client) -> None:
    said = [client.post("/v1/decisions", json=PAYMENT | {"id": f"tx-{number}"}).json() for number in range(3)]
    metrics = client.get("/metrics").text
    assert all(f'fraud_decisions_total{{action="{x["action"]}",path="{x["path"]}"}}' in metrics for x in said)
    assert metric(client, "fraud_decisions_total") == 3
    assert metric(client, "fraud_request_seconds_count") == 3
    assert metric(client, "fraud_lag") == 0


# --- keys, limits, privacy --------------------------------------------------------------------------

GUARDED = [
    ("GET", "/v1/decisions/a.b"),
    ("POST", "/v1/decisions"),
    ("POST", "/v1/labels"),
    ("POST", "/v1/commands"),
    ("GET", "/v1/model"),
    ("GET", "/v1/alarms"),
    ("GET", "/v1/reports"),
    ("GET", "/v1/watch"),
    ("GET", "/v1/features"),
    ("GET", "/v1/stream"),
    ("GET", "/v1/decisions/a.b/explanation"),
]


@pytest.mark.parametrize("key", ["", "wrong", "sécret"])
def test_nothing_is_said_or_done_without_the_key(bank: Bank, key: str) -> None:
    with edge(bank, key=key) as client:
        for method, path in GUARDED:
            problem(client.request(method, path, json=PAYMENT), 401)
        assert client.get("/health/live").status_code == 200
        assert bank.read(EVENTS) == []


def test_a_body_of_a_megabyte_is_413_however_it_is_sent(alone: httpx.Client) -> None:
    host, port = str(alone.base_url.host), alone.base_url.port
    with socket.create_connection((host, port or 0)) as connection:  # says its length, and need not send it
        connection.sendall(b"POST /v1/decisions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    parts = (b" " * 10_000 for _ in range(3))  # in chunks, which do not say it
    answer = alone.post("/v1/decisions", content=parts, headers={"Content-Type": "application/json"})
    assert "16384 bytes" in problem(answer, 413)["detail"]


WRONG: dict[str, tuple[dict[str, object], str, str]] = {
    "negative": ({"cents": -1}, "cents", "-1"),
    "absurd": ({"cents": 10**12}, "cents", str(10**12)),
    "half a cent": ({"cents": 0.5}, "cents", "0.5"),
    "words": ({"cents": "12"}, "cents", "'12'"),
    "truth": ({"cents": True}, "cents", "True"),
    "far past": ({"at": TODAY - MAX_AGE - 1}, "at", str(TODAY - MAX_AGE - 1)),
    "1970": ({"at": 0}, "at", "0"),
    "before 1970": ({"at": -1}, "at", "-1"),
    "far future": ({"at": TODAY + MAX_AHEAD + 1}, "at", str(TODAY + MAX_AHEAD + 1)),
    "after 2106": ({"at": 2**32}, "at", str(2**32)),
    "a date": ({"at": "2026-01-01"}, "at", "'2026-01-01'"),
    "currency": ({"currency": "USD"}, "currency", "'USD'"),
    "country": ({"country": "Belgium"}, "country", "'Belgium'"),
    "id": ({"id": "a b"}, "id", "'a b'"),
    "long id": ({"id": "x" * 10_000}, "id", "'" + "x" * 99),
    "dot": ({"card": "a.b"}, "card", ""),
    "nothing": ({"terminal": None}, "terminal", "None"),
    "extra": ({"pan": "4111 1111 1111 1111"}, "pan", ""),
}


def test_a_wrong_field_is_422_and_named_with_its_value(alone: httpx.Client, bank: Bank) -> None:
    for name, (change, field, value) in WRONG.items():
        (error,) = problem(alone.post("/v1/decisions", json=PAYMENT | change), 422)["errors"]
        assert (error["field"], error["value"]) == (field, value), name
        assert error["message"]
    assert bank.read(EVENTS) == []


BODIES = [
    b"{",
    b"",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'"\\ud800"',
    b'{"\\ud800": 1}',
    b'{"card": "\\ud800"}',
    b"[" * 8_000,
    b'{"cents": NaN, "at": Infinity}',
    b'{"cents": 1e999}',
    b'{"cents": ' + b"9" * 5_000 + b"}",
    b'{"card": "c"}',
]


def test_what_is_no_payment_is_4xx_and_says_why(alone: httpx.Client, bank: Bank) -> None:
    for body in BODIES:
        answer = alone.post("/v1/decisions", content=body, headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500, body[:50]
        assert answer.headers["content-type"] == PROBLEM, body[:50]
        assert answer.json()["detail"]
    for kind in ("text/plain", "application/x-www-form-urlencoded", "nonsense"):
        answer = alone.post("/v1/decisions", content=b'{"card": "c"}', headers={"Content-Type": kind})
        assert 400 <= answer.status_code < 500
        assert answer.headers["content-type"] == PROBLEM
    missing = problem(alone.post("/v1/decisions", json={"card": "c"}), 422)["errors"]
    assert {error["field"] for error in missing} == {"id", "terminal", "at", "cents"}
    assert bank.read(EVENTS) == []


def test_six_hours_ahead_and_thirty_days_ago_are_still_taken(client: httpx.Client) -> None:
    for number, at in enumerate((TODAY - MAX_AGE, TODAY + MAX_AHEAD)):
        answer = client.post("/v1/decisions", json=PAYMENT | {"id": f"tx-{number}", "at": at})
        assert answer.status_code == 200


def test_no_card_number_reaches_a_file_or_a_line_of_the_logs(
    bank: Bank, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with working(bank), edge(bank) as client:
        said = client.post("/v1/decisions", json=PAYMENT).json()
        client.post("/v1/decisions", json=PAYMENT | {"cents": -1})
        client.post("/v1/decisions", json=PAYMENT | {"cents": 1})
        client.post("/v1/decisions", json=PAYMENT | {"id": CARD * 9})
    files = {path: path.read_bytes() for path in bank.var.rglob("*") if path.is_file()}
    assert [path for path, content in files.items() if CARD.encode() in content or b"a-telephone" in content] == []
    holding = {path.name.removesuffix("-wal") for path, content in files.items() if said["card"].encode() in content}
    assert holding >= {"log.db", "store.db"}  # so one would have seen it there
    captured = capfd.readouterr()
    ours = "\n".join(x.getMessage() for x in caplog.records if not x.name.startswith("http"))  # not the client's own
    for text in (ours, captured.out, captured.err):
        assert CARD not in text
        assert "a-telephone" not in text
        assert said["card"] not in text
