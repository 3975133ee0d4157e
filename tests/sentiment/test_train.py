"""What a model is learnt from, and what it is judged on."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sentiment.config import DAY, HOUR
from sentiment.grammar import LIVE
from sentiment.history import write_labels
from sentiment.recipe import AGAIN
from sentiment.simulate import history, simulate
from sentiment.train import FRESH, TIMES, _chosen, train
from shared.lake import Lake
from tests.sentiment.crowd import BRANDS, SEED, START, TODAY, open_registry

ROOM = round(AGAIN.posts * FRESH)


def learnt(number: int) -> pl.DataFrame:
    return pl.DataFrame({"of": np.arange(number) + START})


def test_a_retrain_keeps_room_for_what_is_old_and_takes_the_newest() -> None:
    rows = learnt(6_000)
    chosen = _chosen(rows, START + 4_000, AGAIN.posts, 1)
    assert len(chosen) == AGAIN.posts
    assert chosen[:ROOM] == list(range(6_000 - ROOM, 6_000))
    assert sum(place < 4_000 for place in chosen) > AGAIN.posts // 6


def test_a_little_that_is_new_is_taken_whole() -> None:
    chosen = _chosen(learnt(5_000), START + 4_990, AGAIN.posts, 1)
    assert {place: chosen.count(place) for place in range(4_990, 5_000)} == dict.fromkeys(range(4_990, 5_000), TIMES)
    assert len(set(chosen)) == len(chosen) - 10 * (TIMES - 1)


@pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("noted", [None, str(2**32)], ids=["ours", "by an older version"])
def test_what_was_learnt_from_all_labels_is_challenged_by_later_ones(tmp_path: Path, noted: str | None) -> None:
    """`train` on the command line learns from whatever the lake holds, and is not the last training."""
    lake, registry = Lake(tmp_path / "lake"), open_registry(tmp_path)
    write_labels(lake, history(seed=SEED, start=START, days=5, posts_a_day=300), known_at=TODAY - HOUR)
    first = train(lake, registry, BRANDS, as_of=2**32, seed=0, champion=None, recipe=None).version
    assert registry.tags(first.version)["as_of"] == str(TODAY - HOUR + 1)
    write_labels(lake, simulate(seed=99, start=TODAY, days=5, posts_a_day=300, grammar=LIVE), known_at=TODAY + 6 * DAY)
    folder = registry.fetch(first.artifact, digest=first.digest, into=tmp_path / "models")
    unseen = int(noted or registry.tags(first.version)["as_of"])
    again = train(
        lake, registry, BRANDS, as_of=TODAY + 7 * DAY, seed=0, champion=folder, recipe=None, since=TODAY, unseen=unseen
    )
    assert "champion_macro_recall" in again.version.figures
    assert registry.tags(again.version.version)["as_of"] == str(TODAY + 6 * DAY + 1)
