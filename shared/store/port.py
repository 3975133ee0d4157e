"""The interface of read views: one process writes them, others read.

A view is always rebuildable from the log and is never consulted to decide. It remembers how far in
the log it has come, in the same transaction as its rows. A view of a topic that is kept for a time keeps
its rows as long, so its size follows what happens in that time, and not all that has ever happened.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from shared.dependencies import DependencyUnavailable
from shared.eventlog.port import Place


class StoreUnavailable(DependencyUnavailable):
    """The store cannot take or give rows now: away, locked, full or emptied. What it lacks, the log gives back."""


class Store(Protocol):
    def put(
        self,
        view: str,
        rows: Sequence[tuple[str, bytes]],
        positions: Mapping[Place, int],
        *,
        after: Mapping[Place, int] = {},
    ) -> int:
        """Add rows by key; the first row of a key stays, for as long as the store keeps rows. Gives how many it added.

        `after` is how far the view has to be already. One that is not was emptied under way, as a cache may be:
        then begin again at its `positions`, or what it lost is lost for good. Positions never go back.

        Raises:
            StoreUnavailable: neither rows nor positions were written; so do the others.
        """
        ...

    def get(self, view: str, key: str) -> bytes | None: ...

    def positions(self, view: str) -> dict[Place, int]:
        """By partition of the log, the offset that the view wants next."""
        ...

    def close(self) -> None: ...
