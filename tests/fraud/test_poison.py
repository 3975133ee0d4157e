"""One record that cannot be used, on any topic and for any reader: it costs itself, and nothing else."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fraud import dataset, features, ingest, policy, stream
from fraud.config import HOUR
from fraud.edge import NEEDED, SHOWN
from fraud.features import fold
from fraud.ingest import Ingest, accept
from fraud.model import Model
from fraud.monitor import Monitor
from fraud.schema import (
    ALARMS,
    BOOK,
    COMMANDS,
    DEAD,
    DECISIONS,
    EVENTS,
    RELEASES,
    REPORTS,
    TOPICS,
    Alarm,
    Features,
    Label,
    Transaction,
)
from fraud.snapshot import Memory
from shared.dead_letters import DeadLetter
from shared.eventlog.port import Entry, Topic, partition_of
from tests.fraud.bank import SEED, TODAY, Bank, Trained, days, open_registry, payment, payments
from tests.fraud.test_serve import PAYMENT, edge, eventually, metric, working

POISON = [b"", b"not json", b"\xff\xfe", b"null", b"[]", b"17", b"{}", b'{"kind": "?"}', b'{"day": 1}', b"[" * 5_000]


def spoil(bank: Bank, *topics: Topic) -> None:
    """Write everything that is no record to every partition of the topics."""
    for topic in topics:
        bank.log.append([Entry(topic, "k", value, n) for value in POISON for n in range(topic.partitions)])


# --- the gateway ------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", [*NEEDED, *SHOWN], ids=lambda topic: topic.name)
def test_the_gateway_goes_on_and_says_what_it_skipped(bank: Bank, topic: Topic) -> None:
    with working(bank), edge(bank) as client:
        assert client.post("/v1/decisions", json=PAYMENT).status_code == 200
        spoil(bank, topic)
        eventually(lambda: client.get("/health/ready").json()["warnings"])
        assert client.post("/v1/decisions", json=PAYMENT | {"id": "tx-2"}).status_code == 200
        assert client.get("/health/ready").status_code == client.get("/health/live").status_code == 200
    with working(bank), edge(bank) as client:  # and so does the next one
        if topic is not DECISIONS:  # the view has passed them
            eventually(lambda: any(topic.name in said for said in client.get("/health/ready").json()["warnings"]))
        answer = client.post("/v1/decisions", json=PAYMENT | {"id": "tx-3"})
        assert answer.status_code == 200
        assert client.get(answer.headers["location"]).content == answer.content
        assert client.get("/v1/model").json()["champion"]["version"] == "1"


def test_a_decision_under_another_payments_key_or_on_another_partition_is_no_answer(bank: Bank) -> None:
    with working(bank), edge(bank) as client:
        first = client.post("/v1/decisions", json=PAYMENT)
        identity = f"{first.json()['card']}.tx-9"
        home = partition_of(identity, DECISIONS.partitions)
        forged = json.dumps(first.json() | {"id": "tx-9", "action": "decline"}).encode()
        bank.log.append([Entry(DECISIONS, identity, first.content), Entry(DECISIONS, identity, forged, (home + 1) % 8)])
        eventually(lambda: len(client.get("/health/ready").json()["warnings"]) >= 2)
        assert client.get(f"/v1/decisions/{identity}").status_code == 404
        assert client.post("/v1/decisions", json=PAYMENT | {"id": "tx-9"}).json()["path"] == "model"


# --- the worker -------------------------------------------------------------------------------------


def alarms(bank: Bank) -> list[Alarm]:
    return [Alarm.model_validate_json(record.value) for record in bank.read(ALARMS)]


@pytest.mark.parametrize("topic", [BOOK, RELEASES], ids=lambda topic: topic.name)
def test_the_worker_goes_on_and_raises_an_alarm(bank: Bank, topic: Topic) -> None:
    worker = bank.worker()
    bank.settle(worker)
    spoil(bank, topic)
    bank.pay(payment())
    bank.work(worker)
    bank.leave(worker)
    assert bank.decision(payment()).path == "model"
    assert len(alarms(bank)) == len(POISON)
    assert all(topic.name in alarm.message for alarm in alarms(bank))
    bank.pay(payment(id="2"))
    bank.decide()
    assert len(alarms(bank)) == len(POISON)  # the next worker does not repeat them


@pytest.mark.parametrize(
    "part", ["recall", *(pytest.param(part, marks=pytest.mark.slow) for part in ("fingerprint", "rules"))]
)
def test_a_payment_that_not_even_the_rules_can_decide_is_a_dead_letter_and_stays_one_in_a_rebuild(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """No worker can decide it; it must not end the worker again and again."""
    bad = payment(id="bad")
    worker = bank.worker()
    bank.settle(worker)

    def is_bad(given: Sequence[object]) -> bool:
        return any(isinstance(event, Transaction) and event.id == bad.id for event in given)

    with monkeypatch.context() as patch:
        if part == "rules":
            patch.setattr(policy, "rules", fails)
        else:
            owner: Any = {"recall": Memory, "fingerprint": Transaction}[part]
            real = getattr(owner, part)
            patch.setattr(owner, part, lambda *given: fails() if is_bad(given) else real(*given))
        bank.pay(bad)
        bank.work(worker)
        bank.leave(worker)
        assert [letter.reason for letter in bank.letters()] == ["cannot be taken in: ZeroDivisionError"]
        for file in (bank.var / "snapshots").iterdir():
            file.unlink()
        bank.settle(again := bank.worker())
        bank.leave(again)
    bank.pay(payment(id="good"))
    bank.decide()
    assert set(bank.said()) == {payment(id="good").identity}
    assert len(bank.letters()) == 1


def test_an_event_that_cannot_be_read_stays_a_dead_letter_in_a_rebuild(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ingest.accept
    monkeypatch.setattr(stream, "accept", lambda record: fails() if b'"bad"' in record.value else real(record))
    bank.pay(payment(id="bad"), payment())
    bank.decide()
    for file in (bank.var / "snapshots").iterdir():
        file.unlink()
    bank.pay(payment(id="2"))
    bank.decide()
    assert set(bank.said()) == {payment().identity, payment(id="2").identity}
    assert len(bank.letters()) == 1


def test_a_payment_on_another_partition_than_its_cards_is_a_dead_letter_for_all(bank: Bank) -> None:
    stray, home = payment(id="stray"), partition_of("card-a", EVENTS.partitions)
    bank.log.append([Entry(EVENTS, stray.card, stray.model_dump_json().encode(), (home + 1) % EVENTS.partitions)])
    bank.pay(payment())
    bank.decide()
    assert set(bank.said()) == {payment().identity}
    (letter,) = bank.letters()
    assert (letter.field, letter.partition) == ("partition", (home + 1) % EVENTS.partitions)
    taken = Ingest(bank.log, bank.lake)
    taken.catch_up()
    taken.consumer.close()
    live = dataset.events(bank.lake, as_of=TODAY + 24 * HOUR).filter(pl.col("offset") >= 0)
    assert live["id"].to_list() == ["1"]


# --- our own code fails -----------------------------------------------------------------------------

VICTIM = payment(card="victim", id="bad", at=TODAY + 10 * HOUR)
AFTER = payment(card="victim", id="after", at=TODAY + 10 * HOUR + 60)


def fails(*_: object, **__: object) -> Features:
    raise ZeroDivisionError


def not_finite(*_: object, **__: object) -> Features:
    return [float("nan")] * len(features.NAMES)


def only(
    payment: Transaction, real: Callable[..., Features], wrong: Callable[..., Features]
) -> Callable[..., Features]:
    """The real features for all payments but one."""
    return lambda event, *rest: wrong() if event.id == payment.id else real(event, *rest)


@pytest.mark.parametrize("wrong", [fails, pytest.param(not_finite, marks=pytest.mark.slow)])
def test_a_payment_whose_features_fail_is_decided_by_the_rules_and_counts_for_the_next(
    bank: Bank, world: Trained, monkeypatch: pytest.MonkeyPatch, wrong: Callable[..., Features]
) -> None:
    monkeypatch.setattr(features, "_vector", only(VICTIM, features._vector, wrong))
    rows = days(world, 0, 0).head(200)
    bank.send(rows)
    bank.clock.observe(AFTER.at)
    bank.pay(VICTIM, AFTER)
    bank.decide()
    said = bank.decision(VICTIM)
    assert (said.path, said.mark, said.features, said.action) == ("rules", "error", None, said.rules)
    assert "failed" in said.reasons
    assert set(bank.said()) == {x.identity for x in (*payments(rows), VICTIM, AFTER)}  # each once
    after = bank.decision(AFTER)
    assert (after.path, after.mark) == ("model", None)
    assert after.features is not None
    assert after.features[features.NAMES.index("card_payments_1h")] == 1  # VICTIM

    # What training folds is what serving stepped, and what a worker without snapshots rebuilds.
    past = dataset.streams(dataset.events(bank.lake, as_of=TODAY + HOUR))
    live = [[accept(r) for r in bank.read(EVENTS) if r.partition == p] for p in range(EVENTS.partitions)]
    folded = {
        event.identity: vector
        for _, event, vector in fold([chain(*both) for both in zip(past, live, strict=True)])
        if isinstance(event, Transaction)
    }
    for identity, decision in bank.decisions().items():
        vector = folded[identity]
        assert decision.features == (None if vector is None else tuple(vector))
    for file in (bank.var / "snapshots").iterdir():
        file.unlink()
    last = payment(card="victim", id="last", at=AFTER.at + 60)
    bank.pay(last)
    bank.decide()
    again = bank.decision(last).features
    assert again is not None
    assert again[features.NAMES.index("card_payments_1h")] == 2


@pytest.mark.parametrize("part", ["score", "contributions", "decide", "step", "nan"])
def test_whatever_fails_on_the_way_to_a_decision_every_payment_has_one(
    bank: Bank, world: Trained, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    worker = bank.worker()
    bank.settle(worker)  # a model that cannot score would not pass its self-test
    if part == "decide":
        monkeypatch.setattr(policy, "decide", fails)
    elif part == "step":
        monkeypatch.setattr(features.State, "step", fails)
    elif part == "nan":
        monkeypatch.setattr(Model, "score", lambda *_: float("nan"))
    else:
        monkeypatch.setattr(Model, part, fails)
    rows = days(world, 0, 0).head(300)
    bank.send(rows)
    bank.work(worker)
    said = bank.decisions()
    assert set(said) == {x.identity for x in payments(rows)}
    failed = [x for x in said.values() if x.mark == "error"]
    assert failed
    assert all(x.path == "rules" and x.action == x.rules for x in failed)
    assert part == "contributions" or len(failed) == len(said)


def test_a_label_on_which_our_code_fails_is_a_dead_letter(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features.State, "_learn", fails)
    label = Label(card="card-a", id="1", terminal="t0001", at=TODAY + HOUR, fraud=True, source="analyst")
    bank.pay(payment())
    bank.log.append([Entry(EVENTS, label.card, label.model_dump_json().encode())])
    bank.pay(payment(id="2"))
    bank.decide()
    assert {x.path for x in bank.decisions().values()} == {"model"}
    (letter,) = bank.letters()
    assert letter.reason == "cannot be taken in: StepFailed"


def test_marks_are_counted(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    with working(bank), edge(bank) as client:
        assert client.post("/v1/decisions", json=PAYMENT).json()["mark"] is None
        monkeypatch.setattr(Model, "score", fails)
        assert client.post("/v1/decisions", json=PAYMENT | {"id": "tx-2"}).json()["mark"] == "error"
        assert metric(client, 'fraud_marked_total{mark="error"}') == 1


# --- ingest and monitor -----------------------------------------------------------------------------


@pytest.fixture
def monitor(bank: Bank) -> Iterator[Callable[[], Monitor]]:
    made: list[Monitor] = []

    def enter() -> Monitor:
        def fetch(_: str, digest: str) -> Path:
            return bank.var / "models" / digest

        registry = open_registry(bank.var)
        made.append(
            Monitor(bank.log, bank.lake, registry, clock=bank.clock, seed=SEED, fetch=fetch, pages=bank.var / "pages")
        )
        return made[-1]

    yield enter
    for one in made:
        one.close()


@pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")
def test_the_monitor_goes_on_whatever_stands_on_any_topic(
    bank: Bank, world: Trained, monitor: Callable[[], Monitor]
) -> None:
    spoil(bank, *[topic for topic in TOPICS if topic not in (EVENTS, BOOK)])
    for number in range(2):
        bank.send(days(world, number, number))
        bank.decide()
        one = monitor()
        while one.step():
            pass
        assert len([r for r in bank.read(REPORTS) if b'"payments"' in r.value]) == number
    letters = [record.value for record in bank.read(DEAD) if record.value not in POISON]
    topics = [DeadLetter.model_validate_json(letter).topic for letter in letters]
    by_topic = {topic.name: topics.count(topic.name) for topic in TOPICS}
    assert by_topic[DECISIONS.name] == len(POISON) * DECISIONS.partitions
    assert by_topic[DEAD.name] == by_topic[COMMANDS.name] == len(POISON)
    decisions = dataset.decisions(bank.lake)
    assert decisions.height == len(bank_decisions(bank))


def bank_decisions(bank: Bank) -> list[bytes]:
    return [record.value for record in bank.read(DECISIONS) if b'"decision"' in record.value]


def test_a_dead_letter_names_no_person(bank: Bank) -> None:
    secret = "4111111111111111"
    bad = json.loads(payment().model_dump_json())
    for change in ({"card": secret * 9}, {"device": f"{secret}!"}, {"card": [secret]}):
        bank.log.append([Entry(EVENTS, "card-a", json.dumps(bad | change).encode())])
    bank.log.append([Entry(EVENTS, secret, f"{{{secret}".encode())])
    for change in ({"country": secret}, {"kind": secret}, {"terminal": "anna@example.com"}, {"currency": "@anna_b"}):
        bank.log.append([Entry(EVENTS, "card-a", json.dumps(bad | change).encode())])
    bank.decide()
    letters = [letter.model_dump_json() for letter in bank.letters()]
    assert len(letters) == 8
    assert [letter for letter in letters for name in (secret, "anna") if name in letter] == []


def test_ingest_holds_a_bounded_number_of_records_while_no_worker_runs(
    bank: Bank, world: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "HELD", 50)
    rows = days(world, 0, 1)
    bank.send(rows)
    taking = Ingest(bank.log, bank.lake)
    for _ in range(20):
        assert not taking.step(limit=30).positions
    assert len(taking._held) <= 50 * EVENTS.partitions
    bank.decide()
    taking.catch_up()
    taking.consumer.close()
    live = dataset.events(bank.lake, as_of=TODAY + 99 * 24 * HOUR).filter(pl.col("offset") >= 0)
    assert live.height == rows.height
