"""The bootstrap: its quantiles, its width, and how often it raises a false alarm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdtrace.compare.quantities import QUANTITIES
from pdtrace.compare.resampling import (
    Fixed,
    Quantile,
    Ratio,
    draw_weights,
    estimate_change,
    point_of,
    student_quantile,
)
from pdtrace.compare.verdicts import judge

LATENCY = next(q for q in QUANTITIES if q.name == "request_latency_mean_s")


def mean_of(blocks, values, num_blocks):
    """The mean of values as an estimate."""
    above = np.bincount(blocks, weights=values, minlength=num_blocks)
    below = np.bincount(blocks, minlength=num_blocks).astype(float)
    return Ratio(above, below, len(values))


@given(
    st.lists(st.floats(0.001, 10), min_size=1, max_size=30),
    st.sampled_from([0.5, 0.9, 0.99]),
    st.integers(1, 5),
)
@settings(max_examples=100, deadline=None)
def test_a_weighted_quantile_is_that_of_the_repeated_values(values, share, times) -> None:
    """A block drawn so often counts as often as if its values stood there so often."""
    x = np.array(values)
    estimate = Quantile(x, np.arange(len(x)), share)
    weights = np.ones((1, len(x)))
    weights[0, 0] = times
    expected = np.quantile(np.concatenate([x, np.repeat(x[0], times - 1)]), share)
    assert estimate.evaluate(weights)[0] == pytest.approx(expected)
    assert point_of(estimate) == pytest.approx(np.quantile(x, share))


def test_more_noise_widens_the_interval() -> None:
    """With the same draws and four times the scatter."""
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.05, 40)
    blocks, one = np.arange(40), np.ones(40)
    weights = draw_weights(40)
    widths = []
    for factor in (1, 4):
        b = mean_of(blocks, np.exp(factor * noise), 40)
        change = estimate_change(mean_of(blocks, one, 40), b, (weights, weights))
        widths.append(change.high - change.low)
    assert widths[1] > 3 * widths[0]


def test_students_quantile() -> None:
    """Against a table."""
    table = {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 1000: 1.962}
    for freedom, expected in table.items():
        assert student_quantile(freedom) == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [(0, 0, "same"), (0, 3, "inconclusive"), (0, 6, "worse"), (9, 0, "better"), (100, 104, None)],
)
def test_a_single_count_is_judged_with_care(a, b, verdict) -> None:
    """None against a few may be chance; two counts without repeats have no interval."""
    quantity = next(q for q in QUANTITIES if q.name == "num_unfinished_requests")
    weights = draw_weights(10)
    row = judge(quantity, Fixed(a, 1), Fixed(b, 1), (weights, weights))
    assert row.verdict == (verdict or "inconclusive")


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("num_blocks", [8, 12, 50])
def test_false_alarms_are_as_rare_as_stated(paired, num_blocks) -> None:
    """On runs that differ by chance only, 5 % of the intervals may miss zero; verdicts are rarer.

    Requests within a block share its mood, and blocks hold one to four requests. Of 600 pairs of
    runs, 5 % plus two standard errors is 6.8 %; a little more is allowed because latencies are
    skewed.
    """
    rng = np.random.default_rng(11)
    trials, misses, claims = 600, 0, 0
    for _ in range(trials):
        blocks = np.repeat(np.arange(num_blocks), rng.integers(1, 5, num_blocks))
        load = rng.normal(0, 0.5, num_blocks)
        sides = []
        for _ in range(2):
            shared = load if paired else rng.normal(0, 0.2, num_blocks)
            mood = shared + rng.normal(0, 0.1, num_blocks)
            values = np.exp(-1 + mood[blocks] + rng.normal(0, 0.1, len(blocks)))
            sides.append(mean_of(blocks, values, num_blocks))
        first = draw_weights(num_blocks)
        weights = (first, first if paired else draw_weights(num_blocks, seed=5))
        change = estimate_change(*sides, weights)
        misses += change.low > 0 or change.high < 0
        claims += judge(LATENCY, *sides, weights).verdict in ("better", "worse")
    assert misses / trials <= 0.075
    assert claims <= misses
