"""The embedded log: one SQLite file, shared by several processes."""

import fcntl
import math
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from shared.clock import Clock, boot_id, monotonic, sleep
from shared.eventlog.port import (
    COMPACTION_LAG,
    DAY,
    MAX_POLL_INTERVAL,
    Entry,
    Fenced,
    LogUnavailable,
    OtherScheme,
    Place,
    Position,
    Record,
    Topic,
    check_size,
    partition_of,
)

LEASE = 5.0  # seconds a silent member keeps its partitions
BUSY = 5.0  # seconds to wait for a foreign lock
TIDY = 1_024  # records of a partition appended between two looks at what may go; it is looked at every day, too
TIDIED = 4 * TIDY  # records that go at most in one look, so that no append waits long
FIRST_NAP, LAST_NAP = 0.0005, 0.01  # seconds between looks at an idle log

SCHEME_VERSION = 1  # stands in the file as `user_version`: 1 is port.SCHEME; 0 with topics is an older one
SCHEMA = """
CREATE TABLE IF NOT EXISTS streams (
    stream INTEGER PRIMARY KEY, topic TEXT, partition INTEGER, UNIQUE (topic, partition));
CREATE TABLE IF NOT EXISTS records (
    stream INTEGER, offset INTEGER, key TEXT, value BLOB, at INTEGER, PRIMARY KEY (stream, offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    grp TEXT, stream INTEGER, owner TEXT, epoch INTEGER, expires REAL, boot TEXT, offset INTEGER, note TEXT,
    PRIMARY KEY (grp, stream));
CREATE TABLE IF NOT EXISTS starts (stream INTEGER PRIMARY KEY, offset INTEGER);
CREATE TABLE IF NOT EXISTS newest (stream INTEGER, key TEXT, offset INTEGER, PRIMARY KEY (stream, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS superseded (
    stream INTEGER, offset INTEGER, at INTEGER, PRIMARY KEY (stream, offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS members (grp TEXT, member TEXT, expires REAL, boot TEXT, PRIMARY KEY (grp, member));
"""


class _Connection:
    """A connection that waits its turn to write."""

    def __init__(self, path: Path, clock: Clock, topics: Mapping[str, Topic]) -> None:
        self.clock = clock
        self._topics = topics  # by name, those that this process has created: how long their records are kept
        self.lock = threading.Lock()  # threads of one process share a connection
        self._streams: dict[str, list[int]] = {}
        self._tidied = -math.inf  # when all topics were due last
        self._due: list[tuple[int, Topic]] = []  # streams to look at for what may go
        with _or_unavailable(f"cannot open the log {path}"), ExitStack() as opened:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._turn = opened.enter_context(path.with_suffix(".turn").open("w"))
            connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
            self.db = opened.enter_context(closing(connection))
            with self._my_turn():  # of two that make a new file WAL at once, SQLite turns one away without waiting
                self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=FULL")
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Under the lock: SQLite does not bear that a connection is closed while another thread uses it."""
        with self.lock:
            self._opened.close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        with self.lock, _or_unavailable("the log refused a write"), self._my_turn():
            try:
                self.db.execute("BEGIN IMMEDIATE")
                yield self.db
                self.db.execute("COMMIT")
            finally:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        with self.lock, _or_unavailable("the log refused a read"):
            yield self.db

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        """Writers queue on a file lock, which wakes them at once; SQLite's own retry sleeps."""
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def streams(self, topic: str) -> list[int]:
        """The topic's stream numbers, by partition."""
        if topic not in self._streams:
            rows = self.db.execute("SELECT stream FROM streams WHERE topic = ? ORDER BY partition", (topic,)).fetchall()
            if not rows:
                raise LogUnavailable(f"topic {topic!r} does not exist")
            self._streams[topic] = [stream for (stream,) in rows]
        return self._streams[topic]

    def insert(self, entries: Sequence[Entry]) -> list[tuple[int, int]]:
        """Give each entry the next offset of its partition; within a transaction."""
        check_size(entries)
        now = self.clock.now()
        nexts: dict[int, int] = {}
        begun: dict[int, str] = {}  # topic of each stream that has another TIDY records now
        rows, given = [], []
        for topic, key, value, wanted in entries:
            partition = partition_of(key, topic.partitions) if wanted is None else wanted
            stream = self.streams(topic.name)[partition]
            if stream not in nexts:
                nexts[stream] = self.end(stream)
            rows.append((stream, nexts[stream], key, value, now))
            given.append((partition, nexts[stream]))
            nexts[stream] += 1
            if topic.compacted:
                self._supersede(stream, key, nexts[stream] - 1, now)
            if nexts[stream] % TIDY == 0:
                begun[stream] = topic.name
        self.db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
        for stream, name in begun.items():
            self._tidy(stream, self._topics.get(name), now)
        self._tidy_next(now)
        return given

    def start(self, stream: int) -> int:
        (first,) = self.db.execute("SELECT min(offset) FROM records WHERE stream = ?", (stream,)).fetchone()
        return self._gone_until(stream) if first is None else int(first)

    def end(self, stream: int) -> int:
        (last,) = self.db.execute("SELECT max(offset) FROM records WHERE stream = ?", (stream,)).fetchone()
        return self._gone_until(stream) if last is None else int(last) + 1

    def _gone_until(self, stream: int) -> int:
        row = self.db.execute("SELECT offset FROM starts WHERE stream = ?", (stream,)).fetchone()
        return 0 if row is None else int(row[0])

    def _supersede(self, stream: int, key: str, offset: int, now: int) -> None:
        """Remember the newest record of a key of a compacted topic, and which one it takes the place of."""
        before = self.db.execute("SELECT offset FROM newest WHERE stream = ? AND key = ?", (stream, key)).fetchone()
        if before is not None:
            self.db.execute("INSERT OR IGNORE INTO superseded VALUES (?, ?, ?)", (stream, *before, now))
        self.db.execute("INSERT OR REPLACE INTO newest VALUES (?, ?, ?)", (stream, key, offset))

    def _tidy_next(self, now: int) -> None:
        """Once a day, and when a process begins to write, each topic has its turn, though nothing is appended to it."""
        if now - self._tidied >= DAY:
            self._tidied = now
            self._due = [(stream, topic) for topic in self._topics.values() for stream in self.streams(topic.name)]
        if self._due:  # one an append, so that none waits long
            self._tidy(*self._due.pop(), now)

    def _tidy(self, stream: int, topic: Topic | None, now: int) -> None:
        """Remove what has been superseded long enough, and what is older than its topic is kept."""
        if topic is None:
            return
        if topic.compacted:
            old = self.db.execute(
                "SELECT stream, offset FROM superseded WHERE stream = ? AND at < ? ORDER BY offset LIMIT ?",
                (stream, now - COMPACTION_LAG, TIDIED),
            ).fetchall()
            self.db.executemany("DELETE FROM records WHERE stream = ? AND offset = ?", old)
            self.db.executemany("DELETE FROM superseded WHERE stream = ? AND offset = ?", old)
        if topic.days is not None:
            self.remove_before(stream, self._first_since(stream, now - topic.days * DAY))

    def _first_since(self, stream: int, at: int) -> int:
        """The first record that was appended at that time or later, among the oldest TIDIED; else the one after."""
        rows = self.db.execute(
            "SELECT offset, at FROM records WHERE stream = ? ORDER BY offset LIMIT ?", (stream, TIDIED)
        )
        first = 0
        for offset, appended in rows:
            if appended >= at:
                return int(offset)
            first = offset + 1
        return int(first)

    def remove_before(self, stream: int, offset: int) -> None:
        """Remove the records before an offset; within a transaction."""
        if offset <= self.start(stream):
            return
        self.db.execute("INSERT OR REPLACE INTO starts VALUES (?, ?)", (stream, offset))
        self.db.execute("DELETE FROM records WHERE stream = ? AND offset < ?", (stream, offset))
        self.db.execute("DELETE FROM superseded WHERE stream = ? AND offset < ?", (stream, offset))
        self.db.execute("DELETE FROM newest WHERE stream = ? AND offset < ?", (stream, offset))


@contextmanager
def _or_unavailable(what: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise LogUnavailable(f"{what}: {error}") from error


class _Tail:
    """Reads streams from offsets, and looks again only after a write."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._version = -1

    def poll(self, at: dict[Place, int], limit: int, timeout: float) -> list[Record]:
        until, nap = monotonic() + timeout, FIRST_NAP
        while True:
            with self._connection.read() as db:
                records = self._read(db, at, limit)
            if records or monotonic() >= until:
                return records
            sleep(min(nap, max(0.0, until - monotonic())))
            nap = min(nap * 1.5, LAST_NAP)

    def _read(self, db: sqlite3.Connection, at: dict[Place, int], limit: int) -> list[Record]:
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return []
        records: list[Record] = []
        more = False
        for (topic, partition), offset in at.items():
            rows = db.execute(
                "SELECT offset, key, value, at FROM records WHERE stream = ? AND offset >= ? ORDER BY offset LIMIT ?",
                (self._connection.streams(topic)[partition], offset, limit),
            ).fetchall()
            more = more or len(rows) == limit
            records += [Record(topic, partition, *row) for row in rows]
        for record in records:
            at[Place(record.topic, record.partition)] = record.offset + 1
        self._version = -1 if more else version
        return records

    def look_again(self) -> None:
        self._version = -1


class SqliteReader:
    def __init__(self, connection: _Connection, positions: dict[Place, int]) -> None:
        self._connection = connection
        self._tail = _Tail(connection)
        self.positions = positions

    def poll(self, limit: int, timeout: float) -> list[Record]:
        return self._tail.poll(self.positions, limit, timeout)

    def close(self) -> None:
        self._connection.close()


class SqliteConsumer:
    """A member of a group that claims partitions by leases which run out.

    A lease carries an epoch, which every change of owner raises: a member that was thought dead and was not
    finds another epoch in its own commit, and writes nothing.
    """

    def __init__(self, connection: _Connection, places: dict[int, Place], *, group: str, member: str) -> None:
        self._connection, self._group, self._member = connection, group, member
        self._places = places  # by stream
        self._streams = {place: stream for stream, place in places.items()}
        self._topics = {place.topic for place in self._streams}
        self._tail = _Tail(connection)
        self._epochs: dict[Place, int] = {}
        self.positions: dict[Place, int] = {}
        self._renew_at = -math.inf
        self._polled = monotonic()
        self._closed = threading.Event()
        self.owned: dict[Place, Position] = {}
        # By a weak reference: a member that was dropped without a word must lose its claims.
        threading.Thread(target=_keep_claims, args=(weakref.ref(self), self._closed), daemon=True).start()

    def poll(self, limit: int, timeout: float) -> list[Record]:
        self._polled = monotonic()
        if monotonic() >= self._renew_at:
            self._claim()
        return self._tail.poll(self.positions, limit, min(timeout, LEASE / 3))

    def commit(self, entries: Sequence[Entry], positions: Mapping[Place, Position]) -> None:
        with self._connection.write() as db:
            expires = monotonic() + LEASE
            for place, position in positions.items():
                moved = db.execute(
                    "UPDATE claims SET offset = ?, note = ?, expires = ?"
                    " WHERE grp = ? AND stream = ? AND owner = ? AND epoch = ?",
                    (*position, expires, self._group, self._streams[place], self._member, self._epochs.get(place)),
                ).rowcount
                if not moved:
                    raise Fenced(f"{self._member} of {self._group} no longer owns {place.topic}/{place.partition}")
            self._connection.insert(entries)
        self.owned.update(positions)
        if not self._topics.isdisjoint(entry.topic.name for entry in entries):
            self._tail.look_again()  # SQLite does not tell a connection of its own writes

    def keep_claims(self) -> None:
        """Renew the leases while the caller works longer than one lasts, and as long as it is not hung."""
        now = monotonic()
        if now < self._renew_at + LEASE / 6 or now > self._polled + MAX_POLL_INTERVAL:
            return
        with self._connection.write() as db:
            mine = (now + LEASE, self._group, self._member)
            db.execute("UPDATE members SET expires = ? WHERE grp = ? AND member = ?", mine)
            db.executemany(
                "UPDATE claims SET expires = ? WHERE grp = ? AND owner = ? AND stream = ? AND epoch = ?",
                [(*mine, self._streams[place], epoch) for place, epoch in list(self._epochs.items())],
            )

    def close(self) -> None:
        self._closed.set()
        mine = (self._group, self._member)
        with closing(self._connection), self._connection.write() as db:
            db.executemany(  # by epoch: a member that came back under this name keeps its own
                "UPDATE claims SET owner = NULL WHERE grp = ? AND owner = ? AND stream = ? AND epoch = ?",
                [(*mine, self._streams[place], epoch) for place, epoch in self._epochs.items()],
            )
            (left,) = db.execute("SELECT count(*) FROM claims WHERE grp = ? AND owner = ?", mine).fetchone()
            if not left:
                db.execute("DELETE FROM members WHERE grp = ? AND member = ?", mine)

    def _claim(self) -> None:
        """Renew what is mine, let go of what is more than my share, take what is free.

        What was lost in between comes back at the next claim at the earliest, so that the caller sees it gone.
        """
        now, boot = monotonic(), boot_id()
        fresh = self._renew_at == -math.inf  # a new epoch fences the self that died
        with self._connection.write() as db:
            group = (self._group,)
            db.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?)", (*group, self._member, now + LEASE, boot))
            db.execute("DELETE FROM members WHERE grp = ? AND (expires < ? OR boot != ?)", (*group, now, boot))
            (members,) = db.execute("SELECT count(*) FROM members WHERE grp = ?", group).fetchone()
            db.executemany(
                "INSERT OR IGNORE INTO claims VALUES (?, ?, NULL, 0, 0, '', 0, '')",
                [(self._group, stream) for stream in self._places],
            )
            rows = db.execute(
                "SELECT stream, owner, epoch, owner IS NULL OR expires < ? OR boot != ?, offset, note"
                " FROM claims WHERE grp = ? ORDER BY stream",
                (now, boot, self._group),
            ).fetchall()
            rows = [row for row in rows if row[0] in self._places]
            share = math.ceil(len(rows) / members)
            mine = [row for row in rows if row[1] == self._member and (fresh or not self._lost(row))]
            gone = set(self.owned) - {self._places[row[0]] for row in mine}
            free = [row for row in rows if row[3] and row not in mine and self._places[row[0]] not in gone]
            keep = (mine + free)[:share]
            for stream, *_ in mine[share:]:
                db.execute("UPDATE claims SET owner = NULL WHERE grp = ? AND stream = ?", (self._group, stream))
            for row in keep:
                epoch = row[2] + (fresh or row not in mine)
                db.execute(
                    "UPDATE claims SET owner = ?, epoch = ?, expires = ?, boot = ? WHERE grp = ? AND stream = ?",
                    (self._member, epoch, now + LEASE, boot, self._group, row[0]),
                )
        self._adopt({self._places[row[0]]: (row[2] + (fresh or row not in mine), row[4], row[5]) for row in keep})
        self._renew_at = now if gone else now + LEASE / 3

    def _lost(self, row: tuple[int, str, int, int, int, str]) -> bool:
        return self._epochs.get(self._places[row[0]]) != row[2]

    def _adopt(self, claims: dict[Place, tuple[int, int, str]]) -> None:
        for place in set(self.owned) - set(claims):
            del self.owned[place], self.positions[place]
        for place, (epoch, offset, note) in claims.items():
            if self._epochs.get(place) != epoch or place not in self.owned:
                self.owned[place] = Position(offset, note)
                self.positions[place] = offset
                self._tail.look_again()
        self._epochs = {place: epoch for place, (epoch, _, _) in claims.items()}


def _keep_claims(member: "weakref.ref[SqliteConsumer]", closed: threading.Event) -> None:
    """As the heartbeat thread of a Kafka consumer does."""
    while not closed.wait(LEASE / 3):
        if (living := member()) is None:
            return
        with suppress(LogUnavailable, ValueError):  # the next one may be in time; or its file was closed meanwhile
            living.keep_claims()
        del living


class SqliteLog:
    def __init__(self, path: str, *, clock: Clock) -> None:
        self._path, self._clock = Path(path), clock
        self._topics: dict[str, Topic] = {}
        self._connection = self._connect()
        try:
            with self._connection.write() as db:
                for statement in SCHEMA.split(";"):
                    db.execute(statement)
                (version,) = db.execute("PRAGMA user_version").fetchone()
                if version != SCHEME_VERSION and db.execute("SELECT 1 FROM streams").fetchone():
                    raise OtherScheme(path)
                db.execute(f"PRAGMA user_version = {SCHEME_VERSION}")
        except (LogUnavailable, OtherScheme):
            self._connection.close()
            raise

    def _connect(self) -> _Connection:
        return _Connection(self._path, self._clock, self._topics)

    def create(self, topics: Sequence[Topic]) -> None:
        with self._connection.write() as db:
            db.executemany(
                "INSERT OR IGNORE INTO streams (topic, partition) VALUES (?, ?)",
                [(topic.name, partition) for topic in topics for partition in range(topic.partitions)],
            )
        self._topics.update((topic.name, topic) for topic in topics)
        for topic in topics:
            if (there := len(self._connection.streams(topic.name))) != topic.partitions:
                raise ValueError(f"topic {topic.name} has {there} partitions, not {topic.partitions}: keys would move")

    def append(self, entries: Sequence[Entry]) -> list[tuple[int, int]]:
        with self._connection.write():
            return self._connection.insert(entries)

    def starts(self, topic: Topic) -> dict[int, int]:
        with self._connection.read():
            streams = self._connection.streams(topic.name)
            return {partition: self._connection.start(stream) for partition, stream in enumerate(streams)}

    def ends(self, topic: Topic) -> dict[int, int]:
        with self._connection.read():
            streams = self._connection.streams(topic.name)
            return {partition: self._connection.end(stream) for partition, stream in enumerate(streams)}

    def written(self, topic: Topic) -> dict[int, int]:
        """The end: a step that is under way is seen by its own connection only."""
        return self.ends(topic)

    def committed(self, group: str, topic: Topic) -> dict[int, Position]:
        query = "SELECT partition, offset, note FROM claims JOIN streams USING (stream) WHERE grp = ? AND topic = ?"
        with self._connection.read() as db:
            rows = db.execute(query, (group, topic.name)).fetchall()
        return {partition: Position(offset, note) for partition, offset, note in rows}

    def reader(self, start: Mapping[Place, int]) -> SqliteReader:
        with self._connection.read():
            first = {
                place: self._connection.start(self._connection.streams(place.topic)[place.partition]) for place in start
            }
        return SqliteReader(self._connect(), {place: max(offset, first[place]) for place, offset in start.items()})

    def consumer(self, group: str, topics: Sequence[Topic], member: str) -> SqliteConsumer:
        with self._connection.read():
            places = {
                stream: Place(topic.name, partition)
                for topic in topics
                for partition, stream in enumerate(self._connection.streams(topic.name))
            }
        return SqliteConsumer(self._connect(), places, group=group, member=member)

    def close(self) -> None:
        self._connection.close()
