"""How often the gate lets through what is no better, on costs as a bank has them: large, rare, by the card."""

import itertools

import numpy as np
import polars as pl
import pytest

from fraud import dataset, evaluate
from fraud.artifact import Artifact
from fraud.config import DAY
from fraud.evaluate import Gains
from fraud.history import as_events
from fraud.model import Vector, fit
from fraud.policy import Policy
from fraud.simulate import labels, simulate
from fraud.train import Block, folded, kept_of, review_price
from shared.intervals import Interval
from tests.worlds import KEY, START

DAYS, TRIALS = 63, 200
SURE = Interval(1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def blocks() -> tuple[Block, Block, Block, Block]:
    """A bank as large as the demo's: what is learnt, tuned and judged, and what is kept of older payments."""
    world = simulate(seed=7, start=START, days=DAYS, cards=4_000)
    known = labels(world.with_columns(action=pl.lit("approve")), seed=7).filter(pl.col("at") < START + DAYS * DAY)
    whole = folded(as_events(world, known, key=KEY, ticks=(START, START + DAYS * DAY)), pl.DataFrame())
    split = dataset.split(START + DAYS * DAY)
    at, kept = whole.payments["at"].to_numpy(), dataset.kept(whole.payments["card"])
    half = dataset.halves(whole.payments["card"])
    newest = (at >= split.fit_until) & (at < split.judge_until)
    fitting = at < split.fit_until
    return (
        whole.where(fitting & ~kept),
        whole.where(newest & half),
        whole.where(newest & ~half),
        whole.where(fitting & kept),
    )


@pytest.fixture(scope="module")
def equals(blocks: tuple[Block, Block, Block, Block]) -> list[Artifact]:
    """Versions of which none is better: each has learnt nine tenths of the same payments."""
    learnt, tuning, *_ = blocks
    made = []
    for seed in range(4):
        part = learnt.where(np.random.default_rng(seed).random(learnt.payments.height) < 0.9)
        model = fit(part.matrix, part.frauds, part.weights, seed=1).calibrated(
            tuning.matrix, tuning.frauds, tuning.weights
        )
        made.append(Artifact(model, Policy(review_price(tuning, model.scores(tuning.matrix)))))
    return made


def exchanged(cards: pl.Series, costs: tuple[Vector, Vector], rng: np.random.Generator) -> tuple[Vector, Vector]:
    """Two versions' costs, card by card given to either: now neither can be better."""
    number = cards.rank("dense").to_numpy().astype(int) - 1
    swap = (rng.random(number.max() + 1) < 0.5)[number]
    return np.where(swap, costs[1], costs[0]), np.where(swap, costs[0], costs[1])


@pytest.mark.slow
def test_of_200_equals_at_most_5_in_100_pass(blocks: tuple[Block, Block, Block, Block], equals: list[Artifact]) -> None:
    *_, judging, older = blocks
    costs = [evaluate.judge(judging.payments, *each, matrix=judging.matrix).costs for each in equals]
    pairs, passed = list(itertools.combinations(range(len(equals)), 2)), 0
    for trial in range(TRIALS):
        rng = np.random.default_rng(trial)
        one, other = pairs[trial % len(pairs)]
        before, after = exchanged(judging.payments["card"], (costs[one], costs[other]), rng)
        gained = evaluate.gain(judging.payments, before, after, seed=trial, level=evaluate.STRICT)
        gains = Gains(SURE, gained, Interval(0.0, 0.0, 0.0))
        passed += evaluate.gate({}, gains) == ""
    assert passed <= 0.05 * TRIALS
    # Nor does what is kept of older payments refuse them all: there they have to lose nothing, not to be better.
    lows = [kept_of(equals[one], equals[other], older, seed=1).low for one, other in pairs]
    assert sum(low > -evaluate.LOSS for low in lows) > len(lows) / 2
