"""Whatever the OpenAPI allows, and what it does not: an answer that it describes, and never a 5xx."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import schemathesis
from schemathesis.generation import GenerationMode
from schemathesis.python.asgi import shutdown_lifespans

from recsys.serve import make_app
from recsys.shelf import Shelf
from tests.openapi import tried, valid_examples, with_key, without_key
from tests.recsys.shop import KEY, Trained, copied
from tests.roles import keys


@pytest.fixture(scope="module")
def api(shop_world: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with closing(copied(shop_world, tmp_path_factory.mktemp("openapi") / "var")) as shop:
        shop.night()
        shelf = Shelf(shop.log, shop.tables, key=KEY)
        app = make_app(
            shop.log,
            shelf,
            clock=shop.clock,
            keys=keys("recsys"),
            pseudonym_key=KEY,
            recipes=shop.var / "recipes",
            visitor="once",
        )
        shelf.follow()
        yield schemathesis.openapi.from_asgi("/openapi.json", app)
        shutdown_lifespans()
        shelf.close()


@pytest.mark.parametrize("mode", GenerationMode)
def test_every_answer_is_one_that_the_openapi_describes(api: Any, mode: GenerationMode) -> None:
    paths = tried(api, mode, with_key)
    assert {"/v1/recommendations/{user_id}", "/v1/events", "/v1/commands", "/v1/shoppers/{user_id}"} <= paths


def test_without_the_key_nothing_is_said_and_nothing_breaks(api: Any) -> None:
    tried(api, GenerationMode.POSITIVE, without_key, one_in=15)


def test_the_examples_are_valid(api: Any) -> None:
    assert valid_examples(api) >= {"EventIn", "CommandRequest"}
