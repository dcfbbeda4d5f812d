"""What the segmentation cannot know about its own blocks, and how far that lowers confidence.

The posterior of a block holds if a pass is as long as was learned. But ranks that take turns in
passes of their own look like ranks that share passes at half the rate.
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
LOCAL = 25  # blocks on either side that are looked at
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
