"""The features a second time, from their definition: whole columns instead of one event after the other.

Shares nothing with `fraud.windows`, `fraud.terminals` and `fraud.order`: who counts for whom is a
matrix of yes and no here, (payments, payments of the same card) or (payments, hours of the terminal).
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraud.config import (
    ALLOWED_LATENESS,
    BOOK_LAG,
    CARD_WINDOWS,
    DAY,
    HABIT,
    HOUR,
    LARGE,
    PARTITIONS,
    TERMINAL_WINDOWS,
)
from fraud.features import NAMES

Ints = NDArray[np.int64]  # (n,)
Columns = dict[str, NDArray[np.int64] | NDArray[np.float64]]
NEVER = np.iinfo(np.int64).max


def oracle(rows: pl.DataFrame) -> tuple[pl.DataFrame, NDArray[np.float64]]:
    """Rows of `fraud.events` by partition and offset -> its payments, and their features (n, 36); NaN: too late."""
    rows = rows.with_columns(place=pl.int_range(pl.len()))
    paid, moves = pl.col("kind") == "payment", ~pl.col("probe").fill_null(False)
    rows = rows.with_columns(
        after=pl.when(moves).then(pl.min_horizontal("at", _appended(rows))).otherwise(0).cum_max().over("partition")
    )
    before = pl.col("after").shift(1, fill_value=0).over("partition")
    rows = rows.with_columns(late=paid & (pl.col("at") < before - ALLOWED_LATENESS), open=pl.col("after") // HOUR)
    verdicts = _verdicts(rows)
    payments = rows.filter(paid)
    timely = payments.filter(~pl.col("late"))
    codes = timely.with_columns(pl.col("device", "country").fill_null("").rank("dense").cast(pl.Int64))
    found = {name: np.zeros(timely.height) for name in NAMES}
    for columns, key in ((_card_columns, "card"), (_terminal_columns, "terminal")):
        known = verdicts.partition_by(key, as_dict=True)
        for (name,), group in codes.with_row_index("row").partition_by(key, as_dict=True).items():
            for feature, values in columns(group, known.get((name,), verdicts.clear())).items():
                found[feature][group["row"].to_numpy()] = values
    matrix = np.full((payments.height, len(NAMES)), np.nan)
    matrix[~payments["late"].to_numpy()] = np.column_stack([found[name] for name in NAMES])
    return payments, matrix


def _appended(rows: pl.DataFrame) -> pl.Expr:
    """When the log took a row; null for one that came by file, which moves time by its own."""
    return pl.col("appended") if "appended" in rows.columns else pl.lit(None, pl.Int64)


def _verdicts(rows: pl.DataFrame) -> pl.DataFrame:
    """Labels that say something new, with `change` (+1 fraud, -1 it was none), and `until` the next does."""
    labels = rows.filter(kind="label")
    said = pl.col("fraud").cast(pl.Int64)
    identity = ("card", "id")
    changes = labels.with_columns(change=said - said.shift(1, fill_value=0).over(identity)).filter(
        pl.col("change") != 0
    )
    return changes.with_columns(until=pl.col("place").shift(-1, fill_value=NEVER).over(identity))


def _card_columns(payments: pl.DataFrame, verdicts: pl.DataFrame) -> Columns:
    at, cents, device, country, place = (
        payments[name].to_numpy() for name in ("at", "cents", "device", "country", "place")
    )
    order = np.argsort(at, kind="stable")  # the past by (time, arrival): columns of every matrix
    age = at[:, None] - at[order]
    came = (order < np.arange(len(at))[:, None]) & (age >= 0)
    inside = [came & (age < window) for window in CARD_WINDOWS.values()]
    day, week, month = inside[2:]
    counts = [mask.sum(1) for mask in inside]
    sums = [np.where(mask, cents[order], 0).sum(1) for mask in inside]
    habit = month & (month[:, ::-1].cumsum(1)[:, ::-1] <= HABIT)
    size = habit.sum(1)
    by_amount = np.sort(np.where(habit, cents[order], NEVER), axis=1)
    median = np.where(size > 0, by_amount[np.arange(len(at)), size // 2], 0)
    maximum = np.where(habit, cents[order], 0).max(1)
    unusual = ((median > 0) & (cents > LARGE * median))[order]
    same_device = (habit & (device[order] == device[:, None])).sum(1)
    same_country = (habit & (country[order] == country[:, None])).sum(1)

    frauds = verdicts.filter(pl.col("change") > 0)
    begin, until = frauds["place"].to_numpy(), frauds["until"].to_numpy()
    aged = at[:, None] - frauds["at"].to_numpy()
    known = (begin < place[:, None]) & (place[:, None] < until) & (aged >= 0) & (aged < CARD_WINDOWS["30d"])
    return {
        "amount": cents / 100,
        "hour": at % DAY // HOUR,
        "weekday": payments.select(pl.from_epoch("at").dt.weekday() - 1).to_series().to_numpy(),
        **{f"card_payments_{name}": count for name, count in zip(CARD_WINDOWS, counts, strict=True)},
        **{f"card_amount_{name}": total / 100 for name, total in zip(CARD_WINDOWS, sums, strict=True)},
        "amount_over_mean_7d": _ratio(cents * counts[3], sums[3]),
        "amount_over_mean_30d": _ratio(cents * counts[4], sums[4]),
        "amount_over_median": _ratio(cents, median),
        "amount_over_maximum": _ratio(cents, maximum),
        "card_large_1d": (day & unusual).sum(1),
        "card_large_7d": (week & unusual).sum(1),
        "card_since_payment": _smallest(age, month),
        "card_same_device": same_device,
        "card_same_country": same_country,
        "card_new_device": (same_device == 0) & (counts[4] > 0),
        "card_new_country": (same_country == 0) & (counts[4] > 0),
        "card_frauds_30d": known.sum(1),
        "card_since_fraud": _smallest(aged, known),
    }


def _terminal_columns(payments: pl.DataFrame, verdicts: pl.DataFrame) -> Columns:
    """By hour: a payment and a verdict count in the hour that was open in their partition when they came."""
    counted = payments.filter(~pl.col("probe")).select("open", paid=1, known=0)
    told = verdicts.select("open", paid=0, known="change")
    hours = pl.concat([counted, told], how="vertical_relaxed").group_by("open").sum()
    hour, paid, known = (hours[name].to_numpy().astype(np.int64) for name in ("open", "paid", "known"))
    # Hour 0 has ended at 1:00, and may be used once the lag has passed since then.
    age = (payments["at"].to_numpy() - (BOOK_LAG + 1) * HOUR)[:, None] // HOUR - hour
    inside = {name: (age >= 0) & (age < window) for name, window in TERMINAL_WINDOWS.items()}
    visits = {name: np.where(mask, paid, 0).sum(1) for name, mask in inside.items()}
    # What was taken back counts against what it was taken back from only while both lie in the window.
    frauds = {name: np.maximum(0, np.where(mask, known, 0).sum(1)) for name, mask in inside.items()}
    since = _smallest(age, inside["28d"] & (known > 0))
    return {
        **{f"terminal_payments_{name}": visits[name] for name in inside},
        **{f"terminal_frauds_{name}": frauds[name] for name in inside},
        **{f"terminal_risk_{name}": _ratio(frauds[name], visits[name]) for name in inside},
        "terminal_since_fraud": np.where(frauds["28d"] > 0, since, -1),
    }


def _ratio(above: Ints, below: Ints) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.zeros(len(above)), where=below != 0)


def _smallest(values: Ints, mask: NDArray[np.bool_]) -> Ints:
    """(n, m) -> (n,); -1 where there is none."""
    least = np.where(mask, values, NEVER).min(1, initial=NEVER)
    return np.where(least == NEVER, -1, least)


def differences(payments: pl.DataFrame, got: NDArray[np.float64], expected: NDArray[np.float64]) -> list[str]:
    """Every cell that is not the same number, in words; NaN is the same as NaN."""
    unlike = (got != expected) & ~(np.isnan(got) & np.isnan(expected))
    return [
        f"{NAMES[column]} of payment {payments['id'][row]} (partition {payments['partition'][row]}, "
        f"offset {payments['offset'][row]}): {got[row, column]!r}, by definition {expected[row, column]!r}"
        for row, column in np.argwhere(unlike)[:10].tolist()
    ] + ([f"{unlike.sum()} in all"] if unlike.any() else [])


def by_place(vectors: list[list[list[float] | None]]) -> NDArray[np.float64]:
    """Features by partition, in order of offsets -> (n, 36), as the oracle has them."""
    assert len(vectors) == PARTITIONS
    missing = [np.nan] * len(NAMES)
    return np.array([vector or missing for partition in vectors for vector in partition], dtype=np.float64)
