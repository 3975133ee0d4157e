"""What is counted, shed, drawn and told."""

import numpy as np
import pytest

from sentiment import config
from sentiment.policy import Cusum, Load, Policy, decide, drawn

KEY = b"a key for tests, 32 bytes long.."


def test_the_most_probable_label_counts_if_it_is_probable_enough() -> None:
    assert decide((0.2, 0.3, 0.5), Policy()) == ("positive", None)
    assert decide((0.34, 0.33, 0.33), Policy()) == (None, "unsure")
    assert decide((0.34, 0.33, 0.33), Policy(sure=0.0)) == ("negative", None)


def test_the_path_changes_with_hysteresis() -> None:
    load = Load()
    between = (config.SHED_ABOVE + config.SHED_BELOW) // 2
    lags = (0, between, config.SHED_ABOVE + 1, between, config.SHED_BELOW - 1, between)
    assert [load.choose(lag) for lag in lags] == [
        *("transformer", "transformer", "linear", "linear", "transformer", "transformer")
    ]


def test_the_draw_is_the_same_for_the_same_post_and_has_the_rate_it_says() -> None:
    draws = [drawn(f"post-{n}", KEY) for n in range(20_000)]
    assert draws[:50] == [drawn(f"post-{n}", KEY) for n in range(50)]
    share = sum(draw is not None for draw in draws) / len(draws)
    assert share == pytest.approx(config.AUDIT_RATE, abs=0.01)
    assert {draw for draw in draws if draw} == {config.AUDIT_RATE}
    assert draws != [drawn(f"post-{n}", b"another key") for n in range(20_000)]


def test_a_rise_is_told_within_hours_and_a_fall_never() -> None:
    rng, test = np.random.default_rng(1), Cusum()
    quiet = [test.add(int(rng.binomial(8, 0.3)), 8, usual=0.3) for n in range(2_000)]
    assert sum(quiet) <= 1
    rising = Cusum()
    told = [rising.add(int(rng.binomial(8, 0.75)), 8, usual=0.3) for n in range(30)]
    assert True in told[:12]
    falling = Cusum()
    assert not any(falling.add(int(rng.binomial(8, 0.05)), 8, usual=0.3) for n in range(2_000))


def test_one_bin_is_no_crisis_and_an_empty_one_is_nothing() -> None:
    test = Cusum()
    assert not test.add(500, 500, usual=0.1)
    before = test.sum
    assert not test.add(0, 0, usual=0.1)
    assert test.sum == before
