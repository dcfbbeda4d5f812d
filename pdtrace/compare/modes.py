"""Whether one run ran at two speeds: the same passes, now fast, now slow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.compare.passes import MIN_BIN

if TYPE_CHECKING:
    from pdtrace.compare.matching import F64
    from pdtrace.compare.passes import Passes

MIN_WINDOWS = 20
MIN_SHARE = 0.2
MIN_DISTANCE = 0.1  # of the logarithm: about 10 %
MIN_SEPARATION = 4.5  # Ashman's D


@dataclass(frozen=True)
class Modes:
    """Two speeds of one run.

    Attributes:
        ratio: Slow ÷ fast: how many times as long the same pass takes.
        slow_share: Share of the windows of time that were slow.
    """

    ratio: float
    slow_share: float


def find_modes(passes: Passes) -> Modes | None:
    """Find two speeds in a run, or None.

    The duration of each pass is divided by the median of those with the same width and octave of
    tokens, so that the workload does not show; medians over windows of consecutive passes then
    stand for the speed at that time.
    """
    known = np.isfinite(passes.duration) & (passes.duration > 0) & ~passes.is_stall
    octave = np.floor(2 * np.log2(np.maximum(passes.busiest, 1.0))).astype(np.int64)
    kinds = octave * 4096 + passes.width
    speed = np.full(len(passes), np.nan)
    for kind in np.unique(kinds[known]):
        mine = known & (kinds == kind)
        if mine.sum() >= MIN_BIN:
            speed[mine] = np.log(passes.duration[mine] / np.median(passes.duration[mine]))
    speed = speed[np.isfinite(speed)]
    num_windows = min(len(speed) // 5, 60)
    if num_windows < MIN_WINDOWS:
        return None
    return split_modes(np.array([np.median(w) for w in np.array_split(speed, num_windows)]))


def split_modes(levels: F64) -> Modes | None:
    """Split values into two groups where that leaves least variance; None unless they are apart.

    Apart: each holds a fifth of the values at least, their means differ by 10 %, and Ashman's
    D = √2 · |difference of means| ÷ √(sum of variances) is 4.5 at least. Cutting one normal
    distribution in two gives 2.7 and a uniform one (a drift) 3.5; of 20 values, in one case of
    twenty, 4.0 and 4.7.

    Args:
        levels: Logarithms.
    """
    x = np.sort(levels)
    n = len(x)
    least = max(2, int(np.ceil(MIN_SHARE * n)))
    best: tuple[float, int] | None = None
    for k in range(least, n - least + 1):
        inner = float(x[:k].var() * k + x[k:].var() * (n - k))
        if best is None or inner < best[0]:
            best = (inner, k)
    if best is None:
        return None
    low, high = x[: best[1]], x[best[1] :]
    distance = float(high.mean() - low.mean())
    variance = float(low.var() + high.var())
    if distance < MIN_DISTANCE or distance * np.sqrt(2) < MIN_SEPARATION * np.sqrt(variance):
        return None
    return Modes(ratio=float(np.exp(distance)), slow_share=len(high) / n)
