"""One published table: an immutable, memory-mapped folder; and the pointer to the one in force."""

import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from recsys import config
from recsys.schema import Floats, Ints, TopK
from shared.dead_letters import from_validation
from shared.messages import Message

SAMPLES = 20  # lists that every reader must find as they were written
HISTORY = 5  # of a user's purchases, the latest: what a reason can name
MAIN = "main"
MAKING = "table"  # the name of a folder that is no version yet


class TableCorrupt(Exception):
    """The folder is not what a night has written."""


class Busy(Exception):
    """Another night, or a rollback, holds the tables."""


class Manifest(Message):
    """What a version is made of. No time of day: the same input makes the same bytes."""

    date: str
    cut: int
    recipe: str  # version of what ranked; `none`: the hand blend (empty in older manifests)
    bundle: str = ""  # the same, under the name that stays
    recipe_digest: str
    offsets: dict[str, dict[int, int]]
    tables: dict[str, str]  # experiment arm -> folder
    files: dict[str, str]  # path -> sha256
    samples: dict[str, list[str]]  # user -> the first ten items

    @property
    def version(self) -> str:
        """Of a manifest that was just made; one that is read has its version from its bytes."""
        return version_of(self.date, self.text().encode())

    def text(self) -> str:
        """As it is written: sorted, since no log promises an order of its partitions."""
        return json.dumps(self.model_dump(), sort_keys=True, indent=1)


def version_of(date: str, manifest: bytes) -> str:
    """The date, and a digest of the manifest's bytes, so that a field more or less in other code changes nothing."""
    return f"{date}-{hashlib.sha256(manifest).hexdigest()[:8]}"


class Extras(NamedTuple):
    """What a list is made of when the table has no row: small enough to be read into memory."""

    items: list[str]  # ids, by number
    popular: dict[str, list[int]]  # by category, and "" for all
    category: list[int]
    family: list[int]
    small: list[bool]
    new: list[bool]
    titles: list[str]

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file, of another version too: fields that are unknown here are ignored, missing ones are neutral."""
        given = json.loads(path.read_text())
        count = len(given["items"])
        neutral = cls(
            items=[],
            popular={"": []},
            category=[0] * count,
            family=[-1] * count,
            small=[False] * count,
            new=[False] * count,
            titles=[""] * count,
        )
        return neutral._replace(**{name: given[name] for name in cls._fields if name in given})


def hash_of(user: str) -> int:
    """64 bits of a user's id."""
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "little")


def drawn(user: str, date: str, *, share: float | None = None) -> np.random.Generator | None:
    """The chance by which a user-night is shuffled; None for those that are not.

    `share`: of user-nights, EXPLORED without it; 1 gives the chance of a row that is known to be shuffled.
    """
    # [6.3] A standing experiment that needs no second table: the shuffle depends on shopper and date alone, so it
    # is drawn before it is known who comes, and a rerun draws the same.
    digest = hashlib.blake2b(f"{user} {date}".encode(), digest_size=16).digest()
    if int.from_bytes(digest[:8], "little") >= (config.EXPLORED if share is None else share) * 2**64:
        return None
    return np.random.default_rng(int.from_bytes(digest[8:], "little"))


class Table:
    """A version, opened. Arrays are mapped: workers share them. A switch reads each byte once, to verify it."""

    def __init__(self, folder: Path, manifest: Manifest, version: str) -> None:
        self.folder, self.manifest, self.version = folder, manifest, version
        main = folder / manifest.tables[MAIN]
        self._hashes = _mapped(main / "hashes.npy")
        self._names = _mapped(main / "names.npy")
        self._items = _mapped(main / "items.npy")
        self._sources = _mapped(main / "sources.npy")
        self._explored = _mapped(main / "explored.npy")
        self._history = _mapped(main / "history.npy")
        self.scores = _mapped(main / "scores.npy")
        self.neighbours = _mapped(main / "neighbours.npy")
        self.extras = Extras.read(main / "extras.json")
        self.number = {item: number for number, item in enumerate(self.extras.items)}

    @classmethod
    def open(cls, folder: Path, *, verify: bool = True) -> Self:
        """Open and self-test; `verify` reads every byte, too.

        Raises:
            TableCorrupt: a file is missing or altered, the manifest too, or a sample list is another one.
        """
        try:
            raw = (folder / "manifest.json").read_bytes()
            manifest = Manifest.model_validate_json(raw)
            version = version_of(manifest.date, raw)
            if verify and (found := _digests(folder)) != manifest.files:
                wrong = sorted(set(found.items()) ^ set(manifest.files.items()))[0][0]
                raise TableCorrupt(f"{folder.name}/{wrong} is not what was written")
            table = cls(folder, manifest, version)
            for user, items in manifest.samples.items():
                row = table.row(user)
                found_items = [] if row < 0 else [table.extras.items[i] for i in table.items(row)[: len(items)]]
                if found_items != items:
                    raise TableCorrupt(f"{folder.name}: the sample list of {user} is {found_items}, was {items}")
            if folder.name not in (MAKING, version):
                raise TableCorrupt(f"{folder.name}/manifest.json is not what was written")
        except ValidationError as error:
            raise TableCorrupt(f"{folder.name}/manifest.json cannot be read: {from_validation(error)}") from error
        except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise TableCorrupt(f"cannot open {folder}: {error}") from error
        return table

    def __len__(self) -> int:
        return len(self._hashes)

    def row(self, user: str) -> int:
        """The user's row, or -1. Two users may share a hash, so the stored id is compared."""
        wanted, name = hash_of(user), user.encode()
        row = int(self._hashes.searchsorted(np.uint64(wanted)))
        while row < len(self._hashes) and self._hashes[row] == wanted:
            if self._names[row] == name:
                return row
            row += 1
        return -1

    def items(self, row: int, most: int | None = None) -> list[int]:
        """Numbers of the stored items, best first."""
        found: list[int] = self._items[row, :most].tolist()
        return found

    def sources(self, row: int, most: int | None = None) -> list[int]:
        """Where each came from, into SOURCES."""
        found: list[int] = self._sources[row, :most].tolist()
        return found

    def explored(self, row: int) -> bool:
        return bool(self._explored[row])

    def shuffled(self, user: str, row: int) -> list[int]:
        """What was shuffled in the user's row, as it was ranked before; empty if nothing was."""
        draw = drawn(user, self.manifest.date, share=1.0) if self.explored(row) else None
        if draw is None:
            return []
        first = [item for item in self.items(row, config.PERMUTED) if item >= 0]
        return [item for _, item in sorted(zip(draw.permutation(len(first)).tolist(), first, strict=True))]

    def history(self, row: int) -> list[int]:
        """The latest purchases, newest first."""
        return [item for item in self._history[row].tolist() if item >= 0]

    def stored(self, most: int | None = None) -> NDArray[np.int8]:
        """(n,) the source of everything stored on the first `most` places."""
        return np.asarray(self._sources[:, :most][self._items[:, :most] >= 0])

    def first_ten(self) -> tuple[list[str], NDArray[np.int32]]:
        """All users, and their first ten items by number: what tomorrow's gate compares with."""
        return [name.decode() for name in self._names.tolist()], np.asarray(self._items[:, :10])


# numpy parses a file's header as Python, and Python 3.11 may fail when two threads parse (python/cpython#106905).
_LOADING = threading.Lock()


def _mapped(path: Path) -> NDArray[Any]:
    # A memmap's own indexing costs a microsecond; a plain view of it does not.
    with _LOADING:
        mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    return mapped


def write(
    folder: Path,
    manifest: Manifest,
    *,
    users: Sequence[str],
    top: TopK,
    history: Ints,
    scores: Floats,
    neighbours: NDArray[np.int32],
    extras: Extras,
) -> Manifest:
    """Write a version into an empty folder, durably; gives the manifest with hashes and samples."""
    main = folder / MAIN
    main.mkdir(parents=True)
    hashes = np.array([hash_of(user) for user in users], dtype=np.uint64)
    order = np.lexsort((np.array(users, dtype=str), hashes))
    names = np.array([user.encode() for user in users], dtype=np.bytes_)
    arrays = {
        "hashes": hashes[order],
        "names": names[order],
        "items": top.items[order],
        "sources": top.sources[order],
        "explored": top.explored[order],
        "history": history[order].astype(np.int32),
        "scores": scores[order],
        "neighbours": neighbours,
    }
    for name, array in arrays.items():
        np.save(main / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
    (main / "extras.json").write_text(json.dumps(extras._asdict()))
    chosen = order[np.linspace(0, len(order) - 1, min(SAMPLES, len(order))).astype(int)] if len(order) else order
    samples = {users[n]: [extras.items[i] for i in top.items[n][:10].tolist()] for n in chosen.tolist()}
    manifest = manifest.model_copy(update={"files": _digests(folder), "samples": samples, "tables": {MAIN: MAIN}})
    (folder / "manifest.json").write_text(manifest.text())
    for path in (*main.iterdir(), folder / "manifest.json", main, folder):
        fsync(path)
    return manifest


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- the pointer ----------------------------------------------------------------------------------


@contextmanager
def sole(tables: Path) -> Iterator[None]:
    """Only who holds this switches anything. A dead process holds nothing: the kernel lets go.

    Raises:
        Busy: another process does.
    """
    tables.mkdir(parents=True, exist_ok=True)
    with (tables / "LOCK").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy("another night or rollback is at work; try again when it is over") from error
        yield


def current(tables: Path) -> str | None:
    """The version in force."""
    try:
        return (tables / "CURRENT").read_text(errors="replace").strip() or None
    except FileNotFoundError:
        return None


def point(tables: Path, version: str) -> None:
    """Make a version the one in force: readers see the old one or the new one, never neither, whatever dies."""
    # [5.2] One rename is the whole release, and the same rename backwards is the rollback: no row is written twice,
    # and a request that has begun on the old folder ends on it.
    temporary = tables / ".CURRENT"
    temporary.write_text(version)
    fsync(temporary)
    os.replace(temporary, tables / "CURRENT")
    fsync(tables)


def versions(tables: Path) -> list[str]:
    """All that are kept, oldest first."""
    return sorted(path.parent.name for path in tables.glob("*/manifest.json"))


def prune(tables: Path, keep: int = config.VERSIONS) -> None:
    """Remove all but the newest, and never the one in force. A reader keeps an old one that it has mapped."""
    now = current(tables)
    for version in versions(tables)[:-keep]:
        if version != now:
            shutil.rmtree(tables / version)
