"""The edge against its own OpenAPI."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import schemathesis
from schemathesis.generation import GenerationMode
from schemathesis.python.asgi import shutdown_lifespans

from sentiment.edge import Edge
from sentiment.serve import make_app
from tests.openapi import tried, valid_examples, with_key, without_key
from tests.roles import keys
from tests.sentiment.crowd import KEY, Crowd, Trained
from tests.sentiment.test_serve import three, until


@pytest.fixture(scope="module")
def api(world: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with closing(Crowd(world, tmp_path_factory.mktemp("openapi") / "var")) as crowd:
        three(crowd)
        app = make_app(
            lambda metrics: Edge(
                crowd.log, crowd.champion(), folder=crowd.var / "batch", clock=crowd.clock, metrics=metrics
            ),
            crowd.reader,
            clock=crowd.clock,
            keys=keys("sentiment"),
            pseudonym_key=KEY,
            workers=lambda: True,
            models=crowd.var / "models",
        )
        schema = schemathesis.openapi.from_asgi("/openapi.json", app)
        until(lambda: schema["/health/ready"]["GET"].Case().call().status_code == 200)
        yield schema
        shutdown_lifespans()


@pytest.mark.parametrize("mode", GenerationMode)
def test_every_answer_is_one_that_the_openapi_describes(api: Any, mode: GenerationMode) -> None:
    paths = tried(api, mode, with_key)
    assert {"/v1/opinions", "/v1/corrections", "/v1/audits", "/v1/posts/{id}", "/v1/commands"} <= paths


def test_without_the_key_nothing_is_said_and_nothing_breaks(api: Any) -> None:
    tried(api, GenerationMode.POSITIVE, without_key, one_in=15)


def test_the_examples_are_valid(api: Any) -> None:
    assert valid_examples(api) >= {"TextIn", "AuditIn", "CorrectionIn", "CommandIn"}
