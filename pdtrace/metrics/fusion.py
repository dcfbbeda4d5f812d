"""Fusion: how many ranks prefilled together in an iteration."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import polars as pl

from pdtrace.metrics.tally import (
    FAMILIES,
    NO_ITERATION,
    Metric,
    Prices,
    measure_tallies,
    note_missing,
    note_partial,
)

if TYPE_CHECKING:
    from pdtrace.run import Part, Run


class FusionTally:
    """Counts iterations by fusion width."""

    def __init__(self, run: Run, prices: Prices) -> None:
        self.dp_size = run.dp_size
        self.missing, self.partial = note_missing(run), note_partial(run)
        self.widths: Counter[int] = Counter()
        self.num_fully_fused = 0
        self.num_events = 0
        self.confidence = 0.0

    def add(self, part: Part) -> None:
        """Take one part in."""
        self.num_events += part.select("iteration")["iteration"].count()
        frame = part.iterations
        for width, count in frame["fusion_width"].value_counts().iter_rows():
            self.widths[width] += count
        self.num_fully_fused += frame.filter(pl.col("fusion_width") == pl.col("dp_size")).height
        self.confidence += float(frame["confidence"].cast(pl.Float64).sum())

    def rows(self) -> list[Metric]:
        """Rows of the family; see :func:`measure_fusion`."""
        n = sum(self.widths.values())
        note = None if n else NO_ITERATION
        prefilled = n - self.widths[0]
        width_sum = sum(width * count for width, count in self.widths.items())

        if n and self.missing:
            return self._rows_in_part(n)

        def count(name: str, value: int, rows: int) -> Metric:
            return Metric(name, value if n else None, "count", rows, note)

        def ratio(name: str, value: float, over: int, unit: str = "ratio") -> Metric:
            return Metric(name, value / over if over else None, unit, over, note)

        return [
            count("num_iterations", n, self.num_events),
            count("num_solo_iterations", self.widths[1], n),
            count("num_fully_fused_iterations", self.num_fully_fused, n),
            ratio("solo_iteration_ratio", self.widths[1], prefilled),
            ratio("fully_fused_iteration_ratio", self.num_fully_fused, prefilled),
            ratio("fusion_width_mean", width_sum, prefilled, "ranks"),
            *(
                count(f"num_iterations_width_{width}", self.widths[width], n)
                for width in sorted({*range(1, self.dp_size + 1), *self.widths})
                if n
            ),
            ratio("grouping_confidence_mean", self.confidence, n),
        ]

    def _rows_in_part(self, n: int) -> list[Metric]:
        """Rows where ranks were not read: no iteration has a known width."""
        names = [
            ("num_solo_iterations", "count"),
            ("num_fully_fused_iterations", "count"),
            ("solo_iteration_ratio", "ratio"),
            ("fully_fused_iteration_ratio", "ratio"),
            ("fusion_width_mean", "ranks"),
            *((f"num_iterations_width_{w}", "count") for w in range(1, self.dp_size + 1)),
        ]
        return [
            Metric("num_iterations", n, "count", self.num_events, self.partial, low=n),
            *(Metric(name, None, unit, n, self.missing) for name, unit in names),
            Metric("grouping_confidence_mean", self.confidence / n, "ratio", n),
        ]


FAMILIES.register("fusion", FusionTally)


def measure_fusion(run: Run) -> list[Metric]:
    """Measure how many ranks prefilled together.

    The fusion width w of an iteration is the number of its ranks that prefilled. Solo: w = 1; fully
    fused: w = dp_size. With one rank, every iteration is both.

    * ``num_iterations``: all iterations, warm-up included; n is the number of events in them.
    * ``num_iterations_width_W``: those of width W; over all W they sum to ``num_iterations``.
    * ``fusion_width_mean``, ``…_ratio``: over the iterations with w ≥ 1; an iteration that only
      decoded (unified engines) says nothing about prefill.
    * ``grouping_confidence_mean``: mean probability that an iteration's ranks did run together.

    Where nothing was read of a rank, no width is known: all but the first and the last are null.
    """
    return measure_tallies(run, [FusionTally(run, Prices())])
