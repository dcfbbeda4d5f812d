"""Summaries of stages and causes: each millisecond of the time to first token; shares of causes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from pdtrace.schema import CAUSES, HOLDS, IDLE_CAUSES, STAGES, TTFT_BREAKDOWN

if TYPE_CHECKING:
    from pdtrace.run import Part, Run

OUTSIDE = ("sending", "returning")  # by the client's clock, not of the engine


@dataclass(frozen=True)
class Breakdown:
    """Where the time to first token went.

    Attributes:
        table: Table ``ttft_breakdown``: stages in order, those of one request sum to its time.
        num_requests: Finished requests that it is made of.
        num_left_out: Finished requests of which a time between is missing.
        p50_rid, p99_rid: The requests in the middle, and at the 99th percentile (untrusted text).
        mean_s, p50_s, p99_s: Their times to first token.
        delay_ratio: Share of all time that was held by the delayer; None without a request.
    """

    table: pl.DataFrame
    num_requests: int
    num_left_out: int
    p50_rid: str | None = None
    p99_rid: str | None = None
    mean_s: float | None = None
    p50_s: float | None = None
    p99_s: float | None = None
    delay_ratio: float | None = None


def break_down(stages: pl.DataFrame) -> Breakdown:
    """Break the time to first token down into stages.

    Requests are compared from the earliest time that the engine knows of most of them: its arrival
    at the server where spans tell it, otherwise its entry into the scheduler. The p50 request is
    the one of rank ⌈n/2⌉ in order of its time, the p99 request that of rank ⌈0.99 n⌉.

    Args:
        stages: Table ``request_stages``.
    """
    name = pl.col("stage").cast(pl.String)
    inside = stages.filter(
        ~name.is_in(OUTSIDE), pl.col("status").cast(pl.String) == "finished"
    ).with_columns(name.alias("stage"), pl.col("held_by").cast(pl.String))
    num_finished = inside["request"].n_unique()
    per = inside.group_by("request", maintain_order=True).agg(
        pl.col("rid").first(),
        pl.col("duration").sum().alias("total"),
        (pl.col("stage") == "unknown").any().alias("lacks"),
        pl.col("stage").first().alias("begin"),
    )
    whole = per.filter(~pl.col("lacks"))
    if whole.is_empty():
        return Breakdown(TTFT_BREAKDOWN.empty(), 0, num_finished)
    usual = whole["begin"].value_counts(sort=True)["begin"][0]
    whole = whole.filter(pl.col("begin") == usual).sort("total", "request")
    n = whole.height
    middle, late = (whole.row(-(-n * q // 100) - 1, named=True) for q in (50, 99))
    mine = inside.join(whole.select("request"), on="request", how="semi")
    length = pl.col("duration").dt.total_nanoseconds() / 1e9
    table = (
        mine.group_by("stage", "held_by")
        .agg(
            (length.sum() / n).alias("mean_s"),
            *(
                length.filter(pl.col("request") == r["request"]).sum().alias(f"{q}_s")
                for q, r in (("p50", middle), ("p99", late))
            ),
            pl.col("is_estimated").any(),
            pl.col("note").drop_nulls().first(),
        )
        .with_columns((pl.col("mean_s") / pl.col("mean_s").sum()).fill_nan(0.0).alias("share"))
    )
    order = pl.col("stage").cast(pl.Enum(STAGES)), pl.col("held_by").cast(pl.Enum(HOLDS))
    table = TTFT_BREAKDOWN.conform(table.with_columns(*order)).sort("stage", "held_by")
    delay = table.filter(pl.col("held_by").cast(pl.String) == "delayer")["share"].sum()
    return Breakdown(
        table,
        n,
        num_finished - n,
        middle["rid"],
        late["rid"],
        float(table["mean_s"].sum()),
        middle["total"].total_seconds(),
        late["total"].total_seconds(),
        float(delay),
    )


_OF_LINES = (
    "iteration", "dp_rank", "kind", "num_new_seqs", "num_new_tokens", "num_pending_tokens",
)  # fmt: skip


def count_causes(run: Run) -> pl.DataFrame:
    """Count the idle rank passes by cause, part by part.

    Without a source that knows requests a log still tells a chunk from what waits: a batch of one
    sequence after a full one that left tokens behind goes on with its prompt. If every rank that
    ran did so, the idle passes beside it are ``other_rank_mid_chunk``; all others are ``unknown``.

    Args:
        run: The run.

    Returns:
        Table ``idle_causes``; its counts sum to the idle rank passes, its shares to 1.
    """
    is_told = not run.requests.is_empty()
    found: list[pl.DataFrame] = []
    before = nothing_left()
    for part in run:
        if is_told:
            idle = part.rank_passes.filter(pl.col("role").cast(pl.String) == "idle").select(
                pl.col("cause").cast(pl.String).fill_null("unknown"),
                pl.col("cause_detail").cast(pl.String),
                pl.col("duration").dt.total_nanoseconds().alias("ns"),
                pl.lit(1).alias("num"),
            )
        else:
            idle, before = read_idle_of_log(part, before, run)
        found.append(
            idle.group_by("cause", "cause_detail").agg(pl.col("num").sum(), pl.col("ns").sum())
        )
    if not found:
        return IDLE_CAUSES.empty()
    table = pl.concat(found).group_by("cause", "cause_detail").agg(pl.col("num", "ns").sum())
    table = table.filter(pl.col("num") > 0).select(
        pl.col("cause").cast(pl.Enum(CAUSES)),
        "cause_detail",
        pl.col("num").alias("num_passes"),
        (pl.col("ns") / 1e9).alias("seconds"),
        (pl.col("num") / pl.col("num").sum()).alias("share"),
    )
    return IDLE_CAUSES.conform(table).sort("cause", "cause_detail", nulls_last=True)


def nothing_left() -> pl.DataFrame:
    """What the ranks left behind before the first part: nothing."""
    return pl.DataFrame(schema={"dp_rank": pl.UInt16, "left": pl.Boolean})


def read_idle_of_log(
    part: Part, before: pl.DataFrame, run: Run
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Idle passes of a part as its lines alone tell them; what each rank left behind at its end.

    Args:
        part: The part.
        before: What each rank left behind at the end of the part before.
        run: The run, for the size of its chunks.

    Returns:
        ``iteration``, ``cause``, ``cause_detail`` (null), ``ns`` and ``num`` (idle ranks) of every
        iteration; and ``dp_rank``, ``left``.
    """
    events, iterations = part.select(*_OF_LINES), part.iterations
    full = pl.col("num_new_tokens") >= (run.engine.chunked_prefill_size or 1)
    lines = (
        events.filter(pl.col("iteration").is_not_null(), pl.col("kind") == "prefill")
        .select(
            "iteration",
            "dp_rank",
            (pl.col("num_new_seqs") == 1).alias("single"),
            ((pl.col("num_pending_tokens") > 0) & full).fill_null(value=False).alias("left"),
        )
        .sort("iteration", maintain_order=True)
    )
    lines = lines.join(before.rename({"left": "old"}), on="dp_rank", how="left").with_columns(
        pl.coalesce(pl.col("left").shift(1).over("dp_rank"), "old")
        .fill_null(value=False)
        .alias("was")
    )
    going = lines.group_by("iteration").agg((pl.col("was") & pl.col("single")).all().alias("all"))
    table = iterations.join(going, on="iteration", how="left").select(
        "iteration",
        pl.when(pl.col("all").fill_null(value=False))
        .then(pl.lit("other_rank_mid_chunk"))
        .otherwise(pl.lit("unknown"))
        .alias("cause"),
        pl.lit(None, pl.String).alias("cause_detail"),
        (pl.col("duration").dt.total_nanoseconds() * pl.col("num_idle_ranks")).alias("ns"),
        pl.col("num_idle_ranks").cast(pl.Int32).alias("num"),
    )
    last = lines.group_by("dp_rank").agg(pl.col("left").last())
    return table, pl.concat([last, before.join(last, on="dp_rank", how="anti")])
