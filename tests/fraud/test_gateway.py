"""Several gateways, threads that fail, and commands over HTTP."""

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from fraud import config
from fraud.edge import Edge
from fraud.schema import COMMANDS, RELEASES, Command
from shared.clock import monotonic
from shared.eventlog.port import Entry
from shared.follower import Follower
from shared.releases import Ledger, Release
from shared.store import open_store
from tests.fraud.bank import KEY, TODAY, Bank, Trained
from tests.fraud.test_serve import PAYMENT, alone, edge, eventually, metric, problem, working

__all__ = ["alone"]


def counts(client: httpx.Client, name: str, number: int) -> bool:
    return metric(client, name) == number


# --- counting ---------------------------------------------------------------------------------------


def test_two_gateways_on_one_store_both_count_right(bank: Bank) -> None:
    with edge(bank) as one, edge(bank) as two:
        for number, client in enumerate((one, two, one)):  # no worker: stand-ins
            client.post("/v1/decisions", json=PAYMENT | {"id": f"tx-{number}"})
        with working(bank):  # says it again, too late
            for client in (one, two):
                eventually(partial(counts, client, "fraud_superseded_total", 3))
                assert metric(client, "fraud_decisions_total") == 3
                assert client.get("/v1/watch").json()["state"]["now"]["payments"] == 3
            one.post("/v1/decisions", json=PAYMENT | {"id": "tx-9"})
            for client in (one, two):
                eventually(partial(counts, client, "fraud_decisions_total", 4))
                assert metric(client, "fraud_superseded_total") == 3


def test_what_is_read_again_is_not_counted_again(bank: Bank) -> None:
    with working(bank), edge(bank) as client:
        answers = [client.post("/v1/decisions", json=PAYMENT | {"id": f"tx-{number}"}) for number in range(3)]
        with closing(sqlite3.connect(bank.var / "store.db", isolation_level=None)) as store:
            for table in ("dated_rows", "dated_positions"):
                store.execute(f"DELETE FROM {table}")
        eventually(lambda: client.get(answers[0].headers["location"]).status_code == 200)
        eventually(lambda: client.get("/health/ready").status_code == 200)
        answers.append(client.post("/v1/decisions", json=PAYMENT | {"id": "tx-9"}))
        for answer in answers:
            assert client.get(answer.headers["location"]).content == answer.content
        assert (
            metric(client, "fraud_decisions_total") == client.get("/v1/watch").json()["state"]["now"]["payments"] == 4
        )
        assert metric(client, "fraud_superseded_total") == 0


# --- threads ----------------------------------------------------------------------------------------


def test_a_store_of_another_log_is_named_and_nothing_is_answered_from_it(bank: Bank, tmp_path: Path) -> None:
    with working(bank), edge(bank) as client:
        client.post("/v1/decisions", json=PAYMENT)
    other = Bank(tmp_path / "other")
    with closing(other.log), closing(open_store(f"sqlite:///{bank.var}/store.db", clock=bank.clock)) as store:
        gateway = Edge(other.log, store, secret=KEY, clock=other.clock, metrics=CollectorRegistry())
        gateway.needed.start()
        eventually(lambda: "of another log: name an empty store" in gateway.needed.ready())
        gateway.needed.stop()


def test_an_append_thread_that_fails_answers_all_that_wait_and_is_started_again(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, broken = bank.log.append, True

    def append(entries: list[Entry]) -> list[tuple[int, int]]:
        if broken:
            raise KeyError("a defect")
        return real(entries)

    monkeypatch.setattr(bank.log, "append", append)
    with edge(bank) as client:
        began = monotonic()
        assert "KeyError" in problem(client.post("/v1/decisions", json=PAYMENT), 503)["detail"]
        assert monotonic() - began < config.ANSWER_DEADLINE
        broken = False
        eventually(lambda: client.post("/v1/decisions", json=PAYMENT).status_code == 200)
        eventually(lambda: client.get("/health/ready").status_code == 200)
        assert client.get("/health/live").status_code == 200


# --- commands ---------------------------------------------------------------------------------------


def asked(bank: Bank) -> list[Command]:
    return [Command.model_validate_json(record.value) for record in bank.read(COMMANDS)]


@pytest.mark.parametrize("kind", ["promote", "rollback", "withdraw"])
def test_a_command_on_another_champion_is_409(alone: httpx.Client, bank: Bank, kind: str) -> None:
    for expected in ({}, {"expected_champion": "none"}, {"expected_champion": "2"}):
        answer = alone.post("/v1/commands", json={"kind": kind} | expected)
        assert "version 1 is in force" in problem(answer, 409)["detail"]
    assert asked(bank) == []
    problem(alone.post("/v1/commands", json={"kind": "retrain", "surely": True}), 422)
    assert alone.post("/v1/commands", json={"kind": "retrain"}).status_code == 202


def test_a_command_has_a_key_and_is_taken_again_under_it_once_it_is_done(alone: httpx.Client, bank: Bank) -> None:
    wanted = {"kind": "withdraw", "expected_champion": "1"}
    key = alone.post("/v1/commands", json=wanted).json()["key"]
    assert len(key) == 32
    assert alone.post("/v1/commands", json=wanted, headers={"Idempotency-Key": "mine"}).json()["key"] == "mine"
    assert [command.key for command in asked(bank)] == [key, "mine"]
    known = Ledger(Release.model_validate_json(record.value) for record in bank.read(RELEASES)).lines[-1]
    bank.release(known.model_copy(update={"action": "withdraw", "key": key, "at": TODAY}))
    eventually(lambda: alone.get("/v1/model").json()["champion"] is None)
    assert alone.post("/v1/commands", json=wanted, headers={"Idempotency-Key": key}).status_code == 202
    problem(alone.post("/v1/commands", json=wanted), 409)
    problem(alone.post("/v1/commands", json=wanted, headers={"Idempotency-Key": "no key"}), 422)


def test_a_command_is_503_and_no_false_409_while_the_ledger_is_read(
    alone: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"kind": "withdraw", "expected_champion": "2"}
    with monkeypatch.context() as patch:
        patch.setattr(Follower, "caught_up", property(lambda _: False))
        answer = alone.post("/v1/commands", json=wanted)
        assert "still reading" in problem(answer, 503)["detail"]
        assert answer.headers["retry-after"] == "1"
        assert alone.post("/v1/commands", json={"kind": "retrain"}).status_code == 202
    problem(alone.post("/v1/commands", json=wanted), 409)


def test_without_a_worker_beside_it_the_gateway_is_ready_and_warns(bank: Bank) -> None:
    with edge(bank, deciders=lambda: False) as client:
        assert client.get("/health/ready").status_code == 200
        assert "no worker runs; the rules stand in" in client.get("/health/ready").json()["warnings"]


def test_the_page_knows_the_whole_ledger(bank: Bank, world: Trained) -> None:
    """Also what is longer ago than the page shows: the version to go back to, and those that were taken back."""
    first = world.release
    bank.release(first.model_copy(update={"version": "2", "key": "the second"}))
    for number in range(150):
        bank.release(first.model_copy(update={"version": "3", "key": f"promote {number}"}))
        bank.release(first.model_copy(update={"version": "2", "action": "rollback", "key": f"back {number}"}))
    with edge(bank) as client:
        told = client.get("/v1/watch").json()["told"]
        assert (told["in_force"], told["back_to"]) == ("2", "1")
        assert len(client.get("/v1/model").json()["ledger"]) == 302
