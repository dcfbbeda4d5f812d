"""How long each pass took, as shares of the engine's time line that do not overlap.

A line says when a result was reported, not when its pass began. A pass that began while the one
before was still running occupies the time between the two; one that began after a pause began when
its requests were selected, if the log tells that, and otherwise a pass of its size is taken from
the passes of this run that ran back to back.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

SELECTION, GAP, BOUNDED = 0, 1, 2
SLACK = 1.5  # a gap up to this many typical passes is the pass itself


def typical_pass(gap: F64, tokens: F64, num_bins: int = 8) -> F64:
    """Typical duration of a back-to-back pass of each size, seconds.

    Within a bin of sizes, back-to-back passes crowd at the low end of the gaps, since a pause only
    adds to a gap: the 35th percentile is taken, made monotone over the bins.

    Args:
        gap: Seconds between reports, n iterations; nan where unknown.
        tokens: Tokens of the busiest rank.
        num_bins: Bins of equal count.
    """
    ok = np.isfinite(gap) & (gap > 0.025)
    if not ok.any():
        return np.full(len(gap), np.nan)
    edges = np.unique(np.quantile(tokens[ok], np.linspace(0, 1, num_bins + 1)[1:-1]))
    index = np.searchsorted(edges, tokens, side="left")
    level = np.full(len(edges) + 1, np.nan)
    for k in range(len(level)):
        mine = ok & (index == k)
        if mine.any():
            level[k] = np.quantile(gap[mine], 0.35)
    level = np.interp(np.arange(len(level)), np.flatnonzero(~np.isnan(level)),
                      level[~np.isnan(level)])  # fmt: skip
    out: F64 = np.maximum.accumulate(level)[index]
    return out


def measure_durations(
    end: F64, selected: F64, tokens: F64, previous_end: float = np.nan
) -> tuple[F64, NDArray[np.int8]]:
    """Share of the time line of each iteration.

    Args:
        end: When the first rank reported the result, seconds, ascending.
        selected: Earliest selection of its requests, seconds; nan where unknown.
        tokens: Tokens of the busiest rank.
        previous_end: Report of the iteration before the first.

    Returns:
        duration in seconds (nan where nothing bounds it) and how it was found (SELECTION, GAP,
        BOUNDED).
    """
    n = len(end)
    duration = np.full(n, np.nan)
    how = np.full(n, GAP, np.int8)
    gap = np.diff(end, prepend=previous_end)
    typical = typical_pass(gap, tokens)
    if np.isnan(selected).all():
        # nothing but reports: each pass is the time since the one before, or a typical one
        duration = np.maximum(gap, 0.0)
        with np.errstate(invalid="ignore"):
            too_long = np.isnan(duration) | (duration > SLACK * typical)
        too_long &= ~np.isnan(typical)
        how[too_long] = BOUNDED
        return np.where(too_long, typical, duration), how
    mark = previous_end
    for i in range(n):
        stop = end[i]
        begin = mark
        if np.isfinite(selected[i]) and selected[i] <= stop:
            begin = selected[i] if np.isnan(mark) else max(mark, selected[i])
            how[i] = SELECTION
        following = selected[i + 1] if i + 1 < n else np.nan
        # The next pass was selected before this result was reported. If launching blocks until the
        # device is done, this pass ended there; if it does not, it ended at its report.
        if following < stop and following - begin >= 0.5 * (stop - begin):
            stop = following
        if not np.isnan(begin):
            duration[i] = max(stop - begin, 0.0)
        too_long = np.isnan(duration[i]) or duration[i] > SLACK * typical[i]
        if how[i] == GAP and not np.isnan(typical[i]) and too_long:
            duration[i] = typical[i]
            how[i] = BOUNDED
        mark = stop
    return duration, how
