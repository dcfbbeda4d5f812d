"""How long a pass is, before anything is learned: a first scale, and shapes against tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def shortest_pass(t: F64, rank: NDArray[np.int64]) -> float:
    """Scale of a pass in seconds: 10th percentile of same-rank gaps above 25 ms.

    Gaps of one rank are free ground truth, since two of its lines never share an iteration; those
    under 25 ms are two results reported one after the other.
    """
    order = np.lexsort((t, rank))
    every = np.diff(t[order])[np.diff(rank[order]) == 0]
    passes = every[every > 0.025]
    if len(passes) == 0:
        passes = every[every > 0]
    return float(np.quantile(passes, 0.1)) if len(passes) else 0.1


def pass_scales(tokens: F64) -> dict[str, F64]:
    """Candidate shapes of pass duration against the largest rank's tokens, median 1.

    Flat (launch-bound), linear with a small or large constant part, and launch-bound up to a
    knee then linear; which of them holds is decided by evidence.
    """
    x = tokens / max(float(np.median(tokens)), 1.0)
    shapes = {
        "flat": np.ones_like(x),
        "linear": 1 + x,
        "steep": 1 + 4 * x,
        "knee": np.maximum(1.0, x),
        "late_knee": np.maximum(1.0, x / 1.5),
    }
    return {name: s / float(np.median(s)) for name, s in shapes.items()}
