"""What a model is learnt from, and what it is judged on."""

import numpy as np
import polars as pl

from sentiment.recipe import AGAIN
from sentiment.train import FRESH, TIMES, _chosen
from tests.sentiment.crowd import START

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
