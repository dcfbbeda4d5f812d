"""From two numbers and an interval to a verdict that does not claim more than they show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pdtrace.compare.resampling import (
    Change,
    Fixed,
    Quantile,
    estimate_change,
    estimate_difference,
    point_of,
)
from pdtrace.wording import plural

if TYPE_CHECKING:
    from pdtrace.compare.matching import F64
    from pdtrace.compare.quantities import Quantity
    from pdtrace.compare.resampling import Estimate

Verdict = Literal["better", "worse", "same", "inconclusive", "unmeasured"]

# Two runs of one setting differ by more than resampling one of them can show: recorded repeats on
# two GPUs differ by 2.4 to 3.6 % in mean latency. A gain or loss is claimed where the whole
# interval lies beyond that.
FLOOR = 0.03
SAME = 0.05  # an interval within ± this much is called the same
MIN_BLOCKS = 6
MIN_TAIL = 5  # values that must lie above a quantile
MIN_COUNT = 6  # fewer of something that the other run has none of may be chance: (1/2)^5 < 5 %


@dataclass(frozen=True)
class Compared:
    """One metric of two runs; a row of the table ``comparisons``.

    Attributes:
        quantity: What it is.
        baseline, candidate: Values over what both runs have, stalls left out of times.
        change_ratio: candidate ÷ baseline − 1.
        low, high: 95 % interval of it.
        verdict: In the direction that users want.
        num_blocks: Independent blocks behind the interval.
        n: Rows behind the values: baseline, candidate.
        raw: The values with everything in: stalls, and requests that a stall touched.
        note: What limits it, or what would give it.
    """

    quantity: Quantity
    baseline: float | None
    candidate: float | None
    change_ratio: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    num_blocks: int
    n: tuple[int, int]
    raw: tuple[float | None, float | None]
    note: str | None = None


def judge(
    quantity: Quantity,
    a: Estimate | None,
    b: Estimate | None,
    weights: tuple[F64, F64],
    *,
    noise: float = 0.0,
    raw: tuple[float | None, float | None] = (None, None),
    missing: str | None = None,
) -> Compared:
    """Compare one metric.

    Args:
        quantity: What it is.
        a, b: Baseline and candidate; None: not measured.
        weights: How often the draws take each block of either.
        noise: |ln| of the change between two baselines, added at both ends of the interval.
        raw: Values with everything in.
        missing: What would give it, where it is not measured.
    """
    x = None if a is None else point_of(a)
    y = None if b is None else point_of(b)
    if a is None or b is None or x is None or y is None:
        return Compared(quantity, x, y, None, None, None, "unmeasured", 0, (0, 0), raw, missing)
    change = estimate_change(a, b, weights)
    if change is None:
        return _judge_zero(quantity, a, b, (x, y), weights, raw)
    change = change.widened(noise)
    num_blocks = min(a.num_blocks, b.num_blocks)
    verdict, note = _decide(quantity, a, b, change, noise)
    ratio = y / x - 1
    # ln and exp round; the point stays inside
    low = min(ratio, float(np.expm1(change.low)))
    high = max(ratio, float(np.expm1(change.high)))
    return Compared(quantity, x, y, ratio, low, high, verdict, num_blocks, (a.n, b.n), raw, note)


def _judge_zero(
    quantity: Quantity,
    a: Estimate,
    b: Estimate,
    values: tuple[float, float],
    weights: tuple[F64, F64],
    raw: tuple[float | None, float | None],
) -> Compared:
    """Where ln(b ÷ a) or its interval does not exist: judged by the difference, or by the count."""
    x, y = values
    num_blocks = min(a.num_blocks, b.num_blocks)
    difference = estimate_difference(a, b, weights)
    ratio = 0.0 if x == y else y / x - 1 if x > 0 else None
    low = high = note = None
    verdict: Verdict = "inconclusive"
    if x == y and (difference is None or difference.low == difference.high):
        verdict, low, high = "same", 0.0, 0.0
    elif isinstance(a, Fixed):
        is_none = (x == 0) != (y == 0)
        if is_none and (quantity.unit == "s" or max(x, y) >= MIN_COUNT):
            verdict, note = _towards(quantity, y - x), "one run has none of it: no interval"
        elif is_none:
            note = f"one run has none and the other under {MIN_COUNT}: may be chance"
        else:
            note = "one number a run, which has no interval; repeats would give it"
    elif difference is None:
        note = _too_few(num_blocks)
    else:
        if x > 0 and ratio is not None:
            low = max(-1.0, min(ratio, difference.low / x))
            high = max(ratio, difference.high / x)
        if num_blocks < MIN_BLOCKS:
            note = _too_few(num_blocks)
        elif difference.low > 0 or difference.high < 0:
            verdict = _towards(quantity, y - x)
        else:
            note = "too little of it"
    return Compared(quantity, x, y, ratio, low, high, verdict, num_blocks, (a.n, b.n), raw, note)


def _towards(quantity: Quantity, difference: float) -> Verdict:
    return "better" if (difference < 0) == (quantity.better == "lower") else "worse"


def _decide(
    quantity: Quantity, a: Estimate, b: Estimate, change: Change, noise: float
) -> tuple[Verdict, str | None]:
    if change.point == 0 and change.low == -noise and change.high == noise:
        return "same", None
    if change.num_blocks < MIN_BLOCKS:
        return "inconclusive", _too_few(change.num_blocks)
    if isinstance(a, Quantile) and isinstance(b, Quantile):
        n = min(a.n, b.n)
        needed = int(np.ceil(MIN_TAIL / (1 - max(a.share, 0.5))))
        if n < needed:
            return "inconclusive", f"{n} values; a tail needs {needed - n} more"
    if change.low > FLOOR or change.high < -FLOOR:
        return _towards(quantity, change.point), None
    if change.low >= -SAME and change.high <= SAME:
        return "same", None
    return "inconclusive", _what_it_takes(change, noise)


def _too_few(num_blocks: int) -> str:
    more = MIN_BLOCKS - num_blocks
    return f"{plural(num_blocks, 'independent block')}; at least {more} more needed"


def _what_it_takes(change: Change, noise: float) -> str:
    """How many blocks would narrow the interval enough for a verdict, its width falling as 1/√n."""
    n, size = change.num_blocks, abs(change.point)
    below, above = change.point - change.low - noise, change.high - change.point - noise
    inner = below if change.point > 0 else above  # the side towards zero
    goals = (
        (inner, size - FLOOR - noise),  # to be beyond the floor
        (max(below, above), SAME - size - noise),  # to be the same
    )
    needed = [n * (half / goal) ** 2 for half, goal in goals if goal > 0]
    if not needed:
        return "within the noise between repeats: only more repeats could tell"
    if min(needed) > 100 * n:
        return f"{n} blocks; over a hundred times as many would be needed"
    # A tenth more, for the width is itself estimated.
    more = max(int(np.ceil(1.1 * min(needed))) - n, 1)
    return f"{n} blocks; about {more:,} more like these could tell"
