"""Changes, their noise, and what follows from it, against plain reckoning and by simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdtrace.check.changes import (
    Change,
    draw_weights,
    mean_of,
    measure_change,
    measure_values,
    quantile_of,
)
from pdtrace.check.judge import Case, judge_cases
from pdtrace.check.measures import COUNTS, FEATURES, LATENCIES
from pdtrace.check.power import (
    POWER_Z,
    SURE_Z,
    find_runs,
    plan_runs,
    student_quantile,
    student_tail,
)
from pdtrace.check.samples import Cell, Pool, Sample, Sketch, Workload
from pdtrace.check.verdicts import Verdict

MEAN = LATENCIES["request_latency"][0]
# Table of Student's t: degrees of freedom, tail, value.
STUDENT = [
    (1, 0.025, 12.706), (2, 0.05, 2.920), (3, 0.005, 5.841), (4, 0.0005, 8.610),
    (8, 0.001, 4.501), (11, 0.025, 2.201), (30, 0.005, 2.750), (120, 0.0005, 3.373),
]  # fmt: skip


@pytest.mark.parametrize(("freedom", "tail", "value"), STUDENT)
def test_students_t_is_that_of_the_tables(freedom, tail, value):
    """Every verdict rests on these probabilities."""
    assert student_quantile(tail, freedom) == pytest.approx(value, abs=6e-4)
    assert student_tail(value, freedom) == pytest.approx(tail, rel=2e-3)


times = st.lists(
    st.tuples(st.integers(0, 3), st.floats(0.001, 100, allow_nan=False)), min_size=1, max_size=40
)


@given(times, st.lists(st.integers(0, 3), min_size=4, max_size=4), st.sampled_from([0.5, 0.9]))
@settings(deadline=None, max_examples=60)
def test_weighted_sketches_are_lists_with_repeats(rows, weights, share):
    """A block that is drawn twice must count as if its requests were there twice."""
    blocks = np.array([b for b, _ in rows])
    values = np.array([float(f"{v * 1e3:.4g}") / 1e3 for _, v in rows])
    order = np.lexsort((values, blocks))
    sketch = Sketch.of(values[order], blocks[order])
    repeated = np.repeat(values, np.array(weights)[blocks])
    table = np.array([weights], np.float64)
    if not len(repeated):
        assert np.isnan(quantile_of(sketch, table, share)[0])
        return
    assert mean_of(sketch, table)[0] == pytest.approx(repeated.mean())
    wanted = np.quantile(repeated, share, method="inverted_cdf")
    assert quantile_of(sketch, table, share)[0] == pytest.approx(wanted)


def test_draws_have_the_variance_of_a_mean():
    """However few blocks a phase has, the draws scatter as its mean truly does."""
    strata = np.repeat([0, 1], [3, 20])
    values = np.random.default_rng(3).normal(0, 1, 23)
    mask = np.ones(23, np.bool_)
    drawn = draw_weights(strata, mask) @ values
    wanted = sum(n * values[strata == k].var(ddof=1) for k, n in ((0, 3), (1, 20)))
    assert drawn.var() == pytest.approx(wanted, rel=0.25)
    assert drawn.mean() == pytest.approx(values.sum(), abs=4 * math.sqrt(wanted / len(drawn)))


def make_sample(iterations: np.ndarray, usable: np.ndarray | None = None) -> Sample:
    """A run of which only iterations are counted."""
    counts = np.full((len(iterations), len(FEATURES)), np.nan)
    counts[:, 0] = iterations
    mask = np.ones(len(iterations), np.bool_) if usable is None else usable
    return Sample(counts, mask, np.zeros(len(mask)), np.zeros(len(mask)))


def test_a_change_counts_only_what_both_have():
    """A block that stalled in one run says nothing of the other."""
    workload = Workload({"": Cell((10,) * 8, (100,) * 8)}, is_named=True)
    one = make_sample(np.full(8, 5.0), np.arange(8) != 0)
    other = make_sample(np.where(np.arange(8) == 1, 500.0, 6.0), np.arange(8) != 1)
    change = measure_change(COUNTS[0], (Pool.of((one,)), Pool.of((other,))), (workload, workload))
    assert isinstance(change, Change)
    assert (change.baseline, change.value) == (500.0, 600.0)
    assert change.point == pytest.approx(math.log(1.2))
    assert change.num_blocks == 6


def test_noise_of_repeats_replaces_what_was_assumed():
    """Repeats that agree allow a finer verdict than the assumption, noisy ones a coarser."""
    rng = np.random.default_rng(1)
    quiet, noisy = (
        measure_values(MEAN, *np.exp(rng.normal(0, sigma, (2, 30)))) for sigma in (0.002, 0.2)
    )
    single = measure_values(MEAN, [1.0], [1.0])
    assert single.spread == MEAN.noise
    assert 0.002 < quiet.spread < MEAN.noise / 2
    assert noisy.spread == pytest.approx(0.2, rel=0.3)


def judge_values(baseline: np.ndarray, values: np.ndarray) -> str:
    """The verdict on one metric alone."""
    change = measure_values(MEAN, list(baseline), list(values))
    case = Case(MEAN, change, "B", "rule", MEAN.effect, MEAN.margin, MEAN.effect)
    (finding,) = judge_cases([case])
    return str(finding.verdict)


@pytest.mark.parametrize(("true_change", "least"), [(0.10, 0.75), (0.0, 0.75), (-0.02, 0.75)])
def test_so_many_more_runs_settle_it(true_change, least):
    """'N more runs would settle it' is a promise: it holds in about four of five cases."""
    noise = MEAN.noise
    start = Change(1, 1, true_change, noise, 8, (1, 1), 1.0, 10)
    runs = find_runs(start, 0.005, MEAN.effect, MEAN.margin)
    assert runs is not None
    a, b = 1 + runs[0], 1 + runs[1]
    rng = np.random.default_rng(2)
    settled = sum(
        judge_values(np.exp(rng.normal(0, noise, a)), np.exp(rng.normal(true_change, noise, b)))
        != Verdict.INCONCLUSIVE
        for _ in range(300)
    )
    assert settled / 300 >= least
    before = sum(
        judge_values(np.exp(rng.normal(0, noise, 1)), np.exp(rng.normal(true_change, noise, 1)))
        != Verdict.INCONCLUSIVE
        for _ in range(300)
    )
    assert before < settled


def test_the_fewest_runs_that_settle_it():
    """Beside one run of the baseline even 85 repeats may hardly do what two of each would."""
    change = Change(1, 1, math.log(1.153), 0.034, 8, (1, 1), 1.0, 10)
    a, b = find_runs(change, 0.005 / 9, MEAN.effect, MEAN.margin)
    assert 0 < a + b <= 6


def test_an_interval_beyond_the_limit_that_is_no_failure_says_why():
    """A reader sees +3 % to +29 %, 3 % allowed, and no red: the bar for many at once is higher."""
    change = Change(1, 1.153, math.log(1.153), 0.034, 8, (1, 1), 1.0, 10)
    case = Case(MEAN, change, "B", "rule", MEAN.effect, MEAN.margin, MEAN.effect)
    others = [replace(case, change=replace(change, point=0.0)) for _ in range(8)]
    found, quiet = judge_cases([case, *others])[:2]
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.low > found.limit
    tail = student_tail(change.point / change.error(), change.freedom)
    assert f"{100 * tail:.2g} % of it remains" in found.reason
    assert "0.056 % is accepted with 9 judged together" in found.reason
    assert quiet.reason == "the noise hides whether it is worse"


@pytest.mark.parametrize(("power", "least", "most"), [(POWER_Z, 0.72, 0.95), (SURE_Z, 0.95, 1)])
def test_planned_runs_find_what_was_planned_for(power, least, most):
    """'N runs of each to find it' likewise; the surer promise must hold surely."""
    start = Change(1, 1, 0.0, MEAN.noise, 8, (1, 1), 1.0, 10)
    n = plan_runs(start, 0.005, 0.05, power)
    rng = np.random.default_rng(4)
    found = sum(
        judge_values(np.exp(rng.normal(0, MEAN.noise, n)), np.exp(rng.normal(0.05, MEAN.noise, n)))
        == Verdict.FAIL
        for _ in range(300)
    )
    assert least <= found / 300 <= most


def test_many_measures_share_one_risk():
    """With many metrics one of them always looks bad; together they may cry wolf no oftener."""
    rng = np.random.default_rng(5)
    failed = 0
    for _ in range(400):
        cases = []
        for k in range(12):
            values = np.exp(rng.normal(0, MEAN.noise, 10))
            change = measure_values(MEAN, list(values[:5]), list(values[5:]))
            measure = replace(MEAN, name=f"m{k}")
            cases.append(Case(measure, change, "B", "rule", 0.0, 0.05, 0.0))
        failed += any(f.verdict is Verdict.FAIL for f in judge_cases(cases))
    assert failed / 400 <= 0.015
