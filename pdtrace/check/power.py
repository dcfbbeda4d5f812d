"""Student's t, without a library; what a check could have seen; how many runs would settle it."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdtrace.check.changes import Change

POWER_Z = 0.8416  # normal quantile of 80 %, four of five
SURE_Z = 1.6449  # of 95 %
LEVEL = 0.95
MOST_RUNS = 200


def student_tail(t: float, freedom: int) -> float:
    """Probability that Student's t exceeds a value (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    if t < 0:
        return 1.0 - student_tail(-t, freedom)
    theta = math.atan(t / math.sqrt(freedom))
    cos2 = math.cos(theta) ** 2
    term = total = 1.0
    start = 2 if freedom % 2 else 1
    for k in range(start, freedom - 1, 2):
        term *= cos2 * k / (k + 1)
        total += term
    if freedom % 2 == 0:
        inside = math.sin(theta) * total
    elif freedom == 1:
        inside = 2 / math.pi * theta
    else:
        inside = 2 / math.pi * (theta + math.sin(theta) * math.cos(theta) * total)
    return max(0.0, (1.0 - inside) / 2)


@lru_cache(maxsize=4096)
def student_quantile(tail: float, freedom: int) -> float:
    """The value that Student's t exceeds with so small a probability, by bisection."""
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > tail:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, freedom) > tail else (low, middle)
    return high


def find_effect(t: float, power: float, freedom: int) -> float:
    """How many standard errors a change must have to exceed ``t`` in so many of such checks.

    The estimated error varies too, so the quotient is a noncentral t, distributed about as
    Φ((t·(1 − 1/4ν) − δ) ÷ √(1 + t²/2ν)) (Abramowitz and Stegun 26.7.10).

    Args:
        t: What must be exceeded.
        power: Normal quantile of the share of checks.
        freedom: Degrees of freedom ν.
    """
    return t * (1 - 1 / (4 * freedom)) + power * math.sqrt(1 + t * t / (2 * freedom))


def find_detectable(change: Change, tail: float) -> float:
    """The smallest change that is found in four of five such checks, on the change's scale.

    Args:
        change: What was measured.
        tail: Error probability that a single failure may have.
    """
    t = student_quantile(tail, change.freedom)
    return find_effect(t, POWER_Z, change.freedom) * change.error()


def find_runs(change: Change, tail: float, effect: float, margin: float) -> tuple[int, int] | None:
    """How many more runs would settle a change, were it truly what was measured.

    Settled is a change that is shown to be worse (at least ``effect``), or whose interval ends
    before ``margin``; with so many runs that happens in four of five cases. Repeats of the run
    under test alone, or as many of the baseline too: whichever are fewer in all.

    Returns:
        More runs of the baseline and of the run under test; None where not even hundreds would do.
    """
    a, b = change.num_runs
    for total in range(1, 2 * MOST_RUNS + 1):
        ways = [(0, total)] if total <= MOST_RUNS else []
        if total % 2 == 0:
            ways.append((total // 2, total // 2))
        for more in ways:
            if _would_settle(change, (a + more[0], b + more[1]), tail, effect, margin):
                return more
    return None


def plan_runs(change: Change, tail: float, effect: float, power: float) -> int | None:
    """How many runs each, of the baseline and under test, would show a change of a given size.

    Args:
        change: What was measured, for its noise.
        tail: Error probability that a single failure may have.
        effect: The size, on the change's scale.
        power: Normal quantile of the share of such checks that are to find it.

    The noise is itself only known to one part in √(2·degrees of freedom). A promise above four of
    five cannot rest on its being met, so it is planned with that much more noise.

    Returns:
        The number; None where not even hundreds would do.
    """
    spent = change.freedom - sum(change.num_runs) + 2
    more = 1 + 1 / math.sqrt(2 * change.freedom) if power > POWER_Z else 1.0
    for n in range(1, MOST_RUNS + 1):
        freedom = max(spent + 2 * n - 2, 1)
        needed = find_effect(student_quantile(tail, freedom), power, freedom)
        if needed * more * change.error((n, n)) <= effect:
            return n
    return None


def _would_settle(
    change: Change, runs: tuple[int, int], tail: float, effect: float, margin: float
) -> bool:
    freedom = change.freedom + sum(runs) - sum(change.num_runs)
    error = change.error(runs)
    is_worse = change.point >= effect
    shown = find_effect(student_quantile(tail, freedom), POWER_Z, freedom) * error <= change.point
    half = student_quantile((1 - LEVEL) / 2, freedom)
    excluded = change.point + find_effect(half, POWER_Z, freedom) * error <= margin
    return (is_worse and shown) or excluded
