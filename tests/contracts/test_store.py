"""What `shared/store/port.py` promises, and every store has to keep."""

import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest
import redis

from shared.clock import SystemClock, VirtualClock, monotonic, sleep
from shared.eventlog.port import Place
from shared.store import open_store
from shared.store.port import Store, StoreUnavailable
from shared.store.sqlite import SqliteStore
from tests.servers import RedisServer
from tests.threads import at_once

FIRST, SECOND = Place("decisions", 0), Place("decisions", 1)


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of its own for every test."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/var/store.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    server.empty()
    return server.url


@pytest.fixture
def start(url: str) -> Iterator[Callable[[], Store]]:
    """Opens the store once more, as another process would; closed after the test."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(open_store(url, clock=SystemClock())))


@pytest.fixture
def store(start: Callable[[], Store]) -> Store:
    return start()


def test_a_row_is_found_by_view_and_key(store: Store) -> None:
    store.put("view", [("a", b"\x00\xff"), ("b", b"")], {})
    assert (store.get("view", "a"), store.get("view", "b")) == (b"\x00\xff", b"")


def test_what_was_never_put_is_none(store: Store) -> None:
    store.put("view", [("a", b"1")], {})
    assert store.get("view", "b") is None
    assert store.get("other view", "a") is None
    assert store.positions("other view") == {}


def test_the_first_row_of_a_key_stays(store: Store) -> None:
    store.put("view", [("a", b"first"), ("a", b"same batch")], {})
    store.put("view", [("a", b"later")], {})
    assert store.get("view", "a") == b"first"


def test_only_rows_that_are_new_are_counted(store: Store) -> None:
    assert store.put("view", [("a", b"1"), ("b", b"2"), ("a", b"3")], {FIRST: 3}) == 2
    assert store.put("view", [("a", b"1"), ("c", b"2")], {FIRST: 5}) == 1
    assert store.put("view", [], {FIRST: 6}) == 0


def test_views_do_not_share_keys(store: Store) -> None:
    store.put("one", [("a", b"1")], {FIRST: 1})
    assert store.put("two", [("a", b"2")], {}) == 1
    assert (store.get("one", "a"), store.get("two", "a")) == (b"1", b"2")
    assert store.positions("two") == {}


def test_a_view_remembers_how_far_it_came_in_each_partition(store: Store) -> None:
    store.put("view", [], {FIRST: 7, SECOND: 1})
    store.put("view", [], {FIRST: 9})
    assert store.positions("view") == {FIRST: 9, SECOND: 1}


def test_a_position_never_goes_back(store: Store) -> None:
    """Of two that follow the log into one view, one is behind."""
    store.put("view", [("a", b"1"), ("b", b"2")], {FIRST: 2})
    assert store.put("view", [("a", b"1")], {FIRST: 1}) == 0
    assert store.positions("view") == {FIRST: 2}


def test_a_view_that_lost_what_it_had_takes_nothing_that_comes_after(store: Store) -> None:
    store.put("view", [("a", b"1")], {FIRST: 1}, after={FIRST: 0, SECOND: 0})
    store.put("view", [("b", b"2")], {FIRST: 2}, after={FIRST: 1})
    for after in ({FIRST: 3}, {FIRST: 2, SECOND: 1}):
        for rows, positions in (([("c", b"3")], {FIRST: 4, SECOND: 2}), ([], {})):
            with pytest.raises(StoreUnavailable, match="'view' lost what it had"):
                store.put("view", rows, positions, after=after)
    assert store.get("view", "c") is None
    assert store.positions("view") == {FIRST: 2}


def test_rows_and_positions_are_written_together_or_not_at_all(store: Store) -> None:
    store.put("view", [("a", b"1")], {FIRST: 1})
    for rows, position in (([("b", b"2"), ("c", object())], 3), ([("b", b"2")], object())):
        with pytest.raises(Exception, match=r"type|must be"):
            store.put("view", rows, {FIRST: position})  # type: ignore[arg-type, dict-item]  # the wrong type is the test
    assert store.get("view", "b") is None
    assert store.positions("view") == {FIRST: 1}
    assert store.put("view", [("b", b"2")], {FIRST: 2}) == 1


def test_another_process_reads_what_one_has_written(store: Store, start: Callable[[], Store]) -> None:
    reader = start()
    assert reader.get("view", "a") is None
    store.put("view", [("a", b"1")], {FIRST: 1})
    assert reader.get("view", "a") == b"1"
    assert reader.positions("view") == {FIRST: 1}


def test_everything_survives_reopening(url: str) -> None:
    with closing(open_store(url, clock=SystemClock())) as store:
        store.put("view", [("a", b"1")], {SECOND: 4})
    with closing(open_store(url, clock=SystemClock())) as store:
        assert store.get("view", "a") == b"1"
        assert store.positions("view") == {SECOND: 4}


def test_a_row_goes_when_it_has_been_kept_long_enough(url: str) -> None:
    with closing(open_store(url, clock=SystemClock(), keep=1)) as store:
        store.put("view", [("a", b"1"), ("b", b"1")], {FIRST: 2})
        assert store.get("view", "a") == b"1"
        until = monotonic() + 10
        while store.get("view", "a") is not None:
            assert monotonic() < until, "it stays"
            sleep(0.1)
        assert store.positions("view") == {FIRST: 2}
        assert store.put("view", [("a", b"2")], {FIRST: 3}) == 1
        assert store.get("view", "a") == b"2"


def test_without_a_time_rows_stay(store: Store) -> None:
    store.put("view", [("a", b"1")], {})
    sleep(1.1)
    assert store.get("view", "a") == b"1"


def test_all_who_write_at_once_add_each_key_once(store: Store, start: Callable[[], Store]) -> None:
    def write(into: Store) -> list[int]:
        return [into.put("view", [(str(n), b"")], {}) for n in range(50)]

    added = at_once(*(partial(write, into) for into in (store, store, start())))
    assert sum(map(sum, added)) == 50


def test_all_who_open_a_new_store_at_once_get_it(url: str) -> None:
    """SQLite turned away one in a hundred."""
    for n in range(30):
        for store in at_once(*[partial(open_store, url.replace("store.db", f"{n}/store.db"), clock=SystemClock())] * 6):
            store.close()


def test_a_store_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="carrier-pigeon://loft"):
        open_store("carrier-pigeon://loft", clock=SystemClock())


# --- what only a file can do, and only a server -----------------------------------------------------


def test_a_locked_store_says_so_and_writes_nothing(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "store.db"), clock=SystemClock())
    foreign = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    foreign.execute("BEGIN EXCLUSIVE")
    store._db.execute("PRAGMA busy_timeout=100")
    with pytest.raises(StoreUnavailable, match="locked"):
        store.put("v", [("k", b"1")], {Place("t", 0): 1})
    foreign.execute("ROLLBACK")
    assert store.get("v", "k") is None
    assert store.positions("v") == {}
    assert store.put("v", [("k", b"2")], {Place("t", 0): 1}) == 1
    store.close()
    foreign.close()


def test_a_file_that_loses_rows_as_fast_as_it_gets_them_does_not_grow(tmp_path: Path) -> None:
    clock, path = VirtualClock(1_000), tmp_path / "store.db"
    with closing(SqliteStore(str(path), clock=clock, keep=100)) as store:
        sizes = []
        for turn in range(60):
            clock.observe(1_000 + 20 * turn)
            store.put("view", [(f"{turn}-{n}", bytes(1_000)) for n in range(50)], {})
            (rows,) = store._db.execute("SELECT count(*) FROM dated_rows").fetchone()
            (pages,) = store._db.execute("PRAGMA page_count").fetchone()
            sizes.append((rows, pages))
    assert max(sizes[20:]) == max(sizes[:20])


def test_a_process_of_an_older_version_goes_on_with_the_file_that_this_one_has_opened(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as old:
        old.execute("CREATE TABLE rows (view TEXT, key TEXT, value BLOB, PRIMARY KEY (view, key))")
        old.execute(
            "CREATE TABLE positions"
            " (view TEXT, topic TEXT, partition INTEGER, offset INTEGER, PRIMARY KEY (view, topic, partition))"
        )
        old.execute("INSERT INTO positions VALUES ('view', 'decisions', 0, 7)")
        with closing(SqliteStore(str(tmp_path / "store.db"), clock=VirtualClock(1_000), keep=100)) as store:
            assert store.positions("view") == {}
            old.execute("INSERT INTO rows VALUES (?, ?, ?) ON CONFLICT DO NOTHING", ("view", "a", b"1"))
            assert store.put("view", [("a", b"2")], {FIRST: 3}) == 1
            assert old.execute("SELECT value FROM rows").fetchall() == [(b"1",)]
            assert old.execute("SELECT offset FROM positions").fetchall() == [(7,)]


def test_what_an_older_version_left_in_a_server_goes(redis_server: RedisServer) -> None:
    redis_server.empty()
    with closing(redis.Redis.from_url(redis_server.url)) as old:
        old.hset("view:{view}:rows", "a", "1")
        old.hset("view:{view}:positions", "0 decisions", 7)
        with closing(open_store(redis_server.url, clock=SystemClock())) as store:
            assert store.positions("view") == {}
        assert old.keys() == []


def test_a_killed_server_is_unavailable_and_comes_back_empty(mortal_redis: RedisServer) -> None:
    with closing(open_store(mortal_redis.url, clock=SystemClock())) as store:
        store.put("view", [("a", b"1")], {FIRST: 1})
        mortal_redis.kill()
        refuses_in_time(store, within=2.0)
        mortal_redis.start()
        assert store.positions("view") == {}
        with pytest.raises(StoreUnavailable, match="lost what it had"):
            store.put("view", [("b", b"2")], {FIRST: 2}, after={FIRST: 1})
        assert store.put("view", [("a", b"1"), ("b", b"2")], {FIRST: 2}) == 2


def test_a_server_that_is_silent_is_unavailable_in_time(mortal_redis: RedisServer) -> None:
    with (
        closing(open_store(mortal_redis.url, clock=SystemClock())) as known,
        closing(open_store(mortal_redis.url, clock=SystemClock())) as new,
    ):
        assert known.get("view", "a") is None
        mortal_redis.process.send_signal(signal.SIGSTOP)
        for store in (known, new):
            refuses_in_time(store, within=10.0)


def test_a_full_server_refuses_rows_and_keeps_what_it_has(mortal_redis: RedisServer) -> None:
    with (
        closing(open_store(mortal_redis.url, clock=SystemClock())) as store,
        redis.Redis.from_url(mortal_redis.url) as operator,
    ):
        store.put("view", [("a", b"1")], {FIRST: 1})
        operator.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable, match="memory"):
            store.put("view", [("b", b"2")], {FIRST: 2})
        operator.config_set("maxmemory", 0)
        assert store.get("view", "b") is None
        assert store.positions("view") == {FIRST: 1}


def refuses_in_time(store: Store, *, within: float) -> None:
    """All of its calls together."""
    began = monotonic()
    for call in (
        lambda: store.get("view", "a"),
        lambda: store.positions("view"),
        lambda: store.put("view", [("b", b"2")], {FIRST: 2}),
    ):
        with pytest.raises(StoreUnavailable):
            call()
    assert monotonic() - began < within
