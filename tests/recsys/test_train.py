"""What is learnt: trees where they earn their place, refused where nothing can be learnt, judged as it is served."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys import evaluate, simulate, topk, train
from recsys.config import DAY
from recsys.history import write_history
from recsys.recipe import Recipe
from recsys.schema import SOURCES
from recsys.sources import Parameters
from recsys.train import NotEnough, Period
from shared.lake import Lake
from tests.recsys.shop import KEY, START, TODAY, Trained, catalogue, lived, open_registry

DAYS, WEEK = 70, 7


def periods(folder: Path, *, personal: bool) -> tuple[Period, Period, Period]:
    """Three weeks, one after the other, of 600 shoppers."""
    shop = simulate.open_shop(seed=5, start=START, days=DAYS + 1, users=600, items=300, personal=personal)
    shop = shop._replace(visits=(shop.visits * 1.5).clip(0, 0.9))
    lake = Lake(folder)
    write_history(lake, lived(shop, DAYS), catalogue(shop, DAYS), key=KEY)
    first, second, third = (
        train.period(lake, Recipe(), cut=START + (DAYS - back * WEEK) * DAY, horizon=WEEK, seed=1, most=1_000)
        for back in (3, 2, 1)
    )
    return first, second, third


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Period, Period, Period]:
    return periods(tmp_path_factory.mktemp("weeks"), personal=True)


def test_tuning_takes_what_its_own_source_does_best_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = simulate.open_shop(seed=5, start=START, days=DAYS + 1, users=300, items=150)
    lake = Lake(tmp_path)
    write_history(lake, lived(shop, DAYS), catalogue(shop, DAYS), key=KEY)
    cut = START + (DAYS - WEEK) * DAY
    # Who remembers but a minute counts the last purchase only.
    monkeypatch.setattr(train, "TRIED", {"popular_memory": ("popular", (0.001, 10.0))})
    assert train.tune(lake, cut=cut, horizon=WEEK, seed=1) == Parameters(popular_memory=10.0)


@pytest.fixture(scope="module")
def learnt(weeks: tuple[Period, Period, Period]) -> tuple[Recipe, dict[str, float]]:
    return train.learn(weeks[0], weeks[1], Parameters(), seed=1)


@pytest.mark.slow
def test_where_there_is_taste_trees_pass_the_gate(
    weeks: tuple[Period, Period, Period], learnt: tuple[Recipe, dict[str, float]]
) -> None:
    recipe, chosen = learnt
    assert recipe.model.booster is not None
    figures = train.verdict(weeks[2], recipe, seed=1)
    assert evaluate.gate(figures, None) == ""
    assert figures["ndcg_free"] > 1.05 * figures["best_single"]
    assert max(chosen.values()) > chosen["chosen_blend"]


@pytest.mark.slow
def test_without_personal_taste_the_gate_refuses_the_ranker(tmp_path: Path) -> None:
    fitting, choosing, judging = periods(tmp_path, personal=False)
    recipe, chosen = train.learn(fitting, choosing, Parameters(), seed=1)
    assert evaluate.gate(train.verdict(judging, recipe, seed=1), None) != ""
    # And what validation prefers is what it is: there the blend, which has less to get wrong.
    assert chosen["chosen_blend"] == max(chosen.values())
    assert recipe.model.booster is None


def test_each_source_is_measured_alone_and_in_the_list(
    weeks: tuple[Period, Period, Period], learnt: tuple[Recipe, dict[str, float]]
) -> None:
    figures = train.verdict(weeks[2], learnt[0], seed=1)
    assert sum(figures[f"share_{name}"] for name in SOURCES) == pytest.approx(1)
    assert max(figures[f"recall_{name}"] for name in SOURCES) < figures["pool_recall"] <= 1
    assert figures["best_single"] == max(figures[f"ndcg_{name}"] for name in SOURCES)


def test_what_is_evaluated_is_what_a_night_stores(
    weeks: tuple[Period, Period, Period], learnt: tuple[Recipe, dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.config.EXPLORED", 0.0)
    judging, recipe = weeks[2], learnt[0]
    lists = judging.lists(judging.rank(recipe.model), recipe.policy)
    everybody = np.arange(len(judging.known.users))
    ranked = recipe.rank(judging.facts, judging.sources, everybody, most=topk.DEEP)
    top, _, _ = topk.arranged(judging.known, recipe.policy, judging.sources, ranked, date="2026-03-12")
    assert lists.tolist() == top.items[judging.users, : evaluate.AT].tolist()


def test_too_short_a_history_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    shop = simulate.open_shop(seed=5, start=START, days=8, users=50, items=30)
    write_history(lake, lived(shop, 7), catalogue(shop, 7), key=KEY)
    with pytest.raises(NotEnough, match="purchases before"):
        train.train(lake, open_registry(tmp_path), as_of=START + 8 * DAY, seed=1, champion=None)


def test_what_is_registered_says_what_it_was_learnt_from(shop_world: Trained) -> None:
    version = open_registry(shop_world.var).version(shop_world.release.version)
    tags = open_registry(shop_world.var).tags(version.version)
    assert tags["as_of"] == str(TODAY)
    assert tags["gate"]
    assert {"ndcg", "ndcg_free", "lift_low", "recall_als", "share_content", "chosen_blend"} <= set(version.figures)


def test_what_a_list_names_is_counted_in_euros(weeks: tuple[Period, Period, Period]) -> None:
    week = weeks[2]
    everything = np.tile(np.arange(len(week.known.items)), (week.users.size, 1))
    known = week.after.filter(pl.col("item") >= 0)  # what was not there at the cut cannot be named
    paid = (known["cents"] * known["quantity"]).sum() / 100 / week.users.size
    assert week.euros(everything) == pytest.approx(paid)
    assert week.euros(np.full((week.users.size, evaluate.AT), -1)) == 0
    some = week.euros(week.lists(week.rank(Recipe().model)))
    assert 0 < some < paid
