"""Waits that ran out, from the lines of a log alone.

Without requests nobody knows when a wait began, nor whether one came before a pass that all ranks
joined. But while a rank has no request prefill goes on only when the wait runs out (or the
watermark lets it through), so an iteration that new prompts began on some ranks only ended a wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.schema import DELAY_EPISODES

if TYPE_CHECKING:
    from pdtrace.run import Run

COLUMNS = ("iteration", "dp_rank", "kind", "num_new_seqs", "num_new_tokens", "num_pending_tokens")
LATE_NS = 2_000_000_000  # a line farther before its iteration's end than a pass takes is of another


def read_line_waits(run: Run) -> pl.DataFrame:
    """The waits that ran out, by debug lines where the log has them, else by who ran.

    Args:
        run: A run without requests, with the delayer on; its parts are read once.

    Returns:
        Table ``delay_episodes`` with ``end``, ``iteration``, ranks that ran, and passes; empty with
        a watermark where no debug line tells who was let through by it.
    """
    frames = list(_partial_iterations(run))
    if not frames:
        return DELAY_EPISODES.empty()
    partial = pl.concat(frames)
    told = _iterations_of_lines(run)
    if told is not None:
        partial = partial.filter(pl.col("iteration").is_in(told.implode()))
    elif run.engine.delayer.token_usage_low_watermark is not None:
        return DELAY_EPISODES.empty()
    most = run.engine.delayer.max_delay_passes
    return DELAY_EPISODES.conform(
        partial.sort("iteration")
        .with_row_index("episode")
        .with_columns(
            pl.lit("timeout").alias("ended_by"),
            pl.lit(told is not None).alias("is_observed"),
            pl.lit(None if most is None else most - 1).alias("num_delay_passes"),
            pl.lit(None if most is None else "limit").alias("passes_source"),
        )
    )


def _partial_iterations(run: Run) -> list[pl.DataFrame]:
    """Iterations that new prompts began on some ranks only, part by part, with these ranks."""
    chunk = run.engine.chunked_prefill_size or 1
    out = []
    before = pl.DataFrame(schema={"dp_rank": pl.UInt16, "left": pl.Boolean})
    for part in run:
        full = (pl.col("num_pending_tokens") > 0) & (pl.col("num_new_tokens") >= chunk)
        lines = (
            part.select(*COLUMNS)
            .filter(pl.col("iteration").is_not_null(), pl.col("kind") == "prefill")
            .select(
                "iteration", "dp_rank", "num_new_seqs", full.fill_null(value=False).alias("left")
            )
            .sort("iteration", maintain_order=True)
            .join(before.rename({"left": "old"}), on="dp_rank", how="left", maintain_order="left")
        )
        was = pl.coalesce(pl.col("left").shift(1).over("dp_rank"), "old").fill_null(value=False)
        lines = lines.with_columns((was & (pl.col("num_new_seqs") == 1)).alias("goes_on"))
        last = lines.group_by("dp_rank").agg(pl.col("left").last())
        before = pl.concat([last, before.join(last, on="dp_rank", how="anti")])
        new = (
            lines.filter(~pl.col("goes_on"))
            .group_by("iteration")
            .agg(
                pl.len().alias("num_prefillable"),
                pl.col("dp_rank").sort().cast(pl.String).str.join(",").alias("held_ranks"),
            )
        )
        told = part.iterations.filter(pl.col("num_unknown_ranks") == 0).select(
            "iteration", "engine_run", "dp_size", pl.coalesce("start", "end").alias("end")
        )
        both = told.join(new, on="iteration").filter(pl.col("num_prefillable") < pl.col("dp_size"))
        out.append(both.drop("dp_size"))
    return out


def _iterations_of_lines(run: Run) -> pl.Series | None:
    """Iterations that debug lines call the end of a wait that ran out; None without such lines.

    A line is printed before its iteration has run, and the result of the one before is in by then.
    """
    lines = run.decisions.filter(
        pl.col("source").cast(pl.String) == "scheduler_log", pl.col("ts").is_not_null()
    )
    if lines.is_empty() or run.engine.has_ms is False:
        return None
    ran_out = lines.filter(
        pl.col("output_reason").cast(pl.String) == "wait_timeout",
        pl.col("actual_execution").fill_null(value=True),
    )
    frames = [p.iterations.select("iteration", pl.col("end").dt.epoch("ns")) for p in run]
    ends = pl.concat(frames).sort("end")
    ts = ran_out["ts"].dt.epoch("ns").to_numpy()
    at = np.searchsorted(ends["end"].to_numpy(), ts)
    return ends["iteration"].gather(at[at < ends.height]).unique()
