"""The closing tables, against small views that were counted by hand."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from sentiment.account import Difference, compared, difference, share_errors
from sentiment.config import DAY, HOUR
from sentiment.schema import ALL, MENTIONS, Mention
from sentiment.shares import Corrections
from sentiment.timeline import Timeline
from shared.clock import VirtualClock
from shared.eventlog import open_log
from shared.eventlog.port import Entry
from tests.sentiment.crowd import TODAY

FIRST = TODAY // HOUR


class View(Timeline):
    """The published rows of one hour: (brand, post, label, removed)."""

    def __init__(self, *rows: tuple[str, str, str | None, str | None], point: Any = None) -> None:
        self.rows = pl.DataFrame(rows, ["brand", "post", "label", "removed"], orient="row")
        self.point = point

    def manifest(self) -> Any:
        return SimpleNamespace(hours={FIRST: SimpleNamespace(version=1)})

    def hour(self, *_: object) -> pl.DataFrame:
        return self.rows

    def points(self, *_: object, **__: object) -> Iterator[Any]:
        yield self.point

    def voting(self, *_: object, **__: object) -> pl.DataFrame:
        return self.rows


def test_each_difference_of_the_views_has_its_cause(tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path}/log.db", clock=VirtualClock(TODAY))
    log.create([MENTIONS])
    for name, label, late in (("same", "negative", False), ("other", "neutral", False), ("bot", "positive", False)):
        log.append([_mention(name, label, late=late)])
    log.append([_mention("late", "negative", late=True), _mention("same", "negative", late=False)])  # and a repeat
    view = View(
        ("volt", "same", "negative", None),
        ("volt", "other", "negative", None),
        ("volt", "bot", "positive", "bot"),
        ("volt", "late", "negative", None),
        (ALL, "same", "negative", None),
    )
    assert difference(view, log) == Difference(stream=3, late=1, removed=1, rescored=1, batch=3)
    log.close()


def _mention(name: str, label: Any, *, late: bool) -> Entry:
    said = {"author": "a", "text": len(name), "aliases": "1", "model": "1", "aspect": None, "partition": 0, "offset": 0}
    made = Mention(brand="volt", post=name, at=TODAY, label=label, late=late, **said)
    return Entry(MENTIONS, "volt", made.model_dump_json().encode())


def test_one_opinion_of_two_brands_is_wrong_of_one_of_them() -> None:
    view = View(
        ("volt", "p", "negative", None), ("northair", "p", "negative", None), ("volt", "alone", "negative", None)
    )
    truth = pl.DataFrame({"post": ["p", "alone"], "brand": ["volt", "volt"], "label": ["negative", "positive"]})
    assert compared(view, truth) == (2, 0.5)


def test_errors_of_shares_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twelve posts half are negative, half positive; without two that were audited six and four, of ten."""
    monkeypatch.setattr("sentiment.config.SHARE_NEEDED", 10)
    posts = [f"p-{n}" for n in range(12)]
    labels = ["negative"] * 6 + ["positive"] * 6
    truth = pl.DataFrame({"post": posts, "at": [TODAY] * 12, "brand": ["volt"] * 12, "label": labels})
    point = SimpleNamespace(
        counted=(0.9, 0.0, 0.1), corrected=(0.7, 0.0, 0.3), low=(0.5, 0.0, 0.1), high=(0.8, 0.1, 0.3)
    )
    view = View(*(("volt", name, "negative", None) for name in posts), point=point)
    found = share_errors(view, truth, Corrections(), audited={"p-10", "p-11"})
    assert found.days == 1
    assert found.raw == pytest.approx(0.8 / 3, abs=1e-4)
    assert found.first == pytest.approx(0.2 / 3, abs=1e-4), "it is judged without what was audited"
    assert found.corrected == pytest.approx(0.4 / 3, abs=1e-4)
    assert (
        found.first_coverage == found.coverage == pytest.approx(2 / 3, abs=1e-4)
    )  # four tenths positive lie above their interval
    assert TODAY % DAY == 0
