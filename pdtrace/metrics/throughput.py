"""Throughput: tokens, the time that was spent on them, and the padding of uneven ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pdtrace.metrics.tally import (
    FAMILIES,
    NO_DURATION,
    NO_ITERATION,
    Metric,
    Prices,
    as_seconds,
    count_unplaced,
    measure_tallies,
    note_missing,
    note_partial,
    note_rough,
    total,
)

if TYPE_CHECKING:
    from pdtrace.run import Part, Run


class ThroughputTally:
    """Adds up tokens, iteration durations and padding."""

    def __init__(self, run: Run, prices: Prices) -> None:
        self.missing, self.partial = note_missing(run), note_partial(run)
        self.num_iterations = self.num_timed = 0
        self.num_unplaced = self.unplaced_tokens = 0
        self.tokens = self.timed_tokens = self.padded_size = 0
        self.busy_ns = self.prefill_ns = 0
        self.num_timed_prefills = self.num_bounded = 0
        self.spans: dict[int, tuple[int, int]] = {}

    def add(self, part: Part) -> None:
        """Take one part in."""
        num_unplaced, unplaced_tokens = count_unplaced(part)
        self.num_unplaced += num_unplaced
        self.unplaced_tokens += unplaced_tokens
        frame = part.iterations
        timed = frame.filter(pl.col("duration").is_not_null())
        prefills = timed.filter(pl.col("fusion_width") > 0)
        self.num_iterations += frame.height
        self.num_timed += timed.height
        self.num_bounded += timed.filter(pl.col("duration_source") == "bounded").height
        self.num_timed_prefills += prefills.height
        self.tokens += total(frame["num_new_tokens"])
        self.timed_tokens += total(prefills["num_new_tokens"])
        self.busy_ns += total(timed["duration"])
        self.prefill_ns += total(prefills["duration"])
        self.padded_size += int(
            frame.select(
                (pl.col("max_rank_new_tokens").cast(pl.Int64) * pl.col("dp_size")).sum()
            ).item()
        )
        spans = frame.group_by("engine_run").agg(
            pl.coalesce("start", "end").min().cast(pl.Int64).alias("start"),
            pl.col("end").max().cast(pl.Int64),
        )
        for engine_run, start, end in spans.iter_rows():
            old = self.spans.get(engine_run, (start, end))
            self.spans[engine_run] = (min(old[0], start), max(old[1], end))

    def rows(self) -> list[Metric]:
        """Rows of the family; see :func:`measure_throughput`."""
        n = self.num_iterations
        none = None if n else NO_ITERATION
        untimed = n - self.num_timed
        note = none or (
            NO_DURATION
            if not self.num_timed
            else f"{untimed} iterations without a duration are left out"
            if untimed
            else None
        )
        note = note_rough(self.num_bounded, self.num_timed, note)
        busy = as_seconds(self.busy_ns) if self.num_timed else None
        span = as_seconds(sum(end - start for start, end in self.spans.values())) if n else None
        padded = self.padded_size - self.tokens
        if self.missing and n:
            return self._rows_in_part(span)
        span_note = f"summed over {len(self.spans)} engine starts" if len(self.spans) > 1 else none
        return [
            Metric(
                "num_new_tokens",
                self.tokens + self.unplaced_tokens if n or self.num_unplaced else None,
                "tokens",
                n + self.num_unplaced,
                f"includes {self.num_unplaced} batches that could not be put into an iteration"
                if self.num_unplaced
                else none,
            ),
            Metric("num_unplaced_batches", self.num_unplaced, "count", n + self.num_unplaced),
            Metric("busy_seconds", busy, "s", self.num_timed, note),
            Metric("span_seconds", span, "s", n, span_note),
            Metric(
                "busy_ratio", busy / span if busy is not None and span else None, "ratio", n, note
            ),
            Metric(
                "prefill_throughput_tok_s",
                self.timed_tokens / as_seconds(self.prefill_ns) if self.prefill_ns else None,
                "tok/s",
                self.num_timed_prefills,
                note,
            ),
            Metric("padded_tokens", padded if n else None, "tokens", n, none),
            Metric(
                "padded_token_ratio",
                padded / self.padded_size if self.padded_size else None,
                "ratio",
                n,
                none,
            ),
        ]

    def _rows_in_part(self, span: float | None) -> list[Metric]:
        """Rows where ranks were not read: their iterations and tokens are not among these."""
        n, tokens = self.num_iterations, self.tokens + self.unplaced_tokens
        names = (
            ("busy_seconds", "s"),
            ("busy_ratio", "ratio"),
            ("prefill_throughput_tok_s", "tok/s"),
            ("padded_tokens", "tokens"),
            ("padded_token_ratio", "ratio"),
        )
        num = n + self.num_unplaced
        return [
            Metric("num_new_tokens", tokens, "tokens", num, self.partial, low=tokens),
            Metric("num_unplaced_batches", self.num_unplaced, "count", num),
            Metric("span_seconds", span, "s", n, self.partial, low=span),
            *(Metric(name, None, unit, n, self.missing) for name, unit in names),
        ]


FAMILIES.register("throughput", ThroughputTally)


def measure_throughput(run: Run) -> list[Metric]:
    """Measure tokens over time.

    * ``num_new_tokens`` = Σ prompt tokens computed, over all iterations and ranks, and over
      ``num_unplaced_batches``: lines of the log that could not be put into an iteration.
    * ``busy_seconds`` = Σ iteration durations; consecutive iterations do not overlap.
    * ``span_seconds`` = start of the first iteration to the end of the last, for each engine start.
    * ``busy_ratio`` = busy ÷ span.
    * ``prefill_throughput_tok_s`` = tokens ÷ Σ durations of the iterations that prefilled. The
      throughputs that the lines print are not used: their gaps hold waiting time, and ranks that
      work side by side would be counted one after the other.
    * ``padded_tokens`` = Σ max tokens of a rank × dp_size − ``num_new_tokens``: what the ranks
      could have computed in addition while they waited for the busiest one;
      ``padded_token_ratio`` is its share of Σ max × dp_size.
    """
    return measure_tallies(run, [ThroughputTally(run, Prices())])
