"""A run as blocks of a workload: counts and times of each, which is all that judging needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.check.measures import FEATURES, SKETCHES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]
    Mask = NDArray[np.bool_]

STRETCH = 4  # blocks
MOST_VALUES = 50  # of one block's times; more are put together
DIGITS = 6  # significant, that are kept of what is not whole
TIME_DIGITS = 4  # of single times


def round_to(values: F64, digits: int = DIGITS) -> F64:
    """Values to so many significant digits, whole ones as they are.

    What is kept of a run is rounded before it is judged, so that the same run read from its files
    and from a baseline is the same to the last digit.
    """
    out = values.copy()
    for k in np.ndindex(out.shape):
        if np.isfinite(out[k]) and out[k] != np.round(out[k]):
            out[k] = float(f"{out[k]:.{digits}g}")
    return out


@dataclass(frozen=True)
class Cell:
    """A phase of a workload, cut into blocks.

    Attributes:
        requests: Of each block; zeros where no request is named.
        tokens: Their prompt tokens.
    """

    requests: tuple[int, ...]
    tokens: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.requests)


@dataclass(frozen=True)
class Workload:
    """What was asked of an engine: phases in order of time, each in blocks.

    Attributes:
        cells: By the phase's name, which is empty for requests of no phase.
        is_named: Whether requests are known; otherwise blocks are stretches of iterations.
    """

    cells: dict[str, Cell]
    is_named: bool

    @property
    def num_blocks(self) -> int:
        """Over all cells."""
        return sum(len(c) for c in self.cells.values())

    @cached_property
    def strata(self) -> I64:
        """Number of the stretch of each block: a few neighbours of one phase.

        A change may be large in one part of a phase and small in another. That is no noise, so
        noise is what neighbours differ by.
        """
        sizes: list[int] = []
        for cell in self.cells.values():
            num = max(len(cell) // STRETCH, 1)
            sizes += [len(part) for part in np.array_split(np.arange(len(cell)), num)]
        return np.repeat(np.arange(len(sizes)), sizes)

    @cached_property
    def requests(self) -> F64:
        """Requests of each block."""
        return np.array([n for c in self.cells.values() for n in c.requests], np.float64)

    @cached_property
    def tokens(self) -> F64:
        """Prompt tokens of each block."""
        return np.array([n for c in self.cells.values() for n in c.tokens], np.float64)

    def places(self) -> dict[str, slice]:
        """Where the blocks of each cell stand."""
        out, at = {}, 0
        for name, cell in self.cells.items():
            out[name] = slice(at, at + len(cell))
            at += len(cell)
        return out


@dataclass(frozen=True)
class Sketch:
    """Times of requests in seconds; many of a block are put together to a few, with weights."""

    values: F64
    blocks: I64
    weights: F64

    @cached_property
    def order(self) -> I64:
        """Rows by value."""
        return np.argsort(self.values, kind="stable")

    @staticmethod
    def of(values: F64, blocks: I64) -> Sketch:
        """Sketch the times of single requests."""
        order = np.lexsort((values, blocks))
        values, blocks = values[order], blocks[order]
        v, b, w = [], [], []
        for block in np.unique(blocks):
            mine = values[blocks == block]
            parts = np.array_split(mine, min(len(mine), MOST_VALUES))
            v += [float(p.mean()) for p in parts]
            w += [float(len(p)) for p in parts]
            b += [int(block)] * len(parts)
        # in milliseconds, as the file has them: the quotient is the same to the last bit
        values = round_to(np.array(v, np.float64) * 1e3, TIME_DIGITS) / 1e3
        return Sketch(values, np.array(b, np.int64), np.array(w, np.float64))


@dataclass(frozen=True)
class Sample:
    """One run, block by block.

    Attributes:
        counts: Blocks × ``FEATURES``; nan where the run does not tell it.
        is_usable: Blocks that the run answered in full and that no stall touched.
        unanswered: Requests of each block without an answer; nan: the block was not sent.
        span_s: From the first to the last sending of each block.
        sketches: Those of ``SKETCHES`` that the run tells.
    """

    counts: F64
    is_usable: Mask
    unanswered: F64
    span_s: F64
    sketches: dict[str, Sketch] = field(default_factory=dict)

    def column(self, name: str) -> F64:
        """One feature of all blocks."""
        return np.asarray(self.counts[:, FEATURES.index(name)])


@dataclass(frozen=True)
class Pool:
    """The runs of one setting, block by block: means over those that have the block.

    Attributes:
        samples: The runs.
        counts: Blocks × ``FEATURES``.
        num: For each block, how many runs have it.
    """

    samples: tuple[Sample, ...]
    counts: F64
    num: I64
    sketches: dict[str, Sketch]

    @staticmethod
    def of(samples: tuple[Sample, ...]) -> Pool:
        """Pool the runs."""
        usable = np.array([s.is_usable for s in samples])
        counts = np.array([s.counts for s in samples])
        mine = np.where(usable[:, :, None], counts, np.nan)
        num = usable.sum(0)
        known = np.isfinite(mine).sum(0)
        with np.errstate(invalid="ignore"):
            mean = np.where(known == num[:, None], np.nansum(mine, 0) / known, np.nan)
        sketches = {}
        for name in SKETCHES:
            if not all(name in s.sketches for s in samples):
                continue
            parts = [s.sketches[name] for s in samples]
            keep = [s.is_usable[p.blocks] for s, p in zip(samples, parts, strict=True)]
            blocks = np.concatenate([p.blocks[k] for p, k in zip(parts, keep, strict=True)])
            weights = np.concatenate([p.weights[k] for p, k in zip(parts, keep, strict=True)])
            sketches[name] = Sketch(
                np.concatenate([p.values[k] for p, k in zip(parts, keep, strict=True)]),
                blocks,
                weights / np.maximum(num[blocks], 1),
            )
        return Pool(samples, mean, num, sketches)
