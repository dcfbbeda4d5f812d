"""What the episodes of the delayer cost: who was withheld, for how long, and what it saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.delayer.savings import estimate_savings, read_typical_durations
from pdtrace.schema import DELAY_EPISODES

if TYPE_CHECKING:
    from pdtrace.run import Run

OUTSIDE = ("sending", "returning")  # by the client's clock, not of the engine


def price_episodes(episodes: pl.DataFrame, run: Run) -> pl.DataFrame:
    """Add whom each episode held, whom it was ended by, its costs and what it saved."""
    if episodes.is_empty():
        return episodes
    held = list_held(episodes, run)
    ends = episodes["end"].dt.epoch("ns").to_numpy()
    stage = pl.col("stage").cast(pl.String)
    per = run.stages.group_by("request", maintain_order=True).agg(
        pl.col("rid", "dp_rank").first(),
        pl.col("iteration").min(),
        pl.col("start").filter(stage == "waiting").dt.epoch("ns").min().alias("ready"),
        pl.col("duration").filter(~stage.is_in(OUTSIDE)).sum().dt.total_nanoseconds().alias("ttft"),
    )
    ran = per.join(episodes.select("episode", "iteration"), on="iteration").select(
        "episode", "request", pl.lit(value=True).alias("ran")
    )
    members = (
        ran.join(held, on=["episode", "request"], how="full", coalesce=True)
        .join(per, on="request")
        .with_columns(pl.col("is_held").fill_null(value=False))
        .sort("episode", "dp_rank", "request")
    )
    held_ones, joined = members.filter("is_held"), members.filter("ran", ~pl.col("is_held"))
    costs = members.group_by("episode").agg(
        (pl.col("ns").sum() / 1e9).alias("request_seconds"),
        (pl.col("ns").sum() / pl.col("ttft").filter("is_held").sum()).alias("ttft_ratio"),
    )
    out = episodes.select(
        pl.exclude(
            "held_ranks", "joined_ranks", "num_held", "num_joined", "held", "joined",
            "request_seconds", "ttft_ratio", "num_saved_forwards", "saved_s", "saved_idle_rank_s",
        )
    )  # fmt: skip
    for frame in (_list_members(held_ones, "held"), _list_members(joined, "joined"), costs):
        out = out.join(frame, on="episode", how="left")
    out = out.with_columns(pl.col("num_held", "num_joined").fill_null(0))
    typical = read_typical_durations(run)
    if typical is not None:
        begins = episodes["begin"].dt.epoch("ns").to_numpy()
        beside = episodes["num_forwards"].fill_null(0).to_numpy().astype(float)
        origin = int(begins.min())
        asked = run.requests.group_by("rid").agg(
            pl.col("num_prompt_tokens").max()
            - pl.col("num_cached_tokens").max().clip(0).fill_null(0)
        )
        last = (ends - origin) / 1e9
        told = (
            members.filter("ran")
            .join(asked, on="rid", how="left")
            .select(
                "episode",
                "dp_rank",
                "request",
                ((pl.col("ready") - origin) / 1e9).alias("ready"),
                pl.col("num_prompt_tokens").cast(pl.Float64).fill_null(1.0).alias("tokens"),
            )
        )
        ready = np.minimum(told["ready"].fill_null(np.inf).to_numpy(), last[told["episode"]])
        told = told.with_columns(pl.Series("ready", ready))
        saved = estimate_savings(told, (begins - origin) / 1e9, beside, typical, run.dp_size)
        out = out.join(saved, on="episode", how="left")
    return DELAY_EPISODES.conform(out.sort("episode"))


def list_held(episodes: pl.DataFrame, run: Run) -> pl.DataFrame:
    """Requests that stood ready in an episode.

    Returns:
        ``episode``, ``request``, ``ns`` that the one withheld the other, and ``is_held``: for over
        half a pass. What stood ready for less joined it.
    """
    rows = run.stages.filter(
        pl.col("held_by").cast(pl.String) == "delayer", pl.col("stage").cast(pl.String) == "waiting"
    )
    start = rows["start"].dt.epoch("ns").to_numpy()
    at = np.searchsorted(episodes["end"].dt.epoch("ns").to_numpy(), start, side="right")
    at = np.minimum(at, episodes.height - 1)
    length = rows["duration"].dt.total_nanoseconds()
    frame = pl.DataFrame(
        {"episode": episodes["episode"].gather(at), "request": rows["request"], "ns": length}
    )
    half = episodes.select("episode", (pl.col("pass_s") * 5e8).alias("half"))
    return (
        frame.group_by("episode", "request")
        .agg(pl.col("ns").sum())
        .join(half, on="episode", how="left")
        .with_columns((pl.col("ns") > pl.col("half")).fill_null(value=False).alias("is_held"))
        .drop("half")
    )


def _list_members(members: pl.DataFrame, name: str) -> pl.DataFrame:
    """Ranks as text, number of requests, and the requests by rank as JSON."""
    ranks = members.group_by("episode", "dp_rank", maintain_order=True).agg(
        pl.col("rid").alias("rids")
    )
    each = ranks.select(
        "episode",
        pl.col("dp_rank").cast(pl.String).fill_null("?").alias("rank"),
        pl.col("rids").list.len().alias("num"),
        pl.struct("dp_rank", "rids").struct.json_encode().alias("json"),
    )
    return each.group_by("episode").agg(
        pl.col("rank").str.join(",").alias(f"{name}_ranks"),
        pl.col("num").sum().alias(f"num_{name}"),
        ("[" + pl.col("json").str.join(", ") + "]").alias(name),
    )


def share_of_slow(
    run: Run, held: pl.DataFrame, percents: tuple[int, ...]
) -> tuple[float | None, ...]:
    """Share of withheld time in the time to first token of the requests from each percentile on.

    Args:
        run: The run.
        held: As :func:`list_held` gives it.
        percents: Percentiles of the time to first token.
    """
    stage = pl.col("stage").cast(pl.String)
    per = (
        run.stages.filter(~stage.is_in(OUTSIDE), pl.col("status").cast(pl.String) == "finished")
        .group_by("request")
        .agg(
            pl.col("duration").sum().dt.total_nanoseconds().alias("ttft"),
            (stage == "unknown").any().alias("gap"),
        )
        .filter(~pl.col("gap"))
        .join(held.group_by("request").agg(pl.col("ns").sum()), on="request", how="left")
        .sort("ttft", "request")
    )
    slow = [per.slice(-(-per.height * p // 100) - 1) for p in percents] if per.height else []
    sums = [(int(s["ns"].sum()), int(s["ttft"].sum())) for s in slow]
    return tuple(ns / ttft if ttft else None for ns, ttft in sums) or (None,) * len(percents)
