"""Who may ask fraud for what."""

import json
from collections.abc import Iterator

import httpx
import pytest

from fraud.schema import COMMANDS, EVENTS
from fraud.serve import ACCESS, make_app
from shared.auth import Role
from shared.store import open_store
from tests.fraud.bank import KEY, Bank
from tests.fraud.test_serve import PAYMENT, edge, problem, working
from tests.roles import BY_ROLE, assert_table, granted, keys, shown


def test_every_route_answers_the_roles_of_the_table_and_no_other(bank: Bank) -> None:
    store = open_store(f"sqlite:///{bank.var}/store.db", clock=bank.clock)
    app = make_app(
        bank.log,
        store,
        clock=bank.clock,
        keys=keys("fraud"),
        pseudonym_key=KEY,
        deciders=lambda: True,
        models=bank.var / "models",
        stopping=lambda: True,
        visitor="once",
    )
    assert_table(app, ACCESS)
    store.close()


def test_a_till_decides_and_an_analyst_labels_and_explains() -> None:
    assert granted(ACCESS, Role.CLIENT) == {"POST /v1/decisions", "GET /v1/decisions/{identity}"}
    assert granted(ACCESS, Role.ANALYST) == {
        "POST /v1/labels",
        "GET /v1/decisions/{identity}/explanation",
        "GET /v1/features",
    }


@pytest.fixture(params=[Role.CLIENT, Role.ANALYST], ids=str)
def lesser(bank: Bank, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    with working(bank), edge(bank, key=BY_ROLE[request.param]) as client:
        yield client


def test_a_test_payment_is_an_operators(bank: Bank, lesser: httpx.Client) -> None:
    """A payment that is in no count, takes no label and is not trained on would be a fraud's best disguise."""
    assert "probe" in problem(lesser.post("/v1/decisions", json=PAYMENT | {"id": "p", "probe": True}), 403)["detail"]
    assert lesser.post("/v1/decisions", json=PAYMENT | {"probe": False}).status_code == 200
    assert [json.loads(record.value)["probe"] for record in bank.read(EVENTS)] == [False]


def test_who_commands_is_the_role_of_the_key_and_no_claim_of_the_caller(bank: Bank) -> None:
    with edge(bank) as operator:
        claimed = problem(operator.post("/v1/commands", json={"kind": "retrain", "who": "head-of-model-risk"}), 422)
        assert claimed["errors"][0]["field"] == "who"
        assert operator.post("/v1/commands", json={"kind": "retrain"}).status_code == 202
    assert [json.loads(record.value)["who"] for record in bank.read(COMMANDS)] == ["operator"]


def test_a_till_is_told_what_to_do_and_an_analyst_why(bank: Bank) -> None:
    with working(bank), edge(bank, key=BY_ROLE[Role.CLIENT]) as client:
        told = client.post("/v1/decisions", json=PAYMENT)
        assert told.json().keys() == {"kind", "card", "id", "terminal", "at", "cents", "action"}
        assert client.get(told.headers["Location"]).json() == told.json()
        why = client.get(told.headers["Location"], headers=shown(Role.ANALYST)).json()
        assert why["features"]
        assert {name: why[name] for name in told.json()} == told.json()
