"""The champion is swapped whole, or the old one goes on."""

import shutil
from pathlib import Path

import pytest

from shared.champion import Champion, NotSwapped, digest_of, drift_limits
from shared.releases import Release


class Registry:
    """Writes the folder of a model into the cache, and counts how often it was asked."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.fetched: list[str] = []

    def fetch(self, artifact: str, digest: str) -> Path:
        self.fetched.append(artifact)
        shutil.rmtree(self.cache / digest, ignore_errors=True)
        return write(self.cache / digest, artifact)


def write(folder: Path, words: str) -> Path:
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    (folder / "model.txt").write_text(words)
    (folder / "golden" / "scores.txt").write_text("0.5")
    return folder


def load(folder: Path) -> str:
    words = (folder / "model.txt").read_text()
    if words == "bad":
        raise ValueError("self-test: scored 0.1 where 0.5 was stored")
    return words


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "cache")


@pytest.fixture
def champion(registry: Registry) -> Champion[str]:
    return Champion(cache=registry.cache, fetch=registry.fetch, load=load)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a model was trained."""
    return tmp_path / "trained"


def swap(champion: Champion[str], version: str, words: str, folder: Path) -> str:
    """Release a model that consists of these words; gives its digest."""
    digest = digest_of(write(folder, words))
    champion.swap(version, artifact=words, digest=digest)
    return digest


def test_at_first_there_is_none(champion: Champion[str]) -> None:
    assert (champion.model, champion.version) == (None, None)


def test_a_swap_changes_model_and_version(champion: Champion[str], folder: Path) -> None:
    for version, words in (("1", "good"), ("2", "better"), ("1", "good")):
        swap(champion, version, words, folder)
        assert (champion.model, champion.version) == (words, version)


def test_a_model_that_fails_its_self_test_is_turned_down_with_the_reason(champion: Champion[str], folder: Path) -> None:
    swap(champion, "1", "good", folder)
    with pytest.raises(NotSwapped, match=r"version 2: self-test: scored 0\.1"):
        swap(champion, "2", "bad", folder)
    assert (champion.model, champion.version) == ("good", "1")


def test_a_model_that_cannot_be_fetched_is_turned_down_with_the_reason(tmp_path: Path, folder: Path) -> None:
    def gone(artifact: str, digest: str) -> Path:
        raise ConnectionError(f"{artifact} at {digest}: no answer")

    champion = Champion(cache=tmp_path / "cache", fetch=gone, load=load)
    with pytest.raises(NotSwapped, match="no answer"):
        swap(champion, "1", "good", folder)
    assert (champion.model, champion.version) == (None, None)


def test_what_the_cache_holds_whole_is_not_fetched(champion: Champion[str], registry: Registry, folder: Path) -> None:
    digest = digest_of(write(folder, "good"))
    write(registry.cache / digest, "good")
    swap(champion, "1", "good", folder)
    assert (champion.model, registry.fetched) == ("good", [])


@pytest.mark.parametrize("harm", ["altered", "one file gone", "one file more", "empty"])
def test_what_the_cache_holds_but_not_whole_is_fetched_again(
    champion: Champion[str], registry: Registry, folder: Path, harm: str
) -> None:
    digest = digest_of(write(folder, "good"))
    cached = write(registry.cache / digest, "good")
    match harm:
        case "altered":
            (cached / "model.txt").write_text("goof")
        case "one file gone":
            (cached / "golden" / "scores.txt").unlink()
        case "one file more":
            (cached / "more.txt").touch()
        case "empty":
            shutil.rmtree(cached)
            cached.mkdir()
    swap(champion, "1", "good", folder)
    assert (champion.model, registry.fetched) == ("good", ["good"])


def test_files_of_another_digest_are_never_loaded(registry: Registry, folder: Path) -> None:
    loaded: list[Path] = []
    champion = Champion(cache=registry.cache, fetch=registry.fetch, load=loaded.append)
    digest = digest_of(write(folder, "good"))
    with pytest.raises(NotSwapped, match=digest):
        champion.swap("1", artifact="evil", digest=digest)
    assert loaded == []


def test_a_digest_covers_names_and_bytes(tmp_path: Path) -> None:
    digests = set()
    for n, (name, content) in enumerate([("a", "1"), ("b", "1"), ("a", "2"), ("sub/a", "1")]):
        file = tmp_path / str(n) / name
        file.parent.mkdir(parents=True)
        file.write_text(content)
        digests.add(digest_of(tmp_path / str(n)))
    assert len(digests) == 4


def test_a_digest_is_what_sha256sum_says(tmp_path: Path) -> None:
    """`printf a > a; printf b > b; sha256sum a b | sha256sum`."""
    (tmp_path / "b").write_text("b")
    (tmp_path / "a").write_text("a")
    assert digest_of(tmp_path) == "cb13f400dcb618e400d0f7d54f7cdb330d37a07272cb99a1016cda5830a10556"


def test_an_empty_folder_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model"):
        digest_of(tmp_path)


def test_limits_of_drift_are_read_from_the_files_of_the_release_and_from_no_other_folder(tmp_path: Path) -> None:
    good = Release(action="promote", version="1", digest="1" * 64, at=1, who="anna", why="")
    models = tmp_path / "models"
    assert drift_limits(models, good) == {}
    for folder in (models / good.digest, tmp_path / "elsewhere", models):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "limits.json").write_text('{"hour": 0.5}')
    assert drift_limits(models, good) == {"hour": 0.5}
    assert drift_limits(models, None) == {}
    for digest in ("", "../elsewhere", "A" * 64):
        assert drift_limits(models, good.model_copy(update={"digest": digest})) == {}
    (models / good.digest / "limits.json").write_text("{")
    assert drift_limits(models, good) == {}
