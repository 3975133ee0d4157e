"""The edge against its own OpenAPI."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from schemathesis.generation import GenerationMode
from schemathesis.python.asgi import shutdown_lifespans

from fraud.serve import make_app
from shared import health
from shared.store.sqlite import SqliteStore
from tests.fraud.bank import KEY, Bank, Trained, copied
from tests.fraud.test_serve import eventually, working
from tests.openapi import tried, valid_examples, with_key, without_key
from tests.roles import keys


@pytest.fixture(scope="module")
def bank(world: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    bank = copied(world, tmp_path_factory.mktemp("openapi") / "var")
    yield bank
    bank.close()


@pytest.fixture(scope="module")
def api(bank: Bank) -> Iterator[Any]:
    store = SqliteStore(str(bank.var / "store.db"), clock=bank.clock)
    app = make_app(
        bank.log,
        store,
        clock=bank.clock,
        keys=keys("fraud"),
        pseudonym_key=KEY,
        deciders=lambda: True,
        models=bank.var / "models",
    )
    with working(bank), pytest.MonkeyPatch.context() as patch:
        patch.setattr(health, "LOOP_STALLED", math.inf)  # between two requests nothing runs the loop here
        yield schemathesis.openapi.from_asgi("/openapi.json", app)
        shutdown_lifespans()
    store.close()


@pytest.mark.parametrize("mode", GenerationMode)
def test_every_answer_is_one_that_the_openapi_describes(api: Any, mode: GenerationMode) -> None:
    assert {"/v1/decisions", "/v1/labels", "/v1/commands"} <= tried(api, mode, with_key)


def test_without_the_key_nothing_is_said_and_nothing_breaks(api: Any) -> None:
    # Each test starts the app anew, and it is ready once it has read on.
    eventually(lambda: api["/health/ready"]["GET"].Case().call().status_code == 200)
    tried(api, GenerationMode.POSITIVE, without_key, one_in=15)


def test_the_examples_are_valid(api: Any) -> None:
    assert valid_examples(api) >= {"TransactionRequest", "LabelIn", "CommandRequest"}
