"""What the page draws is what the timeline serves: every point of it, from the view that owns it."""

import pytest

from sentiment.board import Board, Series
from sentiment.config import DAY, HOUR
from sentiment.hours import Manifest
from sentiment.schema import ALL, Calibration, Final
from sentiment.shares import Corrections
from sentiment.timeline import Timeline
from tests.sentiment.crowd import TODAY, Crowd

KNOWN = Calibration(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), (0.0, 0.1, 0.0), (0.001,) * 3, 9)


@pytest.fixture
def lived(crowd: Crowd) -> tuple[Crowd, Timeline, Board]:
    """A day and a half, of which batch has all but the last hours."""
    crowd.send(crowd.world.posts.filter(crowd.world.posts["sent"] < TODAY + DAY + 14 * HOUR))
    crowd.tick(TODAY + DAY + 14 * HOUR)
    crowd.stream()
    crowd.publish()
    timeline = crowd.timeline()
    return crowd, timeline, Board(timeline, crowd.reader.brands.names)


def served(timeline: Timeline, manifest: Manifest, brand: str, series: Series) -> list[tuple[int, int]]:
    """Opinions and negative ones at each point, as the API would tell them one by one."""
    found = []
    for at, view in zip(series.at, series.view, strict=True):
        until = at + (HOUR if view == "batch" else 60)
        (point,) = timeline.points(manifest, brand, since=at, until=until, step=until - at)
        assert [part.view for part in point.parts] == [view]
        found.append((point.counts.opinions, point.counts.negative))
    return found


def test_every_point_is_what_the_timeline_serves(lived: tuple[Crowd, Timeline, Board]) -> None:
    _, timeline, board = lived
    manifest = timeline.manifest()
    series = board.series(manifest)
    assert series.seam == (max(manifest.hours) + 1) * HOUR
    assert series.at == sorted(series.at)
    assert [view == "batch" for view in series.view] == [at < series.seam for at in series.at]
    assert set(series.view) == {"batch", "speed"}
    for brand, track in series.tracks.items():
        drawn = list(zip(track.opinions, track.negative, strict=True))
        assert drawn == served(timeline, manifest, brand, series)
    whole = timeline.points(manifest, ALL, since=TODAY, until=TODAY + 2 * DAY, step=2 * DAY)
    assert sum(series.posts) == next(whole).counts.raw


def test_a_tail_takes_the_place_of_what_was_known(lived: tuple[Crowd, Timeline, Board]) -> None:
    _, timeline, board = lived
    manifest = timeline.manifest()
    before = manifest._replace(hours={h: line for h, line in manifest.hours.items() if h < max(manifest.hours) - 1})
    old, new = board.series(before), board.series(manifest)
    tail = board.series(manifest, since=max(before.hours) + 1)
    head = [at for at in old.at if at < tail.since]
    assert head + tail.at == new.at
    assert old.tracks[ALL].negative[: len(head)] + tail.tracks[ALL].negative == new.tracks[ALL].negative


def test_whole_days_are_corrected_as_soon_as_audits_are_known(lived: tuple[Crowd, Timeline, Board]) -> None:
    _, timeline, board = lived
    manifest, day = timeline.manifest(), TODAY // DAY
    (drawn,) = board.compared(manifest, Corrections(), hours=24).days[ALL]
    assert (drawn.at, drawn.until, drawn.corrected) == (TODAY, TODAY + DAY, None)
    known = Corrections({(day, "1"): KNOWN})
    (drawn,) = board.compared(manifest, known, hours=24).days[ALL]
    point = next(timeline.points(manifest, ALL, since=TODAY, until=TODAY + DAY, step=DAY, corrections=known))
    assert point.corrected is not None
    assert point.low is not None
    assert (drawn.corrected, drawn.low) == (point.corrected[0], point.low[0])
    final = Final(day, ALL, (0.3, 0.3, 0.4), (0.2, 0.2, 0.3), (0.4, 0.4, 0.5), 400, 60)
    known = known._replace(finals={(day, ALL): final})
    (drawn,) = board.compared(manifest, known, hours=24).days[ALL]
    assert (drawn.corrected, drawn.low, drawn.high) == (0.3, 0.2, 0.4), "the day's own audits have the last word"
    (whole,) = timeline.points(manifest, ALL, since=TODAY, until=TODAY + DAY, step=DAY, corrections=known)
    assert (point.audits, whole.audits) == (None, 60)
    hours = timeline.points(manifest, ALL, since=TODAY, until=TODAY + DAY, step=HOUR, corrections=known)
    assert {hour.audits for hour in hours} == {None}, "they are the day's, and no hour's"


def test_before_anything_there_is_nothing(crowd: Crowd) -> None:
    timeline = crowd.timeline()
    board = Board(timeline, ("volt",))
    assert board.brands(timeline.manifest(), Corrections(), hours=24) == []
    series = board.series(timeline.manifest())
    assert (series.seam, series.at, series.tracks["volt"].opinions) == (None, [], [])
