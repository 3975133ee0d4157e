"""The small decisions of training: what is learnt from, calibrated and judged on, what is owed, what is normal."""

import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

from fraud import config, dataset, evaluate, train
from fraud.artifact import Artifact
from fraud.config import DAY
from fraud.evaluate import cost
from fraud.features import DEFINITION, NAMES
from fraud.model import Model, fit
from fraud.policy import Policy, costs, rules
from fraud.schema import Transaction
from fraud.train import HISTORY, Block, NotEnough, debt, inherited, kept_of, normal, review_price, verdict
from shared import drift
from shared.intervals import Interval
from shared.registry import Version
from tests.worlds import START, learnable

AS_OF = START + 120 * DAY
SINCE = AS_OF - 84 * DAY
FIT_UNTIL, JUDGE_UNTIL = AS_OF - 14 * DAY, AS_OF - 7 * DAY
NUMBER = NAMES.index("hour")  # of the row, in place of the feature
COUNT = 40_000


@pytest.fixture(scope="module")
def world() -> Block:
    """Payments of 84 days, one every three minutes; some were declined, some passed for a hundred, some are probes."""
    matrix, frauds = learnable(COUNT, seed=3)
    matrix[:, NUMBER] = np.arange(COUNT)
    cents = np.rint(matrix[:, 0] * 100).astype(int)
    payments = pl.DataFrame(
        {
            "partition": np.arange(COUNT) % config.PARTITIONS,
            "card": [f"card-{n % 997}" for n in range(COUNT)],
            "id": [f"tx-{n}" for n in range(COUNT)],
            "at": SINCE + np.arange(COUNT) * 84 * DAY // COUNT,
            "cents": cents,
            "probe": [n % 50 == 0 for n in range(COUNT)],
            "fraud": frauds == 1,
            "weight": [0.0 if n % 50 == 0 or n % 31 == 0 else 100.0 if n % 29 == 0 else 1.0 for n in range(COUNT)],
        }
    )
    return Block(payments, matrix)


@pytest.fixture(scope="module")
def model(world: Block) -> Model:
    return fit(world.matrix[:3_000], world.frauds[:3_000], np.ones(3_000), seed=1)


class Shelf:
    """Keeps what is registered."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}

    def register(self, folder: Path, **said: Any) -> Version:
        said["files"] = {path.name for path in folder.rglob("*")}
        said["limits"] = json.loads((folder / "limits.json").read_text())
        self.said = said
        return Version("1", "there", "0" * 64, said["figures"])


class Dates(NamedTuple):
    """A lake that says which dates it has."""

    first: Any

    def dates(self, _: str) -> list[Any]:
        return [] if self.first is None else [self.first]


class Seen(NamedTuple):
    """What a training did with the world."""

    learnt: Any
    calibrated: Any
    judged: dict[str, Any]
    asked: dict[str, Any]
    registered: dict[str, Any]
    refused: str


def trained(
    world: Block,
    model: Model,
    patch: pytest.MonkeyPatch,
    *,
    first: Any = None,
    champion: Path | None = None,
    **kept: Any,
) -> Seen:
    """A training on the world in place of a lake."""
    learnt, calibrated = list[Any](), list[Any]()
    judged, asked = dict[str, Any](), dict[str, Any]()
    shelf = Shelf()
    rows = pl.DataFrame({"partition": [0], "offset": [0]})

    def events(_: object, **wanted: Any) -> pl.DataFrame:
        asked["events"] = wanted
        return rows

    def decisions(_: object, **wanted: Any) -> pl.DataFrame:
        asked["decisions"] = wanted
        return rows

    def fit_it(*given: Any, **more: Any) -> Model:
        learnt.append((*given, more))
        return model

    def calibrate(self: Model, *given: Any) -> Model:
        calibrated.append(given)
        return self

    real = train.verdict

    def judge_it(*given: Any, **more: Any) -> Any:
        judged.update(more, artifact=given[0], champion=given[1])
        return real(*given, **more)

    patch.setattr(dataset, "events", events)
    patch.setattr(dataset, "decisions", decisions)
    patch.setattr(train, "folded", lambda *_: world)
    patch.setattr(train, "fit", fit_it)
    patch.setattr(Model, "calibrated", calibrate)
    patch.setattr(train, "verdict", judge_it)
    patch.setattr(train, "plots", lambda *_: None)
    patch.setattr(train, "normal", lambda *_, **__: (pl.DataFrame({"a": [1]}), {}))
    for name, value in kept.items():
        patch.setattr(train, name, value)
    given: Any = (Dates(first), shelf)
    candidate = train.train(*given, as_of=AS_OF, seed=4, champion=champion)
    return Seen(learnt[0], calibrated[0], judged, asked, shelf.said, candidate.refused)


def numbers(matrix: Any) -> list[int]:
    return [int(number) for number in matrix[:, NUMBER]]


# --- prices, features, what is normal ---------------------------------------------------------------------


def test_a_payment_that_passed_at_random_asks_for_as_many_reviews_as_it_stands_for() -> None:
    """Sixty that passed, of 6,000 that were declined: at the bare price of a review, 857 a day would be asked for."""
    rng, count = np.random.default_rng(0), 14_000
    scores, weights, suspicious = np.full(count, 0.001), np.ones(count), rng.choice(count, 60, replace=False)
    scores[suspicious] = 0.12
    at = START + np.sort(rng.integers(0, 7 * DAY, count))
    payments = pl.DataFrame({"at": at, "cents": rng.integers(5_00, 300_00, count), "fraud": False, "weight": weights})
    assert review_price(Block(payments, np.zeros((count, 1))), scores) == config.REVIEW_PRICE
    weights[suspicious] = 100
    weighted = payments.with_columns(weight=pl.Series(weights))
    price = review_price(Block(weighted, np.zeros((count, 1))), scores)

    def asked(price: float) -> float:
        every = [costs(score, cents, Policy(price)) for score, cents in zip(scores, payments["cents"], strict=True)]
        return float(weights @ [min(cost, key=cost.__getitem__) == "review" for cost in every]) / 7

    assert price > config.REVIEW_PRICE
    assert asked(price) <= config.REVIEWS_A_DAY / 2 < asked(price - 0.01), "a cent less, and the day is too full"


def test_reviews_that_just_fill_the_day_have_their_bare_price() -> None:
    """Two days with forty each that are worth one, for one half of the cards."""
    at = START + np.repeat([0, DAY], 40)
    payments = pl.DataFrame({"at": at, "cents": 100_00, "fraud": False, "weight": 1.0})
    scores = np.full(80, 0.05)
    assert review_price(Block(payments, np.zeros((80, 1))), scores) == config.REVIEW_PRICE
    more = pl.concat([payments, payments[:1]])
    assert review_price(Block(more, np.zeros((81, 1))), np.full(81, 0.05)) > config.REVIEW_PRICE, "one more"


@pytest.mark.parametrize("worth", [3.51, 6.0, 7.13, 11.11, 64.07, 150.0])
def test_a_price_is_the_first_cent_at_which_the_day_is_not_too_full(
    monkeypatch: pytest.MonkeyPatch, worth: float
) -> None:
    """A review costs its price, and the others cost `worth`."""

    def priced(_: float, __: int, policy: Policy, **___: object) -> dict[str, float]:
        review = round(policy.review_price * 100, 6)
        return {"review": review, **dict.fromkeys(("approve", "decline", "challenge"), round(worth * 100, 6))}

    monkeypatch.setattr(train, "costs", priced)
    payments = pl.DataFrame({"at": [START] * 41, "cents": 100_00, "fraud": False, "weight": 1.0})
    assert review_price(Block(payments, np.zeros((41, 1))), np.full(41, 0.05)) == worth


def test_a_review_that_would_be_asked_for_at_any_price_has_the_highest() -> None:
    payments = pl.DataFrame({"at": [START] * 90, "cents": 20_000_00, "fraud": False, "weight": 1.0})
    assert review_price(Block(payments, np.zeros((90, 1))), np.full(90, 0.2)) == 200.0


def test_folded_has_a_row_a_payment_that_was_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    payment = Transaction(card="c", id="1", terminal="t", at=START, cents=5, country="BE", device="d")
    late, probe = payment.model_copy(update={"id": "2"}), payment.model_copy(update={"id": "3", "probe": True})
    vector = [float(n) for n in range(len(NAMES))]
    stream = [(7, payment, vector), (7, late, None), (0, object(), vector), (1, probe, vector)]
    monkeypatch.setattr(train, "fold", lambda _: iter(stream))
    monkeypatch.setattr(train, "SHOWN", 2)
    monkeypatch.setattr(dataset, "streams", lambda _: [])
    monkeypatch.setattr(dataset, "labelled", lambda payments, *_: payments)
    told: list[int] = []
    block = train.folded(pl.DataFrame(), pl.DataFrame(), told.append)
    assert block.matrix.tolist() == [vector, vector]
    columns = ("partition", "card", "id", "at", "cents", "probe")
    assert block.payments.select(columns).rows() == [(7, "c", "1", START, 5, False), (1, "c", "3", START, 5, True)]
    assert told == [2, 2]


def test_what_is_normal_are_the_last_two_weeks_and_the_four_before_say_how_far_days_are_apart(
    world: Block, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    weekday = NAMES.index("weekday")
    matrix = world.matrix.copy()
    at = world.payments["at"].to_numpy()
    matrix[:, weekday] = at // DAY % 7
    measured: list[int] = []
    real = drift.thresholds

    def thresholds(quiet: list[dict[str, float]]) -> dict[str, float]:
        measured.append(len(quiet))
        return real(quiet)

    monkeypatch.setattr(drift, "thresholds", thresholds)
    usual, limits = normal(Block(world.payments, matrix), model, until=JUDGE_UNTIL)
    probes = world.payments["probe"].to_numpy()
    recent = (at >= JUDGE_UNTIL - 14 * DAY) & (at < JUDGE_UNTIL) & ~probes
    assert usual.height == recent.sum()
    assert usual["amount"].sum() == pytest.approx(matrix[recent, 0].sum())
    assert measured == [28]
    assert "score" in limits
    assert "weekday" not in limits
    days = {day: JUDGE_UNTIL - (14 + 28) * DAY + day * DAY for day in range(28)}
    for quiet, known in ((1, False), (2, True)):
        first = days[27] - (quiet - 1) * DAY
        _, limits = normal(Block(world.payments, matrix).where(at >= first), model, until=JUDGE_UNTIL)
        assert bool(limits) is known, "one day does not tell what is usual"


def test_a_payment_counts_for_ten_at_most_when_it_is_learnt_from(world: Block) -> None:
    assert set(world.weights) == {0.0, 1.0, 100.0}
    assert set(world.learning_weights) == {0.0, 1.0, 10.0}
    assert HISTORY == 84


# --- the verdict ---------------------------------------------------------------------------------------


def test_a_verdict_has_the_figures_of_all_who_were_judged(world: Block, model: Model) -> None:
    judging = world.where(np.arange(COUNT) % 20 == 1)
    older = world.where(np.arange(COUNT) % 20 == 2)
    ours, theirs = Artifact(model, Policy()), Artifact(model.shifted(2.0), Policy())
    figures, refused = verdict(ours, theirs, judging=judging, older=older, debt=0.0, seed=1)
    mine = evaluate.judge(judging.payments, model, Policy(), matrix=judging.matrix)
    rival = evaluate.judge(judging.payments, theirs.model, Policy(), matrix=judging.matrix)
    assert {name: figures[name] for name in mine.figures} == mine.figures
    assert {name: figures[f"champion_{name}"] for name in rival.figures} == rival.figures
    baseline = [rules(*row)[0] for row in zip(judging.payments["cents"], judging.matrix.tolist(), strict=True)]
    spent = cost(judging.payments, baseline)
    assert figures["rules_cost_per_1000"] == pytest.approx(1_000 * spent / judging.weights.sum())
    gain = evaluate.gain(judging.payments, rival.costs, mine.costs, seed=1, level=evaluate.STRICT)
    assert figures["gain_low"] == gain.low
    assert "than the rules alone" in refused


def test_what_a_challenger_saves_on_older_payments_is_a_share_of_what_the_champion_saves(
    world: Block, model: Model
) -> None:
    older = world.where((np.arange(COUNT) % 10 == 3) & (world.weights > 0))
    champion, challenger = Artifact(model, Policy()), Artifact(model.shifted(1.0), Policy())
    share = kept_of(champion, challenger, older, seed=1)
    paid = []
    for each in (champion, challenger):
        scores = each.model.scores(older.matrix).tolist()
        paid.append(evaluate.paid(older.payments, evaluate.act(older.payments, scores, each.policy, share=0.1)))
    nothing = cost(older.payments, ["approve"] * older.payments.height)
    saved = nothing - math.fsum(paid[0])
    assert saved > 1
    assert share.value == pytest.approx((math.fsum(paid[0]) - math.fsum(paid[1])) / saved)
    assert share.low < share.value < share.high
    assert kept_of(champion, champion, older, seed=1) == Interval(0, 0, 0)
    honest = Block(older.payments.with_columns(fraud=False), older.matrix)
    useless = kept_of(champion, challenger, honest, seed=1)
    before, after = (
        evaluate.paid(
            honest.payments, evaluate.act(honest.payments, e.model.scores(honest.matrix).tolist(), e.policy, share=0.1)
        )
        for e in (champion, challenger)
    )
    assert useless.value == pytest.approx(math.fsum(before) - math.fsum(after)), "who saves nothing: EUR, over 1"


def test_what_a_champion_owes(tmp_path: Path) -> None:
    assert debt(tmp_path) == 0.0
    (tmp_path / "figures.json").write_text("{}")
    assert debt(tmp_path) == 0.0
    (tmp_path / "figures.json").write_text('{"older_debt": 0.01}')
    assert debt(tmp_path) == 0.01


def test_limits_are_the_champions_but_for_the_score(tmp_path: Path) -> None:
    assert inherited(None, {"amount": 0.1}) == {"amount": 0.1}
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "reference.parquet")
    for champion, quiet, expected in (
        ({}, {"amount": 0.1}, {"amount": 0.1}),
        ({"amount": 0.5, "score": 0.2}, {"amount": 0.1, "score": 0.3}, {"amount": 0.5, "score": 0.3}),
        ({"amount": 0.5, "score": 0.2}, {"score": 0.1}, {"amount": 0.5, "score": 0.2}),
        ({"amount": 0.5, "score": 0.2}, {}, {"amount": 0.5, "score": 0.2}),
    ):
        (tmp_path / "limits.json").write_text(json.dumps(champion))
        assert inherited(tmp_path, quiet) == expected


# --- a whole training --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "begins"),
    [
        (None, SINCE),
        (dataset.day_of(SINCE), SINCE),  # windows are as full as they will ever be
        (dataset.day_of(SINCE) - timedelta(days=1), SINCE + 30 * DAY),
    ],
)
def test_what_is_learnt_calibrated_and_judged_on(
    world: Block, model: Model, monkeypatch: pytest.MonkeyPatch, first: Any, begins: int
) -> None:
    seen = trained(world, model, monkeypatch, first=first)
    at, weight = world.payments["at"].to_list(), world.payments["weight"].to_list()
    kept, half = dataset.kept(world.payments["card"]), dataset.halves(world.payments["card"])
    old = [n for n in range(COUNT) if begins <= at[n] < FIT_UNTIL and weight[n] > 0]
    new = [n for n in range(COUNT) if FIT_UNTIL <= at[n] < JUDGE_UNTIL and weight[n] > 0]
    matrix, frauds, weights, more = seen.learnt
    assert numbers(matrix) == [n for n in old if not kept[n]]
    assert frauds.tolist() == [world.frauds[n] for n in numbers(matrix)]
    assert weights.tolist() == [min(10.0, weight[n]) for n in numbers(matrix)]
    assert more == {"seed": 4}
    matrix, frauds, weights = seen.calibrated
    assert numbers(matrix) == [n for n in new if half[n]]
    assert frauds.tolist() == [world.frauds[n] for n in numbers(matrix)]
    assert weights.tolist() == [min(10.0, weight[n]) for n in numbers(matrix)]
    assert numbers(seen.judged["judging"].matrix) == [n for n in new if not half[n]]
    assert numbers(seen.judged["older"].matrix) == [n for n in old if kept[n]]
    assert (seen.judged["debt"], seen.judged["champion"], seen.judged["seed"]) == (0.0, None, 4)
    assert seen.asked == {"events": {"since": SINCE, "as_of": AS_OF}, "decisions": {"since": dataset.day_of(SINCE)}}


def test_what_is_registered(world: Block, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = trained(world, model, monkeypatch, normal=normal)
    tags = seen.registered["tags"]
    assert tags.keys() == {"data", "definition", "as_of", "gate"}
    assert (tags["definition"], tags["as_of"], tags["gate"]) == (DEFINITION, str(AS_OF), seen.refused or "passed")
    price = seen.judged["artifact"].policy.review_price
    params = seen.registered["params"]
    assert (params["seed"], params["trees"], params["review_price"]) == (4, 200, price)
    assert seen.registered["figures"]["fitted_on"] == len(seen.learnt[0])
    assert {"policy.json", "golden.json", "figures.json", "reference.parquet"} < seen.registered["files"]
    usual, quiet = normal(world, model, until=JUDGE_UNTIL)
    assert seen.registered["limits"] == quiet
    assert usual.height > 1_000


def test_a_champion_that_cannot_be_used_leaves_the_rules_to_beat(
    world: Block, model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "figures.json").write_text('{"older_debt": 0.5}')
    seen = trained(world, model, monkeypatch, champion=tmp_path)
    assert (seen.judged["champion"], seen.judged["debt"]) == (None, 0.0)
    assert "judged against the rules alone" in caplog.text
    assert not any(name.startswith("champion_") for name in seen.registered["figures"])


def test_a_champion_is_judged_and_its_debt_and_limits_go_on(
    world: Block, model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "champion"
    usual, _ = normal(world, model, until=JUDGE_UNTIL)
    Artifact(model, Policy()).save(folder, matrix=world.matrix, reference=usual, limits={"amount": 0.5, "score": 9.0})
    (folder / "figures.json").write_text('{"older_debt": 0.005}')
    seen = trained(world, model, monkeypatch, champion=folder)
    assert seen.judged["debt"] == 0.005
    assert seen.judged["champion"].policy == Policy()
    assert seen.registered["limits"] == {"amount": 0.5, "score": 9.0}
    assert seen.registered["figures"].keys() >= {"champion_recall", "gain_low", "older_gain_low", "older_debt"}


@pytest.mark.parametrize(("payments", "frauds", "enough"), [(1_000, 5, True), (999, 5, False), (1_000, 4, False)])
def test_what_is_needed_to_learn_from(
    model: Model, monkeypatch: pytest.MonkeyPatch, payments: int, frauds: int, enough: bool
) -> None:
    """Of each part: a thousand payments and five frauds."""
    sides: dict[str, list[str]] = {"learn": [], "half": [], "other": []}
    names = pl.Series([f"card-{n}" for n in range(9_000)])
    for name, is_kept, is_half in zip(names, dataset.kept(names), dataset.halves(names), strict=True):
        if not is_kept:
            sides["half" if is_half else "other"].append(name)
    parts = [
        (sides["half"][:1_000], FIT_UNTIL - DAY, 5),
        (sides["half"][:1_000], FIT_UNTIL + DAY, 5),
        (sides["other"][:payments], FIT_UNTIL + DAY, frauds),
    ]
    frames = [
        pl.DataFrame({"card": cards, "at": at, "fraud": [n < stolen for n in range(len(cards))]})
        for cards, at, stolen in parts
    ]
    rows = pl.concat(frames)
    matrix, _ = learnable(rows.height, seed=1)
    cents = np.rint(matrix[:, 0] * 100).astype(int)
    rows = rows.with_columns(partition=0, id=pl.col("card"), cents=pl.Series(cents), probe=False, weight=1.0)
    block = Block(rows, matrix)
    if enough:
        trained(block, model, monkeypatch)
    else:
        with pytest.raises(NotEnough, match=f"{payments} payments with {frauds} known frauds to judge on"):
            trained(block, model, monkeypatch)
