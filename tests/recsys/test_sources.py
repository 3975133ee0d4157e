"""Each source on a world whose answer is plain: the checkerboard, needs that come back, fashions, look-alikes."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.candidates import candidates
from recsys.schema import SOURCES, Interactions
from recsys.sources import Parameters, fit, popularity
from shared.champion import digest_of
from tests.recsys.shop import known

SMALL = Parameters(factors=8, regularization=0.1, alpha=5.0, iterations=15)


def checkerboard(size: int = 24) -> Interactions:
    """Even users bought even items, odd ones odd items, but each one lacks one of its own: as in implicit's tests."""
    deeds = [(u, i, 5.0) for u in range(size) for i in range(size) if (u + i) % 2 == 0 and u != i]
    return known(deeds, users=size, items=size)


@pytest.mark.parametrize("source", ["als", "linear"])
def test_the_missing_field_of_the_checkerboard_is_found(source: str) -> None:
    board = checkerboard()
    scores = fit(board, SMALL, seed=1).scores(np.arange(len(board.users)))[SOURCES.index(source)]
    assert scores.argmax(axis=1).tolist() == list(range(len(board.users)))


def test_what_is_bought_again_and_again_may_be_shown_to_who_has_it() -> None:
    soap, book, other = 0, 1, 2
    deeds = [(user, soap, ago) for user in range(30) for ago in (40.0, 20.0, 1.0)]
    deeds += [(user, book, 10.0) for user in range(30)] + [(30, other, 1.0)]
    sources = fit(known(deeds, users=31, items=3), SMALL, seed=1)
    assert sources.again.tolist() == [True, False, False]
    repeat = sources.scores(np.array([0]))[SOURCES.index("repeat")][0]
    assert repeat[soap] > 0
    assert repeat[book] == -np.inf, "an owner of the book needs no second one"
    assert repeat[other] == 0


def test_popularity_forgets_and_counts_a_buyer_once_a_day() -> None:
    deeds = [(0, 0, 20.0), (1, 0, 20.0), (0, 1, 0.1), (0, 1, 0.2), (1, 2, 10.0)]
    popular = popularity(known(deeds, users=2, items=3), half_life=10.0)
    assert popular[0] == pytest.approx(2 * 0.25)
    assert popular[1] == pytest.approx(1.0, abs=0.02)
    assert popular[2] == pytest.approx(0.5)


def test_content_puts_a_new_item_beside_its_like() -> None:
    world = known([(0, 0, 5.0), (1, 1, 5.0)], users=2, items=3)
    titles = pl.Series(["red wool scarf", "steel spade", "blue wool scarf"])
    products = world.products.with_columns(title=titles)
    content = fit(world._replace(products=products), SMALL, seed=1).scores(np.array([0, 1]))[SOURCES.index("content")]
    assert content[0, 2] > 0
    assert content[1, 2] == 0


def test_what_cannot_be_had_is_no_candidate() -> None:
    world = checkerboard()
    stock = world.products["in_stock"].to_list()
    stock[0] = False
    world = world._replace(products=world.products.with_columns(in_stock=pl.Series(stock)))
    pairs = candidates(fit(world, SMALL, seed=1), np.arange(24), pool=10)
    assert 0 not in pairs.items.tolist()


def test_candidates_come_by_user_then_item_with_every_source_s_score() -> None:
    board = checkerboard()
    sources = fit(board, SMALL, seed=1)
    pairs = candidates(sources, np.arange(24), pool=5)
    keys = pairs.users * 24 + pairs.items
    assert (np.diff(keys) > 0).all()
    assert pairs.scores.shape == (keys.size, len(SOURCES))
    for place, scores in enumerate(sources.scores(np.arange(24))):
        assert (pairs.scores[:, place] == scores[pairs.users, pairs.items]).all()
        if SOURCES[place] in ("als", "linear"):
            best = set(enumerate(scores.argmax(axis=1).tolist()))
            assert best <= set(zip(pairs.users.tolist(), pairs.items.tolist(), strict=True))


def test_sources_are_the_same_after_saving_and_from_run_to_run(tmp_path: Path) -> None:
    board = checkerboard()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        fit(board, SMALL, seed=1).save(tmp_path / name / "sources.npz")
    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "two")
    fitted, loaded = fit(board, SMALL, seed=1), type(fit(board, SMALL, seed=1)).load(tmp_path / "one" / "sources.npz")
    for ours, theirs in zip(fitted.scores(np.arange(24)), loaded.scores(np.arange(24)), strict=True):
        assert np.array_equal(ours, theirs)
