"""A broker that dies, is away, slow or silent: the service comes back by itself, and every payment is decided once."""

import http.client
import json
import threading
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from kafka import KafkaProducer

from fraud.schema import DECISIONS
from infra.local import WHERE, Kafka
from shared.clock import VirtualClock, monotonic, sleep
from shared.eventlog import kafka, open_log
from shared.eventlog.kafka import KafkaLog
from shared.eventlog.kafka_calls import GIVE_UP
from shared.eventlog.port import Entry, Fenced, LogUnavailable, Place, Position, Record, Topic, beginning
from shared.settings import Settings
from tests.e2e.test_commands import PAYMENT, Service, decided_by_model, serving
from tests.fraud.bank import Bank, Trained, copied
from tests.servers import Toxiproxy, free_ports

pytestmark = [pytest.mark.kill, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]
BACK = 30.0  # seconds after the end of a fault until the model decides again


class Wire:
    """A broker, and a proxy that all its clients go through."""

    def __init__(self, broker: Kafka, proxy: Toxiproxy) -> None:
        self.broker, self.proxy = broker, proxy


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    home = Settings().kafka_home
    if home is None:
        pytest.skip(f"needs Kafka. {WHERE}")
    port, controller = free_ports(2)
    with Toxiproxy(port) as proxy:
        folder = tmp_path_factory.mktemp("broker")
        broker = Kafka(home, folder, port=port, controller=controller, advertised=proxy.port)
        broker.start()
        yield Wire(broker, proxy)
        broker.kill()


# --- faults: each from its beginning to its end --------------------------------------------------------


def killed(wire: Wire, _: float) -> None:
    wire.broker.kill()
    wire.broker.start()


def away(wire: Wire, seconds: float) -> None:
    wire.proxy.cut()
    sleep(seconds)
    wire.proxy.heal()


def slow(wire: Wire, seconds: float) -> None:
    wire.proxy.slow(100)
    sleep(seconds)
    wire.proxy.heal()


def half_open(wire: Wire, seconds: float) -> None:
    wire.proxy.half_open()
    sleep(seconds)
    wire.proxy.heal()


@pytest.mark.timeout(600)
def test_the_service_comes_back_from_every_fault_and_has_decided_everything_once(
    wire: Wire, world: Trained, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """One service lives through all of them, one after the other."""
    seconds, answers = float(request.config.getoption("--away")), dict[str, dict[str, object]]()
    with closing(copied(world, tmp_path / "var", url=f"{wire.broker.url}/{uuid4().hex[:8]}")) as bank:
        with serving(bank) as service:
            decided_by_model(service)
            for fault in (killed, away, slow, half_open):
                answers |= lived_through(fault, wire, service, seconds)
        account(bank, answers)


def lived_through(
    fault: Callable[[Wire, float], None], wire: Wire, service: Service, seconds: float
) -> dict[str, dict[str, object]]:
    """Tills pay before it, during it and after it; gives their answers once nothing is left to decide."""
    before = service.metric("fraud_unavailable_total")
    with tills(service, fault.__name__) as answers:
        sleep(1.0)
        fault(wire, seconds)
        healed = monotonic()
        until_the_model_decides(service)
        assert fault is slow or service.metric("fraud_unavailable_total") > before, fault.__name__
        print(f"{fault.__name__}: decides again {monotonic() - healed:.1f} s after its end")
        sleep(1.0)
    drained(service)
    assert len(answers) > 20, fault.__name__
    return answers


def drained(service: Service) -> None:
    """Wait until nothing is left to decide."""
    end = monotonic() + BACK
    while service.metric("fraud_lag"):
        assert monotonic() < end, "payments wait and are not taken"
        sleep(0.1)


@contextmanager
def tills(service: Service, name: str) -> Iterator[dict[str, dict[str, object]]]:
    """Some tills that pay one after the other, and ask again until they have an answer; gives the answers."""
    answers: dict[str, dict[str, object]] = {}
    stopping = threading.Event()

    def pay(till: int) -> None:
        number = 0
        while not stopping.is_set():
            payment = PAYMENT | {"card": f"till-{till}", "id": f"{name}-{till}-{number}"}
            while (answer := asked(service, payment)) is None:
                sleep(0.2)
            answers[str(payment["id"])] = answer
            number += 1
            sleep(0.05)

    threads = [threading.Thread(target=pay, args=(till,)) for till in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def asked(service: Service, payment: dict[str, object]) -> dict[str, object] | None:
    try:
        return service.post(payment)
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return None


def until_the_model_decides(service: Service) -> None:
    until = monotonic() + BACK
    for number in range(10_000):
        answer = asked(service, PAYMENT | {"card": "back", "id": f"back-{uuid4().hex[:8]}-{number}"})
        if answer is not None and answer["path"] == "model":
            return
        assert monotonic() < until, service.log[-3_000:]
        sleep(0.2)


def account(bank: Bank, answers: dict[str, dict[str, object]]) -> None:
    """Every payment in the log is decided, none twice by an owner, and what was answered is what stands first."""
    bank.decide()
    sent = {f"{x.card}.{x.id}" for x in bank.payments_sent()}
    until = monotonic() + 10  # a step is seen a moment after its commit has returned
    while set(by_owner := owners(words := bank.read(DECISIONS))) != sent and monotonic() < until:
        sleep(0.2)
    assert set(by_owner) == sent
    assert len(by_owner) == len(sent)
    first: dict[str, dict[str, object]] = {}
    for record in words:
        word = json.loads(record.value)
        if word["kind"] == "decision":
            first.setdefault(record.key, word)
    said = {str(word["id"]): word for word in first.values()}
    assert [name for name, answer in answers.items() if said[name] != answer] == []


def owners(words: list[Record]) -> list[str]:
    """The payments that owners decided, once a decision."""
    said = [(word.key, json.loads(word.value)) for word in words]
    return [key for key, word in said if word["kind"] == "decision" and word["path"] != "stand-in"]


def test_a_commit_that_hangs_ends_in_time_and_is_whole_or_not_at_all(wire: Wire) -> None:
    here, there = Topic("here", 1), Topic("there", 1)
    place = Place(here.name, 0)
    with closing(open_log(f"{wire.broker.url}/{uuid4().hex[:8]}", clock=VirtualClock(1_000))) as log:
        log.create([here, there])
        log.append([Entry(here, "key", b"1")])
        member = log.consumer("group", [here], "member")
        assert len(member.poll(10, 10.0)) == 1
        wire.proxy.half_open()
        began = monotonic()
        with pytest.raises(LogUnavailable):
            member.commit([Entry(there, "key", b"one"), Entry(there, "key", b"two")], {place: Position(1, "note")})
        assert monotonic() - began < GIVE_UP + 3
        wire.proxy.heal()
    with closing(open_log(f"{wire.broker.url}/{log.prefix.rstrip('.')}", clock=VirtualClock(1_000))) as log:  # type: ignore[attr-defined]  # it is Kafka's
        member = log.consumer("group", [here], "member")
        until = monotonic() + 20
        while place not in member.owned:
            member.poll(0, 0.2)
            assert monotonic() < until
        written = log.reader(beginning([there])).poll(10, 0.5)
        assert (member.owned[place].offset, len(written)) in ((0, 0), (1, 2))


def test_a_step_that_the_broker_gave_up_is_not_called_done(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """kafka-python 3.0.12 answers such a record with a new epoch, and then takes the step for committed."""
    monkeypatch.setattr(kafka, "TRANSACTION", 0.5)
    there = Topic("there", 1)
    with closing(
        KafkaLog(f"{wire.broker.url.removeprefix('kafka://')}/{uuid4().hex[:8]}", clock=VirtualClock(1))
    ) as log:
        log.create([there])
        member = log.consumer("group", [there], "member")
        at_once = log.send

        def too_late(producer: KafkaProducer, entry: Entry) -> object:
            sleep(2.0 * (entry.value == b"two"))
            return at_once(producer, entry)

        monkeypatch.setattr(log, "send", too_late)
        with pytest.raises((Fenced, LogUnavailable)):
            member.commit([Entry(there, "key", b"one"), Entry(there, "key", b"two")], {})
        assert log.reader(beginning([there])).poll(10, 0.5) == []
