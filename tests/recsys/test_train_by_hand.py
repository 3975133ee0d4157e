"""The small decisions of training: what would be shown, what a day looks like, how far it is from the usual one."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
import pytest

from recsys import train
from recsys.config import DAY, HOUR
from recsys.evaluate import Truth
from recsys.features import DEFINITION
from recsys.history import write_history
from recsys.model import Model
from recsys.policy import Policy, Rules
from recsys.recipe import PLAIN, Recipe
from recsys.schema import SOURCES, Candidates, Ranked
from recsys.sources import Parameters
from recsys.train import BLOCK, REFERENCE_DAYS, Period, moved, shown, watched
from shared.lake import Lake
from shared.registry import Version
from tests.recsys.shop import KEY, TODAY, event
from tests.recsys.test_dataset import NO_PRODUCTS

PRODUCTS = pl.DataFrame(
    {"item": ["pen", "ink", "pen"], "category": ["old", "wet", "dry"], "small": [False, False, True]}
)


def bought(*ats: int, item: str = "pen", list_id: str | None = None) -> pl.DataFrame:
    rows = [event(item=item, at=at).model_dump() | {"list_id": list_id} for at in ats]
    return pl.DataFrame(rows, schema_overrides={"list_id": pl.String}, infer_schema_length=None)


def test_what_is_shown_is_the_first_twenty_of_each_and_nothing_to_whom_nothing_was_ranked() -> None:
    users = np.array([0] * 30 + [2] * 3)
    items = np.array([*range(59, 29, -1), 7, 5, 6])
    ranked = Ranked(users, items, np.zeros(33, np.float32), np.zeros(33, np.int64))
    plain = Rules(list(range(60)), [-1] * 60, [False] * 60, [item == 31 for item in range(60)])
    lists = shown(ranked, np.array([0, 1, 2]), plain, None)
    assert lists[0].tolist() == list(range(59, 39, -1))
    assert lists[1].tolist() == [-1] * 20
    assert lists[2].tolist() == [7, 5, 6, *[-1] * 17]
    seated = shown(ranked, np.array([0, 1, 2]), plain, Policy())
    assert seated[0, :10].tolist() == [*range(59, 50, -1), 31], "a newcomer from behind has its seat"
    assert seated[1:].tolist() == lists[1:].tolist()


def test_what_a_list_sold_is_no_label_and_everything_else_is() -> None:
    none: Any = None
    pairs = Candidates(np.array([0, 0, 3, 3]), np.array([1, 2, 1, 2]), np.zeros((4, 5), np.float32))
    truth, matrix = Truth(np.array([0, 3]), np.array([1, 1]), count=10), np.arange(4, dtype=np.float32)[:, None]
    taught = Period(none, none, none, truth, truth.users, none, np.array([3 * 10 + 2]), pairs, matrix).labelled
    assert (taught.pairs.users.tolist(), taught.pairs.items.tolist()) == ([0, 0, 3], [1, 2, 1])
    assert taught.bought.tolist() == [True, False, True]
    assert taught.matrix.ravel().tolist() == [0, 1, 2]


def test_a_day_is_seen_by_the_hour_the_weekday_and_what_the_catalogue_last_said() -> None:
    rows = pl.concat(
        [
            bought(TODAY, TODAY + 14 * HOUR - 1),
            bought(TODAY + 14 * HOUR, item="ink"),
            bought(TODAY + DAY - 1, item="unknown"),
        ]
    )
    seen = watched(rows, PRODUCTS)
    assert seen["hour"].to_list() == [0, 13, 14, 23]
    assert seen["weekday"].to_list() == [3, 3, 3, 3], "a Thursday; Monday is 0"
    assert seen["small"].to_list() == [1, 1, 0, 0]
    assert seen["category"].to_list() == [crc32(b"dry"), crc32(b"dry"), crc32(b"wet"), None]
    assert seen["price"].to_list() == [500] * 4
    week = [watched(bought(TODAY + day * DAY), PRODUCTS)["weekday"].item() for day in range(7)]
    assert week == [3, 4, 5, 6, 0, 1, 2]


def test_neither_looks_nor_what_a_list_sold_are_watched() -> None:
    looked = bought(TODAY).with_columns(kind=pl.lit("view"))
    rows = pl.concat([looked, bought(TODAY + 2 * HOUR, list_id="a list"), bought(TODAY + 5 * HOUR)])
    assert watched(rows, PRODUCTS)["hour"].to_list() == [5]
    assert watched(rows.head(2), PRODUCTS).is_empty()


def test_of_a_busy_day_a_block_is_taken_from_all_of_it() -> None:
    rows = bought(*range(TODAY, TODAY + 24 * 100)).with_columns(at=TODAY + (pl.col("at") - TODAY) * HOUR // 100)
    seen = watched(rows[::-1], PRODUCTS)
    assert seen.height == BLOCK
    counts = seen["hour"].value_counts(sort=True)["count"].to_list()
    assert len(counts) == 24, "from the first hour to the last"
    assert max(counts) - min(counts) <= 1
    few = watched(rows.head(3).with_columns(cents=pl.Series([1, 2, 3])), PRODUCTS)
    assert few["price"].to_list() == [1, 2, 3], "each row once where there are few"
    ends = rows.with_columns(cents=pl.arange(0, pl.len()))
    assert watched(ends, PRODUCTS)["price"].to_list()[:: BLOCK - 1] == [0, 2_399], "the first and the last"


def usual(*, shift: float = 0.0, rows: int = 400, weekday: int = 3) -> pl.DataFrame:
    values = np.random.default_rng(rows).normal(shift, 1, rows)
    return pl.DataFrame({"price": values, "weekday": np.full(rows, weekday)})


def test_a_day_is_compared_with_its_own_weekday() -> None:
    reference = pl.concat([usual(rows=8 * 400), usual(shift=5, rows=8 * 401, weekday=4)])
    today = usual()
    assert moved(today, reference)["price"] < 0.1
    assert moved(today.with_columns(weekday=4), reference)["price"] > 0.5
    assert set(moved(today, reference)) == {"price"}, "the weekday is what is compared, not how it moved"
    assert moved(today.with_columns(weekday=5), reference) == {}
    assert moved(today.head(0), reference) == {}
    assert moved(today, reference.head(0)) == {}


def test_fewer_rows_are_further_away_by_chance_and_are_counted_down() -> None:
    """A day is usual if it has as many rows as one of the weekdays of the reference."""
    assert REFERENCE_DAYS // 7 == 8
    reference = usual(rows=8 * 100)
    far = pl.DataFrame({"price": np.full(400, 9.0), "weekday": np.full(400, 3)})
    full = moved(far.head(100), reference)["price"]
    assert full == pytest.approx(moved(far, reference)["price"]), "more rows than usual are not further away"
    assert moved(far.head(25), reference)["price"] == pytest.approx(full / 2)
    assert moved(far.head(1), reference)["price"] == pytest.approx(full / 10)


# --- what is tried, chosen and carried on -----------------------------------------------------------------


def test_of_each_parameter_the_usual_value_is_tried_first_and_one_on_either_side_of_it() -> None:
    for name, (source, values) in train.TRIED.items():
        usual, *others = values
        assert usual == getattr(Parameters(), name), "a tie leaves it as it is"
        assert source in SOURCES
        assert min(others) < usual < max(others)


class Choosing:
    """A period on which a ranking is worth what is said, and less under a cap."""

    labelled = None

    def __init__(self, worth: dict[str, float], capped: dict[int, float]) -> None:
        self._worth, self._capped = worth, capped

    def rank(self, model: Model) -> str:
        return str(model.booster or "blend")

    def ndcg(self, ranked: str, policy: Policy | None = None) -> Any:
        return np.array([self._worth[ranked] if policy is None else self._capped[policy.per_category]])


@pytest.mark.parametrize(
    ("capped", "cap"),
    [
        ({2: 0.48, 3: 0.49, 4: 0.5, 6: 0.5}, 3),  # .98 of .5, and no less
        ({2: 0.49, 3: 0.49, 4: 0.5, 6: 0.5}, 2),
        ({2: 0.1, 3: 0.4899, 4: 0.49, 6: 0.5}, 4),
        ({2: 0.1, 3: 0.2, 4: 0.4, 6: 0.5}, 6),
        ({2: 0.1, 3: 0.2, 4: 0.3, 6: 0.4}, 6),  # none is good enough: the loosest
    ],
)
def test_the_best_ranking_is_taken_and_the_tightest_cap_that_it_can_afford(
    monkeypatch: pytest.MonkeyPatch, capped: dict[int, float], cap: int
) -> None:
    monkeypatch.setattr(train, "fit", lambda *_, **__: ["lambdarank", "binary"])
    monkeypatch.setattr(train, "blend", lambda *_, **__: PLAIN)
    period: Any = Choosing({"lambdarank": 0.3, "binary": 0.5, "blend": 0.4}, capped)
    recipe, chosen = train.learn(period, period, Parameters(alpha=40.0), seed=1)
    assert chosen == {"chosen_lambdarank": 0.3, "chosen_binary": 0.5, "chosen_blend": 0.4}
    booster: Any = recipe.model.booster
    assert (booster, recipe.policy.per_category, recipe.parameters.alpha) == ("binary", cap, 40.0)


def test_places_are_counted_by_the_source_that_ranked_each_highest() -> None:
    judging: Any = SimpleNamespace(truth=SimpleNamespace(count=10), users=np.array([0, 3]))
    als, repeat = SOURCES.index("als"), SOURCES.index("repeat")
    ranked = Ranked(np.array([0, 0, 3]), np.array([4, 2, 4]), np.zeros(3, np.float32), np.array([als, repeat, repeat]))
    ours = np.array([[4, 2, -1], [4, 7, -1]])  # nothing has ranked 7
    shares = train._shares(judging, ranked, ours)
    assert shares == dict.fromkeys(SOURCES, 0.0) | {"als": 0.25, "repeat": 0.5, "popular": 0.25}
    assert train._shares(judging, ranked, np.full((2, 3), -1)) == dict.fromkeys(SOURCES, 0.0)


def test_what_a_champion_has_lost(tmp_path: Path) -> None:
    assert train._loss(tmp_path) == 0.0
    for said, lost in (("{", 0.0), ("{}", 0.0), ('{"loss": -0.01}', -0.01)):
        (tmp_path / "figures.json").write_text(said)
        assert train._loss(tmp_path) == lost


def test_in_the_first_four_weeks_nothing_is_known_to_be_usual(tmp_path: Path) -> None:
    """And of a shop that has never sent its catalogue."""
    lake, days = Lake(tmp_path), range(14)
    write_history(lake, bought(*(TODAY - day * DAY - HOUR for day in days)), NO_PRODUCTS, key=KEY)
    usual, limits = train.normal(lake, as_of=TODAY)
    assert (usual.height, limits) == (0, {})


class Shelf:
    """Keeps what is registered."""

    said: dict[str, Any]

    def register(self, folder: Path, **said: Any) -> Version:
        assert json.loads((folder / "figures.json").read_text()) == said["figures"]
        self.said = said
        return Version("2", "there", "0" * 64, said["figures"])


@pytest.mark.parametrize(("lost", "gained", "owes"), [(-0.01, -0.02, -0.03), (-0.03, 0.01, -0.02), (-0.01, 0.05, 0.0)])
def test_three_periods_in_a_row_and_what_is_carried_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: float, gained: float, owes: float
) -> None:
    asked, told, beside = list[tuple[int, int, int]](), list[int](), dict[str, Any]()

    def period(*_: Any, cut: int, horizon: int, seed: int, most: int) -> Any:
        assert (horizon, seed) == (7, 5)
        asked.append((cut, most, len(told)))
        return SimpleNamespace(known=f"known at {cut}", matrix=np.zeros((1, 1)), cut=cut)

    def learn(fitting: Any, choosing: Any, parameters: Parameters, *, seed: int) -> Any:
        assert (fitting.cut, choosing.cut, seed) == (TODAY - 21 * DAY, TODAY - 14 * DAY, 5)
        return Recipe(parameters), {"chosen_blend": 0.4}

    def judged_beside(*_: Any, older: int, **__: Any) -> dict[str, float]:
        beside["older"] = older
        return {"ndcg": 0.1, "older_gain": gained}

    monkeypatch.setattr(train, "period", period)
    monkeypatch.setattr(train, "learn", learn)
    monkeypatch.setattr(train, "_beside", judged_beside)
    monkeypatch.setattr(train, "verdict", lambda judging, *_, **__: {"judged": float(judging.cut)})
    monkeypatch.setattr(train, "normal", lambda *_, **__: (pl.DataFrame({"a": [1]}), {}))
    monkeypatch.setattr(train.evaluate, "gate", lambda *_: "")  # type: ignore[attr-defined]  # the module that it uses
    monkeypatch.setattr(train.dataset, "version", lambda known: known)  # type: ignore[attr-defined]  # the same
    monkeypatch.setattr(Recipe, "save", lambda _, folder, **__: folder.mkdir())
    monkeypatch.setattr(Recipe, "load", lambda _: Recipe(Parameters(alpha=40.0)))
    (tmp_path / "figures.json").write_text(json.dumps({"loss": lost}))
    shelf: Any = Shelf()
    none: Any = None
    given: Any = {"as_of": TODAY, "seed": 5, "horizon": 7, "progress": told.append}
    train.train(none, shelf, champion=tmp_path, **given)
    cuts = [TODAY - weeks * 7 * DAY for weeks in (3, 2, 1)]
    assert asked == [(cuts[0], train.LEARNT, 0), (cuts[1], train.LEARNT, 1), (cuts[2], train.JUDGED, 2)]
    assert told == [1, 1, 1]
    assert beside == {"older": TODAY - 28 * DAY}
    figures = shelf.said["figures"]
    assert (figures["judged"], figures["chosen_blend"], figures["champion_loss"]) == (float(cuts[2]), 0.4, lost)
    assert figures["loss"] == pytest.approx(owes)
    assert shelf.said["tags"] == {
        "data": f"known at {cuts[2]}",
        "as_of": str(TODAY),
        "gate": "passed",
        "definition": DEFINITION,
    }
    assert shelf.said["params"]["alpha"] == 40.0, "what was tuned once stays"
    train.train(none, shelf, champion=None, **given)
    assert shelf.said["figures"].keys() == {"judged", "chosen_blend"}
