"""The batch view on disk: one immutable file an hour and version, and a manifest that names those in force."""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

import polars as pl

from shared.eventlog.port import Fenced

logger = logging.getLogger(__name__)

COLUMNS: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(("brand", "aspect", "post", "author", "label", "model", "removed"), pl.String),
    **dict.fromkeys(("at", "text", "partition", "offset"), pl.Int64),
    **dict.fromkeys(("negative", "neutral", "positive"), pl.Float64),  # the score
}


class HoursCorrupt(Exception):
    """A file of the batch view cannot be read."""


class Published(NamedTuple):
    """One hour as it stands."""

    version: int
    model: str | None  # the version that scored it
    digest: str  # of its rows
    until: tuple[int, ...]  # by partition of posts, the offset up to which it has taken in what came
    aliases: str = ""  # the version of the brands' table that found its mentions; an older manifest does not say


class Search(NamedTuple):
    """Deleted posts whose day is not known; a night looks at a few days of the lake for them, the newest first."""

    posts: tuple[str, ...] = ()
    before: int = 2**32  # event day; those from it on have been looked at
    waiting: tuple[str, ...] = ()  # posts that are looked for once these have been

    @classmethod
    def read(cls, posts: list[str], before: int, waiting: list[str]) -> Self:
        return cls(tuple(posts), int(before), tuple(waiting))


class Manifest(NamedTuple):
    """What belongs to the batch view. Every other hour is the speed view's."""

    # [4.3] Ownership by hour and not a watermark: a reader takes this one pointer once, and each hour is in exactly
    # one view for as long as it looks, whatever is published, reopened or restarted meanwhile.
    revision: int = 0
    aliases: str = ""  # the version of the brands' table
    night: int = -1  # the last event day on whose eve dirty hours were reopened
    erased: int = -1  # the same, and no deletion was left over
    tombstones: tuple[int, ...] = ()  # by partition, the offset up to which deletions have been seen to
    search: Search = Search()
    expired: int = 0  # posts that came too late for any version
    start: int | None = None  # the first hour there is
    hours: dict[int, Published] = {}  # noqa: RUF012  # never changed in place

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest as it is now; an empty one before the first hour is published. Raises HoursCorrupt."""
        try:
            text = (folder / "manifest.json").read_text()
        except FileNotFoundError:
            return cls()
        try:
            about = json.loads(text)
            hours = {
                int(hour): Published(int(version), model, content, tuple(until), *more[:1])
                for hour, (version, model, content, until, *more) in about.pop("hours").items()
            }
            known = {name: about[name] for name in cls._fields if name in about}  # a newer version may say more
            known |= {"tombstones": tuple(about["tombstones"]), "search": Search.read(*about.get("search", Search()))}
            return cls(**known | {"hours": hours})
        except (ValueError, TypeError, KeyError) as error:
            raise HoursCorrupt(
                f"{folder / 'manifest.json'} is damaged: {error}; batch makes it anew when it starts again"
            ) from error

    def write(self, folder: Path) -> None:
        """Switch the pointer: readers see the old one or this one, whole. For the process that is `publishing`."""
        _replace(folder / "manifest.json", json.dumps(self._asdict()).encode())


@contextmanager
def publishing(folder: Path, revision: int | None) -> Iterator[None]:
    """Hold the view while an hour is written and the manifest switched: two runs of batch may be at work.

    `revision`: of the manifest that the change starts from; None if that was damaged.

    Raises:
        Fenced: another run has published since, and its hours would be lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when it is closed
        with suppress(HoursCorrupt):
            now = Manifest.read(folder).revision
            if now != revision:
                raise Fenced(f"another run of batch has published: revision {now} instead of {revision}")
        yield
    finally:
        os.close(lock)


def write_hour(folder: Path, hour: int, version: int, rows: pl.DataFrame) -> None:
    """Columns as COLUMNS. Written again only if no reader has been told of it."""
    path = _path(folder, hour, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    rows.write_parquet(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def read_hour(folder: Path, hour: int, version: int) -> pl.DataFrame:
    """Raises HoursCorrupt, naming the file."""
    path = _path(folder, hour, version)
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise HoursCorrupt(f"{path} cannot be read ({error}): delete manifest.json, and batch makes it anew") from error


def write_counts(folder: Path, hour: int, version: int, table: pl.DataFrame) -> None:
    """What an hour's rows add up to, so that a request need not count them."""
    path = _counts_path(folder, hour, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.new")
    table.write_parquet(temporary)
    temporary.replace(path)


def read_counts(folder: Path, hour: int, version: int) -> pl.DataFrame | None:
    """None where there are none that can be read: an older version wrote none, and the rows say the same."""
    path = _counts_path(folder, hour, version)
    try:
        return pl.read_parquet(path)
    except FileNotFoundError:
        return None
    except (pl.exceptions.PolarsError, OSError) as error:
        logger.warning("%s cannot be read (%s): its hour is counted again", path, error)
        return None


def stamp(folder: Path) -> tuple[int, ...] | None:
    """Another one for another manifest; None before there is one. It costs no reading."""
    try:
        about = (folder / "manifest.json").stat()
    except FileNotFoundError:
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size


def latest_versions(folder: Path) -> dict[int, int]:
    """By hour, the highest version of which there is a file."""
    found: dict[int, int] = {}
    for path in folder.glob("*/*-*.parquet"):
        hour, version = map(int, path.stem.split("-"))
        found[hour] = max(version, found.get(hour, 0))
    return found


def digest(rows: pl.DataFrame) -> str:
    """Names the content of an hour: the same rows, the same digest."""
    return hashlib.sha256(rows.write_csv().encode()).hexdigest()[:16]


def _path(folder: Path, hour: int, version: int) -> Path:
    return folder / str(hour // 24) / f"{hour}-{version}.parquet"


def _counts_path(folder: Path, hour: int, version: int) -> Path:
    return _path(folder, hour, version).with_suffix(".counts")


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")  # one name: what a killed run has left is written over
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
