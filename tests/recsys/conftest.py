"""The tiny shop: trained once a run, copied for every test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import uuid4

import pytest

from infra.local import Kafka
from tests.recsys.shop import Shop, Trained, copied, trained


@pytest.fixture(scope="session")
def shop_world(run_folder: Path) -> Trained:
    return trained(run_folder / "shop")


@pytest.fixture
def shop(shop_world: Trained, tmp_path: Path) -> Iterator[Shop]:
    """A log that knows the recipe, and nothing yet of the live days."""
    with closing(copied(shop_world, tmp_path / "var")) as shop:
        yield shop


@pytest.fixture(params=["sqlite", "kafka"])
def open_shop(request: pytest.FixtureRequest, shop_world: Trained, tmp_path: Path) -> Iterator[Callable[[], Shop]]:
    """Opens such shops: on embedded logs, and on a broker."""
    with ExitStack() as opened:

        def another() -> Shop:
            name, url = uuid4().hex[:8], ""
            if request.param == "kafka":
                broker: Kafka = request.getfixturevalue("broker")
                url = f"{broker.url}/{name}"
            return opened.enter_context(closing(copied(shop_world, tmp_path / name, url=url)))

        yield another
