"""Compiled forward-backward over segmentations of time-sorted lines into blocks.

A state is a block: its first line, its length, whether another pass was launched before its result
was processed (``inner``) or not (``end``), and what the last printer of the block before did next.
``docs/method.md`` derives the factors. All arrays are C-contiguous; ``n`` lines, ``m`` = longest
block.

par: 0 typical pass s, 1 idle launch s, 2 floor s, 3 log penalty of a broken continuation, 4 log
penalty below the floor, 5 lower bound of a gap as share of its expectation, 6 its log penalty.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdtrace.iterations.compiled import compiled
from pdtrace.iterations.densities import (
    LOG_LOW,
    LOG_STEP,
    NUM_BINS,
    NUM_GAP,
    NUM_SELECTION,
    NUM_SKEW,
    REPORT_GAP_S,
)

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
Blocks = tuple[I32, F64, F64, F64, I32]

TINY = 0.3e-3
NEVER = 1 << 30
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
def selection_factor(i: int, k: int, blk: Blocks, lsel: F64, par: F64) -> float:
    """Log density of the spread of the selection times within a block."""
    smin, smax, snum = blk[2], blk[3], blk[4]
    num = snum[i, k]
    if num < 2:
        return 0.0
    w = smax[i, k] - smin[i, k]
    lp = -8.0 if w > 0.6 * par[0] else 0.0  # who selected early waits for the others, never a pass
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


@compiled
def forward_backward(
    t: F64,
    after: I32,
    count: I32,
    blk: Blocks,
    lg: F64,
    ls: F64,
    lsel: F64,
    lp: F64,
    par: F64,
    ref: F64,
    num_kinds: int,
) -> tuple[float, F64, F64, F64, F64, F64, F64, F64]:
    """Posterior of every block, and expected counts of every factor.

    A state is (first line, length, what the last printer of the block before did next); the kind of
    the block itself is summed out on the way, because only its outcome enters the next state.

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
    log_ref = np.log(ref)
    log_gap = np.zeros(n)
    for i in range(1, n):
        log_gap[i] = np.log(max(t[i] - t[i - 1], TINY))
    alpha = np.full((n, m, 3), -np.inf)
    for k in range(count[0]):
        alpha[0, k, 0] = 0.0
    end = np.empty((n, m, 3))  # gap and skew factor of burst-end blocks
    end_bin = np.zeros((n, m, 3), np.int32)
    z = -np.inf
    for i in range(n):
        gap = t[i] - t[i - 1] if i > 0 else 0.0
        best = -np.inf
        for k in range(count[i]):
            for prev in range(3):
                best = max(best, alpha[i, k, prev])
        for k in range(count[i]):
            j = i + k
            b1 = par[0] * big[i, k]
            chosen = selection_factor(i, k, blk, lsel, par)
            own = chosen
            if k > 0:
                own += spread_factor(size_class(k + 1), k + 1, t[j] - t[i], ls)
            e0 = -np.inf
            for prev in range(3):
                g = 0.0
                if i > 0:
                    g, end_bin[i, k, prev] = gap_factor(
                        prev * 3, gap, log_gap[i], b1, b1, lg, par, log_ref
                    )
                end[i, k, prev] = g + own
                a = alpha[i, k, prev]
                if a < best - 30.0:  # cannot matter; also -inf
                    alpha[i, k, prev] = -np.inf
                else:
                    e0 = log_add(e0, a + lp[i, min(prev, 1), 0, k] + end[i, k, prev])
            if j == n - 1:
                z = log_add(z, e0)
                if num_kinds == 2:
                    # Unfinished: nothing is known of a pass after it, so it counts as going idle.
                    own = chosen + inner_factor(i, k, j, b1, t, after, ls, par, ref)
                    for prev in range(3):
                        a = alpha[i, k, prev]
                        if a > -np.inf:
                            g = 0.0
                            if i > 0:
                                g, _ = gap_factor(
                                    prev * 3 + 2, gap, log_gap[i], b1, par[0], lg, par, log_ref
                                )
                            z = log_add(z, a + lp[i, min(prev, 1), 1, k] + g + own + UNFINISHED)
                continue
            for k2 in range(count[j + 1]):
                j2 = j + 1 + k2
                if e0 > -np.inf:
                    alpha[j + 1, k2, 0] = log_add(
                        alpha[j + 1, k2, 0], e0 + link_factor(i, k, k2, 0, blk, lsel, par)
                    )
                if num_kinds == 1:
                    continue
                b2 = par[0] * big[j + 1, k2]
                f = after[i] <= j2
                r = after[j] <= j2
                e1 = -np.inf
                for prev in range(3):
                    a = alpha[i, k, prev]
                    if a > -np.inf:
                        g = 0.0
                        if i > 0:
                            g, _ = gap_factor(
                                prev * 3 + (1 if f else 2),
                                gap,
                                log_gap[i],
                                b1,
                                b2,
                                lg,
                                par,
                                log_ref,
                            )
                        e1 = log_add(e1, a + lp[i, min(prev, 1), 1, k] + g)
                if e1 > -np.inf:
                    own = chosen + inner_factor(i, k, j2, b2, t, after, ls, par, ref)
                    nxt = 1 if r else 2
                    alpha[j + 1, k2, nxt] = log_add(
                        alpha[j + 1, k2, nxt],
                        e1 + own + link_factor(i, k, k2, 1, blk, lsel, par),
                    )
    beta = np.full((n, m, 3), -np.inf)
    post = np.zeros((n, m, 2))
    cg = np.zeros((NUM_GAP, NUM_BINS))
    cs = np.zeros((NUM_SKEW, NUM_BINS))
    csel = np.zeros((NUM_SELECTION, NUM_BINS))
    kinds = np.zeros((n, 2, 2))
    broken = np.zeros(2)
    samples = np.empty((8 * n + 64, 3))
    num = 0
    for i in range(n - 1, -1, -1):
        gap = t[i] - t[i - 1] if i > 0 else 0.0
        for k in range(count[i]):
            j = i + k
            a0 = alpha[i, k, 0]
            a1 = alpha[i, k, 1]
            a2 = alpha[i, k, 2]
            if a0 == -np.inf and a1 == -np.inf and a2 == -np.inf:
                continue
            b1 = par[0] * big[i, k]
            w = t[j] - t[i]
            # Burst end: what follows does not depend on what came before.
            rest = 0.0
            if j < n - 1:
                rest = -np.inf
                for k2 in range(count[j + 1]):
                    b = beta[j + 1, k2, 0]
                    if b > -np.inf:
                        rest = log_add(rest, b + link_factor(i, k, k2, 0, blk, lsel, par))
            mass = 0.0
            if rest > -np.inf:
                for prev in range(3):
                    a = alpha[i, k, prev]
                    if a == -np.inf:
                        continue
                    v = lp[i, min(prev, 1), 0, k] + end[i, k, prev] + rest
                    beta[i, k, prev] = v
                    p = a + v - z
                    if p > -25.0:
                        p = np.exp(p)
                        mass += p
                        kinds[i, min(prev, 1), 0] += p
                        if i > 0:
                            cg[prev * 3, end_bin[i, k, prev]] += p
                            if prev == 2 and p > 0.1 and num < len(samples):
                                samples[num, 0] = 0.0
                                samples[num, 1] = (gap + par[1]) / big[i, k]
                                samples[num, 2] = p
                                num += 1
                post[i, k, 0] += mass
                if k > 0:
                    cs[size_class(k + 1), bin_of(w)] += mass
                    if snum[i, k] > 1:
                        csel[0 if snum[i, k] == 2 else 1, bin_of(smax[i, k] - smin[i, k])] += mass
                if mass > 1e-9 and j < n - 1:
                    for k2 in range(count[j + 1]):
                        b = beta[j + 1, k2, 0]
                        if b == -np.inf:
                            continue
                        share = mass * np.exp(b + link_factor(i, k, k2, 0, blk, lsel, par) - rest)
                        if latest[i, k] >= 0:
                            broken[1] += share
                            if latest[i, k] > j + 1 + k2:
                                broken[0] += share
                        if snum[i, k] > 0 and snum[j + 1, k2] > 0:
                            csel[2, bin_of(smin[j + 1, k2] - smax[i, k])] += share
            if num_kinds == 1:
                continue
            if j == n - 1:
                own = selection_factor(i, k, blk, lsel, par)
                own += inner_factor(i, k, j, b1, t, after, ls, par, ref)
                for prev in range(3):
                    a = alpha[i, k, prev]
                    if a == -np.inf:
                        continue
                    g = 0.0
                    if i > 0:
                        g, _ = gap_factor(
                            prev * 3 + 2, gap, log_gap[i], b1, par[0], lg, par, log_ref
                        )
                    v = lp[i, min(prev, 1), 1, k] + g + own + UNFINISHED
                    beta[i, k, prev] = log_add(beta[i, k, prev], v)
                    post[i, k, 1] += np.exp(max(a + v - z, -700.0))
                continue
            for k2 in range(count[j + 1]):
                j2 = j + 1 + k2
                f = after[i] <= j2
                r = after[j] <= j2
                b = beta[j + 1, k2, 1 if r else 2]
                if b == -np.inf:
                    continue
                b2 = par[0] * big[j + 1, k2]
                own = inner_factor(i, k, j2, b2, t, after, ls, par, ref)
                own += selection_factor(i, k, blk, lsel, par)
                tail = b + own + link_factor(i, k, k2, 1, blk, lsel, par)
                mass = 0.0
                for prev in range(3):
                    a = alpha[i, k, prev]
                    if a == -np.inf:
                        continue
                    c = prev * 3 + (1 if f else 2)
                    g = 0.0
                    gap_bin = 0
                    if i > 0:
                        g, gap_bin = gap_factor(c, gap, log_gap[i], b1, b2, lg, par, log_ref)
                    v = lp[i, min(prev, 1), 1, k] + g + tail
                    beta[i, k, prev] = log_add(beta[i, k, prev], v)
                    p = a + v - z
                    if p < -14.0:
                        continue
                    p = np.exp(p)
                    mass += p
                    kinds[i, min(prev, 1), 1] += p
                    if i > 0:
                        cg[c, gap_bin] += p
                        if p > 0.1 and num < len(samples) and (c == 4 or c == 5 or c == 8):
                            samples[num, 0] = 1.0 if c == 5 else 0.0
                            if c == 5:
                                samples[num, 1] = gap
                            elif c == 4:
                                samples[num, 1] = gap / big[j + 1, k2]
                            else:
                                samples[num, 1] = gap / big[i, k]
                            samples[num, 2] = p
                            num += 1
                if mass == 0.0:
                    continue
                post[i, k, 1] += mass
                if latest[i, k] >= 0:
                    broken[1] += mass
                    if latest[i, k] > j2:
                        broken[0] += mass
                if snum[i, k] > 0 and snum[j + 1, k2] > 0:
                    csel[3, bin_of(smin[j + 1, k2] - smax[i, k])] += mass
                if k > 0:
                    count_inner(i, k, j2, b2, t, after, par, ref, mass, cs)
                    if snum[i, k] > 1:
                        csel[0 if snum[i, k] == 2 else 1, bin_of(smax[i, k] - smin[i, k])] += mass
    return z, post, cg, cs, csel, kinds, broken, samples[:num]


@compiled
def decode(post: F64) -> I32:
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
