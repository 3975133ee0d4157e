"""The closing report of a demo or replay: money, quality of the decisions, latency and failed requests."""

from typing import NamedTuple

import numpy as np
import polars as pl
from sklearn.metrics import precision_score, recall_score

from fraud import config, dataset
from fraud.evaluate import cost, meant
from fraud.live import Live
from fraud.probes import Answers
from fraud.schema import Action
from shared.lake import Lake

Table = tuple[list[str], list[list[str]]]


class Money(NamedTuple):
    """Costs of the same payments, EUR."""

    nothing: float  # everything approved
    rules: float
    system: float

    @property
    def ratio(self) -> float | None:
        """What the system saved over what the rules would have saved; None if they save nothing."""
        return None if self.rules >= self.nothing else (self.nothing - self.system) / (self.nothing - self.rules)

    def table(self, known: "Money") -> Table:
        names = ("approve everything", "rules only", "this system")
        columns = ["", "cost, by truth", "saved", "cost, by labels", "saved"]
        costs = zip(
            names, (self.nothing, self.rules, self.system), (known.nothing, known.rules, known.system), strict=True
        )
        rows = [
            [name, f"{truth:,.0f}", f"{self.nothing - truth:,.0f}", f"{label:,.0f}", f"{known.nothing - label:,.0f}"]
            for name, truth, label in costs
        ]
        ratios = [f"{ratio:.2f}" if ratio is not None else "none" for ratio in (self.ratio, known.ratio)]
        return columns, [*rows, ["saved, system over rules", "", ratios[0], "", ratios[1]]]


def money(decided: pl.DataFrame, lake: Lake, *, end: int) -> tuple[Money, Money]:
    """By the simulator's truth; and as the bank can know it at `end`, by matured labels.

    The labels' column weighs what was let through at random for all that was declined like it, so it
    is noisy where the truth is not.
    """
    truth = decided.with_columns(weight=pl.lit(1.0))
    made = dataset.decisions(lake).filter(~pl.col("probe")).unique(["card", "id"], keep="first", maintain_order=True)
    matured = made.filter(pl.col("at") < end - config.MATURITY)
    known = dataset.labelled(matured.drop("action", "propensity"), dataset.events(lake, as_of=end), made)
    return _money(truth), _money(known.with_columns(action=pl.Series(meant(known), dtype=pl.String)))


def _money(payments: pl.DataFrame) -> Money:
    approve: list[Action] = ["approve"] * payments.height
    return Money(
        cost(payments, approve), cost(payments, list(payments["rules"])), cost(payments, list(payments["action"]))
    )


def precision_recall(decided: pl.DataFrame, who: str) -> list[float]:
    """Of what was stopped (review or decline), by truth; `who`: the column `action` or `rules`."""
    stopped = decided[who] != "approve"
    return [float(score(decided["fraud"], stopped, zero_division=0.0)) for score in (precision_score, recall_score)]


def quality(decided: pl.DataFrame, *, attack: int) -> Table:
    """Precision and recall of what was stopped, before the attack and from then on, beside the rules."""
    rows = []
    periods = {
        "before the attack": pl.col("at") < attack * config.DAY,
        "from the attack on": pl.col("at") >= attack * config.DAY,
    }
    for period, during in periods.items():
        part = decided.filter(during)
        for who, column in (("system", "action"), ("rules", "rules")):
            shares = [
                f"{part[column].to_list().count(action) / max(1, part.height):.2%}" for action in ("review", "decline")
            ]
            rows.append([f"{period}, {who}", *(f"{score:.2f}" for score in precision_recall(part, column)), *shares])
    return ["", "precision", "recall", "reviewed", "declined"], rows


def latency(answers: Answers) -> tuple[float, float]:
    """p50 and p99, ms."""
    p50, p99 = (1_000 * float(np.quantile(answers.latencies or [0.0], share)) for share in (0.5, 0.99))
    return p50, p99


def service(live: Live, answers: Answers) -> Table:
    """Throughput, latency from the intended moment, and who decided."""
    p50, p99 = latency(answers)
    rows = [
        ["events by topic, a second", f"{live.throughput:,.0f}"],
        ["HTTP requests", f"{len(answers.latencies):,}"],
        ["without a decision", "; ".join([f"{len(answers.failures)}", *answers.failures[:1]])],
        ["p50, p99 beside the bulk, ms", f"{p50:.0f}, {p99:.0f}"],
        ["decided by", ", ".join(f"{path} {count:,}" for path, count in sorted(answers.paths.items()))],
        ["releases", ", ".join(f"{release.action} {release.version}" for release in live.releases)],
    ]
    return ["", "value"], rows
