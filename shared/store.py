"""Read views that one process writes and another reads.

A view is always rebuildable from the log and is never consulted to decide. It remembers how far in
the log it has come, in the same transaction as its rows.
"""

import fcntl
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from shared.eventlog.port import Place


class StoreUnavailable(Exception):
    """The store cannot take or give rows now: away, locked or full. What it lacks, the log gives back."""


class Store(Protocol):
    def put(self, view: str, rows: Sequence[tuple[str, bytes]], positions: Mapping[Place, int]) -> int:
        """Add rows by key; the first row of a key stays. Gives the number of rows added.

        Raises:
            StoreUnavailable: neither rows nor positions were written; so do the others.
        """
        ...

    def get(self, view: str, key: str) -> bytes | None: ...

    def positions(self, view: str) -> dict[Place, int]:
        """By partition of the log, the offset that the view wants next."""
        ...

    def close(self) -> None: ...


class SqliteStore:
    def __init__(self, path: str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()
        with Path(path).with_suffix(".turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # of two that make a new file WAL at once, SQLite turns one away
            self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")  # what a power cut takes, the log gives back
        self._db.execute("CREATE TABLE IF NOT EXISTS rows (view TEXT, key TEXT, value BLOB, PRIMARY KEY (view, key))")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS positions"
            " (view TEXT, topic TEXT, partition INTEGER, offset INTEGER, PRIMARY KEY (view, topic, partition))"
        )

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                yield self._db
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store: {error}") from error

    def put(self, view: str, rows: Sequence[tuple[str, bytes]], positions: Mapping[Place, int]) -> int:
        with self._use() as db, db:
            db.execute("BEGIN IMMEDIATE")
            before = db.total_changes
            db.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?, ?)", [(view, *row) for row in rows])
            added = db.total_changes - before
            db.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?)",
                [(view, *place, offset) for place, offset in positions.items()],
            )
        return added

    def get(self, view: str, key: str) -> bytes | None:
        query = "SELECT value FROM rows WHERE view = ? AND key = ?"
        with self._use() as db:
            row = db.execute(query, (view, key)).fetchone()
        return None if row is None else bytes(row[0])

    def positions(self, view: str) -> dict[Place, int]:
        query = "SELECT topic, partition, offset FROM positions WHERE view = ?"
        with self._use() as db:
            rows = db.execute(query, (view,)).fetchall()
        return {Place(topic, partition): offset for topic, partition, offset in rows}

    def close(self) -> None:
        self._db.close()


def open_store(url: str) -> Store:
    """The store at `url`: `sqlite:///var/store.db`.

    Raises:
        ValueError: for a scheme that no store here speaks.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        return SqliteStore(rest.removeprefix("/"))
    raise ValueError(f"store URL {url!r}: expected sqlite:///PATH")
