"""Whatever the OpenAPI allows, and what it does not: an answer that it describes, and never a 5xx."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from jsonschema_rs import validator_for
from schemathesis.generation import GenerationMode
from schemathesis.python.asgi import shutdown_lifespans
from schemathesis.specs.openapi.checks import positive_data_acceptance

from fraud.serve import make_app
from shared.store.sqlite import SqliteStore
from tests.fraud.bank import KEY, Bank, Trained, copied
from tests.fraud.test_serve import working

Case = schemathesis.Case[Any]
FEW = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def bank(world: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    bank = copied(world, tmp_path_factory.mktemp("openapi") / "var")
    yield bank
    bank.close()


@pytest.fixture(scope="module")
def api(bank: Bank) -> Iterator[Any]:
    store = SqliteStore(str(bank.var / "store.db"))
    app = make_app(
        bank.log,
        store,
        clock=bank.clock,
        api_key=b"secret",
        pseudonym_key=KEY,
        deciders=lambda: True,
        models=bank.var / "models",
    )
    with working(bank):
        yield schemathesis.openapi.from_asgi("/openapi.json", app)
        shutdown_lifespans()
    store.close()


def tried(api: Any, mode: GenerationMode, check: Callable[[Case], None], *, examples: int) -> set[str]:
    """Run `check` on examples of every operation, valid or not; gives the paths."""
    paths = set()
    for result in api.get_all_operations():
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and operation.method == "get" and "{" not in operation.path:
            continue  # nothing to get wrong
        bounded = settings(FEW, max_examples=examples)
        bounded(given(case=operation.as_strategy(generation_mode=mode))(check))()
        paths.add(operation.path)
    return paths


def with_key(case: Case) -> None:
    # No schema can say that a payment must not be older than a month.
    case.call_and_validate(headers={"X-API-Key": "secret"}, excluded_checks=[positive_data_acceptance])


def without_key(case: Case) -> None:
    answer = case.call()
    assert answer.status_code < 500
    assert not case.path.startswith("/v1/") or 400 <= answer.status_code < 500


@pytest.mark.parametrize("mode", GenerationMode)
def test_every_answer_is_one_that_the_openapi_describes(api: Any, mode: GenerationMode) -> None:
    assert {"/v1/decisions", "/v1/labels", "/v1/commands"} <= tried(api, mode, with_key, examples=30)


def test_without_the_key_nothing_is_said_and_nothing_breaks(api: Any) -> None:
    tried(api, GenerationMode.POSITIVE, without_key, examples=5)


def test_the_examples_are_valid(api: Any) -> None:
    raw = api.raw_schema
    schemas = raw["components"]["schemas"]
    examples = [
        (name, field, example, about)
        for name, schema in schemas.items()
        for field, about in schema.get("properties", {}).items()
        for example in about.get("examples", [])
    ]
    assert {name for name, *_ in examples} >= {"Transaction", "LabelIn", "Command"}
    for name, field, example, about in examples:
        assert validator_for(about | {"components": raw["components"]}).is_valid(example), (name, field, example)
