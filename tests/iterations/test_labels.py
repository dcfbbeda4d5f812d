"""Labels: what two releases print wrong is put right, and trouble is seen."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pdtrace.iterations.labels import (
    correct_shifted_labels,
    keep_apart,
    measure_clock_offsets,
    number_repeats,
)


def print_shifted(bursts, ranks_of, pass_s=0.1):
    """Lines as 0.5.10 and 0.5.11 print them: label f+2 inside a burst, f+1 at its end."""
    label, t, rank, true = [], [], [], []
    now, f = 0.0, 1
    for size in bursts:
        now += 1.0
        for k in range(size):
            now += pass_s
            for r in ranks_of(f):
                label.append(f + 1 if k == size - 1 else f + 2)
                t.append(now + 0.002 * r)
                rank.append(r)
                true.append(f)
            f += 1
    return np.array(label), np.array(t), np.array(rank), np.array(true)


def test_two_ranks_in_one_label_of_a_burst_end_are_two_forwards():
    """Guards the burst-end rule: two ranks that print [5] a pass apart ran forwards 3 and 4."""
    label, t, rank, true = print_shifted([2, 2], lambda f: [f % 2])
    assert label.tolist() == [3, 3, 5, 5]
    got, _ = correct_shifted_labels(label, t, rank, 0.1)
    assert got.tolist() == true.tolist() == [1, 2, 3, 4]


def test_single_forward_bursts_print_consecutive_labels():
    """Guards against splitting lonely passes, whose labels are all one too high."""
    label, t, rank, true = print_shifted([1, 1, 1], lambda f: [0, 1])
    got, confidence = correct_shifted_labels(label, t, rank, 0.1)
    assert got.tolist() == true.tolist()
    assert confidence.min() == 1.0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(0, 2**31))
def test_any_sequence_of_bursts_is_put_right(bursts, seed):
    """Guards the correction over all burst lengths and rank subsets, not only documented ones."""
    rng = np.random.default_rng(seed)
    chosen = {}

    def ranks_of(f):
        return chosen.setdefault(
            f, sorted(rng.choice(4, size=rng.integers(1, 5), replace=False).tolist())
        )

    label, t, rank, true = print_shifted(bursts, ranks_of)
    got, _ = correct_shifted_labels(label, t, rank, 0.1)
    assert got.tolist() == true.tolist()


def test_repeated_label_of_a_rank_is_counted():
    """Guards the detector of two engines in one log: a rank prints a label once."""
    label = np.array([1, 1, 2, 1, 2])
    rank = np.array([0, 1, 0, 0, 0])
    assert number_repeats(label, rank).tolist() == [0, 0, 0, 1, 1]


def test_clock_offset_is_the_median_over_shared_labels():
    """Guards sign and robustness of the clock correction: one stray line does not move it."""
    label = np.array([1, 2, 3, 1, 2, 3])
    t = np.array([0.0, 1.0, 2.0, 5.0, 6.0, 9.0])
    file = np.array([0, 0, 0, 1, 1, 1])
    assert measure_clock_offsets(label, t, file, 2).tolist() == [0.0, -5.0]


def test_only_a_constant_difference_is_a_clock():
    """Labels that another recording repeats at other times must not move its lines by minutes."""
    label, file = np.tile(np.arange(6), 2), np.repeat([0, 1], 6)
    own = np.arange(6.0)
    zone = measure_clock_offsets(label, np.r_[own, own + 3600.0], file, 2)
    assert zone.tolist() == [0.0, -3600.0]
    other = measure_clock_offsets(label, np.r_[own, 966.0 + 7 * own], file, 2)
    assert np.isnan(other[1])
    kept = label.copy()
    assert keep_apart(kept, file, other).tolist() == [0.0, 0.0]
    assert not set(kept[file == 0]) & set(kept[file == 1])
