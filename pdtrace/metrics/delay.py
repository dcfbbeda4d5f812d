"""Delay: how often the PrefillDelayer withheld prefill, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pdtrace.metrics.tally import FAMILIES, Metric, Prices, as_seconds, measure_tallies, total

if TYPE_CHECKING:
    from pdtrace.run import Part, Run

COUNTERS = "counters (metrics_before/after) would give it; the log has no line for it"
OFF = "the engine says the delayer is off"
NO_WAITS = (
    "the prefill_delayer_wait_seconds histogram (metrics_before/after) of releases from 0.5.14 on "
    "gives it; before, it holds only zeros; spans or request time stats give an estimate"
)
FROM_REQUESTS = "estimated: the delay episodes, rebuilt from the requests that waited"
DEBUG_LINES = "counters or debug lines (SGLANG_PREFILL_DELAYER_DEBUG_LOG=1) would give it"
# Outcome → (metric, whether a debug line of the log reports it too).
OUTCOMES = {
    "delay": ("num_delay_passes", False),
    "no_wait": ("num_delay_no_waits", False),
    "wait_success": ("num_delay_successes", False),
    "wait_timeout": ("num_delay_timeouts", True),
    "token_watermark": ("num_delay_watermark_allows", True),
}
MOST_MISSED = 2  # times the passes of the episodes that the engine may have counted
MISSED = (
    "the engine counted {counted:,} delay passes, and the waits that requests tell are far fewer: "
    "their times do not fit the log's (--tz, or a log from the engine's start)"
)


class DelayTally:
    """Reads the tables of the run; of its parts, only whether they hold an iteration."""

    def __init__(self, run: Run, prices: Prices) -> None:
        self.delayer = run.engine.delayer
        self.decisions = run.decisions
        self.stages = run.stages
        self.episodes = run.episodes
        self.has_iterations = False

    def add(self, part: Part) -> None:
        """Without an iteration no wait can be told from any other."""
        self.has_iterations |= not part.iterations.is_empty()

    def rows(self) -> list[Metric]:
        """Rows of the family; see :func:`measure_delay`."""
        counters = self.decisions.filter(pl.col("source") == "prometheus")
        lines = self.decisions.filter(pl.col("source") == "scheduler_log")
        rows = []
        for reason, (name, has_line) in OUTCOMES.items():
            frame, note = counters, None
            value: int | None = count_once(frame, reason)
            if frame.is_empty():
                value, note = None, DEBUG_LINES if has_line else COUNTERS
                if has_line and not lines.is_empty():
                    frame, note = lines, "from debug lines of the log"
                    value = count_once(frame, reason)
                elif self.delayer.enabled is False:
                    value, note = 0, OFF
            n = frame.filter(pl.col("output_reason") == reason).height
            rows.append(Metric(name, value, "count", n, note))
        waits = self.decisions.filter(pl.col("wait").is_not_null())
        seconds: float | None = None
        note = NO_WAITS
        if not waits.is_empty():
            per_rank = waits.group_by("dp_rank").agg(pl.col("wait").cast(pl.Int64).sum())
            seconds, note = as_seconds(int(str(per_rank["wait"].max()))), ""
        elif self.delayer.enabled is False:
            seconds, note = 0.0, OFF
        elif self.has_iterations and not self.stages.is_empty():
            return [*rows, self._estimate(None if counters.is_empty() else counters)]
        rows.append(Metric("delay_seconds_total", seconds, "s", waits.height, note or None))
        return rows

    def _estimate(self, counters: pl.DataFrame | None) -> Metric:
        """Time waited by the episodes, unless the engine counted far more passes than theirs."""
        num, name = self.episodes.height, "delay_seconds_total"
        counted = 0 if counters is None else count_once(counters, "delay")
        if counted > MOST_MISSED * max(total(self.episodes["num_delay_passes"]), 1):
            return Metric(name, None, "s", num, MISSED.format(counted=counted))
        return Metric(name, as_seconds(total(self.episodes["wait"])), "s", num, FROM_REQUESTS)


FAMILIES.register("delay", DelayTally)


def count_once(decisions: pl.DataFrame, reason: str) -> int:
    """Passes with this outcome. All ranks reach the same one, so the rank that saw most counts."""
    mine = decisions.filter(pl.col("output_reason") == reason)
    per_rank = mine.group_by("dp_rank").agg(pl.col("count").sum())
    return int(str(per_rank["count"].max() or 0))


def measure_delay(run: Run) -> list[Metric]:
    """Measure the delayer's outcomes from the table ``decisions``.

    Every rank takes part in every negotiation and reaches the same outcome, so a pass is counted
    once, not once a rank.

    * ``num_delay_passes``: passes on which prefill was withheld. Only the engine's counters know
      them: a delayed pass prints nothing. Zero where the engine says that the delayer is off.
    * ``num_delay_no_waits``, ``_successes``, ``_timeouts``, ``_watermark_allows``: passes allowed
      at once, after a wait that other ranks joined, after a wait that ran out, and because the KV
      pool was under the low watermark. The last two also come from debug lines, which may be fewer.
    * ``delay_seconds_total``: Σ wall time waited before an allowed pass, by the engine's histogram;
      where that does not tell, the sum over the table ``delay_episodes``, an estimate.
    """
    return measure_tallies(run, [DelayTally(run, Prices())])
