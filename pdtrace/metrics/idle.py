"""Idle: what the ranks that had nothing to run cost while the others ran."""

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
    measure_tallies,
    note_rough,
    total,
)
from pdtrace.wording import name_ranks

if TYPE_CHECKING:
    from pdtrace.run import EngineInfo, Part, Run


class IdleTally:
    """Adds up idle and unknown rank passes, and the time of the idle ones."""

    def __init__(self, run: Run, prices: Prices) -> None:
        self.engine = run.engine
        self.dp_size = run.dp_size
        self.missing_ranks = run.missing_ranks
        self.prices = prices
        self.num_passes = self.num_idle = self.num_unknown = self.num_untimed = 0
        self.num_timed = self.num_bounded = 0
        self.all_ns = self.idle_ns = self.unknown_ns = 0

    def add(self, part: Part) -> None:
        """Take one part in."""
        frame = part.iterations
        self.num_passes += total(frame["dp_size"])
        self.num_idle += total(frame["num_idle_ranks"])
        self.num_unknown += total(frame["num_unknown_ranks"])
        self.num_untimed += total(frame.filter(pl.col("duration").is_null())["num_idle_ranks"])
        self.num_timed += frame["duration"].count()
        self.num_bounded += frame.filter(pl.col("duration_source") == "bounded").height
        ns = pl.col("duration").cast(pl.Int64)
        times = frame.select(
            (ns * pl.col(name).cast(pl.Int64)).sum().alias(name)
            for name in ("dp_size", "num_idle_ranks", "num_unknown_ranks")
        ).row(0)
        self.all_ns += times[0]
        self.idle_ns += times[1]
        self.unknown_ns += times[2]

    def rows(self) -> list[Metric]:
        """Rows of the family; see :func:`measure_idle`."""
        note = None if self.num_passes else NO_ITERATION
        is_blind = self.num_unknown > 0 and self.num_idle == 0
        if self.num_unknown:
            note = (
                f"{self.num_unknown} of {self.num_passes} rank passes are unknown and counted as "
                "neither idle nor busy; a complete log of an engine with DP attention tells them"
            )
            if self.missing_ranks:
                note += f" (nothing was read of DP {name_ranks(self.missing_ranks)})"
        known = self.num_passes - self.num_unknown
        is_told = known > 0 and not is_blind
        known_ns = self.all_ns - self.unknown_ns
        has_time = is_told and self.all_ns > 0
        time_note = note
        if is_told and not has_time:
            time_note = NO_DURATION
        elif self.num_untimed:
            time_note = f"{self.num_untimed} idle rank passes without a duration are left out"
        if has_time:
            time_note = note_rough(self.num_bounded, self.num_timed, time_note)
        seconds = as_seconds(self.idle_ns) if has_time else None
        up_to = (self.num_idle + self.num_unknown) if self.num_unknown else None
        # unread ranks may have run iterations of their own, which no bound here would hold
        up_to = None if self.missing_ranks else up_to
        rows = [
            Metric(
                "idle_rank_passes",
                self.num_idle if is_told else None,
                "count",
                self.num_passes,
                note,
                low=None if up_to is None else self.num_idle,
                high=up_to,
            ),
            Metric(
                "idle_rank_pass_ratio",
                self.num_idle / known if is_told else None,
                "ratio",
                self.num_passes,
                note,
                low=None if up_to is None else self.num_idle / self.num_passes,
                high=None if up_to is None else up_to / self.num_passes,
            ),
            Metric("unknown_rank_passes", self.num_unknown, "count", self.num_passes),
            Metric("idle_rank_seconds", seconds, "s", self.num_idle - self.num_untimed, time_note),
            Metric(
                "idle_rank_time_ratio",
                self.idle_ns / known_ns if has_time and known_ns else None,
                "ratio",
                self.num_passes,
                time_note,
            ),
        ]
        return rows + self._costs(seconds, time_note)

    def _costs(self, seconds: float | None, time_note: str | None) -> list[Metric]:
        gpus, gpu_note = gpus_per_rank(self.engine, self.dp_size)
        hours = None if seconds is None or gpus is None else seconds * gpus / 3600
        price = self.prices.gpu_hour_cost
        note = gpu_note if seconds is not None else time_note
        return [
            Metric("idle_gpu_hours", hours, "gpu_h", self.num_idle - self.num_untimed, note),
            Metric(
                "idle_cost_usd",
                None if hours is None or price is None else hours * price,
                "usd",
                self.num_idle - self.num_untimed,
                "the price of a GPU hour (--gpu-hour-cost) gives it" if price is None else note,
            ),
        ]


FAMILIES.register("idle", IdleTally)


def gpus_per_rank(engine: EngineInfo, dp_size: int) -> tuple[float | None, str | None]:
    """GPUs behind one DP rank, and a note where that rests on something.

    With DP attention the DP ranks share the engine's tp_size × pp_size GPUs; without it each rank
    is a replica that has as many of its own.
    """
    if engine.tp_size is None:
        return None, "tp_size gives it: the server_args line at the start of the log prints it"
    note = None if engine.pp_size is not None else "one pipeline stage assumed"
    gpus = engine.tp_size * (engine.pp_size or 1)
    return (gpus if engine.enable_dp_attention is False else gpus / dp_size), note


def measure_idle(run: Run, *, gpu_hour_cost: float | None = None) -> list[Metric]:
    """Measure the idle rank passes and what they cost.

    In lock-step every rank runs every iteration, so a rank that did not prefill or decode in it ran
    an idle batch for as long as the others worked.

    * ``idle_rank_passes`` = Σ over iterations of their idle ranks.
    * ``idle_rank_pass_ratio`` = idle ÷ (iterations × dp_size − unknown). Where ranks are unknown,
      ``low`` takes none of them for idle and ``high`` all.
    * ``idle_rank_seconds`` = Σ idle ranks × duration of the iteration.
    * ``idle_rank_time_ratio`` = that ÷ Σ (dp_size − unknown ranks) × duration.
    * ``idle_gpu_hours`` = ``idle_rank_seconds`` × tp_size × pp_size ÷ dp_size ÷ 3600.
    * ``idle_cost_usd`` = ``idle_gpu_hours`` × ``gpu_hour_cost``.
    """
    return measure_tallies(run, [IdleTally(run, Prices(gpu_hour_cost))])
