"""Saves and loads the state of a partition's worker: one file, atomic rename, checked when read, two kept."""

import hashlib
import json
import os
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Literal

from fraud import config
from fraud.features import DEFINITION, State
from fraud.schema import Transaction
from fraud.windows import Card

COLUMNS = ("at", "cents", "total", "large", "device", "country", "frauds")


class SnapshotUnusable(Exception):
    """The file is missing, damaged, or of another definition of the features."""


class Memory:
    """One partition: the state of the features, and which payments have been seen."""

    def __init__(self, partition: int) -> None:
        self.state = State(partition)
        self.offset = 0  # of the next record to take in
        self._seen: dict[str, tuple[str, int]] = {}  # identity -> fingerprint, event time of arrival

    def recall(self, payment: Transaction, fingerprint: str) -> Literal["new", "repeat", "conflict"]:
        """`new`, `repeat` (same content) or `conflict` (other content under the same identity); remembers it."""
        before = self._seen.get(payment.identity)
        if before is not None:
            return "repeat" if before[0] == fingerprint else "conflict"
        self._seen[payment.identity] = (fingerprint, max(payment.at, self.state.watermark))
        oldest = self.state.watermark - config.REMEMBER
        while self._seen and next(iter(self._seen.values()))[1] < oldest:
            del self._seen[next(iter(self._seen))]
        return "new"

    def save(self, folder: Path) -> None:
        """Write the snapshot; the one before stays beside it."""
        cards = self.state.cards
        header = {
            "definition": DEFINITION,
            "offset": self.offset,
            "watermark": self.state.watermark,
            "hour": self.state.open.hour,
            "counts": self.state.open.counts,
            "verdicts": self.state.verdicts,
            "seen": self._seen,
            "cards": {name: [len(getattr(card, column)) for column in COLUMNS] for name, card in cards.items()},
        }
        columns = b"".join(getattr(card, column).tobytes() for card in cards.values() for column in COLUMNS)
        body = json.dumps(header).encode() + b"\n" + columns
        folder.mkdir(parents=True, exist_ok=True)
        path = _path(folder, self.state.partition)
        temporary = path.with_suffix(".new")
        # An owner that was thought dead may be saving, too: never into one file, and who comes second loses nothing.
        temporary.unlink(missing_ok=True)
        with temporary.open("wb") as file:
            file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            file.flush()
            os.fsync(file.fileno())
        for old, new in ((path, path.with_suffix(".previous")), (temporary, path)):
            with suppress(FileNotFoundError):
                old.replace(new)

    @classmethod
    def load(cls, folder: Path, partition: int, *, until: int) -> "Memory":
        """The newest usable snapshot that is not ahead of offset `until`.

        Raises:
            SnapshotUnusable: there is none.
        """
        path = _path(folder, partition)
        for candidate in (path, path.with_suffix(".previous")):
            try:
                memory = cls._read(candidate, partition)
            except (OSError, ValueError, KeyError, TypeError, EOFError):
                continue
            if memory.offset <= until:
                return memory
        raise SnapshotUnusable(f"no usable snapshot of partition {partition} in {folder.name}")

    @classmethod
    def _read(cls, path: Path, partition: int) -> "Memory":
        digest, _, body = path.read_bytes().partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            raise ValueError(f"{path.name} is damaged")
        text, _, columns = body.partition(b"\n")
        header = json.loads(text)
        if header["definition"] != DEFINITION:
            raise ValueError(f"{path.name} belongs to feature definition {header['definition']}")
        memory = cls(partition)
        memory.offset = header["offset"]
        memory._seen = {identity: (print_, at) for identity, (print_, at) in header["seen"].items()}
        state = memory.state
        state.watermark, state.open.hour = header["watermark"], header["hour"]
        state.open.counts = {terminal: (paid, frauds) for terminal, (paid, frauds) in header["counts"].items()}
        state.verdicts = {identity: (fraud, at) for identity, (fraud, at) in header["verdicts"].items()}
        start = 0
        for name, lengths in header["cards"].items():
            card = state.cards[name] = Card()
            for column, length in zip(COLUMNS, lengths, strict=True):
                values = array(getattr(card, column).typecode)
                end = start + length * values.itemsize
                values.frombytes(columns[start:end])
                setattr(card, column, values)
                start = end
        return memory


def _path(folder: Path, partition: int) -> Path:
    return folder / f"partition-{partition}.snapshot"
