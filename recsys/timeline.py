"""Time series for the page: nightly jobs, daily reports and the demo's accounts by day."""

from collections.abc import Mapping, Sequence
from datetime import date as Date

from recsys import config
from recsys.earnings import Added, added
from recsys.schema import Books, Night, Report
from shared.messages import Message

EPOCH = Date(1970, 1, 1)


class Series(Message):
    """By day, each at the midnight that ends it, with the night that follows."""

    at: list[int]
    clicks: list[float | None]  # a list
    usual: list[float | None]  # mean of the same weekday's last four
    drift: list[float | None]  # largest distance, as a share of its limit
    kept: list[float | None]  # share of the first ten places that the night left as they were
    added: list[float | None]  # EUR that the lists added so far, net of returns
    low: list[float | None]
    high: list[float | None]
    popularity: list[float | None]  # EUR that bestsellers would have added


class Money(Message):
    """EUR added by the lists against the same days without any, net of returns; the bounds hold 95 %, by days."""

    days: int
    sum: float
    low: float
    high: float
    popularity: float  # what bestsellers for all would have added
    oracle: float  # and an oracle


def money(books: Sequence[Books]) -> Money | None:
    """So far; None where it is not known what a day without lists would have been."""
    if not books:
        return None
    ours = _added(books, "served")
    return Money(
        days=len(books),
        **ours._asdict(),
        popularity=_added(books, "popularity").sum,
        oracle=_added(books, "oracle").sum,
    )


def series(
    nights: Sequence[Night], reports: Sequence[Report], books: Sequence[Books], limits: Mapping[str, float]
) -> Series:
    """All oldest first; of a date with two nights the later one counts."""
    made = {(Date.fromisoformat(night.date) - EPOCH).days: night for night in nights}
    judged = {report.day + 1: report for report in reports}
    known = {day.day + 1: place for place, day in enumerate(books)}
    days = sorted(judged.keys() | known.keys())
    ours = {day: _added(books[: known[day] + 1], "served") for day in known}
    return Series(
        at=[day * config.DAY for day in days],
        clicks=[_rate(judged.get(day)) for day in days],
        usual=[judged[day].usual_clicks if day in judged else None for day in days],
        drift=[_beyond(judged[day].drift, limits) if day in judged else None for day in days],
        kept=[made[day].figures.get("overlap") if day in made else None for day in days],
        added=[ours[day].sum if day in ours else None for day in days],
        low=[ours[day].low if day in ours else None for day in days],
        high=[ours[day].high if day in ours else None for day in days],
        popularity=[_added(books[: known[day] + 1], "popularity").sum if day in known else None for day in days],
    )


def _added(books: Sequence[Books], way: str) -> Added:
    return added([day.earned[way] - day.earned["none"] for day in books])


def _rate(report: Report | None) -> float | None:
    return report.clicks / report.lists if report and report.lists else None


def _beyond(drift: Mapping[str, float], limits: Mapping[str, float]) -> float | None:
    shares = [distance / limits[name] for name, distance in drift.items() if limits.get(name)]
    return max(shares, default=None)
