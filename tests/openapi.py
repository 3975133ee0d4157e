"""Whatever an OpenAPI allows, and what it does not: an answer that it describes, and never a 5xx."""

from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from jsonschema_rs import validator_for
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

Case = schemathesis.Case[Any]
FEW = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def tried(api: Any, mode: GenerationMode, check: Callable[[Case], None], *, one_in: int = 3) -> set[str]:
    """Run `check` on one in so many of the usual number of examples, of every operation, valid or not.

    Gives the paths.
    """
    paths = set()
    for result in api.get_all_operations():
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and operation.method == "get" and "{" not in operation.path:
            continue  # nothing to get wrong
        bounded = settings(FEW, max_examples=max(1, settings().max_examples // one_in))
        bounded(given(case=operation.as_strategy(generation_mode=mode))(check))()
        paths.add(operation.path)
    return paths


def with_key(case: Case) -> None:
    # No schema can say that a payment must not be older than a month.
    excluded: list[Any] = [positive_data_acceptance]
    if any(value in ([], {}) for value in dict(case.query or {}).values()):
        excluded.append(negative_data_rejection)  # an unknown parameter without a value is not sent at all
    case.call_and_validate(headers={"X-API-Key": "secret"}, excluded_checks=excluded)


def without_key(case: Case) -> None:
    answer = case.call()
    assert answer.status_code < 500
    assert not case.path.startswith("/v1/") or 400 <= answer.status_code < 500


def valid_examples(api: Any) -> set[str]:
    """The schemas that give examples, each of which is one of its kind."""
    raw = api.raw_schema
    given = set()
    for name, schema in raw["components"]["schemas"].items():
        for field, about in schema.get("properties", {}).items():
            for example in about.get("examples", []):
                valid = validator_for(about | {"components": raw["components"]}).is_valid(example)
                assert valid, (name, field, example)
                given.add(name)
    return given
