"""How long launches keep the host, where they block: idle ones, and ones with tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.delayer.load import Passes
    from pdtrace.delayer.pass_cost import PassCost

    F64 = NDArray[np.float64]

MIN_IDLE = 8
MIN_LIKE = 15
LIKE = 1.1  # passes of so many times the duration are alike
ASSUMED_IDLE = 0.6  # of a usual pass


@dataclass(frozen=True)
class Launches:
    """Recorded launches.

    A rank with tokens launches in the host's own time, however long the device then works; it sees
    the result of the pass before once it has, but its next launch waits for the device.

    Attributes:
        idle: Durations of launching an idle batch, seconds.
        took: Durations of passes, in order, that a rank with tokens saw the result before in.
        share: The share of each after which it did.
            Both empty: too few, or launches do not block; the result is seen when the pass is over.
    """

    idle: F64
    took: F64
    share: F64

    def scale(self, factor: float) -> Launches:
        """The same, taking so many times as long."""
        return replace(self, idle=self.idle * factor, took=self.took * factor)


def measure_launches(passes: Passes, cost: PassCost) -> Launches:
    """How long launches kept the host in a recording.

    Args:
        passes: As recorded.
        cost: What they were expected to take.
    """
    idle = _list_idle(passes)
    if len(idle) < MIN_IDLE:
        idle = np.array([ASSUMED_IDLE * float(np.median(cost.expected))])
    took, share = _list_returns(passes, cost)
    return Launches(idle, took, share)


def _list_idle(passes: Passes) -> F64:
    """From the launch of an idle batch to the late report of the pass before, seconds."""
    late = passes.report[:-1] - passes.launch[1:, None]
    seconds = late[np.isfinite(late) & np.isnan(passes.report[1:])]
    out: F64 = seconds[(seconds > 0) & (seconds < 1.0)]
    return out


def _list_returns(passes: Passes, cost: PassCost) -> tuple[F64, F64]:
    """Durations in order of passes, and when ranks with tokens saw the result before in them."""
    took = dict(zip(cost.time.tolist(), (cost.expected + cost.excess).tolist(), strict=True))
    duration = np.array([took.get(at, np.nan) for at in passes.launch.tolist()])
    late = passes.report[:-1] - passes.launch[1:, None]
    share = late / duration[1:, None]
    is_seen = (late > 0) & (passes.tokens[1:] > 0) & np.isfinite(share)
    if not cost.is_blocking or is_seen.sum() < MIN_LIKE:
        return np.empty(0), np.empty(0)
    lasted = np.broadcast_to(duration[1:, None], late.shape)[is_seen]
    order = np.argsort(lasted, kind="stable")
    return lasted[order], np.minimum(share[is_seen], 1.0)[order]


def find_like(known: F64, value: float) -> tuple[int, int]:
    """From where to where known values, in order, are like this one; at least the nearest few."""
    low = int(np.searchsorted(known, value / LIKE))
    high = int(np.searchsorted(known, value * LIKE, side="right"))
    if high - low < MIN_LIKE:
        middle = (low + high) // 2
        low = max(0, min(len(known) - MIN_LIKE, middle - MIN_LIKE // 2))
        high = min(len(known), low + MIN_LIKE)
    return low, high


find_like_compiled = compiled(find_like)


@compiled
def draw_return(took_s: float, took: F64, share: F64) -> float:
    """After how much of a pass a rank with tokens sees the result before, seconds."""
    if len(took) == 0:
        return took_s
    low, high = find_like_compiled(took, took_s)
    return took_s * float(share[low + int(np.random.random() * (high - low))])
