"""Block bootstrap: how far a change could be off by chance, from the runs themselves.

Requests of one burst, and bursts that queue behind each other, are not independent, so whole blocks
of time are drawn with replacement. With the same requests in both runs the same blocks are drawn
for both, and what the workload contributes cancels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from pdtrace.compare.matching import F64, I64

SEED = 20_231_124
NUM_DRAWS = 1000
LEVEL = 0.95
_Z = 1.959964
_CHUNK = 4_000_000  # cells of one step of a weighted quantile


class Estimate(Protocol):
    """A number computed from blocks, each of which may count several times or not at all."""

    @property
    def num_blocks(self) -> int:
        """Blocks that it can be computed from."""

    @property
    def n(self) -> int:
        """Rows behind it."""

    def evaluate(self, weights: F64) -> F64:
        """Its value for each row of weights (draws × blocks); nan where there is none."""


@dataclass(frozen=True)
class Ratio:
    """Σ numerator ÷ Σ denominator, over the blocks and a rest that belongs to none."""

    above: F64
    below: F64
    n: int
    rest_above: float = 0.0
    rest_below: float = 0.0

    @property
    def num_blocks(self) -> int:
        """Blocks with a denominator; of a plain sum, all."""
        return int(np.count_nonzero(self.below)) or len(self.above)

    def evaluate(self, weights: F64) -> F64:
        """The ratio for each row of weights."""
        above = weights @ self.above + self.rest_above
        below = weights @ self.below + self.rest_below
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(below > 0, above / below, np.nan), np.float64)


@dataclass(frozen=True)
class Quantile:
    """A quantile over rows, interpolated linearly as numpy does by default."""

    values: F64
    blocks: I64
    share: float

    @property
    def num_blocks(self) -> int:
        """Blocks with a row."""
        return len(np.unique(self.blocks))

    @property
    def n(self) -> int:
        """Rows behind it."""
        return len(self.values)

    def evaluate(self, weights: F64) -> F64:
        """The quantile for each row of weights, a row counted as often as its block."""
        order = np.argsort(self.values, kind="stable")
        values, blocks = self.values[order], self.blocks[order]
        out = np.full(len(weights), np.nan)
        if not len(values):
            return out
        step = max(1, _CHUNK // len(values))
        for k in range(0, len(weights), step):
            counts = np.cumsum(weights[k : k + step][:, blocks], axis=1)
            for i, row in enumerate(counts):
                if row[-1] < 1:
                    continue
                place = (row[-1] - 1) * self.share
                low = np.searchsorted(row, np.floor(place), side="right")
                high = np.searchsorted(row, np.ceil(place), side="right")
                part = place - np.floor(place)
                out[k + i] = values[low] * (1 - part) + values[high] * part
        return out


@dataclass(frozen=True)
class Fixed:
    """A number that cannot be split into blocks: what the engine counted over the whole run."""

    value: float
    n: int

    @property
    def num_blocks(self) -> int:
        """None."""
        return 0

    def evaluate(self, weights: F64) -> F64:
        """The same number for each row."""
        return np.full(len(weights), self.value)


def draw_weights(num_blocks: int, *, seed: int = SEED) -> F64:
    """How often each block is drawn, draws × blocks; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_blocks, np.full(num_blocks, 1 / num_blocks), NUM_DRAWS).astype(
        np.float64
    )


@dataclass(frozen=True)
class Change:
    """A change with its interval: a logarithm of candidate ÷ baseline, or a difference.

    Attributes:
        point: ln(candidate ÷ baseline), or candidate − baseline.
        low, high: Ends of the interval; equal to ``point`` if nothing varied.
        num_blocks: Blocks it rests on: those of the run with fewer.
    """

    point: float
    low: float
    high: float
    num_blocks: int

    def widened(self, noise: float) -> Change:
        """With so much added at both ends."""
        return Change(self.point, self.low - noise, self.high + noise, self.num_blocks)


def estimate_change(a: Estimate, b: Estimate, weights: tuple[F64, F64]) -> Change | None:
    """The change from ``a`` to ``b`` as ln(b ÷ a), with its interval.

    The 2.5 % and 97.5 % quantiles of ln(b ÷ a) over the draws are spread about the point by
    t(n − 1) ÷ z × √(n ÷ (n − 1)), n the number of blocks: a bootstrap from few blocks is too
    narrow by just that, as a normal interval is.

    Args:
        a: Baseline.
        b: Candidate.
        weights: Of each; the same array where the requests are the same.

    Returns:
        None where a ratio or its interval does not exist: a value is not above zero, or there are
        fewer than two blocks.
    """
    x, y = point_of(a), point_of(b)
    if x is None or y is None or x <= 0 or y <= 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = np.log(b.evaluate(weights[1]) / a.evaluate(weights[0]))
    return _spread(float(np.log(y / x)), draws, min(a.num_blocks, b.num_blocks))


def estimate_difference(a: Estimate, b: Estimate, weights: tuple[F64, F64]) -> Change | None:
    """Likewise as b − a, for values of which one is zero."""
    x, y = point_of(a), point_of(b)
    if x is None or y is None:
        return None
    draws = b.evaluate(weights[1]) - a.evaluate(weights[0])
    return _spread(y - x, draws, min(a.num_blocks, b.num_blocks))


def _spread(point: float, draws: F64, num_blocks: int) -> Change | None:
    draws = draws[np.isfinite(draws)]
    if num_blocks < 2 or len(draws) < 0.9 * NUM_DRAWS:
        return None
    tail = (1 - LEVEL) / 2
    low, high = (float(q) for q in np.quantile(draws, (tail, 1 - tail)))
    factor = student_quantile(num_blocks - 1) / _Z * np.sqrt(num_blocks / (num_blocks - 1))
    return Change(
        point,
        min(point, point + factor * (low - point)),
        max(point, point + factor * (high - point)),
        num_blocks,
    )


def point_of(estimate: Estimate) -> float | None:
    """The estimate itself, every block once; None if there is none."""
    size = max(len(getattr(estimate, "above", ())), _last_block(estimate) + 1, 1)
    value = float(estimate.evaluate(np.ones((1, size)))[0])
    return value if np.isfinite(value) else None


def _last_block(estimate: Estimate) -> int:
    blocks = getattr(estimate, "blocks", None)
    return -1 if blocks is None or not len(blocks) else int(blocks.max())


def student_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t.

    Exact for one and two degrees of freedom; the Cornish–Fisher expansion about the normal
    quantile above that, within 1.5 % from three on.
    """
    exact = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645}
    if freedom in exact:
        return exact[freedom]
    z, v = _Z, float(freedom)
    return float(
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
