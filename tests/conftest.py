"""Fixtures and options for all tests, and what `make test ALL=1` means."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from infra.local import WHERE, Kafka
from shared.settings import Settings
from tests.servers import RedisServer, free_ports

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
E2E = "tests/e2e/"
PROOF = 20  # kills from which on everything is done in full
WAITING = ("slow", "bench")  # marks of tests that a person in a hurry does without


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of the public data sets."""
    folder = Settings().data
    if folder is None:
        pytest.skip("needs the public data sets: name their folder in MLSD_DATA (shared/README.md)")
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
def run_folder(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A folder that all processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if hasattr(pytestconfig, "workerinput") else base  # xdist gives each worker a folder inside


@pytest.fixture(scope="session")
def sequences(pytestconfig: pytest.Config) -> int:
    """How many random sequences of operations a property test tries."""
    return _number(pytestconfig, "sequences", few=2, many=100)


@pytest.fixture(scope="session")
def seeds(pytestconfig: pytest.Config) -> int:
    """In how many simulated worlds a statistic is tried."""
    return _number(pytestconfig, "seeds", few=1, many=3)


@pytest.fixture(scope="session")
def proof(pytestconfig: pytest.Config) -> bool:
    """Whether what takes long is done in full, and not by a sample."""
    return int(pytestconfig.getoption("--kills")) >= PROOF


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help=f"how often the kill tests kill; {PROOF} is the proof")
    parser.addoption("--away", type=float, default=5.0, help="seconds that a broker is away; 20 is the proof")
    parser.addoption("--examples", type=int, help="examples of each hypothesis test: 25, with --all 100; 1000 is full")
    parser.addoption("--sequences", type=int, help="random sequences of each property test: 2, with --all 100")
    parser.addoption(
        "--seeds", type=int, help="worlds of each simulated statistic: 1, with --all 3; its test names the proof"
    )
    parser.addoption("--all", action="store_true", help="run everything; a test that skips itself fails")


def pytest_configure(config: pytest.Config) -> None:
    before = settings.get_current_profile_name()
    examples = _number(config, "examples", few=25, many=100)
    settings.register_profile("run", max_examples=examples, deadline=None)  # a machine may be slow
    settings.load_profile("run")
    config.add_cleanup(lambda: settings.load_profile(before))  # tests/architecture runs pytest inside pytest


def _number(config: pytest.Config, option: str, *, few: int, many: int) -> int:
    """The value of an option; without it `few`, or `many` under --all."""
    given: int | None = config.getoption(option)
    return given if given is not None else many if config.getoption("all") else few


class Lanes(LoadScopeScheduling):
    """A free process takes the next file; tests that start services run one after another, in one process.

    Those tests take ports and a core. They are first, as they take longest: the other process runs files meanwhile.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return E2E if path.startswith(E2E) else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes:
    return Lanes(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(E2E))  # stable
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
