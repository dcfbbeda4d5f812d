"""Compiled forward-backward over segmentations of time-sorted lines into blocks.

A state is a block: its first line, its length, whether another pass was launched before its result
was processed (``inner``) or not (``end``), and what the last printer of the block before did next.
``docs/method.md`` derives the factors. All arrays are C-contiguous; ``n`` lines, ``m`` = longest
block.

par: 0 typical pass s, 1 idle launch s, 2 floor s, 3 log penalty of a broken continuation, 4 log
penalty below the floor, 5 lower bound of a gap as share of its expectation, 6 its log penalty.
"""

from __future__ import annotations

import numba
import numpy as np

from pdtrace.iterations.densities import (
    LOG_LOW,
    LOG_STEP,
    NUM_BINS,
    NUM_GAP,
    NUM_SELECTION,
    NUM_SKEW,
    REPORT_GAP_S,
)

TINY = 0.3e-3
NEVER = 1 << 30
UNFINISHED = -4.0  # a log rarely stops between two launches


@numba.njit(cache=True, nogil=True)
def bin_of(x):
    """Index of the log bin of a time in seconds."""
    if x < TINY:
        return 0
    b = int((np.log(x) - LOG_LOW) / LOG_STEP)
    return b if b < NUM_BINS else NUM_BINS - 1


@numba.njit(cache=True, nogil=True)
def expected_gap(c, b1, b2, idle):
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


@numba.njit(cache=True, nogil=True)
def size_class(m):
    """Class of a block of m ≥ 2 lines."""
    if m == 2:
        return 0
    return 1 if m <= 4 else 2


@numba.njit(cache=True, nogil=True)
def skew_class(first_real, last_real):
    """Skew context of an inner block by what its first and last printer do next."""
    if first_real and last_real:
        return 3
    if not first_real and not last_real:
        return 4
    return 5 if last_real else 6


@numba.njit(cache=True, nogil=True)
def find_blocks(t, before, after, must, scale, sel, m, span_max):
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


@numba.njit(cache=True, nogil=True)
def uniform_inside(num, width):
    """Log density of num - 2 ordered lines anywhere inside a width in seconds."""
    s = 0.0
    for q in range(1, num - 1):
        s += np.log(q / max(width, 1e-3))
    return s


@numba.njit(cache=True, nogil=True)
def factor(i, k, inner, prev, k2, last, t, after, blk, lg, ls, lsel, par, ref):
    """Log factor of block (i, k) given the kind before it and the length of the block after it."""
    latest, big, smin, smax, snum = blk
    j = i + k
    j2 = j + 1 + k2
    lp = 0.0
    b1 = par[0] * big[i, k]
    b2 = par[0]
    f = False
    r = False
    if not last:
        b2 = par[0] * big[j + 1, k2]
        f = after[i] <= j2
        r = after[j] <= j2
        if latest[i, k] > j2:
            lp += par[3]
        # the selection gap to the next block
        if snum[i, k] > 0 and snum[j + 1, k2] > 0:
            g = smin[j + 1, k2] - smax[i, k]
            lp += lsel[2 + inner, bin_of(g)] - np.log(max(g, TINY))
            if g < 0:
                lp -= 6.0
    this = 0 if inner == 0 else (1 if f else 2)
    if i > 0:
        gap = t[i] - t[i - 1]
        c = prev * 3 + this
        g0 = expected_gap(c, b1, b2, par[1])
        lp += lg[c, bin_of(gap * ref[c] / g0)] - np.log(max(gap, TINY))
        if gap < par[2]:
            lp -= par[4]
        if c != 3 and c != 6 and gap < par[5] * g0:
            lp -= par[6]
    if k > 0:
        w = t[j] - t[i]
        s = size_class(k + 1) if inner == 0 else skew_class(f, r)
        x = w * ref[9] / max(b2 - par[1], 0.3 * b2) if s == 5 else w
        lp += ls[s, bin_of(x)] - np.log(max(w, TINY)) + uniform_inside(k + 1, w)
        if snum[i, k] > 1:
            w = smax[i, k] - smin[i, k]
            if w > 0.6 * par[0]:  # a rank that selected early waits for the others, never a pass
                lp -= 8.0
            s = 0 if snum[i, k] == 2 else 1
            lp += lsel[s, bin_of(w)] - np.log(max(w, TINY)) + uniform_inside(snum[i, k], w)
    return lp


@numba.njit(cache=True, nogil=True)
def log_add(a, b):
    """Log of the sum of two logs."""
    if a == -np.inf:
        return b
    if b == -np.inf:
        return a
    if a > b:
        return a + np.log1p(np.exp(b - a))
    return b + np.log1p(np.exp(a - b))


@numba.njit(cache=True, nogil=True)
def forward_backward(t, after, count, blk, lg, ls, lsel, lp, par, ref, num_kinds):
    """Posterior of every block, and expected counts of every factor.

    Args:
        t: Line times in seconds, ascending.
        after: Index of the next line of the same rank, or NEVER.
        count, blk: From find_blocks.
        lg, ls, lsel: Log densities.
        lp: n × 2 × 2 × m log prior of (kind before, kind, length).
        par, ref: See the module.
        num_kinds: 2, or 1 if only burst ends are allowed.

    Returns:
        log evidence; posterior n × m × 2; counts of gaps, skews, selections; n × 2 × 2 kind
        transitions; (broken, all) continuations; samples (0 pass | 1 idle, seconds, weight).
    """
    latest, big, smin, smax, snum = blk
    n = len(t)
    m = lp.shape[3]
    alpha = np.full((n, m, 2, 3), -np.inf)
    for k in range(count[0]):
        for inner in range(num_kinds):
            alpha[0, k, inner, 0] = lp[0, 0, inner, k]
    z = -np.inf
    for i in range(n):
        best = alpha[i].max()
        for k in range(count[i]):
            j = i + k
            for inner in range(num_kinds):
                for prev in range(3):
                    a = alpha[i, k, inner, prev]
                    if a < best - 30.0:  # cannot matter; also -inf
                        alpha[i, k, inner, prev] = -np.inf
                        continue
                    if j == n - 1:
                        v = a + factor(i, k, inner, prev, 0, True, t, after, blk, lg, ls, lsel,
                                       par, ref)
                        z = log_add(z, v + (UNFINISHED if inner == 1 else 0.0))
                        continue
                    for k2 in range(count[j + 1]):
                        nxt = 0 if inner == 0 else (1 if after[j] <= j + 1 + k2 else 2)
                        v = a + factor(i, k, inner, prev, k2, False, t, after, blk, lg, ls, lsel,
                                       par, ref)
                        for inner2 in range(num_kinds):
                            alpha[j + 1, k2, inner2, nxt] = log_add(
                                alpha[j + 1, k2, inner2, nxt], v + lp[j + 1, inner, inner2, k2]
                            )
    beta = np.full((n, m, 2, 3), -np.inf)
    post = np.zeros((n, m, 2))
    cg = np.zeros((NUM_GAP, NUM_BINS))
    cs = np.zeros((NUM_SKEW, NUM_BINS))
    csel = np.zeros((NUM_SELECTION, NUM_BINS))
    kinds = np.zeros((n, 2, 2))
    broken = np.zeros(2)
    samples = np.empty((8 * n + 64, 3))
    num = 0
    for i in range(n - 1, -1, -1):
        for k in range(count[i]):
            j = i + k
            for inner in range(num_kinds):
                for prev in range(3):
                    a = alpha[i, k, inner, prev]
                    if a == -np.inf:
                        continue
                    if j == n - 1:
                        acc = factor(i, k, inner, prev, 0, True, t, after, blk, lg, ls, lsel, par,
                                     ref) + (UNFINISHED if inner == 1 else 0.0)
                    else:
                        acc = -np.inf
                        for k2 in range(count[j + 1]):
                            j2 = j + 1 + k2
                            nxt = 0 if inner == 0 else (1 if after[j] <= j2 else 2)
                            tot = -np.inf
                            for inner2 in range(num_kinds):
                                b = beta[j + 1, k2, inner2, nxt]
                                if b > -np.inf:
                                    tot = log_add(tot, b + lp[j + 1, inner, inner2, k2])
                            if tot == -np.inf:
                                continue
                            own = factor(i, k, inner, prev, k2, False, t, after, blk, lg, ls,
                                         lsel, par, ref)
                            tot += own
                            acc = log_add(acc, tot)
                            p = a + tot - z
                            if p < -14.0:
                                continue
                            for inner2 in range(num_kinds):
                                b = beta[j + 1, k2, inner2, nxt]
                                if b > -np.inf:
                                    kinds[j + 1, inner, inner2] += np.exp(
                                        a + own + b + lp[j + 1, inner, inner2, k2] - z
                                    )
                            p = np.exp(p)
                            f = after[i] <= j2
                            r = after[j] <= j2
                            b1 = par[0] * big[i, k]
                            b2 = par[0] * big[j + 1, k2]
                            this = 0 if inner == 0 else (1 if f else 2)
                            if i > 0:
                                c = prev * 3 + this
                                gap = t[i] - t[i - 1]
                                g0 = expected_gap(c, b1, b2, par[1])
                                cg[c, bin_of(gap * ref[c] / g0)] += p
                                if p > 0.1 and num < len(samples) and c in (4, 5, 6, 8):
                                    samples[num, 0] = 1.0 if c == 5 else 0.0
                                    if c == 5:
                                        samples[num, 1] = gap
                                    elif c == 4:
                                        samples[num, 1] = gap / big[j + 1, k2]
                                    elif c == 8:
                                        samples[num, 1] = gap / big[i, k]
                                    else:
                                        samples[num, 1] = (gap + par[1]) / big[i, k]
                                    samples[num, 2] = p
                                    num += 1
                            if latest[i, k] >= 0:
                                broken[1] += p
                                if latest[i, k] > j2:
                                    broken[0] += p
                            if snum[i, k] > 0 and snum[j + 1, k2] > 0:
                                csel[2 + inner, bin_of(smin[j + 1, k2] - smax[i, k])] += p
                            if k > 0:
                                w = t[j] - t[i]
                                s = size_class(k + 1) if inner == 0 else skew_class(f, r)
                                if s == 5:
                                    w = w * ref[9] / max(b2 - par[1], 0.3 * b2)
                                cs[s, bin_of(w)] += p
                                if snum[i, k] > 1:
                                    s = 0 if snum[i, k] == 2 else 1
                                    csel[s, bin_of(smax[i, k] - smin[i, k])] += p
                    beta[i, k, inner, prev] = acc
                    if acc > -np.inf:
                        p = a + acc - z
                        if p > -30.0:
                            post[i, k, inner] += np.exp(p)
    return z, post, cg, cs, csel, kinds, broken, samples[:num]


@numba.njit(cache=True, nogil=True)
def decode(post):
    """Segmentation with the most blocks expected to be exactly right.

    Args:
        post: n × m block posteriors.

    Returns:
        Length of the block that ends before each line boundary (n + 1 values; follow back from n).
    """
    n, m = post.shape
    value = np.full(n + 1, -1e18)
    value[0] = 0.0
    back = np.zeros(n + 1, np.int32)
    for i in range(n):
        if value[i] < -1e17:
            continue
        for k in range(min(m, n - i)):
            p = post[i, k]
            if p > 0 and value[i] + p > value[i + k + 1]:
                value[i + k + 1] = value[i] + p
                back[i + k + 1] = k + 1
    return back
