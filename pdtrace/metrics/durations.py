"""Durations: how long iterations took, over all and by fusion width."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import polars as pl

from pdtrace.metrics.tally import (
    FAMILIES,
    NO_DURATION,
    NO_ITERATION,
    Metric,
    Prices,
    Sample,
    as_seconds,
    measure_tallies,
    note_missing,
    total,
)

if TYPE_CHECKING:
    from pdtrace.run import Part, Run

QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


class DurationsTally:
    """Keeps every duration, by fusion width."""

    def __init__(self, run: Run, prices: Prices) -> None:
        self.missing = note_missing(run)
        self.dp_size = run.dp_size
        self.all = Sample()
        self.by_width: dict[int, Sample] = defaultdict(Sample)
        self.tokens: Counter[int] = Counter()
        self.counts: Counter[int] = Counter()
        self.ns: Counter[int] = Counter()
        self.num_bounded = 0

    def add(self, part: Part) -> None:
        """Take one part in."""
        frame = part.iterations
        self.num_bounded += frame.filter(pl.col("duration_source") == "bounded").height
        # kept in order, because the last digit of a mean depends on it
        for (width,), group in frame.group_by("fusion_width", maintain_order=True):
            key = int(str(width))
            seconds = group["duration"].cast(pl.Int64) / 1e9
            self.all.add(seconds)
            self.by_width[key].add(seconds)
            self.counts[key] += group.height
            self.tokens[key] += total(group["num_new_tokens"])
            self.ns[key] += total(group["duration"])

    def rows(self) -> list[Metric]:
        """Rows of the family; see :func:`measure_durations`."""
        n = len(self.all)
        missing = NO_ITERATION if not self.counts else NO_DURATION
        note = None if n else missing
        if self.num_bounded:
            note = (
                f"{self.num_bounded} of {n} durations are estimates: the gap before them also "
                "holds waiting; request time stats give them"
            )
        if n and self.missing:
            # such a gap may hold an iteration that was not read
            note = "; ".join(x for x in (note, "of the iterations that were read") if x)
        rows = [
            Metric(f"iteration_seconds_{name}", self.all.quantile(share), "s", n, note)
            for name, share in QUANTILES
        ]
        rows += [
            Metric("iteration_seconds_mean", self.all.mean(), "s", n, note),
            Metric("iteration_seconds_max", self.all.max(), "s", n, note),
            Metric("num_bounded_durations", self.num_bounded if n else None, "count", n, note),
        ]
        if self.missing and self.counts:
            return rows + self._unknown_widths()
        for width in sorted(self.by_width):
            sample = self.by_width[width]
            rows += [
                Metric(
                    f"iteration_seconds_{name}_width_{width}",
                    sample.quantile(share),
                    "s",
                    len(sample),
                    None if len(sample) else NO_DURATION,
                )
                for name, share in QUANTILES
            ]
            rows += [
                Metric(
                    f"busy_seconds_width_{width}",
                    as_seconds(self.ns[width]) if len(sample) else None,
                    "s",
                    len(sample),
                    None if len(sample) else NO_DURATION,
                ),
                Metric(
                    f"num_new_tokens_width_{width}",
                    self.tokens[width],
                    "tokens",
                    self.counts[width],
                ),
            ]
        return rows

    def _unknown_widths(self) -> list[Metric]:
        names = [(f"iteration_seconds_{name}", "s") for name, _ in QUANTILES]
        names += [("busy_seconds", "s"), ("num_new_tokens", "tokens")]
        return [
            Metric(f"{name}_width_{width}", None, unit, 0, self.missing)
            for width in range(1, self.dp_size + 1)
            for name, unit in names
        ]


FAMILIES.register("durations", DurationsTally)


def measure_durations(run: Run) -> list[Metric]:
    """Measure how long iterations took.

    The duration of an iteration is its share of the engine's time line, so Σ durations is the busy
    time. Quantiles are interpolated linearly and taken over iterations, each counted once.

    * ``iteration_seconds_p50``, ``_p90``, ``_p99``, ``_mean``, ``_max``: over all iterations.
    * ``…_width_W``: over those in which W ranks prefilled; ``busy_seconds_width_W`` and
      ``num_new_tokens_width_W`` are sums over them.
    * ``num_bounded_durations``: durations that are estimates because the gap before them holds
      waiting too.
    """
    return measure_tallies(run, [DurationsTally(run, Prices())])
