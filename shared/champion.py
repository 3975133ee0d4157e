"""The model that decides now: swapped whole, after it has proved itself, or not at all."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

Model = TypeVar("Model")


class NotSwapped(Exception):
    """The new model was turned down and the old one goes on; says why."""


class Champion(Generic[Model]):
    """Holds one model and its version.

    `load` reads a folder, warms the model up and tests it on the samples that training left there;
    it raises what it likes. `fetch(artifact, digest)` brings a folder that is not in `cache` yet.
    """

    def __init__(self, *, cache: Path, fetch: Callable[[str, str], Path], load: Callable[[Path], Model]) -> None:
        self._cache, self._fetch, self._load = cache, fetch, load
        self.model: Model | None = None
        self.version: str | None = None

    def at_hand(self, digest: str) -> bool:
        """Whether a swap to it has nothing to fetch."""
        return (self._cache / digest).is_dir()

    def bring(self, artifact: str, digest: str) -> None:
        """Fetch the files ahead of a swap, which is what says when they cannot be had."""
        with suppress(Exception):
            self._fetch(artifact, digest)

    def swap(self, version: str, *, artifact: str, digest: str) -> None:
        """Make the version the champion.

        Raises:
            NotSwapped: its files are gone or altered, or it fails its self-test.
        """
        try:
            folder = self._cache / digest
            if not whole(folder, digest):
                folder = self._fetch(artifact, digest)
                if not whole(folder, digest):
                    raise ValueError(f"the files of {artifact} do not have the digest {digest}")
            model = self._load(folder)
        except Exception as error:  # whatever is wrong with a new model, the old one must go on
            raise NotSwapped(f"version {version}: {error}") from error
        self.model, self.version = model, version


def whole(folder: Path, digest: str) -> bool:
    """Whether the folder holds the files that the digest was made of, all of them and no other."""
    return any(path.is_file() for path in folder.rglob("*")) and digest_of(folder) == digest


def digest_of(folder: Path) -> str:
    """SHA-256 of what `sha256sum` prints for the files of a folder, sorted by relative path.

    Raises:
        FileNotFoundError: the folder holds no files.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if not names:
        raise FileNotFoundError(f"{folder} holds no files, so no model")
    listing = hashlib.sha256()
    for name in names:
        with (folder / name).open("rb") as file:
            listing.update(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n".encode())
    return listing.hexdigest()
