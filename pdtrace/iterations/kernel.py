"""Compiled forward-backward over segmentations of time-sorted lines into blocks.

A state is a block: its first line, its length, and what the last printer of the block before did
next. ``docs/method.md`` derives the model. All arrays are C-contiguous; ``n`` lines, ``m`` the
longest block.
"""

from __future__ import annotations

import numpy as np

from pdtrace.compiled import compiled
from pdtrace.iterations.densities import NUM_BINS, NUM_GAP, NUM_SELECTION, NUM_SKEW
from pdtrace.iterations.factors import (
    F64,
    I32,
    TINY,
    UNFINISHED,
    Blocks,
    bin_of,
    count_inner,
    gap_factor,
    inner_factor,
    link_factor,
    log_add,
    selection_factor,
    size_class,
    spread_factor,
)


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
            chosen = selection_factor(i, k, t[i], b1, blk, lsel, par)
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
                own = selection_factor(i, k, t[i], b1, blk, lsel, par)
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
                own += selection_factor(i, k, t[i], b1, blk, lsel, par)
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
