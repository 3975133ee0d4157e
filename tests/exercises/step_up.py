"""What is true once the bank has its fourth decision; the brief is in fraud/EXERCISES.md.

`make exercise NAME=step-up` runs this; its name keeps it out of `make test`. It looks at what the
parts say, not at how, so every failure is a sentence of the brief that does not hold yet.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest

from fraud import config, evaluate, train
from fraud.artifact import Artifact, drift_frame
from fraud.config import DAY
from fraud.dataset import labelled
from fraud.features import NAMES
from fraud.ingest import Ingest
from fraud.model import fit
from fraud.policy import Policy, costs, decide, realised
from fraud.report import Judge
from fraud.schema import Action, Decision, Label
from fraud.serve import make_app
from fraud.simulate import labels
from shared.releases import Ledger
from shared.store.sqlite import SqliteStore
from tests.fraud.bank import KEY, TODAY, Bank, Trained, copied, days
from tests.roles import keys
from tests.worlds import START, learnable

FEE, MARGIN = config.CHARGEBACK_FEE, config.DECLINE_SHARE
PRICE, ABANDON, CATCH = 0.20, 0.06, {True: 0.50, False: 0.90}  # of the brief; CATCH by whether the card knew the device
SAME_DEVICE = NAMES.index("card_same_device")
GRID = tuple(product((0.0, 0.003, 0.02, 0.1, 0.4, 0.9, 1.0), (1_00, 40_00, 300_00, 3_000_00), (True, False)))

BLOCK = pl.DataFrame(
    {
        "partition": [0, 0, 1, 1],
        "at": [START, START + 1, START + 2, START + DAY],
        "cents": [100_00] * 4,
        "fraud": [True, True, False, False],
        "weight": [1.0] * 4,
        "known_device": [True, False, True, False],
    }
)


def must(holds: object, otherwise: str) -> None:
    """Say in words what is missing, without the lines of this file."""
    if not holds:
        pytest.fail(otherwise, pytrace=False)


def ask(function: Callable[..., Any], *given: object, otherwise: str, **named: object) -> Any:
    """The answer of a part that may not know the question yet."""
    try:
        return function(*given, **named)
    except (TypeError, KeyError, ValueError) as error:
        now = str(error).splitlines()[0]
    pytest.fail(f"{otherwise} (now: {now})", pytrace=False)


def on() -> Any:
    missing = "policy.Policy has no switch: Policy(challenge=True) allows the fourth action, Policy() does not"
    return ask(Policy, challenge=True, otherwise=missing)


def expected(score: float, cents: int, *, known: bool) -> dict[str, float]:
    missing = "policy.costs takes no known_device: what a challenge stops depends on it"
    found: dict[str, float] = ask(costs, score, cents, on(), known_device=known, otherwise=missing)
    must("challenge" in found, "policy.costs does not price the challenge when the policy allows it")
    return found


def verdict(score: float, cents: int, *, known: bool, free: bool = True) -> Any:
    def never() -> float:
        pytest.fail("policy.decide draws for a payment that it does not decline: only declines hide", pytrace=False)

    certain = min(expected(score, cents, known=known).items(), key=lambda item: item[1])[0] != "decline" and free
    missing = "policy.decide takes no known_device"
    draw = never if certain else lambda: 1.0
    return ask(decide, score, cents, on(), free=free, draw=draw, known_device=known, otherwise=missing)


# --- the decision ----------------------------------------------------------------------------------


def test_the_till_has_a_fourth_answer() -> None:
    must("challenge" in get_args(Action), "schema.Action has no 'challenge': the API, the topic and the lake read it")


@pytest.mark.parametrize("known", [True, False])
def test_a_challenge_costs_what_the_brief_says(known: bool) -> None:
    score, amount = 0.1, 85.0
    passes = score * (1 - CATCH[known]) * (amount + FEE)
    by_hand = PRICE + passes + (1 - score) * ABANDON * MARGIN * amount
    found = expected(score, 85_00, known=known)["challenge"]
    device = "a device that the card knows" if known else "a device that is new to the card"
    must(
        found == pytest.approx(by_hand),
        f"a challenge of EUR 85 at 10 % fraud from {device} is expected to cost {by_hand:.4f}, not {found:.4f}: "
        "the message, the frauds that pass, and the margin of good customers who give up",
    )


def test_what_was_expected_is_the_mean_of_what_comes_true() -> None:
    missing = "policy.realised does not know what a challenge came to, given known_device"
    for score, cents, known in GRID:
        bills = [ask(realised, "challenge", cents, fraud=x, known_device=known, otherwise=missing) for x in (1, 0)]
        mean = score * bills[0] + (1 - score) * bills[1]
        must(
            mean == pytest.approx(expected(score, cents, known=known)["challenge"]),
            f"policy.costs and policy.realised disagree on a challenge of {cents} cents at {score:.1%} fraud",
        )


def test_decisions_stay_those_of_least_expected_cost() -> None:
    taken = set()
    for score, cents, known in GRID:
        said = verdict(score, cents, known=known)
        taken.add(said.action)
        must(
            said.costs[said.action] == min(said.costs.values()),
            f"policy.decide says {said.action} at {score:.1%} fraud, {cents} cents: not the cheapest of {said.costs}",
        )
    must(taken == {"approve", "challenge", "review", "decline"}, f"of four actions only {sorted(taken)} are ever taken")


def test_without_an_analyst_the_best_of_the_other_three_is_taken() -> None:
    said = verdict(0.1, 600_00, known=False, free=False)
    must(
        (said.action, said.overflow) == ("challenge", True),
        f"review was best and no analyst free: a challenge is next best, policy.decide says {said.action}",
    )


def test_a_challenge_is_not_explored() -> None:
    said = verdict(0.02, 40_00, known=False)
    must(
        (said.action, said.explored, said.propensity) == ("challenge", False, 1.0),
        "a challenged payment stands for itself: not explored, propensity 1",
    )


def test_a_policy_of_before_decides_as_before() -> None:
    on()
    for score, cents, _ in GRID:
        must(
            set(costs(score, cents, Policy())) == {"approve", "review", "decline"},
            "Policy() prices a challenge: a champion of before would decide otherwise than its golden samples say",
        )


# --- evaluated as served -----------------------------------------------------------------------------


def test_evaluation_challenges_as_serving_does() -> None:
    found = evaluate.act(BLOCK, [0.02] * 4, on())
    apart = [verdict(0.02, 100_00, known=known).action for known in BLOCK["known_device"]]
    must(
        found == apart,
        f"evaluate.act says {found}, policy.decide {apart}: the column known_device does not reach the decision",
    )


def test_a_block_costs_what_its_challenges_cost() -> None:
    by_hand = 4 * PRICE + (0.5 + 0.1) * (100 + FEE) + 2 * ABANDON * MARGIN * 100
    missing = "evaluate.cost cannot price a challenge"
    found = ask(evaluate.cost, BLOCK, ["challenge"] * 4, otherwise=missing)
    must(
        found == pytest.approx(by_hand),
        f"evaluate.cost of four challenges is {found:.2f}, by hand {by_hand:.2f}: does it read known_device?",
    )


def test_the_price_of_a_review_knows_what_else_could_be_done() -> None:
    """Three in four payments are worth an analyst among three actions, and a challenge among four."""
    n = 8 * config.REVIEWS_A_DAY
    matrix = np.zeros((n, len(NAMES)))
    scores = np.where(np.arange(n) % 4 > 0, 0.1, 1e-6)  # from new devices
    payments = pl.DataFrame({"at": [START] * n, "cents": 60_00, "known_device": False, "weight": 1.0})
    found = train.review_price(train.Block(payments, matrix), scores)
    must(
        found <= config.REVIEW_PRICE + 0.01,
        f"train.review_price asks {found:.2f} EUR for a review that is not wanted: it counts reviews as if there "
        "were no challenge",
    )


def test_golden_samples_hold_the_challenge(tmp_path: Path) -> None:
    matrix, frauds = learnable(2_000, seed=1)
    matrix[:, SAME_DEVICE] = np.arange(2_000) % 2
    artifact = Artifact(fit(matrix, frauds, np.ones(2_000), seed=1), on())
    frame = drift_frame(matrix, artifact.model.scores(matrix))
    artifact.save(tmp_path / "model", matrix=matrix, reference=frame, limits={})
    samples = json.loads((tmp_path / "model" / "golden.json").read_text())
    must("challenge" in {x["action"] for x in samples}, "no golden sample is challenged, so no self-test would see one")
    for sample in samples:
        score, cents = sample["numbers"][0], round(sample["features"][0] * 100)
        said = verdict(score, cents, known=sample["features"][SAME_DEVICE] > 0)
        must(
            sample["action"] == said.action,
            "artifact: golden samples are decided without the device that serving sees in the features",
        )
    must(Artifact.load(tmp_path / "model").policy == on(), "the switch does not come back from the artifact")


# --- labels ------------------------------------------------------------------------------------------


def handled() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Challenged payments, one in four a fraud, and what becomes known of them."""
    n = 800
    numbers = pl.DataFrame({"number": range(n)})
    paid = numbers.select(
        pl.format("card-{}", "number").alias("card"),
        pl.format("tx-{}", "number").alias("id"),
        terminal=pl.lit("t0001"),
        at=pl.lit(START, pl.Int64),
        fraud=pl.col("number") % 4 == 0,
        complaint_after=pl.when(pl.col("number") % 4 == 0).then(pl.lit(3 * DAY, pl.Int64)).otherwise(0),
        known_device=pl.col("number") % 8 == 0,
        action=pl.lit("challenge"),
        probe=pl.lit(False),
    )
    return paid, labels(paid, seed=1)


def test_no_stopped_thief_is_taken_for_a_good_customer() -> None:
    paid, known = handled()
    silent = paid.filter("fraud").join(known.filter("fraud"), on="id", how="anti").height
    must(
        silent == 0,
        f"simulate.labels: {silent} of {paid['fraud'].sum()} challenged frauds get no label, and silence comes to "
        "mean legitimate: the holder must be asked, and say so (source 'holder')",
    )
    for device, share in CATCH.items():
        frauds = known.join(paid.filter("fraud", known_device=device).select("id"), on="id")
        stopped = frauds.filter(source="holder").height / frauds.height
        must(
            abs(stopped - share) < 0.15,
            f"simulate.labels: {stopped:.0%} of frauds from {'known' if device else 'new'} devices fail the "
            f"challenge, not {share:.0%}; the others end in a chargeback",
        )


def test_a_challenged_payment_stands_for_itself() -> None:
    paid, known = handled()
    decisions = paid.select("card", "id", "action", propensity=1.0)
    seen = labelled(paid.drop("fraud", "action"), known.with_columns(kind=pl.lit("label")), decisions)
    must((seen["weight"] == 1).all(), "dataset.labelled: a challenged payment has another weight than 1")
    must(
        (seen["fraud"] == paid["fraud"]).all(),
        "dataset.labelled: once all labels are in, challenged frauds are still taken for legitimate",
    )


def test_the_holder_is_a_source_of_labels() -> None:
    missing = "schema.Label refuses the source 'holder', who answers a challenge with: that was not me"
    ask(Label, card="c", id="1", terminal="t", at=START, fraud=True, source="holder", otherwise=missing)


# --- at work -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bank(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """Two live days, decided by the model that train releases."""
    must("challenge" in get_args(Action), "schema.Action has no 'challenge', so it cannot be decided")
    world: Trained = request.getfixturevalue("world")  # only now, as a bank takes some seconds to learn
    with closing(copied(world, tmp_path_factory.mktemp("step-up") / "var")) as bank:
        bank.send(days(world, 0, 1))
        bank.decide()
        yield bank


@pytest.fixture(scope="module")
def said(bank: Bank) -> list[Decision]:
    decisions = list(bank.decisions().values())
    must(
        any(str(x.action) == "challenge" for x in decisions),
        "the worker challenges no payment in two days: train has to put the switch into the artifact's policy",
    )
    return decisions


def test_the_worker_decides_by_the_device_that_it_sees(said: list[Decision]) -> None:
    for x in said:
        assert x.features is not None
        assert x.probability is not None
        found = {str(action): price for action, price in (x.costs or {}).items()}
        apart = expected(x.probability, x.cents, known=x.features[SAME_DEVICE] > 0)
        must(
            found.get("challenge") == pytest.approx(apart["challenge"]),
            "stream: a decision's cost of a challenge is not that of its own features' card_same_device",
        )


def test_a_challenge_comes_with_reasons_and_takes_no_analyst(bank: Bank, said: list[Decision]) -> None:
    challenged = [x for x in said if str(x.action) == "challenge"]
    must(all(x.reasons for x in challenged), "stream: a challenged customer is told no reason")
    for partition, note in bank.notes().items():
        day, taken = json.loads(note)
        today = [x for x in said if x.partition == partition and x.at // DAY == day]
        reviews = sum(x.action == "review" for x in today)
        must(taken == reviews, f"stream: {taken} analysts' places are taken by {reviews} reviews")


def test_the_days_report_counts_the_challenges(bank: Bank, said: list[Decision], tmp_path: Path) -> None:
    ingest = Ingest(bank.log, bank.lake, member="spec")
    while positions := ingest.step()[0]:
        ingest.consumer.commit([], positions)
    ingest.consumer.close()
    judge = Judge(bank.lake, fetch=lambda *_: tmp_path, pages=tmp_path)
    report, _ = judge.judge(TODAY // DAY, [], Ledger(), paint=False)
    counted = {str(action): count for action, count in report.actions.items()}
    for action in ("approve", "challenge", "review", "decline"):
        today = sum(str(x.action) == action and x.at // DAY == TODAY // DAY for x in said)
        must(
            counted.get(action) == today,
            f"report: the day had {today} decisions to {action}, the report says {counted.get(action)}",
        )


def test_the_api_tells_the_till_what_a_challenge_is(bank: Bank) -> None:
    with closing(SqliteStore(str(bank.var / "store.db"), clock=bank.clock)) as store:
        app = make_app(
            bank.log,
            store,
            clock=bank.clock,
            keys=keys("fraud"),
            pseudonym_key=KEY,
            deciders=lambda: True,
            models=bank.var / "models",
        )
        api = app.openapi()
    action = api["components"]["schemas"]["Decision"]["properties"]["action"]
    must("challenge" in action["enum"], "the OpenAPI's Decision does not list the action 'challenge'")
    must(
        "`challenge`" in api["info"]["description"], "serve.DESCRIPTION does not say what `challenge` asks of the till"
    )
    source = json.dumps(api["components"]["schemas"]["LabelIn"]["properties"]["source"])
    must("holder" in source, "POST /v1/labels refuses the holder's answer: LabelIn.source")
