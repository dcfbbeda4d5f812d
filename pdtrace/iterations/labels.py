"""Iterations by the printed label ``[n]``: exact, once two releases' labels are corrected."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

FAR_S = 60.0  # clocks of one engine's nodes may differ by a time zone, but then always by the same
DRIFT_S = 2.0


def correct_shifted_labels(label: I64, t: F64, rank: I64, pass_s: float) -> tuple[I64, F64]:
    """True forward numbers for 0.5.10 and 0.5.11, which print the counter at result time.

    A forward f prints f+2 if the next pass had already launched f+1 anywhere in the engine, and f+1
    otherwise, so the last two forwards of a burst share a label. True numbers have no gaps, and all
    lines of f precede those of f+1: each label holds one forward, or two to be told apart by a rank
    that appears twice, by a label that is skipped after it, or by the pause between them.

    Args:
        label: Printed labels, n lines sorted by time within a label.
        t: Times in seconds.
        rank: DP ranks.
        pass_s: Typical shortest pass, seconds.

    Returns:
        True number of each line, and the confidence in it.
    """
    true = np.empty(len(label), np.int64)
    confidence = np.ones(len(label))
    order = np.lexsort((t, label))
    values, starts = np.unique(label[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    expected: int | None = None
    for q, (n, a, b) in enumerate(zip(values.tolist(), starts, ends, strict=True)):
        lines = order[a:b]
        skipped = q + 1 < len(values) and int(values[q + 1]) > n + 1
        pause = np.diff(t[lines])
        widest = int(np.argmax(pause)) + 1 if len(pause) else 0
        apart = bool(len(pause)) and float(pause[widest - 1]) > 0.4 * pass_s
        twice = len(np.unique(rank[lines])) < len(lines)
        # A skipped label ends a burst; if its first forward is still owed, it is in here too.
        owed = skipped and expected == n - 2 and len(lines) > 1
        if twice or apart or owed:
            true[lines[:widest]], true[lines[widest:]] = n - 2, n - 1
            confidence[lines] = 1.0 if apart and (twice or skipped) else 0.9
            expected = n
            continue
        if expected is None or expected not in (n - 2, n - 1) or (expected == n - 2 and skipped):
            # The first label, or lines were lost. A label that ends a burst is one too high.
            ends_burst = skipped or q + 1 == len(values)
            if not ends_burst:
                ends_burst = float(t[order[b]] - t[lines[-1]]) > 2.5 * pass_s
            expected = n - 1 if ends_burst else n - 2
        true[lines] = expected
        expected += 1
    return true, confidence


def number_repeats(label: I64, rank: I64) -> I64:
    """How often each (label, rank) pair appeared before it: all 0 for one healthy engine."""
    out = np.zeros(len(label), np.int64)
    if not len(label):
        return out
    low, num_ranks = int(label.min()), int(rank.max()) + 1
    if (int(label.max()) - low + 1) * num_ranks < 2**63:
        # labels rise with time: to sort one key that is almost sorted costs next to nothing
        order = np.argsort((label - low) * num_ranks + rank, kind="stable")
    else:
        order = np.lexsort((rank, label))
    is_new = np.ones(len(label), np.bool_)
    is_new[1:] = (np.diff(label[order]) != 0) | (np.diff(rank[order]) != 0)
    first = np.flatnonzero(is_new)
    out[order] = np.arange(len(label)) - np.repeat(first, np.diff(first, append=len(label)))
    return out


def measure_clock_offsets(label: I64, t: F64, file: I64, num_files: int) -> F64:
    """Seconds to add to each file's times so that lines of one iteration agree.

    Lines of one iteration are printed within milliseconds of one another, so the median difference
    over shared labels is the offset of the clocks, plus at most the typical skew.

    Args:
        label, t, file: Label, time in seconds and file of each line.
        num_files: Files; those that share no label with the biggest keep 0.

    Returns:
        Seconds; nan where the differences are far from one another: the labels are of another
        recording, whatever its clock said.
    """
    shift = np.zeros(num_files)
    if num_files < 2:
        return shift
    reference = int(np.bincount(file, minlength=num_files).argmax())
    own, first = np.unique(label[file == reference], return_index=True)
    own_t = t[file == reference][first]
    for f in range(num_files):
        if f == reference or not (file == f).any():
            continue
        other, first = np.unique(label[file == f], return_index=True)
        both, x, y = np.intersect1d(own, other, return_indices=True)
        if len(both):
            apart = own_t[x] - t[file == f][first][y]
            shift[f] = float(np.median(apart))
            if abs(shift[f]) > FAR_S and float(np.median(np.abs(apart - shift[f]))) > DRIFT_S:
                shift[f] = np.nan
    return shift


def keep_apart(label: I64, file: I64, shift: F64) -> F64:
    """Give the files whose shift is nan labels of their own, in place, and leave their times."""
    step = int(label.max()) + 1
    for f in np.flatnonzero(np.isnan(shift)):
        label[file == f] += step * int(f + 1)
    return np.nan_to_num(shift, nan=0.0)
