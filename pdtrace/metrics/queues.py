"""Queues: what waited, and how full the KV pool was, as the prefill batches reported it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pdtrace.metrics.tally import FAMILIES, Metric, Prices, measure_tallies

if TYPE_CHECKING:
    from pdtrace.run import Part, Run

READINGS = (
    ("num_queue_reqs", "requests"),
    ("num_pending_tokens", "tokens"),
    ("num_bootstrap_reqs", "requests"),
    ("num_inflight_reqs", "requests"),
    ("token_usage", "ratio"),
)
WANTED = "no prefill batch of the input reports it; lines of releases from 0.5.11 on do"


class QueuesTally:
    """Sum, count and maximum of what each prefill batch reported."""

    def __init__(self, run: Run, prices: Prices) -> None:
        self.sums = [0.0] * len(READINGS)
        self.counts = [0] * len(READINGS)
        self.tops: list[float | None] = [None] * len(READINGS)

    def add(self, part: Part) -> None:
        """Take one part in."""
        # An idle rank reports nothing, so these are readings beside work, not over time.
        names = [name for name, _ in READINGS]
        prefills = part.select(*names, "kind", "iteration").filter(
            pl.col("kind") == "prefill", pl.col("iteration").is_not_null()
        )
        for i, name in enumerate(names):
            column = prefills[name].cast(pl.Float64)
            self.counts[i] += column.count()
            # numpy adds in one order; elsewhere the last digit depends on the cuts between threads
            self.sums[i] += float(column.drop_nulls().to_numpy().sum())
            top = column.max()
            if top is not None:
                self.tops[i] = max(float(str(top)), self.tops[i] or 0.0)

    def rows(self) -> list[Metric]:
        """Rows of the family; see :func:`measure_queues`."""
        rows = []
        for i, (name, unit) in enumerate(READINGS):
            n = self.counts[i]
            note = None if n else WANTED
            rows += [
                Metric(f"{name}_mean", self.sums[i] / n if n else None, unit, n, note),
                Metric(f"{name}_max", self.tops[i], unit, n, note),
            ]
        return rows


FAMILIES.register("queues", QueuesTally)


def measure_queues(run: Run) -> list[Metric]:
    """Measure the queues and the KV pool as prefill batches reported them.

    ``NAME_mean`` and ``NAME_max`` over prefill events, each counted once, for ``num_queue_reqs``
    (waiting queue), ``num_pending_tokens`` (still to compute), ``num_bootstrap_reqs``,
    ``num_inflight_reqs`` (KV transfer) and ``token_usage`` (share of the pool). They are samples at
    prefill batches, not averages over time: an idle rank reports nothing.
    """
    return measure_tallies(run, [QueuesTally(run, Prices())])
