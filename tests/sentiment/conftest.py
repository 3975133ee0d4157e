"""The small crowd: trained once a run, copied for every test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import uuid4

import pytest

from infra.local import Kafka
from tests.sentiment.crowd import Crowd, Trained, trained


@pytest.fixture(scope="session")
def world(run_folder: Path) -> Trained:
    return trained(run_folder / "crowd")


@pytest.fixture(scope="session")
def tuned(run_folder: Path) -> Trained:
    """The same with the transformer, learnt as the demo learns it: a minute or two."""
    from sentiment.recipe import DEMO  # torch takes seconds to come

    return trained(run_folder / "tuned", posts_a_day=1_200, recipe=DEMO)


@pytest.fixture
def crowd(world: Trained, tmp_path: Path) -> Iterator[Crowd]:
    """A log with a release, and no post yet."""
    with closing(Crowd(world, tmp_path / "var")) as crowd:
        yield crowd


@pytest.fixture(params=["sqlite", "kafka"])
def open_crowd(request: pytest.FixtureRequest, world: Trained, tmp_path: Path) -> Iterator[Callable[[], Crowd]]:
    """Opens such crowds: on embedded logs, and on a broker."""
    with ExitStack() as opened:

        def another() -> Crowd:
            name, url = uuid4().hex[:8], ""
            if request.param == "kafka":
                broker: Kafka = request.getfixturevalue("broker")
                url = f"{broker.url}/{name}"
            return opened.enter_context(closing(Crowd(world, tmp_path / name, url)))

        yield another


@pytest.fixture
def any_crowd(open_crowd: Callable[[], Crowd]) -> Crowd:
    """`crowd`, on either log."""
    return open_crowd()
