"""When the scheduler selected the requests of each batch, from the time-stats lines.

A time-stats line names a request's selection time but not its batch. All requests newly admitted
into one batch on one rank share that time, so the stats fall into groups, and groups and lines of a
rank are in the same order: they are matched by dynamic programming on counts and tokens. The chunk
that merely continues a prompt has no group.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdtrace.compiled import compiled

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

SAME_SELECTION_S = 0.002  # durations are printed to 0.01 ms, the entry time to 1 ms
PAGE = 64  # releases through 0.5.19 round tokens up to a page for each request
REACH = 16  # lines after its selection within which a batch is looked for
MAX_FORWARD_S = 60.0
NO_GROUP = 2.0
NO_LINE = 3.0


@compiled
def match_groups(
    t: F64,
    seqs: F64,
    tokens: F64,
    continues: NDArray[np.bool_],
    g_time: F64,
    g_count: F64,
    g_tokens: F64,
) -> I64:
    """Monotone matching of selection groups to the lines of one rank.

    Args:
        t, seqs, tokens: Time, requests and tokens of the lines, in order.
        continues: The line may be nothing but the next chunk of a request.
        g_time, g_count, g_tokens: Selection time, requests and uncached tokens of the groups.

    Returns:
        Group of each line, or -1.
    """
    num_lines = len(t)
    num_groups = len(g_time)
    first = np.zeros(num_groups, np.int64)
    at = 0
    for g in range(num_groups):
        while at < num_lines and t[at] <= g_time[g] + 0.001:
            at += 1
        first[g] = at
    skip = np.zeros(num_lines + 1)
    for i in range(num_lines):
        skip[i + 1] = skip[i] + (0.4 if continues[i] else NO_GROUP)
    cost = np.full((num_groups, REACH), np.inf)
    back_g = np.full((num_groups, REACH), -1, np.int64)
    back_k = np.full((num_groups, REACH), -1, np.int64)
    for g in range(num_groups):
        for k in range(REACH):
            i = first[g] + k
            if i >= num_lines or t[i] - g_time[g] > MAX_FORWARD_S:
                break
            if seqs[i] == g_count[g] and abs(tokens[i] - g_tokens[g]) <= PAGE * seqs[i]:
                m = 0.0
            elif seqs[i] == g_count[g] + 1 or (seqs[i] == g_count[g] and tokens[i] < g_tokens[g]):
                m = 1.0  # beside a continued chunk, or with its last prompt cut
            else:
                m = 4.0
            m += 0.02 * k
            best = skip[i] + NO_LINE * g
            for step in range(1, 4):
                h = g - step
                if h < 0:
                    break
                for q in range(REACH):
                    i2 = first[h] + q
                    if i2 >= i:
                        break
                    v = cost[h, q] + skip[i] - skip[i2 + 1] + NO_LINE * (step - 1)
                    if v < best:
                        best = v
                        back_g[g, k] = h
                        back_k[g, k] = q
            cost[g, k] = best + m
    out = np.full(num_lines, -1, np.int64)
    best = skip[num_lines] + NO_LINE * num_groups
    g = -1
    k = -1
    for h in range(max(0, num_groups - 5), num_groups):
        for q in range(REACH):
            if cost[h, q] < np.inf:
                v = (
                    cost[h, q]
                    + skip[num_lines]
                    - skip[first[h] + q + 1]
                    + NO_LINE * (num_groups - 1 - h)
                )
                if v < best:
                    best = v
                    g = h
                    k = q
    while g >= 0:
        out[first[g] + k] = g
        g, k = back_g[g, k], back_k[g, k]
    return out


def match_selections(
    t: F64,
    rank: I64,
    seqs: F64,
    tokens: F64,
    pending: F64,
    request_rank: I64,
    selected: F64,
    request_tokens: F64,
) -> F64:
    """Selection time of each line's newly admitted requests.

    Args:
        t, rank, seqs, tokens, pending: The lines: time in seconds (sorted), DP rank, requests,
            tokens, tokens still waiting.
        request_rank, selected, request_tokens: The requests: DP rank, selection time in seconds on
            the same clock, uncached prompt tokens.

    Returns:
        Seconds, nan where a line has none.
    """
    out = np.full(len(t), np.nan)
    for r in np.unique(request_rank):
        mine = np.flatnonzero(rank == r)
        ours = np.flatnonzero(request_rank == r)
        if not len(mine):
            continue
        ours = ours[np.argsort(selected[ours], kind="stable")]
        times = selected[ours]
        group = np.cumsum(np.r_[False, np.diff(times) > SAME_SELECTION_S])
        g_time = np.zeros(group[-1] + 1)
        np.maximum.at(g_time, group, times - times[0])
        g_time += times[0]
        before = np.r_[0.0, pending[mine][:-1]]
        matched = match_groups(
            t[mine], seqs[mine], tokens[mine], (before > 0) & (seqs[mine] == 1),
            g_time, np.bincount(group).astype(float),
            np.bincount(group, weights=request_tokens[ours]).astype(float),
        )  # fmt: skip
        ok = matched >= 0
        out[mine[ok]] = g_time[matched[ok]]
    return out
