"""What is learnt: trees where they earn their place, refused where nothing can be learnt, judged as it is served."""

import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys import evaluate, simulate, topk, train
from recsys.config import DAY
from recsys.features import NAMES
from recsys.history import write_history
from recsys.model import Labelled, Model, fit
from recsys.recipe import Recipe
from recsys.schema import SOURCES, entry
from recsys.sources import Parameters
from recsys.train import NotEnough, Period
from shared.lake import Lake
from tests.recsys.shop import KEY, START, TODAY, Shop, Trained, catalogue, lived, open_registry

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
def test_without_personal_taste_the_gate_refuses_trees_and_takes_the_blend(tmp_path: Path) -> None:
    fitting, choosing, judging = periods(tmp_path, personal=False)
    recipe, chosen = train.learn(fitting, choosing, Parameters(), seed=1)
    # What validation prefers is what it is: there the blend, which has less to get wrong.
    assert chosen["chosen_blend"] == max(chosen.values())
    assert recipe.model.booster is None
    assert evaluate.gate(train.verdict(judging, recipe, seed=1), None) == ""
    early, late = (Labelled(week.pairs, week.matrix, week.bought) for week in (fitting, choosing))
    for booster in fit(early, late, seed=1):
        trees = recipe._replace(model=Model(recipe.model.weights, booster))
        assert evaluate.gate(train.verdict(judging, trees, seed=1), None) != ""


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
    all_users = np.arange(len(judging.known.users))
    ranked = recipe.rank(judging.facts, judging.sources, all_users, most=topk.DEEP)
    top, _, _ = topk.arranged(judging.known, recipe.policy, judging.sources, ranked, date="2026-03-12")
    assert lists.tolist() == top.items[judging.users, : evaluate.AT].tolist()


def test_what_a_list_sold_is_neither_label_nor_passed_over_and_is_not_judged(tmp_path: Path) -> None:
    """The same shop twice; in one of them each third item's purchases came from lists."""
    shop = simulate.open_shop(seed=5, start=START, days=DAYS + 1, users=300, items=150)
    weeks = []
    for name, each in (("plain", 0), ("listed", 3)):
        lake, events = Lake(tmp_path / name), lived(shop, DAYS)
        from_list = pl.col("item").str.slice(1).cast(pl.Int64) % 3 == 0
        sold = (pl.col("kind") == "purchase") & from_list & pl.lit(each > 0)
        events = events.with_columns(list_id=pl.when(sold).then(pl.lit("a list")))
        write_history(lake, events, catalogue(shop, DAYS), key=KEY)
        weeks.append(train.period(lake, Recipe(), cut=START + (DAYS - WEEK) * DAY, horizon=WEEK, seed=1))
    plain, listed = weeks
    thirds = [number for number, item in enumerate(listed.known.items) if int(item[1:]) % 3 == 0]
    assert np.isin(plain.after["item"], thirds).any()
    assert not np.isin(listed.after["item"], thirds).any()
    assert set(listed.users.tolist()) <= set(plain.users.tolist())
    sold_to = np.isin(listed.pairs.users * listed.truth.count + listed.pairs.items, listed.listed)
    assert sold_to.any()
    taught = listed.labelled
    keys = taught.pairs.users * listed.truth.count + taught.pairs.items
    assert not np.isin(keys, listed.listed).any(), "nor passed over"
    assert np.isin(taught.pairs.items, thirds).any(), "the others' candidates are"


def test_too_short_a_history_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    shop = simulate.open_shop(seed=5, start=START, days=8, users=50, items=30)
    write_history(lake, lived(shop, 7), catalogue(shop, 7), key=KEY)
    with pytest.raises(NotEnough, match="purchases before"):
        train.train(lake, open_registry(tmp_path), as_of=START + 8 * DAY, seed=1, champion=None)


@pytest.mark.slow
def test_tuned_parameters_outlive_the_next_training_and_a_champion_is_judged_with_its_own_sources(
    shop: Shop, tmp_path: Path
) -> None:
    registry = open_registry(tmp_path)
    tuned = Recipe(Parameters(alpha=40.0, regularization=5.0, popular_memory=30.0))
    tuned.save(tmp_path / "old", matrix=np.ones((60, len(NAMES)), np.float32), reference=pl.DataFrame(), limits={})
    week = train.period(shop.lake, tuned, cut=TODAY - WEEK * DAY, horizon=WEEK, seed=1, most=train.LEARNT)
    expected = evaluate.judge(week.truth, week.lists(week.rank(tuned.model), tuned.policy))["ndcg"]

    def trained(parameters: Parameters | None) -> tuple[Parameters, float]:
        made = train.train(
            shop.lake, registry, as_of=TODAY, seed=1, champion=tmp_path / "old", parameters=parameters, key="k"
        ).version
        folder = registry.fetch(made.artifact, digest=made.digest, into=tmp_path / "recipes")
        return Recipe.load(folder).parameters, made.figures["champion_ndcg"]

    assert trained(None) == (tuned.parameters, expected)
    assert trained(Parameters()) == (tuned.parameters, expected), "what was registered under the key is given again"
    assert len(registry.versions()) == 1
    others = train.train(
        shop.lake, registry, as_of=TODAY, seed=1, champion=tmp_path / "old", parameters=Parameters(), key="another"
    )
    assert others.version.figures["champion_ndcg"] == expected


@pytest.mark.slow
def test_a_training_on_the_command_line_meets_the_recipe_in_force(shop: Shop, shop_world: Trained) -> None:
    told = subprocess.run(shop.command("train"), capture_output=True, text=True, check=True).stdout
    assert "the recipe in force 0." in told
    gone = {"version": "9", "artifact": str(shop.var / "nowhere"), "digest": "0" * 64, "key": "another"}
    shop.log.append([entry(shop_world.release.model_copy(update=gone))])
    alone = subprocess.run(shop.command("train"), capture_output=True, text=True, check=True)
    assert "the recipe in force" not in alone.stdout
    assert "judged alone" in alone.stderr


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
