"""Compiled factors of the segmentation: what one block, or a pair of blocks, is worth.

``docs/method.md`` derives them. ``par``: 0 typical pass s, 1 idle launch s, 2 floor s, 3 log
penalty of a broken continuation, 4 log penalty below the floor, 5 lower bound of a gap as share of
its expectation, 6 its log penalty.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdtrace.compiled import compiled
from pdtrace.iterations.densities import (
    LOG_LOW,
    LOG_STEP,
    NUM_BINS,
    REPORT_GAP_S,
)

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
Blocks = tuple[I32, F64, F64, F64, I32]

TINY = 0.3e-3
NEVER = 1 << 30
SELECTION_SLACK_S = 0.005  # selection times are sums of three rounded figures
EARLIEST = 0.6  # share of the expected pass from its last selection to its first line
UNFINISHED = -4.0  # a log rarely stops between two launches


@compiled
def bin_of(x: float) -> int:
    """Index of the log bin of a time in seconds."""
    if x < TINY:
        return 0
    b = int((np.log(x) - LOG_LOW) / LOG_STEP)
    return b if b < NUM_BINS else NUM_BINS - 1


@compiled
def expected_gap(c: int, b1: float, b2: float, idle: float) -> float:
    """Expected gap in seconds of context c: b1 this pass, b2 the next, idle an idle launch."""
    rest = max(b1 - idle, 0.15 * b1)
    if c == 0 or c == 8:
        return b1
    if c == 1:
        return b1 + b2
    if c == 2:
        return b1 + idle
    if c == 3:
        return REPORT_GAP_S
    if c == 4:
        return b2
    if c == 5:
        return idle
    if c == 6:
        return rest
    return rest + b2


@compiled
def size_class(m: int) -> int:
    """Class of a block of m ≥ 2 lines."""
    if m == 2:
        return 0
    return 1 if m <= 4 else 2


@compiled
def find_blocks(
    t: F64,
    before: I32,
    after: I32,
    must: NDArray[np.bool_],
    scale: F64,
    sel: F64,
    window: F64,
    m: int,
    span_max: float,
) -> tuple[I32, I32, F64, F64, F64, I32]:
    """Per first line and length: validity, latest 'must continue' line, pass scale, selection span.

    Returns (count of lengths, must, scale, selection min, max, lines with one).
    """
    n = len(t)
    count = np.zeros(n, np.int32)
    latest = np.empty((n, m), np.int32)
    big = np.empty((n, m))
    smin = np.empty((n, m))
    smax = np.empty((n, m))
    snum = np.empty((n, m), np.int32)
    for i in range(n):
        b = -1
        x = 0.0
        lo = np.inf
        hi = -np.inf
        c = 0
        for k in range(m):
            j = i + k
            if j >= n or before[j] >= i or t[j] - t[i] > span_max:
                break
            # Nothing is reported of a pass that waits for the selection on another rank.
            if k > 0 and sel[j] > t[i] + window[i] + SELECTION_SLACK_S:
                break
            if must[j]:
                b = max(b, after[j])
            x = max(x, scale[j])
            if not np.isnan(sel[j]):
                lo = min(lo, sel[j])
                hi = max(hi, sel[j])
                c += 1
            latest[i, k] = b
            big[i, k] = x
            smin[i, k] = lo
            smax[i, k] = hi
            snum[i, k] = c
            count[i] = k + 1
    return count, latest, big, smin, smax, snum


@compiled
def uniform_inside(num: int, width: float) -> float:
    """Log density of num - 2 ordered lines anywhere inside a width in seconds."""
    s = 0.0
    for q in range(1, num - 1):
        s += float(np.log(q / max(width, 1e-3)))
    return s


@compiled
def log_add(a: float, b: float) -> float:
    """Log of the sum of two logs."""
    if a < b:
        a, b = b, a
    if b == -np.inf:
        return a
    return a + float(np.log1p(np.exp(b - a)))


@compiled
def gap_factor(
    c: int, gap: float, log_gap: float, b1: float, b2: float, lg: F64, par: F64, log_ref: F64
) -> tuple[float, int]:
    """Log density of a gap in seconds in context c, and its bin."""
    g0 = expected_gap(c, b1, b2, par[1])
    x = (log_gap + log_ref[c] - np.log(g0) - LOG_LOW) / LOG_STEP
    b = 0 if x < 0 else (NUM_BINS - 1 if x >= NUM_BINS else int(x))
    lp = lg[c, b] - log_gap
    if gap < par[2]:
        lp -= par[4]
    if c != 3 and c != 6 and gap < par[5] * g0:
        lp -= par[6]
    return lp, b


@compiled
def spread_factor(s: int, num: int, width: float, ls: F64) -> float:
    """Log density of num lines spread over a width in seconds, in skew context s."""
    return float(ls[s, bin_of(width)] - np.log(max(width, TINY))) + uniform_inside(num, width)


@compiled
def selection_factor(
    i: int, k: int, first: float, b1: float, blk: Blocks, lsel: F64, par: F64
) -> float:
    """Log density of the selection times of a block whose first line is printed at ``first``."""
    smin, smax, snum = blk[2], blk[3], blk[4]
    num = snum[i, k]
    if num == 0:
        return 0.0
    # a pass begins when all have selected, and no result comes before it has run
    lp = -par[6] if first - smax[i, k] < EARLIEST * b1 else 0.0
    if num < 2:
        return lp
    w = smax[i, k] - smin[i, k]
    if w > 0.6 * par[0]:
        lp -= 8.0  # who selected early waits for the others, never a pass
    lp += float(lsel[0 if num == 2 else 1, bin_of(w)] - np.log(max(w, TINY)))
    return lp + uniform_inside(num, w)


@compiled
def role_times(i: int, j: int, j2: int, t: F64, after: I32) -> tuple[int, F64]:
    """Number of lines i..j whose rank idles next, and times.

    Times: first and last of those, then of the others, whose rank runs real tokens again by j2.
    """
    at = np.empty(4)
    num = 0
    for x in range(i, j + 1):
        if after[x] <= j2:
            if x - i == num:
                at[2] = t[x]
            at[3] = t[x]
        else:
            if num == 0:
                at[0] = t[x]
            at[1] = t[x]
            num += 1
    return num, at


@compiled
def inner_factor(
    i: int, k: int, j2: int, b2: float, t: F64, after: I32, ls: F64, par: F64, ref: F64
) -> float:
    """Log density of the times of an inner block.

    Ranks that idle next report together, after an idle launch; ranks with real tokens report
    together, when their launch returns; the two groups are a pass less an idle launch apart.
    """
    num = k + 1
    if num == 1:
        return 0.0
    idle, at = role_times(i, i + k, j2, t, after)
    lp = 0.0
    if idle > 1:
        lp += spread_factor(4, idle, at[1] - at[0], ls)
    if num - idle > 1:
        lp += spread_factor(3, num - idle, at[3] - at[2], ls)
    if 0 < idle < num:
        w = at[2] - at[0]
        if w >= 0:
            x = w * ref[9] / max(b2 - par[1], 0.3 * b2)
            lp += float(ls[5, bin_of(x)] - np.log(max(w, TINY)))
        else:
            lp += float(ls[6, bin_of(-w)] - np.log(max(-w, TINY)))
    return lp


@compiled
def count_inner(
    i: int, k: int, j2: int, b2: float, t: F64, after: I32, par: F64, ref: F64, mass: float, cs: F64
) -> None:
    """Add a block's mass to the skew counts that inner_factor reads."""
    num = k + 1
    idle, at = role_times(i, i + k, j2, t, after)
    if idle > 1:
        cs[4, bin_of(at[1] - at[0])] += mass
    if num - idle > 1:
        cs[3, bin_of(at[3] - at[2])] += mass
    if 0 < idle < num:
        w = at[2] - at[0]
        if w >= 0:
            cs[5, bin_of(w * ref[9] / max(b2 - par[1], 0.3 * b2))] += mass
        else:
            cs[6, bin_of(-w)] += mass


@compiled
def link_factor(i: int, k: int, k2: int, inner: int, blk: Blocks, lsel: F64, par: F64) -> float:
    """Log factor of what only the pair of blocks decides: continuations and selection gap."""
    latest, smin, smax, snum = blk[0], blk[2], blk[3], blk[4]
    j = i + k
    lp: float = par[3] if latest[i, k] > j + 1 + k2 else 0.0
    if snum[i, k] > 0 and snum[j + 1, k2] > 0:
        g = smin[j + 1, k2] - smax[i, k]
        lp += lsel[2 + inner, bin_of(g)] - np.log(max(g, TINY))
        if g < 0:
            lp -= 6.0
    return lp
