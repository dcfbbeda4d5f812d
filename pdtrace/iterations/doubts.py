"""What the segmentation cannot know about its own blocks, and how far that lowers confidence.

The posterior of a block holds if the times do and if a pass is as long as was learned. But ranks
that take turns in passes of their own look like ranks that share passes at half the rate, and whole
seconds may leave the times of ranks free against one another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pdtrace.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.iterations.segmentation import Lines

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

UNDECIDED = 0.5  # of two readings that fit alike
SHORTEST_PASS_S = 0.025  # as the first scale of a pass is measured
TOGETHER_S = 0.005  # blocks no wider say nothing of others: all their ranks ran at once
LOCAL = 25  # blocks, or lines, on either side that are looked at
HARMLESS_FREEDOM = 0.4  # of a pass: less does not take a line to another iteration
MIN_WIDE_SHARE = 0.5
MIN_EVEN_SHARE = 0.9
EVEN = 0.6  # of their median: passes have a shortest length, a skew has none


@compiled
def find_turns(wide: F64, width: I64) -> NDArray[np.bool_]:
    """Blocks that may as well be ranks taking turns: the gap within each is long, and like others.

    Ranks that share a pass report within milliseconds of each other, or with a skew of any size
    down to none. Where most blocks around are as wide, and none much less than the others, the
    gaps inside may be passes.

    Args:
        wide: Longest gap between neighbouring lines of each block, seconds.
        width: Lines of each block.
    """
    n = len(wide)
    out = np.zeros(n, np.bool_)
    for k in range(n):
        if wide[k] < SHORTEST_PASS_S:
            continue
        low, high = max(0, k - LOCAL), min(n, k + LOCAL + 1)
        around = wide[low:high]
        long = around[around >= SHORTEST_PASS_S]
        num_even = np.sum(long >= EVEN * np.median(long))
        num_apart = np.sum(around >= TOGETHER_S)
        out[k] = len(long) >= MIN_WIDE_SHARE * np.sum(width[low:high] > 1) and (
            num_even >= MIN_EVEN_SHARE * num_apart
        )
    return out


@compiled
def measure_freedom(t: F64, rank: I64, window: F64, num_ranks: int) -> F64:
    """Seconds by which each line may be moved against the lines of other ranks around it.

    Lines keep the order in which they were written, so the shortest gaps from a rank to another
    and back bound the two; the stamps bound each by itself.

    Args:
        t, rank, window: Of the lines, sorted by time.
        num_ranks: DP ranks.
    """
    n = len(t)
    out = window.copy()
    there = np.empty(num_ranks)
    back = np.empty(num_ranks)
    for i in range(n):
        if window[i] <= 0.0:
            continue
        there[:] = np.inf
        back[:] = np.inf
        for j in range(max(0, i - LOCAL), min(n - 1, i + LOCAL)):
            gap = t[j + 1] - t[j]
            if rank[j] == rank[i] and rank[j + 1] != rank[i]:
                there[rank[j + 1]] = min(there[rank[j + 1]], gap)
            elif rank[j] != rank[i] and rank[j + 1] == rank[i]:
                back[rank[j]] = min(back[rank[j]], gap)
        out[i] = min(out[i], np.min(there + back))
    return out


def _most_of_each(block: I64, value: F64) -> F64:
    out = np.zeros(int(block.max()) + 1)
    np.maximum.at(out, block, value)
    return out


def are_turns(lines: Lines, block: I64) -> NDArray[np.bool_]:
    """Whether each block may as well be several ranks taking turns.

    Args:
        lines: Sorted by time.
        block: Block of each line, ascending without gaps.
    """
    gap = np.diff(lines.t, prepend=lines.t[0])
    gap[1:][block[1:] != block[:-1]] = 0.0
    width = np.bincount(block)
    num_selected = np.bincount(block, weights=~np.isnan(lines.selection))
    return find_turns(_most_of_each(block, gap), width) & (num_selected < 2)


def cap_by_freedom(lines: Lines, block: I64, num_ranks: int, pass_s: float) -> F64:
    """Highest confidence of each block that the freedom of its lines' times allows.

    1 up to 0.4 of a pass; at a whole pass a line may belong to either neighbour. Selection times
    are not free, and count half of it away.

    Args:
        lines: Sorted by time.
        block: Block of each line, ascending without gaps.
        num_ranks: DP ranks.
        pass_s: A short pass, seconds.
    """
    free = measure_freedom(lines.t, lines.rank, lines.window, num_ranks)
    free = np.where(np.isnan(lines.selection), free, free / 2)
    most = _most_of_each(block, free)
    # A block is as uncertain as the lines that may belong to it.
    edge = np.flatnonzero(block[1:] != block[:-1])
    np.maximum.at(most, block[edge], free[edge + 1])
    np.maximum.at(most, block[edge + 1], free[edge])
    share = (most / pass_s - HARMLESS_FREEDOM) / (1 - HARMLESS_FREEDOM)
    return 1 - (1 - UNDECIDED) * np.clip(share, 0.0, 1.0)
