"""What goes wrong on the way to a decision, on either log: nothing is lost, and nothing counts twice."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from kafka import KafkaProducer

from fraud.config import DAY, HOUR, MAX_AHEAD
from fraud.features import NAMES
from fraud.schema import EVENTS, Label, Transaction
from infra.local import Kafka
from shared.eventlog.port import Entry
from shared.privacy import pseudonym
from tests.fraud.bank import KEY, TODAY, Bank, Trained, copied, days, once, payment, payments
from tests.fraud.test_serve import PAYMENT, edge, eventually, metric, working
from tests.fraud.test_stream import BAD, cut, other_definition

Left = tuple[dict[str, bytes], dict[int, str], set[str]]


def left(bank: Bank) -> Left:
    """All that deciders leave behind: decisions, the analysts' day, the terminal book; each once."""
    cells = bank.cells()
    assert once(cells), "an hour of the book was emitted twice"
    return bank.said(), bank.notes(), {cell.model_dump_json() for cell in cells}


@pytest.fixture(scope="module")
def undisturbed(world: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    """What one worker that nothing happens to makes of the first day, on the embedded log."""
    with closing(copied(world, tmp_path_factory.mktemp("undisturbed") / "var")) as bank:
        bank.send(days(world, 0, 0))
        bank.decide()
        yield left(bank)


# --- workers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 4])
def test_any_number_of_workers_decides_the_same(any_bank: Bank, world: Trained, undisturbed: Left, number: int) -> None:
    with ExitStack() as workers:
        for slot in range(number):
            workers.enter_context(working(any_bank, slot=slot))
        any_bank.send(days(world, 0, 0))
        eventually(lambda: not any_bank.undecided(), seconds=60)
    assert left(any_bank) == undisturbed


def test_workers_that_come_and_go_under_load_leave_no_trace(any_bank: Bank, world: Trained, undisturbed: Left) -> None:
    parts = list(days(world, 0, 0).iter_slices(150))
    with working(any_bank, slot=0):
        for number, part in enumerate(parts):
            any_bank.send(part, batch=10)
            if number % 2 == 0:
                with working(any_bank, slot=1):
                    any_bank.send(parts.pop(number + 1) if number + 1 < len(parts) else part.head(0), batch=10)
                    eventually(lambda: not any_bank.undecided(), seconds=60)
        eventually(lambda: not any_bank.undecided(), seconds=60)
    assert left(any_bank) == undisturbed


@pytest.mark.parametrize("damage", [cut, pytest.param(other_definition, marks=pytest.mark.slow)])
def test_a_snapshot_that_cannot_be_used_is_rebuilt(
    any_bank: Bank, world: Trained, undisturbed: Left, damage: Callable[[Path], None]
) -> None:
    first, second = days(world, 0, 0).head(300), days(world, 0, 0).tail(-300)
    any_bank.send(first)
    any_bank.decide()
    for file in (any_bank.var / "snapshots").iterdir():
        damage(file)
    any_bank.send(second)
    any_bank.decide()
    assert left(any_bank) == undisturbed


# --- events -------------------------------------------------------------------------------------------


def test_poison_between_payments_is_a_dead_letter_each_and_moves_nothing(
    any_bank: Bank, world: Trained, undisturbed: Left
) -> None:
    rows = days(world, 0, 0)
    any_bank.send(rows.head(300))
    any_bank.log.append([Entry(EVENTS, "card-a", value) for value, _ in BAD.values()])
    any_bank.send(rows.tail(-300))
    any_bank.decide()
    assert sorted(letter.field for letter in any_bank.letters()) == sorted(field for _, field in BAD.values())
    decisions, notes, cells = left(any_bank)
    expected, *others = undisturbed
    assert without_offsets(decisions) == without_offsets(expected)
    assert [notes, cells] == others


def without_offsets(decisions: dict[str, bytes]) -> dict[str, dict[str, object]]:
    return {key: json.loads(value) | {"offset": None} for key, value in decisions.items()}


def test_a_record_without_key_or_value_is_a_dead_letter_too(broker: Kafka, world: Trained, tmp_path: Path) -> None:
    good = payment()
    with closing(copied(world, tmp_path / "var", url=f"{broker.url}/foreign")) as bank:
        producer = KafkaProducer(bootstrap_servers=broker.url.removeprefix("kafka://"))
        for key, value in [(None, good.model_dump_json().encode()), (b"\xff", b"{}"), (b"card-a", None)]:
            producer.send("foreign.fraud.events", key=key, value=value, partition=0, timestamp_ms=TODAY * 1000)
        producer.close()
        bank.pay(good)
        bank.decide()
        assert set(bank.said()) == {good.identity}
        assert sorted(letter.field for letter in bank.letters()) == ["card", "message", "message"]


def test_the_same_payment_by_http_and_by_topic_at_once_is_decided_once(any_bank: Bank) -> None:
    card, device = (pseudonym(str(PAYMENT[name]), KEY) for name in ("card", "device"))
    with working(any_bank), edge(any_bank) as client, ThreadPoolExecutor(4) as pool:
        for number in range(25):
            asked = PAYMENT | {"id": f"tx-{number}"}
            same = Transaction.model_validate(asked | {"card": card, "device": device})
            ask = partial(client.post, "/v1/decisions", json=asked)
            by_http = [pool.submit(ask), pool.submit(ask)]
            by_topic = pool.submit(any_bank.pay, same)
            first, second = (job.result() for job in by_http)
            by_topic.result()
            assert (first.status_code, second.status_code) == (200, 200)
            assert first.content == second.content == any_bank.said()[same.identity]
        eventually(lambda: metric(client, "fraud_outcomes_total") == 50)
    assert {x.kind for x in any_bank.outcomes()} == {"repeat"}


def test_labels_late_twice_or_taken_back_count_as_the_last_one_says(any_bank: Bank) -> None:
    """Seen through the features of a later payment: only the one that stands counts, from when it was read."""
    paid = [payment(id=f"paid-{n}", at=TODAY + n) for n in range(3)]
    stands, twice, taken_back = (
        Label(card=x.card, id=x.id, terminal=x.terminal, at=TODAY + HOUR, fraud=True, source="chargeback") for x in paid
    )
    no = taken_back.model_copy(update={"fraud": False, "at": TODAY + 2 * HOUR, "source": "analyst"})
    contradiction = twice.model_copy(update={"source": "analyst", "at": TODAY + 2 * HOUR})
    any_bank.pay(*paid)
    for told in (stands, twice, twice, contradiction, taken_back, no, no):
        any_bank.log.append([Entry(EVENTS, told.card, told.model_dump_json().encode())])
    after = payment(id="after", at=TODAY + 3 * HOUR)
    any_bank.clock.observe(after.at)
    any_bank.pay(after)
    any_bank.decide()
    features = any_bank.decision(after).features
    assert features is not None
    assert features[NAMES.index("card_frauds_30d")] == 2
    assert features[NAMES.index("card_since_fraud")] == 2 * HOUR


def test_a_clock_set_back_costs_what_lies_in_its_future_and_says_so(any_bank: Bank) -> None:
    with working(any_bank):
        for name, seconds in {"before": 0, "a-little-back": -HOUR, "a-day-back": -DAY, "right-again": HOUR}.items():
            any_bank.clock._now = TODAY + seconds
            any_bank.pay(payment(id=name, at=TODAY))
            eventually(lambda: not any_bank.undecided())
    assert {x.id for x in any_bank.decisions().values()} == {"before", "a-little-back", "right-again"}
    (letter,) = any_bank.letters()
    assert (letter.field, letter.value) == ("at", str(TODAY))
    assert f"more than {MAX_AHEAD // HOUR} hours in the future" in letter.reason


def test_a_partition_without_payments_holds_up_no_other(any_bank: Bank, world: Trained) -> None:
    """Its ticks close its hours; who gets none is waited for as long as patience lasts (test_stream.py)."""
    rows = days(world, 0, 1)
    idle = next(p for p in range(EVENTS.partitions) if rows.filter(partition=p).height)
    kept = rows.filter((pl.col("partition") != idle) | (pl.col("kind") == "tick"))
    any_bank.send(kept)
    any_bank.decide()
    said = any_bank.decisions()
    assert set(said) == {x.identity for x in payments(kept)}
    assert {x.mark for x in said.values()} == {None}
