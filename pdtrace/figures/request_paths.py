"""The ways of requests, packed: what the page finds by a request's id.

Ids are text that hardly packs, so a page carries as many requests as its share of room allows, the
slowest first; it says how many those are.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pdtrace.figures.packing import count_chars, pack_array, pack_text
from pdtrace.metrics.latency import first_served
from pdtrace.schema import REQUEST_STATUSES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.figures.survey import Survey

TICK_NS = 10_000
_FIRST_TRY = 60_000
_MOST_NOTES = 50


def pack_requests(survey: Survey, max_chars: int) -> dict[str, Any]:
    """Pack the slowest requests of a run with their stages.

    Args:
        survey: The run; its table ``request_stages`` is what is packed.
        max_chars: Characters that the packed arrays may take.

    Returns:
        ``total`` and ``carried`` requests, and for each carried one its id, rank, status, begin and
        stages; nothing where no source knows requests. Times are in ticks of 10 µs.
    """
    stages = survey.run.stages
    if stages.is_empty():
        return {}
    ranked = (
        stages.group_by("request")
        .agg(
            pl.col("rid", "dp_rank", "status").first(),
            pl.col("start").min().dt.epoch("ns").alias("begin"),
            pl.col("duration").sum().alias("total"),
            pl.len().alias("num"),
        )
        .sort(["total", "request"], descending=[True, False])
    )
    ttft = first_served(survey.run.requests).select(
        "rid", (pl.col("finished") - pl.col("begin")).dt.total_nanoseconds().alias("ttft")
    )
    prompts = survey.run.requests.group_by("rid").agg(pl.col("num_prompt_tokens").max())
    count = min(ranked.height, _FIRST_TRY)
    while True:
        told = ranked.head(count)
        told = told.join(ttft, on="rid", how="left", maintain_order="left")
        told = told.join(prompts, on="rid", how="left", maintain_order="left")
        packed = _pack(survey, told, stages)
        over = count_chars(packed) / max(max_chars, 1)
        if over <= 1 or count == 0:
            break
        count = int(count / over * 0.97)
    return packed | {"total": ranked.height, "carried": count}


def _pack(survey: Survey, told: pl.DataFrame, stages: pl.DataFrame) -> dict[str, Any]:
    rows = (
        told.select("request", pl.int_range(pl.len()).alias("place"))
        .join(stages, on="request", how="inner", maintain_order="left")
        .with_columns(
            pl.col("stage", "held_by").cast(pl.String),
            pl.col("start").dt.epoch("ns"),
            (pl.col("start") + pl.col("duration")).dt.epoch("ns").alias("end"),
        )
        .sort("place", "start", "end", maintain_order=True)
    )
    notes = rows["note"].drop_nulls().unique(maintain_order=True).head(_MOST_NOTES)
    kind = ["stage", "held_by", "is_estimated", "note"]
    rows = rows.with_columns(pl.when(pl.col("note").is_in(notes.implode())).then("note"))
    kinds = rows.group_by(kind, maintain_order=True).agg(pl.len()).sort("len", descending=True)
    kinds = kinds.with_row_index("kind").drop("len")
    rows = rows.join(kinds, on=kind, how="left", nulls_equal=True, maintain_order="left")
    start, end = (_ticks(rows[name].to_numpy(), survey.origin_ns) for name in ("start", "end"))
    forward = rows.filter(pl.col("stage") == "forward")
    return {
        "rids": {"b": pack_text(json.dumps(told["rid"].to_list(), separators=(",", ":")))},
        "rank": pack_array((told["dp_rank"].cast(pl.Int64) + 1).fill_null(0).to_numpy()),
        "status": pack_array(told["status"].to_physical().to_numpy()),
        "statuses": list(REQUEST_STATUSES),
        "begin": pack_array(_ticks(told["begin"].to_numpy(), survey.origin_ns), signed=True),
        "prompt": pack_array(
            (told["num_prompt_tokens"].cast(pl.Int64) + 1).fill_null(0).to_numpy()
        ),
        "ttft": pack_array(((told["ttft"] + TICK_NS // 2) // TICK_NS + 1).fill_null(0).to_numpy()),
        "num": pack_array(told["num"].to_numpy()),
        "kinds": kinds.drop("kind").to_dicts(),
        "kind": pack_array(rows["kind"].to_numpy()),
        "took": pack_array(end - start),
        # Index into the page's iterations plus one, of the forward stretches alone.
        "at": pack_array(_find_rows(survey, forward["iteration"]), delta=True),
    }


def _ticks(ns: NDArray[np.int64], origin_ns: int) -> NDArray[np.int64]:
    return np.rint((ns - origin_ns) / TICK_NS).astype(np.int64)


def _find_rows(survey: Survey, iteration: pl.Series) -> NDArray[np.int64]:
    """Where each iteration stands in the survey, from 1 up; 0 where it is not known."""
    rows = pl.DataFrame({"iteration": survey.iteration, "at": np.arange(1, len(survey) + 1)})
    asked = iteration.cast(pl.Int64).to_frame("iteration")
    found = asked.join(rows, on="iteration", how="left", maintain_order="left")
    return found["at"].fill_null(0).to_numpy()
