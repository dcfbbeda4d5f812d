"""How sure a makespan is after some repeats, and whether that is sure enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.compare.resampling import student_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.client.settings import Bounds

LEAST_REPEATS = 5  # before an interval is trusted to end a run


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval.

    Attributes:
        mean: Of the values.
        low, high: Ends; None for a single value.
        num: Values.
    """

    mean: float
    low: float | None
    high: float | None
    num: int


def measure_interval(values: Sequence[float]) -> Interval | None:
    """The mean of independent values with Student's interval; None: there is no value."""
    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, None, None, len(values))
    half = student_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half, len(values))


def is_enough(makespans: Sequence[Sequence[float]], num_done: int, bounds: Bounds) -> bool:
    """Whether no further repeat is needed.

    Of one engine, the interval of its mean makespan must be narrow enough; of two, that of the
    ratio of theirs, repeat by repeat.

    Args:
        makespans: Of each engine, those of its complete repeats, seconds; for two engines paired.
        num_done: Repeats so far, complete or not.
        bounds: What was asked for.
    """
    if num_done < bounds.num_repeats:
        return False
    if bounds.precision is None:
        return True
    if num_done >= max(bounds.max_repeats, bounds.num_repeats):
        return True
    values = np.array(makespans[0], dtype=np.float64)
    if len(values) < LEAST_REPEATS or num_done < LEAST_REPEATS:
        return False
    if len(makespans) > 1:
        values = np.log(np.array(makespans[1]) / values)
        scale = 1.0
    else:
        scale = float(values.mean())
    found = measure_interval(values.tolist())
    assert found is not None
    assert found.high is not None
    return found.high - found.mean <= bounds.precision * scale
