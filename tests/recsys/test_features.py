"""What the ranker sees: tied scores share a rank, what a source has not scored is missing, and reasons follow that."""

import numpy as np
import pytest

from recsys import config, dataset
from recsys.features import NAMES, Facts
from recsys.model import Model, single
from recsys.schema import SOURCES, Candidates
from recsys.table import Table
from tests.recsys.shop import TODAY, Shop, known

WORLD = known([(0, 0, 5.0), (1, 1, 5.0)], users=2, items=6)


def column(*scores: float, users: tuple[int, ...] | None = None, source: str = "repeat") -> Candidates:
    """Candidates that one source scores so; the others score none."""
    all_scores = np.zeros((len(scores), len(SOURCES)), np.float32)
    all_scores[:, SOURCES.index(source)] = scores
    of = np.array(users or (0,) * len(scores))
    return Candidates(of, np.arange(len(scores)), all_scores)


def feature(pairs: Candidates, name: str) -> list[float]:
    found: list[float] = Facts.of(WORLD).matrix(pairs)[:, NAMES.index(name)].tolist()
    return found


def test_tied_scores_share_a_rank() -> None:
    assert feature(column(2.0, 3.0, 2.0, 1.0), "repeat_rank") == [2, 1, 2, 4]
    assert feature(column(2.0, 2.0, 2.0, 1.0, users=(0, 0, 1, 1)), "repeat_rank") == [1, 1, 1, 2]


def test_what_a_source_has_not_scored_is_missing() -> None:
    pairs = column(2.0, 0.0, 1.0, -np.inf)
    assert np.isnan(feature(pairs, "repeat_rank")).tolist() == [False, True, False, True]
    assert np.isnan(feature(pairs, "repeat")).tolist() == [False, True, False, True]
    assert np.isnan(feature(pairs, "als")).all(), "nor a source without any score"


def test_scores_are_in_spreads_of_the_user() -> None:
    few, many = feature(column(2.0, 0.0, 1.0), "repeat"), feature(column(20.0, 0.0, 10.0), "repeat")
    assert few[0] == pytest.approx(many[0]) == pytest.approx(2 * few[2])
    assert feature(column(5.0, 5.0, 5.0), "repeat") == pytest.approx([1, 1, 1]), "all alike is no spread"


def test_a_source_gives_a_reason_only_where_it_has_a_score() -> None:
    pairs = column(3.0, 0.0, 1.0)
    pairs.scores[:, SOURCES.index("content")] = (0.0, 2.0, 0.5)
    ranked = single("repeat").rank(pairs, Facts.of(WORLD).matrix(pairs))
    named = dict(zip(ranked.items.tolist(), [SOURCES[source] for source in ranked.sources], strict=True))
    assert named == {0: "repeat", 1: "content", 2: "repeat"}
    none = column(0.0, 0.0)
    assert {SOURCES[source] for source in single("als").rank(none, Facts.of(WORLD).matrix(none)).sources} == {"popular"}


def test_a_tie_goes_to_what_is_bought_most_and_not_to_the_lower_id() -> None:
    pairs = column(1.0, 1.0, 1.0)
    pairs.scores[:, SOURCES.index("popular")] = (1.0, 3.0, 2.0)
    assert single("repeat").rank(pairs, Facts.of(WORLD).matrix(pairs)).items.tolist() == [1, 2, 0]


def test_a_blend_takes_what_is_missing_as_nothing() -> None:
    weights = np.full(len(SOURCES), 0.2, np.float32)
    matrix = np.full((2, len(NAMES)), np.nan, np.float32)
    matrix[1, 0] = 1.0
    assert Model(weights).scores(matrix).tolist() == pytest.approx([0.0, 0.2])


def test_you_may_be_running_out_only_of_what_you_bought(shop: Shop) -> None:
    made = Table.open(shop.tables / shop.night().version)
    world = dataset.interactions(shop.lake, cut=TODAY + 2 * config.HOUR)
    had = set(zip(world.bought["user"].to_list(), world.bought["item"].to_list(), strict=True))
    said = {
        (number, item)
        for number, user in enumerate(world.users)
        for item, source in zip(made.items(made.row(user)), made.sources(made.row(user)), strict=True)
        if SOURCES[source] == "repeat"
    }
    assert len(said) > 100
    assert said <= had
