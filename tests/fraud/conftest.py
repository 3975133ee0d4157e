"""The tiny bank: trained once a run, copied for every test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import uuid4

import pytest

from infra.local import Kafka
from tests.fraud.bank import Bank, Trained, copied, trained


@pytest.fixture(scope="session")
def world(run_folder: Path) -> Trained:
    return trained(run_folder / "bank")


@pytest.fixture
def bank(world: Trained, tmp_path: Path) -> Iterator[Bank]:
    """A log that knows the past and the model, and nothing yet of the live days."""
    with closing(copied(world, tmp_path / "var")) as bank:
        yield bank


@pytest.fixture(params=["sqlite", "kafka"])
def open_bank(request: pytest.FixtureRequest, world: Trained, tmp_path: Path) -> Iterator[Callable[..., Bank]]:
    """Opens such banks, `history` as `copied` has it: on embedded logs, and on a broker."""
    with ExitStack() as opened:

        def another(*, history: bool = True) -> Bank:
            name, url = uuid4().hex[:8], ""
            if request.param == "kafka":
                broker: Kafka = request.getfixturevalue("broker")
                url = f"{broker.url}/{name}"
            return opened.enter_context(closing(copied(world, tmp_path / name, history=history, url=url)))

        yield another


@pytest.fixture
def any_bank(open_bank: Callable[..., Bank]) -> Bank:
    """`bank`, on either log."""
    return open_bank()
