"""What every test may ask for, and what `make test ALL=1` means."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from infra.local import WHERE, Kafka
from shared.settings import Settings
from tests.servers import RedisServer, free_ports

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
PROOF = 20  # kills from which on everything is done in full
WAITING = ("slow", "bench")  # marks of tests that a person in a hurry does without


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of the public data sets."""
    folder = Settings().data
    if folder is None:
        pytest.skip("needs the public data sets: name their folder in MLSD_DATA (README.md, Settings)")
    return folder


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """One Kafka for all tests: who needs an empty log takes a prefix of its own."""
    home = Settings().kafka_home
    if home is None:
        pytest.skip(f"needs Kafka. {WHERE}")
    port, controller = free_ports(2)
    kafka = Kafka(home, tmp_path_factory.mktemp("kafka"), port=port, controller=controller)
    kafka.start()
    yield kafka
    kafka.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis for all tests; each finds it empty only if it sees to that."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def mortal_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, to be killed."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def proof(pytestconfig: pytest.Config) -> bool:
    """Whether what takes long is done in full, and not by a sample."""
    return int(pytestconfig.getoption("--kills")) >= PROOF


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help=f"how often the kill tests kill; {PROOF} is the proof")
    parser.addoption("--away", type=float, default=5.0, help="seconds that a broker is away; 20 is the proof")
    parser.addoption("--all", action="store_true", help="run everything; a test that skips itself fails")


class Lanes(LoadScopeScheduling):
    """Of several processes one has all that start services, in turn: they want ports, and a core of their own."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "e2e" if path.startswith("tests/e2e/") else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes:
    return Lanes(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "data" in getattr(item, "fixturenames", ()):
            item.add_marker("data")
        if not config.getoption("all") and any(item.get_closest_marker(mark) for mark in WAITING):
            item.add_marker(pytest.mark.skip(reason="takes long: make test ALL=1"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _no_skip(item.config, (yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _no_skip(collector.config, (yield))


def _no_skip(config: pytest.Config, report: Report) -> Report:
    """Under --all a skip is a hole in the proof; an expected failure (xfail) is none."""
    if config.getoption("all") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, though --all asks for everything: {report.longrepr}"
    return report
