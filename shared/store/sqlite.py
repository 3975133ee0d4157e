"""Views in one SQLite file, which several processes share."""

import fcntl
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from shared.clock import Clock
from shared.eventlog.port import Place
from shared.store.port import StoreUnavailable


class SqliteStore:
    def __init__(self, path: str, *, clock: Clock, keep: int | None = None) -> None:
        self._clock, self._keep = clock, keep
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()
        with Path(path).with_suffix(".turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # of two that make a new file WAL at once, SQLite turns one away
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=OFF")  # what a power cut takes, the log gives back
            # Not `rows` and `positions`: an older version's process may still write those, without times. The views
            # here are made anew from the log.
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS dated_rows"
                " (view TEXT, key TEXT, value BLOB, at INTEGER, PRIMARY KEY (view, key))"
            )
            self._db.execute("CREATE INDEX IF NOT EXISTS dated_rows_at ON dated_rows (at)")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS dated_positions"
                " (view TEXT, topic TEXT, partition INTEGER, offset INTEGER, PRIMARY KEY (view, topic, partition))"
            )

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                yield self._db
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store: {error}") from error

    def put(
        self,
        view: str,
        rows: Sequence[tuple[str, bytes]],
        positions: Mapping[Place, int],
        *,
        after: Mapping[Place, int] = {},
    ) -> int:
        with self._use() as db, db:
            db.execute("BEGIN IMMEDIATE")
            there = self._positions(view)
            if any(there.get(place, 0) < offset for place, offset in after.items()):
                raise StoreUnavailable(f"the store: view {view!r} lost what it had; it begins again at its positions")
            self._forget(2 * len(rows))
            before = db.total_changes
            now, gone = self._clock.now(), self._gone()
            db.executemany(
                "INSERT INTO dated_rows VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET value = excluded.value, at = excluded.at WHERE at < ?",
                [(view, *row, now, gone) for row in rows],
            )
            added = db.total_changes - before
            db.executemany(
                "INSERT INTO dated_positions VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET offset = excluded.offset WHERE excluded.offset > offset",
                [(view, *place, offset) for place, offset in positions.items()],
            )
        return added

    def get(self, view: str, key: str) -> bytes | None:
        query = "SELECT value FROM dated_rows WHERE view = ? AND key = ? AND at >= ?"
        with self._use() as db:
            row = db.execute(query, (view, key, self._gone())).fetchone()
        return None if row is None else bytes(row[0])

    def _gone(self) -> int:
        """Rows that were put before this time are no longer there."""
        return 0 if self._keep is None else self._clock.now() - self._keep

    def _forget(self, most: int) -> None:
        """Remove some of the rows that are no longer there: so few that no reader waits, and more than come in."""
        which = "SELECT rowid FROM dated_rows WHERE at < ? LIMIT ?"
        self._db.execute(f"DELETE FROM dated_rows WHERE rowid IN ({which})", (self._gone(), most))

    def positions(self, view: str) -> dict[Place, int]:
        with self._use():
            return self._positions(view)

    def _positions(self, view: str) -> dict[Place, int]:
        query = "SELECT topic, partition, offset FROM dated_positions WHERE view = ?"
        rows = self._db.execute(query, (view,)).fetchall()
        return {Place(topic, partition): offset for topic, partition, offset in rows}

    def close(self) -> None:
        self._db.close()
