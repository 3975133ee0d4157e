"""What is counted, shed, drawn and told."""

from collections import Counter
from collections.abc import Iterable
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import betabinom

from sentiment import config
from sentiment.config import BIN, HOUR
from sentiment.policy import FALL_LIMIT, Cusum, Load, Policy, decide, drawn, fallen, rise

KEY = b"a key for tests, 32 bytes long.."


def test_the_most_probable_label_counts_if_it_is_probable_enough() -> None:
    assert decide((0.2, 0.3, 0.5), Policy()) == ("positive", None)
    assert decide((0.34, 0.33, 0.33), Policy()) == (None, "unsure")
    assert decide((0.34, 0.33, 0.33), Policy(sure=0.0)) == ("negative", None)
    assert decide((0.25, 0.25, 0.5), Policy(sure=0.5)) == ("positive", None)


def test_the_path_changes_with_hysteresis() -> None:
    load = Load()
    between = (config.SHED_ABOVE + config.SHED_BELOW) // 2
    above, below = config.SHED_ABOVE, config.SHED_BELOW
    lags = (0, between, above, above + 1, between, below, below - 1, between)
    assert [load.choose(lag) for lag in lags] == [*["transformer"] * 3, *["linear"] * 3, *["transformer"] * 2]


def draw(names: Iterable[str], *, of: str = "northair 1", most: int = 60, secret: bytes = KEY) -> list[str]:
    return drawn(names, of=of, most=most, secret=secret)


def test_the_draw_is_the_same_each_time_and_favours_no_name() -> None:
    names = [f"text-{n}" for n in range(300)]
    once = draw(names)
    assert once == draw([*reversed(names), *names])
    assert len(set(once)) == 60
    assert set(draw(names[:7])) == set(names[:7]), "of few it is all"
    for other in (draw(names, of="northair 2"), draw(names, secret=b"another key")):
        assert 2 <= len({*once} & {*other}) <= 30, "another day or key is another draw: twelve alike by chance"
    counts = Counter(name for day in range(500) for name in draw(names, of=f"northair {day}"))
    assert 60 <= min(counts.values()) <= max(counts.values()) <= 145, "each a hundred times, but for chance"


USUAL = {"usual": 0.3, "together": 0.03}


def test_a_rise_is_told_within_hours_and_a_fall_never() -> None:
    rng, test = np.random.default_rng(1), Cusum()
    quiet = [test.add(n * BIN, int(rng.binomial(8, 0.3)), 8, **USUAL) for n in range(2_000)]
    assert sum(quiet) <= 1
    rising = Cusum()
    told = [rising.add(n * BIN, int(rng.binomial(8, 0.75)), 8, **USUAL) for n in range(30)]
    assert True in told[:12]
    falling = Cusum()
    assert not any(falling.add(n * BIN, int(rng.binomial(8, 0.05)), 8, **USUAL) for n in range(2_000))


def test_one_thread_is_no_crisis_and_an_empty_bin_is_nothing() -> None:
    test = Cusum()
    assert not test.add(0, 20, 25, **USUAL)
    before = test.sum
    assert before > 0
    assert not test.add(BIN, 0, 0, **USUAL)
    assert test.sum == before


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=12))
def test_the_evidence_of_an_hour_hangs_on_its_counts_alone(said: list[tuple[int, int]]) -> None:
    """And not on the bins that it comes in, but for the floor at zero."""
    negative, others = sum(k for k, _ in said), sum(m for _, m in said)
    test, path = Cusum(), [0.0]
    had, of = 0, 0
    for number, (k, m) in enumerate(said):
        test.add(number * BIN, k, k + m, **USUAL)
        had, of = had + k, of + k + m
        path.append(rise(had, of, **USUAL))
    assert path[-1] == pytest.approx(rise(negative, negative + others, **USUAL))
    if max(path) - min(path) < Cusum.LIMIT:
        assert test.sum == pytest.approx(path[-1] - min(path), abs=1e-6)


def shares(usual: float) -> tuple[float, float]:
    """The usual share of negatives, and one that has risen by 1 in log-odds."""
    return usual, float(expit(logit(usual) + 1.0))


def by_scipy(negative: int, opinions: int, *, usual: float, together: float) -> float:
    whole = 1 / together - 1
    calm, risen = (betabinom.logpmf(negative, opinions, p * whole, (1 - p) * whole) for p in shares(usual))
    return float(risen - calm)


@pytest.mark.parametrize(("told", "held"), [(0.3, 0.3), (0.0, 0.02), (0.02, 0.02), (1.0, 0.98), (0.98, 0.98)])
@pytest.mark.parametrize("together", [0.01, 0.2])
def test_the_evidence_is_the_likelihood_ratio_of_two_beta_binomials(told: float, held: float, together: float) -> None:
    for negative, opinions in ((0, 0), (0, 7), (3, 7), (7, 7), (40, 90)):
        ours = rise(negative, opinions, usual=told, together=together)
        assert ours == pytest.approx(by_scipy(negative, opinions, usual=held, together=together), abs=1e-9)


@pytest.mark.parametrize("falls", [False, True])
def test_a_cusum_by_hand(falls: bool) -> None:
    """Bins of a quarter of an hour: the evidence of each hour is that of all its opinions so far."""
    rng, test = np.random.default_rng(5), Cusum(falls=falls)
    assert (test.sum, test.since) == (0.0, 0)
    total, since, hours, alarms = 0.0, 0, dict[int, tuple[int, int]](), 0
    for number in range(2, 400):
        if number % 12 == 0:  # nothing was said
            continue
        start = number * HOUR // 4
        negative = int(rng.binomial(12, 0.1 if (number // 60) % 2 == falls else 0.7))
        before = hours.get(start // HOUR, (0, 0))
        after = hours[start // HOUR] = before[0] + negative, before[1] + 12
        since = start if total == 0 else since
        added = by_scipy(after[0], after[1], **USUAL) - by_scipy(before[0], before[1], **USUAL)
        total = max(0.0, total + (-added if falls else added))
        told = total > 5.75
        assert test.add(start, negative, 12, **USUAL) is told
        total = 0.0 if told else total
        alarms += told
        assert test.sum == pytest.approx(total, abs=1e-9)
        assert test.since == since
    assert alarms > 3


def test_a_sum_that_reaches_the_limit_is_not_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Cusum()
    first.add(0, 9, 12, **USUAL)
    monkeypatch.setattr(Cusum, "LIMIT", first.sum)
    assert not Cusum().add(0, 9, 12, **USUAL)
    monkeypatch.setattr(Cusum, "LIMIT", first.sum - 1e-9)
    assert Cusum().add(0, 9, 12, **USUAL)


def test_the_evidence_of_audits_by_hand() -> None:
    audited, promised = {"negative": (3, 2), "none": (0, 9)}, {"negative": 0.75}
    expected = 3 * log(0.69 / 0.75) + 2 * log(0.31 / 0.25)
    assert fallen(1.0, audited, promised) == pytest.approx(1.0 + expected)
    assert fallen(0.0, {"negative": (9, 0)}, promised) == 0.0
    assert fallen(0.0, {}, promised) == 0.0


@pytest.mark.parametrize(("promised", "held"), [(0.0, 0.07), (0.07, 0.07), (0.99, 0.99), (1.0, 0.99)])
def test_a_recall_that_was_promised_leaves_room_for_a_fall(promised: float, held: float) -> None:
    expected = 2 * log((held - 0.06) / held) + 50 * log((1 - held + 0.06) / (1 - held))
    assert fallen(9.0, {"negative": (2, 50)}, {"negative": promised}) == pytest.approx(9.0 + expected)


PROMISED = {"negative": 0.75, "neutral": 0.6, "positive": 0.8}


def days_to_fall(audits: int, *, lost: float, most: int, seed: int) -> int | None:
    """Until a version that is worse by `lost` is called so, at so many audits a day; labels' shares change daily."""
    rng, evidence = np.random.default_rng(seed), 0.0
    for day in range(most):
        counts = rng.multinomial(audits, rng.dirichlet((4, 4, 4)))
        right = rng.binomial(counts, np.array(list(PROMISED.values())) - lost)
        told = {label: (int(r), int(n - r)) for label, r, n in zip(PROMISED, right, counts, strict=True)}
        evidence = fallen(evidence, told, PROMISED)
        if evidence > FALL_LIMIT:
            return day + 1
    return None


@pytest.mark.parametrize("audits", [5, 60, 300])
def test_quality_that_is_as_promised_is_called_fallen_once_a_year_at_most(audits: int) -> None:
    called = [days_to_fall(audits, lost=0.0, most=100, seed=seed) is not None for seed in range(50)]
    assert sum(called) <= 50 * 100 / 365


@pytest.mark.parametrize(("audits", "lost", "days"), [(60, 0.15, 6), (300, 0.15, 2), (300, 0.06, 9)])
def test_a_fall_of_quality_is_told_within_days(audits: int, lost: float, days: int) -> None:
    took = [days_to_fall(audits, lost=lost, most=60, seed=seed) or 60 for seed in range(50)]
    assert np.median(took) <= days
