"""The model in force: loaded, checked on its golden samples, and swapped as a whole."""

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

from shared.clock import monotonic
from shared.eventlog.port import EventLog, Topic, beginning
from shared.releases import Ledger, Release

RETRY = 30.0  # seconds before a champion that could not be loaded is tried again

Model = TypeVar("Model")
logger = logging.getLogger(__name__)


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
        """Whether a swap to it has nothing to fetch: a damaged folder is as good as none."""
        return is_digest(digest) and whole(self._cache / digest, digest)

    def bring(self, artifact: str, digest: str) -> str:
        """Fetch the files ahead of a swap; gives why they cannot be had, or nothing."""
        try:
            self._fetch(artifact, digest)
        except Exception as error:  # whatever the registry raises, what decides now must go on
            return f"{artifact} cannot be fetched: {error}"
        return ""

    def swap(self, version: str, *, artifact: str, digest: str) -> None:
        """Make the version the champion.

        Raises:
            NotSwapped: its files are gone or altered, or it fails its self-test.
        """
        try:
            if not is_digest(digest):  # it names a folder, so it must not be a path
                raise ValueError(f"{digest!r} is not a digest")
            folder = self._cache / digest
            if not whole(folder, digest):
                folder = self._fetch(artifact, digest)
                if not whole(folder, digest):
                    raise ValueError(f"the files of {artifact} do not have the digest {digest}")
            model = self._load(folder)
        except Exception as error:  # whatever is wrong with a new model, the old one must go on
            raise NotSwapped(f"version {version}: {error}") from error
        self.model, self.version = model, version

    def clear(self) -> None:
        """No version decides: it was withdrawn, or none can be had."""
        self.model = self.version = None


class ChampionFollower(Generic[Model]):
    """Keeps a champion as the release ledger wants it.

    Files that are not at hand are fetched beside the caller's work, except for the very first champion. A champion
    that cannot be loaded leaves its place to an earlier version that was never taken back, and is tried again.
    """

    def __init__(self, log: EventLog, topic: Topic, champion: Champion[Model], *, subject: str = "model") -> None:
        self._reader = log.reader(beginning([topic]))
        self._champion, self._subject = champion, subject
        self.ledger: Ledger[Release] = Ledger()
        self._settled = True  # what the ledger wants is what decides
        self._retry_at = -math.inf
        self._told: set[str] = set()  # versions that could not be loaded, as the caller knows
        self._first = True
        self._fetcher = ThreadPoolExecutor(1, thread_name_prefix="fetch")
        # Of the attempt under way:
        self._fetches: dict[str, Future[str]] = {}  # by digest, why the files cannot be had
        self._refused: dict[str, str] = {}  # by version, why it cannot decide

    def poll(self) -> list[str]:
        """Read on, and swap if the ledger says so; gives what went wrong, each thing once.

        Raises:
            LogUnavailable: the ledger cannot be read.
        """
        said = []
        while records := self._reader.poll(1_000, 0.0):
            for record in records:
                try:
                    self.ledger.add(Release.model_validate_json(record.value))
                except ValueError:
                    said.append(f"line {record.offset} of {record.topic} cannot be read")
            self._begin_anew(at=-math.inf)
        if not self._settled and monotonic() >= self._retry_at:
            said += self._settle()
        return said

    def close(self) -> None:
        self._reader.close()
        self._fetcher.shutdown(wait=False, cancel_futures=True)

    def _begin_anew(self, *, at: float) -> None:
        self._settled, self._retry_at = False, at
        self._fetches.clear()
        self._refused.clear()

    def _settle(self) -> list[str]:
        """Load the first of the versions that the ledger allows; gives why those before it could not be."""
        wanted = self.ledger.champion(self._subject)
        said: list[str] = []
        for line in [] if wanted is None else [wanted, *self.ledger.fallbacks(self._subject)]:
            if line.version == self._champion.version:
                break
            if line.version not in self._refused:
                trouble = self._load(line)
                if trouble is None:  # the next poll looks again
                    return said
                if not trouble:
                    self._told.discard(line.version)
                    break
                self._refused[line.version] = trouble
            if line.version not in self._told:
                self._told.add(line.version)
                said.append(self._refused[line.version])
        else:
            self._champion.clear()
        self._first = False
        self._begin_anew(at=monotonic() + RETRY)
        self._settled = wanted is None or self._champion.version == wanted.version
        return said

    def _load(self, line: Release) -> str | None:
        """Why it cannot decide, nothing if it does now, None while its files are on their way."""
        fetch = self._fetches.get(line.digest)
        if fetch is None and not self._champion.at_hand(line.digest):
            fetch = self._fetcher.submit(self._champion.bring, line.artifact, line.digest)
            self._fetches[line.digest] = fetch
        if fetch is not None:
            if not self._first and not fetch.done():
                return None
            if trouble := fetch.result():
                return f"version {line.version}: {trouble}"
        try:
            self._champion.swap(line.version, artifact=line.artifact, digest=line.digest)
        except NotSwapped as error:
            return str(error)
        logger.info("version %s decides", line.version)
        return ""


def drift_limits(models: Path, release: Release | None) -> dict[str, float]:
    """By column, the distance that drift has to exceed; empty when the files of the release are not in `models`."""
    if release is None or not is_digest(release.digest):
        return {}
    try:
        limits: dict[str, float] = json.loads((models / release.digest / "limits.json").read_text())
    except (OSError, ValueError):
        return {}
    return limits


def is_digest(text: str) -> bool:
    """Whether it is a SHA-256 in hex."""
    return re.fullmatch("[0-9a-f]{64}", text) is not None


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
