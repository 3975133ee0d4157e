"""A real MLflow on SQLite: what goes in comes out, or says why not."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from shared.champion import digest_of
from shared.registry import Corrupt, Registry, Unavailable, UnknownVersion, Version

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
