"""Densities that the segmentation learns: log-binned histograms over physical priors.

All densities are per second, so that lines explained as 'same iteration' and lines explained as
'next iteration' compare on one scale. Contexts are derived in ``docs/method.md``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

NUM_BINS = 160
LOG_LOW = float(np.log(0.3e-3))
LOG_STEP = float((np.log(20.0) - LOG_LOW) / NUM_BINS)
CENTRES: F64 = np.exp(LOG_LOW + (np.arange(NUM_BINS) + 0.5) * LOG_STEP)

# What the rank that printed last in the block before does in the next pass, × what the rank that
# prints first in this block does in the pass after it: E (nothing followed: burst end), S (that
# rank ran real tokens again), D (that rank idled). Row = 3 * before + this.
NUM_GAP = 9
BURST_END, STAYS_REAL, TURNS_IDLE = 0, 1, 2
# Spread of burst-end blocks by size (2, 3-4, more); of inner blocks: among ranks with real tokens
# next, among ranks that idle next, from the first of the latter to the first of the former, and
# that reversed.
NUM_SKEW = 7
# Selection times: spread within a block (2 lines; more), gap after a burst end, gap inside a burst.
NUM_SELECTION = 4

PRIOR_SHARE = 0.5  # however long the log, the physics keeps this much weight beside the counts
REPORT_GAP_S = 0.005  # from one result to the next when both are already there: a loop turn


def lognormal(median_s: float, spread: float) -> F64:
    """A normalised log-normal bump over the bins; median in seconds, spread in log units."""
    d = np.exp(-0.5 * ((np.log(CENTRES) - np.log(max(median_s, 1e-6))) / spread) ** 2) + 1e-300
    out: F64 = d / d.sum()
    return out


def above(edge_s: float, decay: float = 1.2) -> F64:
    """Nothing below an edge in seconds, a long tail in log time above it."""
    x = np.log(CENTRES / max(edge_s, 1e-6))
    d = np.where(x > 0, np.exp(-x / decay), np.exp(np.minimum(x, 0) / 0.06)) + 1e-300
    out: F64 = d / d.sum()
    return out


def smooth(counts: F64, width: float = 1.5) -> F64:
    """Gaussian smoothing along the bins; shape is kept."""
    x = np.arange(-5, 6)
    k = np.exp(-0.5 * (x / width) ** 2)
    k /= k.sum()
    return np.apply_along_axis(lambda row: np.convolve(row, k, mode="same"), 1, counts)


def reference_gaps(pass_s: float, idle_s: float) -> F64:
    """Expected gap of each gap context for a pass of typical size, in seconds.

    Args:
        pass_s: Duration of a pass of typical size.
        idle_s: Time a rank takes to launch an idle batch.

    Returns:
        Ten values: the nine gap contexts and the expected skew of a block in which one rank turns
        idle and another does not.
    """
    rest = max(pass_s - idle_s, 0.15 * pass_s)
    return np.array(
        [
            pass_s,
            2 * pass_s,
            pass_s + idle_s,
            REPORT_GAP_S,
            pass_s,
            idle_s,
            rest,
            rest + pass_s,
            pass_s,
            max(pass_s - idle_s, 0.3 * pass_s),
        ]
    )


class Priors:
    """Physical priors for one starting guess, and how counts are mixed into them.

    Args:
        reference: From ``reference_gaps``.
        before_launch: Lines are printed before the launch (through 0.5.8), so the first two of a
            burst are a loop turn apart.
        weight: Pseudo-counts of the prior in each context.
        outliers: Share of stalls and other strays.
    """

    def __init__(
        self,
        reference: F64,
        *,
        before_launch: bool,
        weight: float = 50.0,
        outliers: float = 0.02,
    ) -> None:
        self.weight, self.outliers = weight, outliers
        gap = np.zeros((NUM_GAP, NUM_BINS))
        for c in range(3):
            gap[c] = above(0.85 * reference[c])
        if before_launch:
            gap[0] = 0.4 * lognormal(REPORT_GAP_S, 0.5) + 0.6 * gap[0]
        gap[3] = lognormal(REPORT_GAP_S, 0.5)
        for c in range(4, 9):
            gap[c] = lognormal(reference[c], 0.35)
        skew = np.zeros((NUM_SKEW, NUM_BINS))
        for c in range(3):
            skew[c] = lognormal(0.0015 * (1 + c), 1.2)
        skew[3] = skew[4] = lognormal(0.012, 1.0)
        skew[5] = lognormal(reference[9], 0.6)
        skew[6] = lognormal(0.012, 1.2)
        selection = np.zeros((NUM_SELECTION, NUM_BINS))
        selection[0] = selection[1] = lognormal(0.0006, 1.5)
        selection[2] = above(0.7 * reference[0])
        selection[3] = 0.9 * above(0.7 * reference[0]) + 0.1 * lognormal(0.02, 0.7)
        self.gap, self.skew, self.selection = gap, skew, selection
        # A pass can stall, but it cannot be quicker than the hardware: strays lie above.
        stray = np.empty((NUM_GAP, NUM_BINS))
        for c in range(NUM_GAP):
            up = 0.7 * reference[c] < CENTRES
            stray[c] = np.where(up, 1.0 / max(int(up.sum()), 1), 0.1 / NUM_BINS)
        self._stray_gap = stray
        self._flat = np.full(NUM_BINS, 1.0 / NUM_BINS)

    def _mix(self, counts: F64, prior: F64, stray: F64, outliers: float) -> F64:
        seen = counts.sum(1, keepdims=True)
        weight = np.maximum(self.weight, PRIOR_SHARE * seen)
        body = (smooth(counts) + weight * prior) / (seen + weight)
        out: F64 = np.log(((1 - outliers) * body + outliers * stray) / LOG_STEP)
        return out

    def log_gap(self, counts: F64) -> F64:
        """Log density over log gap, ``NUM_GAP × NUM_BINS``, given posterior counts."""
        return self._mix(counts, self.gap, self._stray_gap, self.outliers)

    def log_skew(self, counts: F64) -> F64:
        """Log density over log skew, ``NUM_SKEW × NUM_BINS``."""
        return self._mix(counts, self.skew, self._flat, self.outliers)

    def log_selection(self, counts: F64) -> F64:
        """Log density over log selection spread or gap, ``NUM_SELECTION × NUM_BINS``.

        Selection is stamped by the scheduler loop itself, so it strays far less than a result.
        """
        return self._mix(counts, self.selection, self._flat, 0.05 * self.outliers)
