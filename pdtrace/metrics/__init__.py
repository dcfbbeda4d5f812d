"""Numbers about a run: one file a family, all of them rows of the table ``metrics``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import polars as pl

from pdtrace.errors import UsageError
from pdtrace.schema import METRICS

if TYPE_CHECKING:
    from pdtrace.run import Run


def measure(run: Run, *, gpu_hour_cost: float | None = None) -> pl.DataFrame:
    """Measure a run with every family there is, reading each of its parts once.

    Args:
        run: The run.
        gpu_hour_cost: US dollars of one GPU for one hour; gives ``idle_cost_usd`` its value.

    Returns:
        Table ``metrics``. A value that the input cannot give is null, with a note that says what
        would give it. Rows with ``dp_rank`` are of that rank, the others of the engine.

    Raises:
        UsageError: The cost is negative or not a number.
    """
    from pdtrace.metrics.tally import FAMILIES, Prices, measure_tallies  # noqa: PLC0415 (see below)

    # The families register themselves from modules of this package, so they load on first use.
    if gpu_hour_cost is not None and not 0 <= gpu_hour_cost < float("inf"):
        raise UsageError(f"the cost of a GPU hour must be a number from 0 up, not {gpu_hour_cost}")
    prices = Prices(gpu_hour_cost=gpu_hour_cost)
    rows = measure_tallies(run, [family(run, prices) for family in FAMILIES])
    frame = pl.DataFrame([asdict(r) for r in rows], schema_overrides=METRICS.schema)
    return METRICS.conform(frame.sort("dp_rank", nulls_last=False, maintain_order=True))
