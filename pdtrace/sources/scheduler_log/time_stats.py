"""Time-stats lines, one per finished request, of every release → rows of ``requests``.

From 0.5.12 a line carries the epoch time of the request's entry (``entry_time``), and its
durations give the other times. Before that, ``start`` is a monotonic clock whose zero nothing in
the log says; such a request is kept without times rather than with invented ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from pdtrace.schema import REQUESTS, TIME

if TYPE_CHECKING:
    from collections.abc import Sequence

# The request id is untrusted and may hold anything, so it is bounded from the right.
HEAD = (
    r"^Req ?Time ?Stats\((?:rid=(?P<rid>.*), )?"
    r"input[ _]len=(?P<input>\d+)(?:, cached_input_len=(?P<cached>-?\d+))?"
    r"(?:, output[ _]len=\d+)?(?:, attempts=\d+)?, type=(?P<type>\w+)\): "
    r"(?P<body>[^()]*(?:\([\d.\-]+ms\)[^()]*)*)$"
)
_ROOM = r", bootstrap_room=[^,()]*$"
_MAX_DURATION_MS = 1e10
_MAX_ENTRY_S = 8_000_000_000
_DURATION = r"(?:^|[ ,]){}=(-?\d+(?:\.\d+)?)ms"


class StatsLine(NamedTuple):
    """One time-stats line: where it was, and its message."""

    line: int
    engine_run: int
    dp_rank: int | None
    message: str


def parse_time_stats(lines: Sequence[StatsLine], *, source_id: int) -> tuple[pl.DataFrame, int]:
    """Read many time-stats lines at once.

    Args:
        lines: The lines.
        source_id: Index of their file.

    Returns:
        Table ``requests`` of those of prefill or unified engines, and how many could not be read.
    """
    raw = pl.DataFrame(
        {
            "line": [s.line for s in lines],
            "engine_run": [s.engine_run for s in lines],
            "dp_rank": [s.dp_rank for s in lines],
            "message": [s.message for s in lines],
        },
        schema={
            "line": pl.UInt32,
            "engine_run": pl.UInt16,
            "dp_rank": pl.UInt16,
            "message": pl.String,
        },
    )
    parts = raw.with_columns(
        pl.col("message").str.strip_chars(" ,\r").str.extract_groups(HEAD).alias("head")
    ).unnest("head")
    good = parts.filter(pl.col("input").is_not_null())
    num_bad = parts.height - good.height
    good = good.filter(pl.col("type") != "decode")
    body = pl.col("body")

    def duration_ns(name: str) -> pl.Expr:
        printed = body.str.extract(_DURATION.format(name), 1).cast(pl.Float64, strict=False)
        # a clock that was never stamped can print anything; years are no duration
        is_sane = printed.abs() < _MAX_DURATION_MS
        return pl.when(is_sane).then((printed * 1e6).round()).cast(pl.Int64, strict=False)

    entry = body.str.extract(r"(?:^|[ ,])entry_time=(\d+(?:\.\d+)?)", 1)
    whole = entry.str.extract(r"^(\d+)", 1).cast(pl.Int64, strict=False)
    decimals = entry.str.extract(r"\.(\d{1,9})", 1).fill_null("0").str.pad_end(9, "0")
    # 0.0 marks a request whose entry was never stamped
    entry_ns = pl.when((whole > 0) & (whole < _MAX_ENTRY_S)).then(
        whole * 1_000_000_000 + decimals.cast(pl.Int64)
    )
    zero = pl.lit(0, dtype=pl.Int64)
    is_prefill = pl.col("type") == "prefill"
    good = good.with_columns(
        entry_ns.alias("_entry"),
        duration_ns("bootstrap_duration").alias("_bootstrap"),
        duration_ns("bootstrap_queue_duration").alias("_bootstrap_queue"),
        pl.coalesce(duration_ns("alloc_wait_duration"), zero).alias("_alloc"),
        duration_ns("queue_duration").alias("_queue"),
        duration_ns("forward_duration").alias("_forward"),
    )
    # a unified engine's entry_time is the entry into the waiting queue itself
    before = pl.when(is_prefill).then(pl.coalesce("_bootstrap", "_bootstrap_queue")).otherwise(zero)
    queued = pl.col("_entry") + before + pl.col("_alloc")
    selected = queued + pl.col("_queue")
    ended = selected + pl.when(pl.col("_forward") > 0).then(pl.col("_forward"))

    def at(ns: pl.Expr) -> pl.Expr:
        return pl.from_epoch(ns, time_unit="ns").dt.replace_time_zone("UTC").cast(TIME)

    rows = good.select(
        pl.col("rid").str.replace(_ROOM, "").fill_null(""),
        pl.lit("scheduler_log").alias("source"),
        pl.lit(source_id).alias("source_id"),
        "line",
        "engine_run",
        "dp_rank",
        pl.col("input").cast(pl.UInt32, strict=False).alias("num_prompt_tokens"),
        pl.col("cached").cast(pl.Int64, strict=False).alias("num_cached_tokens"),
        at(pl.col("_entry")).alias("received"),
        at(pl.when(is_prefill).then(pl.col("_entry") + pl.col("_bootstrap"))).alias("bootstrapped"),
        at(queued).alias("queued"),
        at(selected).alias("selected"),
        at(pl.when(is_prefill).then(ended)).alias("transferred"),
        at(ended).alias("finished"),
        pl.lit("finished").alias("status"),
    )
    return REQUESTS.conform(rows), num_bad
