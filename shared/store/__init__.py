"""Read views beside the log, behind one interface; the URL picks the implementation."""

from shared.clock import Clock
from shared.store.port import Store
from shared.store.sqlite import SqliteStore


def open_store(url: str, *, clock: Clock, keep: int | None = None) -> Store:
    """The store at `url`: `sqlite:///var/store.db` or `redis://host[:port][/db[/prefix]]`.

    `keep`: seconds after which a row may go; without, rows stay. Redis counts them by its own clock.

    Raises:
        ValueError: for a scheme that no store here speaks.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        return SqliteStore(rest.removeprefix("/"), clock=clock, keep=keep)
    if scheme == "redis":
        from shared.store.redis import RedisStore  # its package is needed with a server only

        return RedisStore(url, keep=keep)
    raise ValueError(f"store URL {url!r}: expected sqlite:///PATH or redis://HOST[:PORT][/DB[/PREFIX]]")
