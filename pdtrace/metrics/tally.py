"""What every metric family is made of: a tally that is fed part by part and then gives its rows.

A run may be far larger than memory, so no family sees it whole: each keeps integers (counts,
tokens, nanoseconds) whose sums do not depend on where the parts were cut, and compact arrays where
a quantile needs every value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import polars as pl

from pdtrace.registry import Shelf
from pdtrace.wording import name_ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pdtrace.run import Part, Run

NO_ITERATION = "no prefill batch was found in the input"
NO_GROUPING = (
    "prefill batches were read, but could not be put into iterations; labels "
    "(SGLANG_LOG_FORWARD_ITERS=1) or milliseconds (SGLANG_LOG_MS=1) would give it"
)
MOST_BOUNDED = 0.2  # share of durations that may be rough before what is made of them is so
NO_DURATION = "no iteration has a duration; lines with milliseconds or printed throughput give it"


def note_missing(run: Run) -> str | None:
    """What lacks where DP ranks were not read, and what would give it; None where all were."""
    if not run.missing_ranks:
        return None
    return (
        f"nothing was read of DP {name_ranks(run.missing_ranks)}: what all ranks did is not known; "
        "the logs of all ranks, given together, tell it"
    )


def note_partial(run: Run) -> str | None:
    """What a total lacks where DP ranks were not read; None where all were."""
    if not run.missing_ranks:
        return None
    return (
        f"at least: nothing was read of DP {name_ranks(run.missing_ranks)}; the logs of all ranks, "
        "given together, give the total"
    )


MEASURED = (
    "source",
    "dp_rank",
    "kind",
    "num_new_tokens",
    "num_queue_reqs",
    "num_pending_tokens",
    "num_bootstrap_reqs",
    "num_inflight_reqs",
    "token_usage",
    "iteration",
)
"""Columns of ``events`` that the families here take, read at once instead of family by family."""


@dataclass(frozen=True)
class Metric:
    """One row of the table ``metrics``; its fields are the columns."""

    metric: str
    value: float | None
    unit: str
    n: int
    note: str | None = None
    dp_rank: int | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Prices:
    """What turns rank time into money.

    Attributes:
        gpu_hour_cost: US dollars of one GPU for one hour; None: not asked.
    """

    gpu_hour_cost: float | None = None


class Tally(Protocol):
    """Counts over the parts of one run."""

    def add(self, part: Part) -> None:
        """Take one part in; the order of parts does not change what comes out."""

    def rows(self) -> list[Metric]:
        """The family's rows over everything taken in so far."""


FAMILIES: Shelf[Callable[[Run, Prices], Tally]] = Shelf("pdtrace.metrics", noun="metric family")


def measure_tallies(run: Run, tallies: Iterable[Tally]) -> list[Metric]:
    """Feed every part of the run to all tallies, reading each part once, and collect their rows."""
    tallies = list(tallies)
    num_unplaced = 0
    for part in run:
        part.select(*MEASURED)  # a part that was put away keeps what it has read
        num_unplaced += count_unplaced(part)[0]
        for tally in tallies:
            tally.add(part)
    rows = [row for tally in tallies for row in tally.rows()]
    if not num_unplaced:
        return rows
    return [replace(r, note=NO_GROUPING) if r.note == NO_ITERATION else r for r in rows]


def count_unplaced(part: Part) -> tuple[int, int]:
    """Prefill batches of the log that could not be put into an iteration, and their tokens.

    Other sources are left out: what they saw of a batch that the log also has would count twice.
    """
    if (part.iterations["grouping"] == "span").any():
        return 0, 0  # spans hold the log's batches too
    events = part.select("iteration", "kind", "source", "num_new_tokens")
    if not events["iteration"].null_count():
        return 0, 0
    is_unplaced = (
        pl.col("iteration").is_null()
        & (pl.col("kind") == "prefill")
        & (pl.col("source") == "scheduler_log")
    )
    tokens = pl.col("num_new_tokens").cast(pl.Int64).filter(is_unplaced).sum()
    num, total_tokens = events.select(is_unplaced.sum(), tokens).row(0)
    return int(num), int(total_tokens)


def as_seconds(nanoseconds: int) -> float:
    """Nanoseconds as seconds."""
    return nanoseconds / 1e9


def total(series: pl.Series) -> int:
    """Exact integer sum of a column, durations as nanoseconds; nulls are left out."""
    return int(series.cast(pl.Int64).sum())


class Sample:
    """All values of one quantity in a compact array, for quantiles.

    A quantile is interpolated linearly between the two nearest values, as numpy does by default.
    """

    def __init__(self) -> None:
        self._chunks: list[np.ndarray] = []

    def add(self, values: pl.Series) -> None:
        """Take a column of numbers in; nulls are left out."""
        self._chunks.append(values.drop_nulls().cast(pl.Float64).to_numpy())

    def __len__(self) -> int:
        return sum(len(c) for c in self._chunks)

    def quantile(self, share: float) -> float | None:
        """The value below which ``share`` of the sample lies; None if there is none."""
        if not len(self):
            return None
        self._chunks = [np.concatenate(self._chunks)]
        return float(np.quantile(self._chunks[0], share))

    def mean(self) -> float | None:
        """Arithmetic mean; None if there is no value."""
        return float(np.concatenate(self._chunks).mean()) if len(self) else None

    def max(self) -> float | None:
        """Largest value; None if there is none."""
        return max((float(c.max()) for c in self._chunks if len(c)), default=None)


def note_rough(num_bounded: int, num_timed: int, note: str | None) -> str | None:
    """The note of a number made of durations, with how many of these are rough, if many are.

    Args:
        num_bounded: Durations taken from a gap that may also hold waiting.
        num_timed: Durations.
        note: What else is to be said.
    """
    if num_bounded <= MOST_BOUNDED * num_timed:
        return note
    rough = (
        f"estimated: {num_bounded} of {num_timed} durations are gaps that may hold waiting too, as "
        "the log does not say when passes began; request time stats or spans tell it"
    )
    return "; ".join(x for x in (note, rough) if x)
