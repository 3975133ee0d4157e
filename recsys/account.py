"""The closing report of a demo or replay: margin against baselines, lists, nightly jobs, failed requests."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys.earnings import Added, added
from recsys.live import ARMS, Day, Live

Table = tuple[list[str], list[list[str]]]


class Money(NamedTuple):
    """Margin net of returns, EUR, over the days counted; and the 95 % interval of what each adds, by days."""

    earned: dict[str, float]
    added: dict[str, Added]

    @property
    def ratio(self) -> float | None:
        """What the lists added over what bestsellers added; None if those add nothing."""
        peer = self.added["popularity"][0]
        return None if peer <= 0 else self.added["served"][0] / peer

    def table(self) -> Table:
        rows = []
        for arm in ARMS:
            value, low, high = self.added.get(arm, (0.0, 0.0, 0.0))
            rows.append([WORDS[arm], f"{self.earned[arm]:,.0f}", f"{value:+,.0f}", f"{low:+,.0f} … {high:+,.0f}"])
        return ["", "margin", "added by the list", "95 %"], rows


WORDS = {
    "served": "this system",
    "none": "no list",
    "popularity": "bestsellers not bought yet",
    "repeats": "what you bought last",
    "oracle": "an oracle",
}


def money(days: Sequence[Day]) -> Money:
    """The same shoppers with the same luck, under each way of recommending."""
    earned = {arm: sum(day.earned[arm] for day in days) for arm in ARMS}
    gained = {}
    # [1.1] Most of what a list shows would have been bought anyway, so what it is worth is its day less the same day
    # without it; the sum of what was bought from lists would favour a list of bestsellers.
    for arm in ARMS:
        if arm != "none":
            gained[arm] = added([day.earned[arm] - day.earned["none"] for day in days])
    return Money(earned, gained)


def latency(live: Live) -> tuple[float, float]:
    """p50 and p99, ms."""
    p50, p99 = (1_000 * float(np.quantile(live.latencies or [0.0], share)) for share in (0.5, 0.99))
    return p50, p99


def service(live: Live) -> Table:
    """Requests, nights, and where what was shown came from."""
    p50, p99 = latency(live)
    nights = [sum(night.seconds.values()) for night in live.told if night.version]
    shown: dict[str, int] = {}
    for day in live.days:
        for source, count in day.sources.items():
            shown[source] = shown.get(source, 0) + count
    total = max(1, sum(shown.values()))
    clicks, lists = sum(day.clicks for day in live.days), sum(day.lists for day in live.days)
    rows = [
        ["lists shown", f"{lists:,}"],
        ["clicks a list", f"{clicks / max(1, lists):.2f}"],
        ["purchases by list", f"{sum(d.by_list for d in live.days) / max(1, sum(d.bought for d in live.days)):.1%}"],
        ["shown, by source", ", ".join(f"{name} {count / total:.0%}" for name, count in sorted(shown.items()))],
        ["HTTP requests", f"{len(live.latencies) + len(live.failures):,}"],
        ["failed", "; ".join([f"{len(live.failures)}", *live.failures[:1]])],
        ["p50, p99, ms", f"{p50:.1f}, {p99:.1f}"],
        ["nights published, refused", f"{len(nights)}, {sum(not night.version for night in live.told)}"],
        ["seconds a night, median", f"{np.median(nights or [0.0]):.1f}"],
        ["releases", f"{len(live.ledger.lines)}"],
    ]
    return ["", "value"], rows
