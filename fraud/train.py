"""Lake -> features -> model -> gate -> registry."""

import json
import logging
import math
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve

from fraud import config, dataset, evaluate
from fraud.artifact import BLOCK, Artifact, block, drift_frame, reference
from fraud.features import DEFINITION, NAMES, fold
from fraud.model import PARAMETERS, TREES, Matrix, Model, ModelCorrupt, Vector, fit
from fraud.policy import Policy, costs, rules
from fraud.schema import Transaction
from shared import drift
from shared.intervals import Interval
from shared.lake import Lake
from shared.registry import Registry, Version
from shared.unusable import Unusable

logger = logging.getLogger(__name__)

Mask = NDArray[np.bool_]  # (payments,)

HISTORY = 84  # days that are learnt from: fraudsters of half a year ago do something else by now
WARM_UP = 30  # days until every window of a card is full
REFERENCE_DAYS = 14  # the fortnight before the labels give out: what the model takes for normal
SHOWN = 5_000  # events a step of the progress bar
CLIP = 10.0  # the largest weight that a payment is learnt with
QUIET_DAYS = 28  # before it: how far apart normal days are


FACTS: dict[str, type[pl.DataType]] = {
    "partition": pl.Int64,
    "card": pl.String,
    "id": pl.String,
    "at": pl.Int64,
    "cents": pl.Int64,
    "probe": pl.Boolean,
}


class NotEnough(Unusable):
    """The lake does not hold enough to learn from; says what is missing."""


class Candidate(NamedTuple):
    """A registered version with what the gate says of it."""

    version: Version
    refused: str  # why it may not be released; empty if it may


class Block(NamedTuple):
    payments: pl.DataFrame  # n rows
    matrix: Matrix  # (n, features)

    def where(self, mask: Mask) -> "Block":
        return Block(self.payments.filter(pl.Series(mask)), self.matrix[mask])

    @property
    def frauds(self) -> Vector:
        return self.payments["fraud"].to_numpy().astype(np.float64)

    @property
    def weights(self) -> Vector:
        return self.payments["weight"].to_numpy()

    @property
    def learning_weights(self) -> Vector:
        """Clipped: what was hidden was chosen by features that the model has, so its probabilities need no exact
        weights, and one payment with the weight of a hundred would bend them. Costs are estimated with the full ones.
        """
        return np.minimum(self.weights, CLIP)


def train(
    lake: Lake,
    registry: Registry,
    *,
    as_of: int,
    seed: int,
    champion: Path | None,
    progress: Callable[[int], None] = lambda _: None,
) -> Candidate:
    """Learn from all that was known at `as_of`, register the result, and let the gate judge it.

    `champion`: the folder of what it has to beat, on the same payments. One that this code cannot use (it has other
    features) decides nothing now, so then there are only the rules to beat. `progress` is told of every so many
    events that have been folded.

    Raises:
        NotEnough: too short a history, or no fraud in it.
    """
    since = as_of - HISTORY * config.DAY
    rows = dataset.events(lake, since=since, as_of=as_of)
    if rows.is_empty():
        raise NotEnough(f"no events from {dataset.day_of(since)} to {dataset.day_of(as_of)} in the lake: ingest some")
    known = folded(rows, dataset.decisions(lake, since=dataset.day_of(since)), progress)
    at = known.payments["at"].to_numpy()
    split = dataset.split(as_of)
    # Cut off in mid-history, a card's first month has windows that serving would have filled.
    begun = lake.dates("events")
    whole = since + WARM_UP * config.DAY if begun and begun[0] < dataset.day_of(since) else 0
    kept = dataset.kept(known.payments["card"])
    fitting = (at >= whole) & (at < split.fit_until) & (known.weights > 0)
    learnt, older = known.where(fitting & ~kept), known.where(fitting & kept)
    later = known.where((at >= split.fit_until) & (at < split.judge_until) & (known.weights > 0))
    one_half = dataset.halves(later.payments["card"])
    tuning, judging = later.where(one_half), later.where(~one_half)
    for purpose, part in {"to learn from": learnt, "to calibrate on": tuning, "to judge on": judging}.items():
        if part.payments.height < 1_000 or part.frauds.sum() < 5:
            counted = f"{part.payments.height} payments with {part.frauds.sum():.0f} known frauds"
            raise NotEnough(f"{counted} {purpose}; 1,000 and 5 are needed: ingest more, or wait for labels")

    model = fit(learnt.matrix, learnt.frauds, learnt.learning_weights, seed=seed)
    model = model.calibrated(tuning.matrix, tuning.frauds, tuning.learning_weights)
    artifact = Artifact(model, Policy(review_price=review_price(tuning, model.scores(tuning.matrix))))
    try:
        rival = None if champion is None else Artifact.load(champion)
    except ModelCorrupt as error:
        logger.warning("judged against the rules alone: %s", error)
        champion = rival = None
    owed = 0.0 if champion is None else debt(champion)
    figures, refused = verdict(artifact, rival, judging=judging, older=older, debt=owed, seed=seed)
    figures["fitted_on"] = float(learnt.payments.height)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        usual, quiet = normal(known, model, until=split.judge_until)
        artifact.save(folder, matrix=judging.matrix, reference=usual, limits=inherited(champion, quiet))
        plots(folder / "plots", model, judging)
        (folder / "figures.json").write_text(json.dumps(figures, indent=1))
        version = registry.register(
            folder,
            params=PARAMETERS | {"trees": TREES, "seed": seed} | artifact.policy._asdict(),
            figures=figures,
            tags={
                "data": dataset.version(rows, known.payments),
                "definition": DEFINITION,
                "as_of": str(as_of),
                "gate": refused or "passed",
            },
        )
    return Candidate(version, refused)


def verdict(
    artifact: Artifact, champion: Artifact | None, *, judging: Block, older: Block, debt: float, seed: int
) -> tuple[dict[str, float], str]:
    """The figures of a challenger on the newest payments, its rivals' beside them, and what the gate says."""
    judged = evaluate.judge(judging.payments, *artifact, matrix=judging.matrix)
    baseline = [rules(*row)[0] for row in zip(judging.payments["cents"], judging.matrix.tolist(), strict=True)]
    before = evaluate.paid(judging.payments, baseline)
    gains = evaluate.Gains(evaluate.gain(judging.payments, before, judged.costs, seed=seed))
    figures = judged.figures | {"rules_cost_per_1000": 1_000 * math.fsum(before) / float(judging.weights.sum())}
    if champion is not None:
        theirs = evaluate.judge(judging.payments, *champion, matrix=judging.matrix)
        gains = gains._replace(
            champion=evaluate.gain(judging.payments, theirs.costs, judged.costs, seed=seed, level=evaluate.STRICT),
            older=kept_of(champion, artifact, older, seed=seed),
            debt=debt,
        )
        figures |= {f"champion_{name}": value for name, value in theirs.figures.items()}
    return figures | gains.figures(), evaluate.gate(judged.figures, gains)


def kept_of(champion: Artifact, challenger: Artifact, older: Block, *, seed: int) -> Interval:
    """What a challenger saves beyond the champion on older payments, as a share of what that one saves there."""
    before, after = (
        evaluate.paid(older.payments, evaluate.act(older.payments, scores, each.policy, share=1 / dataset.KEPT))
        for each in (champion, challenger)
        for scores in [each.model.scores(older.matrix).tolist()]
    )
    gained = evaluate.gain(older.payments, before, after, seed=seed)
    nothing_done = evaluate.cost(older.payments, ["approve"] * older.payments.height)
    saved = max(1.0, nothing_done - math.fsum(before))  # who saves nothing may be replaced by what is surely better
    return Interval(*(bound / saved for bound in gained))


def debt(champion: Path) -> float:
    """What the champion and those before it have lost on older payments; of one released by force, nothing is known."""
    try:
        return float(json.loads((champion / "figures.json").read_text()).get("older_debt", 0.0))
    except FileNotFoundError:
        return 0.0


def folded(rows: pl.DataFrame, decisions: pl.DataFrame, progress: Callable[[int], None] = lambda _: None) -> Block:
    """Every payment of the lake with its features and what is known of it; without the late ones, which have none."""
    values = array("d")
    columns: dict[str, list[object]] = {name: [] for name in FACTS}
    for count, (partition, event, vector) in enumerate(fold(dataset.streams(rows)), start=1):
        if count % SHOWN == 0:
            progress(SHOWN)
        if isinstance(event, Transaction) and vector is not None:
            values.extend(vector)
            facts = (partition, event.card, event.id, event.at, event.cents, event.probe)
            for column, fact in zip(columns.values(), facts, strict=True):
                column.append(fact)
    payments = pl.DataFrame(columns, schema=FACTS)
    return Block(dataset.labelled(payments, rows, decisions), np.frombuffer(values).reshape(-1, len(NAMES)))


def review_price(block: Block, scores: Vector) -> float:
    """The price of a review at which the block's mean day just fills the analysts' day, EUR."""
    # [1.2] Capacity is a fact, so the price follows it: where the analysts have time, a review costs
    # their minutes; where they have not, it costs what the next payment in the queue would have saved.
    days = (block.payments["at"] // config.DAY).n_unique()
    wanted = config.REVIEWS_A_DAY / 2 * days  # the block holds half of the cards
    cents = block.payments["cents"].to_list()

    def fits(price: int) -> bool:
        every = [
            costs(score, amount, Policy(price / 100)) for score, amount in zip(scores.tolist(), cents, strict=True)
        ]
        asked = [cost["review"] < min(cost["approve"], cost["decline"]) for cost in every]
        return float(block.weights @ asked) <= wanted  # what passed at random stands for what was declined, here too

    lowest = round(100 * config.REVIEW_PRICE)
    return (lowest + bisect_left(range(lowest, 200_00), True, key=fits)) / 100


def normal(known: Block, model: Model, *, until: int) -> tuple[pl.DataFrame, dict[str, float]]:
    """The reference of drift, and the limits that the quiet days before it suggest."""
    payments = known.payments.with_row_index("row").filter(~pl.col("probe") & (pl.col("at") < until))
    recent = payments.filter(pl.col("at") >= until - REFERENCE_DAYS * config.DAY)
    usual = _watched(known.matrix[recent["row"].to_numpy()], model)
    by_weekday = {day: drift.Reference.of(part.drop("weekday")) for (day,), part in usual.group_by("weekday")}
    earliest = until - (REFERENCE_DAYS + QUIET_DAYS) * config.DAY
    quiet = payments.filter(pl.col("at").is_between(earliest, until - REFERENCE_DAYS * config.DAY, closed="left"))
    distances = []
    for _, day in quiet.group_by(pl.col("at") // config.DAY, maintain_order=True):
        rows = _watched(known.matrix[block(day)["row"].to_numpy()], model)
        if (same_weekday := by_weekday.get(rows["weekday"][0])) is not None:  # the shop may have been closed
            distances.append(same_weekday.distances(rows.drop("weekday"), block=BLOCK))
    # Too short a history does not know what is normal, so nothing is called drift.
    return usual, drift.thresholds(distances) if len(distances) > 1 else {}


def _watched(matrix: Matrix, model: Model) -> pl.DataFrame:
    return drift_frame(matrix, model.scores(matrix))


def inherited(champion: Path | None, quiet: dict[str, float]) -> dict[str, float]:
    """The champion's limits where it has any: a history with a change of tactics in it has no quiet days to set
    them on. Not the score's: another model's moves in its own way.
    """
    limits = {} if champion is None else reference(champion)[1]
    return limits | {"score": max(limits["score"], quiet.get("score", 0.0))} if limits else quiet


def plots(folder: Path, model: Model, block: Block) -> None:
    """Precision against recall, calibration, and importances, for MLflow's page of the run."""
    folder.mkdir()
    scores = model.scores(block.matrix)
    precision, recall, _ = precision_recall_curve(block.frauds, scores, sample_weight=block.weights)
    observed, predicted = calibration_curve(block.frauds, scores, n_bins=10, strategy="quantile")
    importances = list(model.importances().items())[:15][::-1]
    for name, labels, curve in (
        ("precision_recall", ("recall", "precision"), (recall, precision)),
        ("calibration", ("predicted", "observed"), (predicted, observed)),
    ):
        figure = Figure(figsize=(5, 4), layout="constrained")
        axes = figure.add_subplot(xlabel=labels[0], ylabel=labels[1])
        axes.plot(*curve)
        figure.savefig(folder / f"{name}.png")
    figure = Figure(figsize=(6, 5), layout="constrained")
    figure.add_subplot(xlabel="loss saved").barh(*zip(*importances, strict=True))
    figure.savefig(folder / "importances.png")
