"""Compares the off-policy estimate of popularity ordering with the simulated truth."""

import numpy as np
from numpy.typing import NDArray

from recsys import config
from recsys.offpolicy import ClickModel, Estimate, Slates, doubly_robust, ips, replay, slate_ips, snips
from recsys.schema import Ints
from shared.drift import Array


class Otherwise:
    """Collects lists as they are shown; items are numbers below `items`. One list a user and night."""

    def __init__(self, *, items: int) -> None:
        self._count = items
        self._parts: dict[bool, list[tuple[Ints, Ints, NDArray[np.bool_], Ints]]] = {True: [], False: []}
        self._expected: list[Array] = []

    def add(self, users: Ints, shown: Ints, clicks: NDArray[np.bool_], wanted: Ints, *, shuffled: bool) -> None:
        """`shown`, `clicks` and `wanted`, what the other order would have put there: (n, k)."""
        self._parts[shuffled].append((users, shown, clicks, wanted))

    def expect(self, clicks: Array) -> None:
        """(n,) what would truly have been clicked on of each shuffled list, had it stood in the other order."""
        self._expected.append(clicks)

    @property
    def truth(self) -> float:
        """Clicks a list."""
        return float(np.concatenate([*self._expected, np.empty(0)]).mean()) if self._expected else float("nan")

    def estimates(self) -> dict[str, Estimate]:
        """By estimator; empty without lists of both kinds."""
        if not all(sum(part[0].size for part in parts) for parts in self._parts.values()):
            return {}
        (shuffled, wanted), (plain, also) = self._slates(True), self._slates(False)
        return {
            "item by item (IPS)": ips(shuffled, wanted),
            "its weights scaled (SNIPS)": snips(shuffled, wanted),
            "with a click model (doubly robust)": doubly_robust(
                shuffled, wanted, ClickModel.fit(plain, count=self._count)
            ),
            "by whole lists": slate_ips(shuffled, wanted),
            "naive, from lists as served": replay(plain, also),
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        rows = [
            [name, f"{x.value:.2f}", f"{x.low:.2f} … {x.high:.2f}", f"{x.effective:,.0f}", f"{x.largest:.0f}"]
            for name, x in self.estimates().items()
        ]
        columns = ["", "clicks a list", "95 %", "effective lists", "largest weight"]
        return columns, [*rows, ["the truth", f"{self.truth:.2f}", "", "", ""]]

    def _slates(self, shuffled: bool) -> tuple[Slates, Ints]:
        users, items, clicks, wanted = (np.concatenate(part) for part in zip(*self._parts[shuffled], strict=True))
        return Slates([str(user) for user in users], items, clicks, np.full(users.size, config.PERMUTED)), wanted
