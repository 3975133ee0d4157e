"""Views in Redis: a key a row that expires, and a hash of positions. Nothing in it needs to be persistent."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.eventlog.port import Place
from shared.store.port import StoreUnavailable

PATIENCE = 1.0  # seconds for a connection, and again for an answer

# One script is one transaction. It checks everything before it writes: Redis does not undo.
PUT = """
local positions, keep = KEYS[1], tonumber(ARGV[1])
local next_argument = 2
local function take()
    next_argument = next_argument + 1
    return ARGV[next_argument - 1]
end
for _ = 1, take() do
    local place, offset = take(), tonumber(take())
    if tonumber(redis.call('HGET', positions, place) or 0) < offset then
        return -1
    end
end
for _ = 1, take() do
    local place, offset = take(), take()
    if tonumber(redis.call('HGET', positions, place) or 0) <= tonumber(offset) then
        redis.call('HSET', positions, place, offset)
    end
end
local added = 0
for number = 2, #KEYS do
    if redis.call('SETNX', KEYS[number], take()) == 1 then
        added = added + 1
        if keep > 0 then
            redis.call('EXPIRE', KEYS[number], keep)
        end
    end
end
return added
"""


class RedisStore:
    """At `redis://host[:port][/db[/prefix]]`."""

    def __init__(self, url: str, *, keep: int | None) -> None:
        self._keep = keep or 0  # seconds; 0: for ever
        *server, self._prefix = url.split("/", 4) if url.count("/") > 3 else [url, ""]
        self._redis = redis.Redis.from_url(
            "/".join(server),
            socket_connect_timeout=PATIENCE,
            socket_timeout=PATIENCE,
            retry=Retry(NoBackoff(), 0),  # the caller tries again; here it would only take longer to say no
        )
        self._put = self._redis.register_script(PUT)

    @contextmanager
    def _use(self) -> Iterator[Any]:  # its own types do not know that answers are bytes here
        try:
            yield self._redis
        except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError) as error:
            raise StoreUnavailable(f"the store: {error}") from error

    def put(
        self,
        view: str,
        rows: Sequence[tuple[str, bytes]],
        positions: Mapping[Place, int],
        *,
        after: Mapping[Place, int] = {},
    ) -> int:
        name = self._name(view)
        keys = [_positions(name), *(_row(name, key) for key, _ in rows)]
        moves = [len(after), *_flat(after), len(positions), *_flat(positions)]
        with self._use():
            added = int(self._put(keys=keys, args=[self._keep, *moves, *(value for _, value in rows)]))
        if added < 0:
            raise StoreUnavailable(f"the store: view {view!r} lost what it had; it begins again at its positions")
        return added

    def get(self, view: str, key: str) -> bytes | None:
        with self._use() as db:
            found: bytes | None = db.get(_row(self._name(view), key))
        return found

    def positions(self, view: str) -> dict[Place, int]:
        name = self._name(view)
        with self._use() as db:
            db.unlink(f"{name}:rows", f"{name}:positions")  # an older version's, which would stay for ever
            found: dict[bytes, bytes] = db.hgetall(_positions(name))
        places = ((place.decode().partition(" "), int(offset)) for place, offset in found.items())
        return {Place(topic, int(partition)): offset for (partition, _, topic), offset in places}

    def close(self) -> None:
        self._redis.close()

    def _name(self, view: str) -> str:
        return f"view:{{{self._prefix}{view}}}"  # in braces: a cluster keeps all keys of a view together


def _positions(name: str) -> str:
    return f"{name}:offsets"  # an older version had all rows in one hash, and `positions` beside it


def _row(name: str, key: str) -> str:
    return f"{name}:row:{key}"


def _flat(offsets: Mapping[Place, int]) -> Iterator[str | int]:
    for (topic, partition), offset in offsets.items():
        yield from (f"{partition} {topic}", offset)
