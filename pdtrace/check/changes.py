"""How much a measure changed from one pool of runs to another, and how sure that is.

The noise of one run has two parts. What blocks show: whole blocks are drawn with replacement, the
same for both pools, so that what the workload contributes cancels. And what no block shows, because
it is the same throughout a run (the host's speed): taken from the measure's own assumption until
repeats tell. Both together are the variance that is expected of a run; the repeats' own variance
about their means is weighed against it by degrees of freedom, the expectation counting as
``PRIOR_FREEDOM`` of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.check.measures import FEATURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.check.measures import Measure
    from pdtrace.check.samples import F64, I64, Mask, Pool, Sketch, Workload

SEED = 20_231_124
NUM_DRAWS = 200  # the standard deviation of so many is within 5 %
PRIOR_FREEDOM = 8
MIN_FREEDOM = 3
MIN_TAIL = 5  # values that must lie above a quantile


@dataclass(frozen=True)
class Untold:
    """Why there is no change: ``is_little``: there is some of it, but too little to judge."""

    reason: str
    is_little: bool = False


@dataclass(frozen=True)
class Change:
    """A measure in two pools.

    Attributes:
        baseline, value: In either, over the blocks that both have.
        point: Change on the measure's scale, the bad direction positive: a logarithm where that is
            relative.
        spread: Standard deviation that one run has on that scale.
        freedom: Degrees of freedom behind it.
        num_runs: Of the baseline and of the run under test.
        unit: What one unit of the scale's limits is: 1, or of a total the baseline's rank-seconds.
        num_blocks: That it rests on.
    """

    baseline: float
    value: float
    point: float
    spread: float
    freedom: int
    num_runs: tuple[int, int]
    unit: float
    num_blocks: int

    def error(self, num_runs: tuple[int, int] | None = None) -> float:
        """Standard error of the change with so many runs."""
        a, b = num_runs or self.num_runs
        return self.spread * float(np.sqrt(1 / a + 1 / b))


def measure_change(
    measure: Measure, pools: tuple[Pool, Pool], workloads: tuple[Workload, Workload]
) -> Change | Untold:
    """Measure a change.

    Args:
        measure: Of what.
        pools: Baseline, and runs under test.
        workloads: Their blocks. The same object: the same requests are in them, so that both
            pools are drawn alike.

    Returns:
        The change, or why there is none.
    """
    one, other = (_Quantity(measure, p, w) for p, w in zip(pools, workloads, strict=True))
    is_paired = workloads[0] is workloads[1]
    both = one.usable & other.usable if is_paired else None
    masks = (one.usable, other.usable) if both is None else (both, both)
    if not (masks[0].any() and masks[1].any()):
        return Untold("no part of the workload has it in both")
    if measure.share is not None:
        least = int(np.ceil(MIN_TAIL / (1 - max(measure.share, 0.5))))
        num = min(one.count(masks[0]), other.count(masks[1]))
        if num < least:
            return Untold(f"{num:,} values; a tail needs {least:,}", is_little=True)
    whole = [m.astype(np.float64)[None, :] for m in masks]
    x, y = float(one.evaluate(whole[0])[0]), float(other.evaluate(whole[1])[0])
    unit = show = 1.0
    if measure.is_total:
        show = float(workloads[0].requests[masks[0]].sum()) or 1.0
        unit = one.rank_seconds(masks[0])
    x, y = x * show, y * show
    if not (np.isfinite(x) and np.isfinite(y)):
        return Untold("the recording does not tell it")
    if measure.scale == "relative" and not (x > 0 and y > 0):
        return Untold("zero in one of both, so that no ratio exists", is_little=True)
    sign = 1.0 if measure.better == "lower" else -1.0

    def scaled(values: F64) -> F64:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(values) if measure.scale == "relative" else values * show

    weights = [
        draw_weights(w.strata, m, 0 if is_paired else k)
        for k, (w, m) in enumerate(zip(workloads, masks, strict=True))
    ]
    drawn = [scaled(q.evaluate(w)) for q, w in zip((one, other), weights, strict=True)]
    within = _variance(drawn[1] - drawn[0])
    ka, kb = len(pools[0].samples), len(pools[1].samples)
    within /= 1 / ka + 1 / kb
    num_blocks = int(min(m.sum() for m in masks))
    block_freedom = min(_freedom(w.strata, m) for w, m in zip(workloads, masks, strict=True))
    repeats = [
        scaled(np.array(q.by_run(m)[0])) - scaled(np.array(q.by_run(m)[1]))
        for q, m in ((one, masks[0]), (other, masks[1]))
    ]
    squares = float(sum(np.nansum(r**2) for r in repeats))
    freedom = sum(max(int(np.isfinite(r).sum()) - 1, 0) for r in repeats)
    prior = min(PRIOR_FREEDOM, block_freedom)
    if prior + freedom < MIN_FREEDOM or not np.isfinite(within):
        return Untold(
            f"{num_blocks} blocks of the workload are too few, and there are no repeats",
            is_little=True,
        )
    expected = within + (measure.noise * unit) ** 2
    variance = (prior * expected + squares) / (prior + freedom)
    point = float(np.diff(scaled(np.array([x, y]) / show))[0]) * sign
    return Change(
        x, y, point, float(np.sqrt(variance)), prior + freedom, (ka, kb), unit, num_blocks
    )


def measure_values(
    measure: Measure, baseline: Sequence[float], values: Sequence[float]
) -> Change | Untold:
    """Measure the change of a metric that is one number a run.

    Args:
        measure: Its unit, direction and noise.
        baseline: Of the baseline's runs.
        values: Of the runs under test.
    """
    if not len(baseline) or not len(values):
        return Untold(
            "the recording does not tell it" if len(baseline) else "the baseline lacks it"
        )
    if measure.scale == "relative" and not min(*baseline, *values, 1.0) > 0:
        return Untold("zero in one of both, so that no ratio exists", is_little=True)
    sides = [np.array(side, np.float64) for side in (baseline, values)]
    if measure.scale == "relative":
        sides = [np.log(side) for side in sides]
    means = [float(side.mean()) for side in sides]
    squares = float(sum(((side - side.mean()) ** 2).sum() for side in sides))
    freedom = sum(len(side) - 1 for side in sides)
    variance = (PRIOR_FREEDOM * measure.noise**2 + squares) / (PRIOR_FREEDOM + freedom)
    shown = [float(np.exp(m)) if measure.scale == "relative" else m for m in means]
    sign = 1.0 if measure.better == "lower" else -1.0
    return Change(
        shown[0],
        shown[1],
        (means[1] - means[0]) * sign,
        float(np.sqrt(variance)),
        PRIOR_FREEDOM + freedom,
        (len(baseline), len(values)),
        1.0,
        0,
    )


def _variance(draws: F64) -> float:
    draws = draws[np.isfinite(draws)]
    return float(draws.var(ddof=1)) if len(draws) > NUM_DRAWS // 2 else float("inf")


def _freedom(strata: I64, mask: Mask) -> int:
    sizes = np.bincount(strata[mask])
    return int(np.maximum(sizes - 1, 0).sum())


@lru_cache(maxsize=64)
def _draw(sizes: tuple[int, ...], seed: int) -> F64:
    rng = np.random.default_rng([SEED, seed])
    parts: list[F64] = []
    for n in sizes:
        if n < 2:
            parts.append(np.ones((NUM_DRAWS, n)))
            continue
        # n − 1 of n, each weighing n ÷ (n − 1): unbiased however few blocks a stretch has
        drawn = rng.multinomial(n - 1, np.full(n, 1 / n), NUM_DRAWS)
        parts.append(np.asarray(drawn * (n / (n - 1)), np.float64))
    return np.concatenate(parts, axis=1)


def draw_weights(strata: I64, mask: Mask, seed: int = 0) -> F64:
    """How often each block counts in each draw; blocks are drawn within their stretch.

    Args:
        strata: Stretch of each block.
        mask: Blocks that take part.
        seed: Draws of different seeds are independent.
    """
    out = np.zeros((NUM_DRAWS, len(strata)))
    sizes = np.bincount(strata[mask])
    out[:, mask] = _draw(tuple(int(n) for n in sizes if n), seed)
    return out


class _Quantity:
    """A measure of one pool, evaluated for any weights of its blocks."""

    def __init__(self, measure: Measure, pool: Pool, workload: Workload) -> None:
        self.measure, self.pool, self.workload = measure, pool, workload
        needed = [c for c in (measure.above, measure.below) if c and c != "requests"]
        needed += ["rank_s"] if measure.is_total else []
        self.usable = pool.num > 0
        for name in needed:
            self.usable = self.usable & np.isfinite(self._column(pool.counts, name))
        self.sketch = pool.sketches.get(measure.sketch)
        if measure.sketch:
            seen = np.zeros(len(pool.num), np.bool_)
            if self.sketch is not None:
                seen[self.sketch.blocks] = True
            self.usable = self.usable & seen

    def _column(self, counts: F64, name: str) -> F64:
        if name == "requests":
            return self.workload.requests
        return np.asarray(counts[:, FEATURES.index(name)])

    def count(self, mask: Mask) -> int:
        """Values behind a sketch."""
        assert self.sketch is not None
        mine = mask[self.sketch.blocks]
        return round(float(self.sketch.weights[mine].sum()))

    def rank_seconds(self, mask: Mask) -> float:
        """Of the blocks."""
        return float(self._column(self.pool.counts, "rank_s")[mask].sum())

    def evaluate(self, weights: F64) -> F64:
        """Its value for each row of weights."""
        return self._of(self.pool.counts, self.sketch, weights)

    def by_run(self, mask: Mask) -> tuple[list[float], list[float]]:
        """Its value in each run, and in the pool over the same blocks; nan where there is none."""
        own, pooled = [], []
        for sample in self.pool.samples:
            sketch = sample.sketches.get(self.measure.sketch)
            weights = (mask & sample.is_usable).astype(np.float64)[None, :]
            if len(self.pool.samples) < 2 or not weights.any():
                own.append(float("nan"))
                pooled.append(float("nan"))
                continue
            own.append(float(self._of(sample.counts, sketch, weights)[0]))
            pooled.append(float(self.evaluate(weights)[0]))
        return own, pooled

    def _of(self, counts: F64, sketch: Sketch | None, weights: F64) -> F64:
        measure = self.measure
        if measure.sketch:
            assert sketch is not None
            if measure.share is None:
                return mean_of(sketch, weights)
            return quantile_of(sketch, weights, measure.share)
        above, below = (
            np.nan_to_num(self._column(counts, n)) for n in (measure.above, measure.below)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(measure.factor * (weights @ above) / (weights @ below), np.float64)


def mean_of(sketch: Sketch, weights: F64) -> F64:
    """The mean for each row of weights of the blocks."""
    num = weights.shape[1]
    total = np.bincount(sketch.blocks, weights=sketch.values * sketch.weights, minlength=num)
    size = np.bincount(sketch.blocks, weights=sketch.weights, minlength=num)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((weights @ total) / (weights @ size), np.float64)


def quantile_of(sketch: Sketch, weights: F64, share: float) -> F64:
    """A quantile for each row of weights: the value up to which that share of the weight lies."""
    order = sketch.order
    upto = np.cumsum(weights[:, sketch.blocks[order]] * sketch.weights[order], axis=1)
    total = upto[:, -1] if upto.shape[1] else np.zeros(len(weights))
    # half a billionth less: sums of fractions of a pool's runs need not add up to the last digit
    place = (upto < (share * total * (1 - 5e-10))[:, None]).sum(axis=1)
    place = np.minimum(place, max(len(order) - 1, 0))
    return np.where(total > 0, sketch.values[order][place], np.nan)
