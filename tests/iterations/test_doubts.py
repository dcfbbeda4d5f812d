"""What the segmentation cannot know: doubted where two readings fit, and only there."""

from dataclasses import replace

import numpy as np

from pdtrace.iterations.doubts import are_turns, cap_by_freedom, measure_freedom
from pdtrace.iterations.segmentation import Lines


def build_pairs(inside, between=0.6, selected=False):
    """Lines of two ranks in blocks of two, with these gaps inside, and the block of each line."""
    n = len(inside)
    first = np.cumsum(np.append(0.0, inside[:-1] + between))
    t = np.column_stack([first, first + inside]).ravel()
    selection = t - 0.1 if selected else np.full(2 * n, np.nan)
    rank = np.tile([0, 1], n)
    lines = Lines(
        t, rank, np.full(2 * n, 8192.0), np.zeros(2 * n, bool), selection, np.zeros(2 * n)
    )
    return lines, np.repeat(np.arange(n), 2)


def test_pairs_as_far_apart_as_a_pass_are_doubted():
    """Gaps within pairs that all are about as long may each be a pass."""
    inside = np.random.default_rng(1).normal(0.15, 0.01, 40)
    assert are_turns(*build_pairs(inside)).all()


def test_pairs_within_milliseconds_are_not_doubted():
    """No pass is as short as the skew of ranks that share one."""
    inside = np.random.default_rng(1).uniform(0, 0.005, 40)
    assert not are_turns(*build_pairs(inside)).any()


def test_pairs_of_any_skew_are_not_doubted():
    """A skew goes down to nothing, a pass does not, so wide pairs among narrow ones are pairs."""
    inside = np.random.default_rng(1).uniform(0, 0.12, 200)
    assert not are_turns(*build_pairs(inside)).any()


def test_pairs_with_selection_times_are_not_doubted():
    """Selection times have told whether the ranks took turns."""
    inside = np.random.default_rng(1).normal(0.15, 0.01, 40)
    assert not are_turns(*build_pairs(inside, selected=True)).any()


def test_few_lines_leave_whole_seconds_free():
    """Only gaps there and back bound two ranks, and each line no more than its stamps do."""
    t = np.array([0.0, 0.03, 0.5, 0.9])
    rank, window = np.array([0, 1, 0, 1]), np.full(4, 0.6)
    # There 0.03 s, back 0.47 s: the ranks may lie 0.5 s apart.
    assert np.allclose(measure_freedom(t, rank, window, 2), 0.5)
    assert np.allclose(measure_freedom(t[:2], rank[:2], window[:2], 2), 0.6)
    assert np.allclose(measure_freedom(t, rank, window / 6, 2), 0.1)


def test_freedom_of_a_pass_leaves_a_block_undecided():
    """A line that may be moved by a pass may belong to the iteration before or after it."""
    lines, block = build_pairs(np.full(40, 0.001), between=0.1)
    sure = cap_by_freedom(lines, block, 2, 0.1)
    assert (sure == 1).all()
    free = replace(lines, window=np.full(len(lines), 0.3))
    assert np.allclose(cap_by_freedom(free, block, 2, 0.1), 0.5)
    assert (cap_by_freedom(free, block, 2, 0.4) == 1).all()
