"""Times finer than their stamps, and clocks of several files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdtrace.iterations.clocks import offset_candidates, refine_times


def stamped(seed, num=120, ranks=2):
    """True times, ranks, printed throughput and whole-second stamps of an engine."""
    rng = np.random.default_rng(seed)
    t, rank = [], []
    now = 0.3
    for _ in range(num):
        now += rng.uniform(0.1, 0.5)
        for r in range(ranks):
            if rng.random() < 0.7:
                t.append(now + rng.uniform(0, 0.001))
                rank.append(r)
    order = np.argsort(t)
    t, rank = np.array(t)[order], np.array(rank)[order]
    tokens = rng.integers(1000, 8192, len(t)).astype(float)
    gap = np.full(len(t), np.nan)
    for r in range(ranks):
        mine = np.flatnonzero(rank == r)
        gap[mine[1:]] = np.diff(t[mine])
    throughput = np.round(tokens / np.where(np.isnan(gap), 1.0, gap), 2)
    return t, rank, tokens / throughput * np.where(np.isnan(gap), np.nan, 1.0), throughput


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_whole_seconds_are_refined_to_milliseconds(seed):
    """Guards the refinement: two ranks' relative times come back within 2 ms of whole seconds."""
    t, rank, gap, throughput = stamped(seed)
    refined = refine_times(
        np.floor(t), np.ones(len(t)), np.zeros(len(t), int), rank, gap, throughput, 2
    )
    error = refined.t - t
    assert refined.ordered
    assert np.ptp(error) < 0.002


def test_order_that_is_not_of_writing_is_noticed():
    """Guards shuffled logs: an order that contradicts the gaps by far is not used."""
    t, rank, gap, throughput = stamped(1)
    order = np.concatenate([np.flatnonzero(rank == 1), np.flatnonzero(rank == 0)])
    refined = refine_times(
        np.floor(t)[order], np.ones(len(t)), np.zeros(len(t), int), rank[order], gap[order],
        throughput[order], 2,
    )  # fmt: skip
    assert not refined.ordered
    assert refined.max_confidence < 0.9


def test_contradicting_throughputs_are_counted():
    """Guards the check before inference: gaps that do not fit the stamps break the chains."""
    t, rank, gap, throughput = stamped(2)
    wrong = gap * np.random.default_rng(0).uniform(5, 50, len(gap))
    refined = refine_times(
        np.floor(t), np.ones(len(t)), np.zeros(len(t), int), rank, wrong, throughput, 2
    )
    assert refined.broken_share > 0.3


@pytest.mark.parametrize("shift", [-1.7, 0.004, 2.25])
def test_recurring_difference_is_among_the_candidates(shift):
    """Guards the search for clock offsets: the true one is found among coincidences."""
    rng = np.random.default_rng(4)
    reference = np.cumsum(rng.uniform(0.1, 0.6, 150))
    other = reference[rng.random(150) < 0.5] - shift
    found = offset_candidates(reference, np.sort(other), 5.0, 0.002)
    assert min(abs(c - shift) for c in found) < 0.003


def refine_without(seed, lost):
    """Times refined of whole seconds without some lines, less the true ones."""
    t, rank, gap, throughput = stamped(seed, num=300)
    kept = np.setdiff1d(np.arange(len(t)), lost)
    refined = refine_times(
        np.floor(t)[kept], np.ones(len(kept)), np.zeros(len(kept), int), rank[kept], gap[kept],
        throughput[kept], 2,
    )  # fmt: skip
    return refined, refined.t - t[kept]


def test_a_lost_line_leaves_the_other_lines_their_times():
    """Guards whole-second logs that miss a line: its gap must not shift all that follow."""
    for seed in range(40):
        refined, error = refine_without(seed, [60 + 4 * seed])
        assert refined.ordered
        assert refined.max_confidence == 1
        assert np.mean(np.abs(np.diff(error)) < 0.03) > 0.98


def test_lost_lines_are_counted():
    """Guards the warning: a healthy log has no loss, one that misses lines does."""
    assert refine_without(3, [])[0].num_lost == 0
    assert 1 <= refine_without(3, [50, 150, 220])[0].num_lost <= 3
