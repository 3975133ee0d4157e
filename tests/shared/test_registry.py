"""A real MLflow on SQLite: what goes in comes out, or says why not."""

import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from mlflow import MlflowClient

from shared.champion import digest_of
from shared.clock import monotonic, sleep
from shared.dependencies import DEPENDENCY_ERRORS
from shared.registry import Corrupt, Registry, Unavailable, UnknownVersion, Version, _impatient
from shared.settings import check_driver
from tests.servers import Toxiproxy, free_ports

# MLflow 3.17 still maps its tables in a way that SQLAlchemy 2.1 is giving up.
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('a shop')}/var/mlflow.db"  # the folder is not there yet


@pytest.fixture
def registry(uri: str, request: pytest.FixtureRequest) -> Registry:
    return Registry(uri, request.node.name)  # a model of its own: the database takes seconds to make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trained" / "golden").mkdir(parents=True)
    (tmp_path / "trained" / "model.txt").write_text("tree\n")
    (tmp_path / "trained" / "golden" / "scores.parquet").write_bytes(bytes(range(256)))
    return tmp_path / "trained"


def register(registry: Registry, folder: Path) -> Version:
    params: dict[str, str | int | float] = {"leaves": 31, "objective": "binary"}
    return registry.register(folder, params=params, figures={"ap": 0.7}, tags={"data": "lake@12"})


def test_what_was_registered_is_fetched_elsewhere(
    registry: Registry, uri: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = register(registry, folder)
    monkeypatch.chdir(tmp_path)
    other = Registry(uri, registry.name)
    assert other.version(made.version) == made
    assert made.figures == {"ap": 0.7}

    cache = tmp_path / "cache"
    got = other.fetch(made.artifact, digest=made.digest, into=cache)
    assert got == cache / made.digest
    assert (got / "golden" / "scores.parquet").read_bytes() == bytes(range(256))
    assert digest_of(got) == digest_of(folder) == made.digest
    assert list(cache.iterdir()) == [got]
    assert not (tmp_path / "mlruns").exists()


def test_a_copy_is_reused_while_it_is_whole(registry: Registry, folder: Path, tmp_path: Path) -> None:
    made = register(registry, folder)
    got = registry.fetch(made.artifact, digest=made.digest, into=tmp_path)
    assert registry.fetch("file:///gone", digest=made.digest, into=tmp_path) == got

    (got / "model.txt").write_text("half a tr")
    registry.fetch(made.artifact, digest=made.digest, into=tmp_path)
    assert (got / "model.txt").read_text() == "tree\n"

    shutil.rmtree(got)
    got.mkdir()  # what a killed clean-up leaves
    registry.fetch(made.artifact, digest=made.digest, into=tmp_path)
    assert (got / "model.txt").read_text() == "tree\n"


def test_tampered_files_are_not_handed_out(registry: Registry, folder: Path, tmp_path: Path) -> None:
    made = register(registry, folder)
    (Path(url2pathname(urlsplit(made.artifact).path)) / "model.txt").write_text("treE\n")
    with pytest.raises(Corrupt, match=made.digest):
        registry.fetch(made.artifact, digest=made.digest, into=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_files_that_are_gone(registry: Registry, folder: Path, tmp_path: Path) -> None:
    made = register(registry, folder)
    with pytest.raises(Unavailable, match="elsewhere"):
        registry.fetch(f"{made.artifact}/elsewhere", digest=made.digest, into=tmp_path / "cache")


def test_a_folder_without_files_is_no_model(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        register(registry, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no files"):
        register(registry, tmp_path / "empty")
    assert registry.versions() == []


def test_aliases_move_and_are_repaired_from_the_ledger(registry: Registry, folder: Path) -> None:
    assert registry.alias("champion") is None
    first, second = register(registry, folder), register(registry, folder)
    assert [one.version for one in registry.versions()] == [second.version, first.version]

    registry.point("champion", first.version)
    registry.point("challenger", second.version)
    assert (registry.alias("champion"), registry.alias("challenger")) == (first.version, second.version)

    assert registry.repair(second.version)
    assert not registry.repair(second.version)
    assert registry.alias("champion") == second.version


def test_the_alias_of_a_champion_that_was_withdrawn_is_removed(registry: Registry, folder: Path) -> None:
    assert not registry.repair(None)
    made = register(registry, folder)
    registry.repair(made.version)
    assert registry.repair(None)
    assert registry.alias("champion") is None
    assert not registry.repair(None)


def test_an_unknown_version_is_named_with_those_there_are(registry: Registry, folder: Path) -> None:
    with pytest.raises(UnknownVersion, match="no version 7; it has none yet"):
        registry.version("7")
    register(registry, folder)
    with pytest.raises(UnknownVersion, match="no version 7; it has 1"):
        registry.repair("7")
    assert registry.alias("champion") is None


def test_the_digest_sees_names_and_contents(folder: Path) -> None:
    before = digest_of(folder)
    (folder / "model.txt").rename(folder / "model2.txt")
    renamed = digest_of(folder)
    (folder / "model2.txt").write_text("treE\n")
    assert len({before, renamed, digest_of(folder)}) == 3


# --- what others put there -------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", ["../lake", "..", "", "A" * 64, "0" * 63, "0" * 64 + "/../../lake"], ids=range(6))
def test_a_digest_that_is_none_names_no_folder(registry: Registry, folder: Path, tmp_path: Path, digest: str) -> None:
    """A digest from the registry that is no digest could have had folders deleted."""
    made = register(registry, folder)
    kept = tmp_path / "lake" / "events.parquet"
    kept.parent.mkdir()
    kept.write_text("months of a bank")
    (tmp_path / "models").mkdir()
    with pytest.raises(Corrupt, match="train again"):
        registry.fetch(made.artifact, digest=digest, into=tmp_path / "models")
    assert kept.read_text() == "months of a bank"
    assert (tmp_path / "models").is_dir()


def test_a_digest_that_was_changed_is_refused(registry: Registry, uri: str, folder: Path, tmp_path: Path) -> None:
    made = register(registry, folder)
    MlflowClient(uri, uri).set_model_version_tag(registry.name, made.version, "digest", "../lake")
    (changed,) = registry.versions()
    with pytest.raises(Corrupt, match="lake"):
        registry.fetch(changed.artifact, digest=changed.digest, into=tmp_path / "models")


@pytest.mark.parametrize("stranger", ["no digest", "no run", "run deleted"])
def test_a_version_of_another_program_is_not_ours(registry: Registry, uri: str, folder: Path, stranger: str) -> None:
    made = register(registry, folder)
    client = MlflowClient(uri, uri)
    run = client.search_runs([one.experiment_id for one in client.search_experiments()])[0].info.run_id
    match stranger:
        case "no digest":
            client.create_model_version(registry.name, "file:///elsewhere", run_id=run)
        case "no run":
            client.create_model_version(registry.name, "file:///elsewhere", tags={"digest": "0" * 64})
        case "run deleted":
            theirs = register(registry, folder)
            with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as db:
                run = client.get_model_version(registry.name, theirs.version).run_id
                for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
                    db.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (run,))
                db.commit()
    assert registry.versions() == [made]
    for call in (registry.version, registry.tags, registry.repair):
        with pytest.raises(UnknownVersion, match="no version 2; it has 1"):
            call("2")
    assert registry.version(made.version) == made


def test_files_that_are_no_folder_or_none_at_all_are_not_the_model(
    registry: Registry, folder: Path, tmp_path: Path
) -> None:
    made = register(registry, folder)
    files = Path(url2pathname(urlsplit(made.artifact).path))
    for artifact in (f"{made.artifact}/model.txt", made.artifact):
        with pytest.raises((Corrupt, Unavailable)):
            registry.fetch(artifact, digest=made.digest, into=tmp_path / "cache")
        shutil.rmtree(files)
        files.mkdir()
    assert list((tmp_path / "cache").iterdir()) == []


# --- away --------------------------------------------------------------------------------------------------


def asked(registry: Registry) -> float:
    """Seconds until each kind of question is answered by Unavailable, at most."""
    longest = 0.0
    for call in (registry.versions, lambda: registry.version("1"), lambda: registry.repair("1")):
        began = monotonic()
        with pytest.raises(Unavailable):
            call()
        longest = max(longest, monotonic() - began)
    return longest


def test_making_one_reads_and_writes_nothing(tmp_path: Path) -> None:
    for uri in (f"sqlite:///{tmp_path}/var/mlflow.db", "http://127.0.0.1:1", "postgresql://127.0.0.1:1/m", "carrier:"):
        assert Registry(uri, "shop").name == "shop"
    assert list(tmp_path.iterdir()) == []


def test_that_it_is_away_says_nothing_about_the_record_in_hand() -> None:
    assert issubclass(Unavailable, DEPENDENCY_ERRORS)
    assert not issubclass(Corrupt, DEPENDENCY_ERRORS)
    assert not issubclass(UnknownVersion, DEPENDENCY_ERRORS)


def test_a_server_that_refuses_is_away_at_once(folder: Path) -> None:
    registry = Registry(f"http://127.0.0.1:{free_ports(1)[0]}", "shop")
    assert asked(registry) < 5
    with pytest.raises(Unavailable):
        register(registry, folder)
    with pytest.raises(Unavailable):
        registry.fetch("mlflow-artifacts:/1/2/model", digest="0" * 64, into=folder / "cache")


def test_a_server_that_never_answers_is_away_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.registry.ANSWER", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert asked(Registry(f"http://127.0.0.1:{silent.getsockname()[1]}", "shop")) < 5


def test_a_url_of_no_registry_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="carrier"):
        Registry("carrier-pigeon://loft", "shop").versions()


def test_a_place_without_a_database_is_unavailable_until_there_is_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file where the folder should be")
    registry = Registry(f"sqlite:///{tmp_path}/var/mlflow.db", "shop")
    with pytest.raises(Unavailable):
        registry.versions()
    (tmp_path / "var").unlink()
    made = register(registry, folder)
    assert registry.versions() == [made]


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"garbage " * 1_000)
    with pytest.raises(Unavailable):
        Registry(f"sqlite:///{tmp_path}/mlflow.db", "shop").versions()


@pytest.mark.slow
def test_a_locked_database_is_unavailable_until_it_is_free(registry: Registry, uri: str, folder: Path) -> None:
    """MLflow waits for 20 s."""
    made = register(registry, folder)
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)) as foreign:
        foreign.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="locked"):
            registry.versions()
        foreign.execute("ROLLBACK")
    assert registry.versions() == [made]


@contextmanager
def server(port: int, folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/files"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder) as process:
        try:
            until = monotonic() + 90
            while True:
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert monotonic() < until, "mlflow server does not listen"
                sleep(0.1)
            yield
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_goes_and_comes_back_is_found_again(folder: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with Toxiproxy(port) as wire, server(port, tmp_path):
        registry = Registry(f"http://127.0.0.1:{wire.port}", "shop")
        made = register(registry, folder)
        got = registry.fetch(made.artifact, digest=made.digest, into=tmp_path / "cache")
        assert digest_of(got) == made.digest
        registry.repair(made.version)
        wire.cut()
        assert asked(registry) < 10
        wire.heal()
        assert (registry.versions(), registry.alias("champion")) == ([made], made.version)


# --- PostgreSQL ----------------------------------------------------------------------------------------------


def test_postgresql_without_its_driver_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shared.settings.find_spec", lambda name: None if name == "psycopg" else 1)
    with pytest.raises(ValueError, match=r"^a registry in PostgreSQL needs its driver: .* --extra postgres$"):
        check_driver("postgresql://anna@db/mlflow")
    with pytest.raises(ValueError, match="--extra postgres"):
        Registry("postgresql://anna@db/mlflow", "shop").versions()
    for uri in ("sqlite:///var/mlflow.db", "http://mlflow:5000", "postgresql+psycopg2://anna@db/mlflow"):
        check_driver(uri)
    monkeypatch.setattr("shared.settings.find_spec", lambda _: 1)
    check_driver("postgresql://anna@db/mlflow")


def test_a_postgresql_that_is_silent_is_given_seconds_unless_the_url_says_otherwise() -> None:
    assert _impatient("postgresql://anna:s%40crt@db/m") == (
        "postgresql://anna:s%40crt@db/m?connect_timeout=4&tcp_user_timeout=4000"
    )
    assert "connect_timeout=60" in _impatient("postgresql://db/m?connect_timeout=60&sslmode=require")
    assert "sslmode=require" in _impatient("postgresql://db/m?connect_timeout=60&sslmode=require")
    assert _impatient("sqlite:///var/mlflow.db") == "sqlite:///var/mlflow.db"


def test_a_failure_in_one_thread_does_not_take_the_client_from_another(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lock:
        """Lets another thread fail, and so clear the client, at the very moment at which this one has it."""

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            registry._client = None

    assert registry.versions() == []
    monkeypatch.setattr(registry, "_opening", Lock())
    assert registry.versions() == []
