"""Small runs whose numbers a person can count."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import polars as pl

from pdtrace.run import DelayerInfo, EngineInfo, Part, Run, SourceFile
from pdtrace.schema import DECISIONS, EVENTS, ITERATIONS, REQUESTS

if TYPE_CHECKING:
    from collections.abc import Sequence

MS = 1_000_000
START = 1_795_397_312_000 * MS  # 2026-11-23 01:28:32 UTC


def build(
    grid: Sequence[tuple[int | None, dict[int, int]]],
    *,
    dp_size: int = 2,
    cuts: Sequence[int] = (),
    unknown: bool = False,
    engine: EngineInfo | None = None,
    path: str = "server.log",
    **tables: Any,
) -> Run:
    """A run from (duration in ms, {rank: tokens}) per iteration, back to back, cut into parts.

    Args:
        grid: One entry per iteration; a rank that is not in it is idle, or unknown.
        dp_size: Ranks.
        cuts: Iterations before which a new part begins.
        unknown: Silent ranks are unknown.
        engine: Facts; an engine of ``dp_size`` GPUs with the delayer off if not given.
        path: Name of the input file.
        **tables: ``requests`` and ``decisions`` as lists of rows, ``incidents``, ``warnings``.
    """
    events: list[dict[str, Any]] = []
    iterations: list[dict[str, Any]] = []
    now = START
    for number, (ms, ranks) in enumerate(grid):
        begin, now = now, now + (ms or 100) * MS
        for rank, tokens in ranks.items():
            events.append(
                {
                    "event_id": len(events), "source": "scheduler_log", "source_id": 0,
                    "line": 10 + len(events), "ts": now, "ts_resolution": MS, "engine_run": 0,
                    "dp_rank": rank, "kind": "prefill", "num_new_seqs": 1,
                    "num_new_tokens": tokens, "num_queue_reqs": rank, "token_usage": 0.25,
                    "iteration": number,
                }
            )  # fmt: skip
        silent = dp_size - len(ranks)
        iterations.append(
            {
                "iteration": number, "engine_run": 0, "forward_iter": number + 1, "start": begin,
                "end": now, "duration": None if ms is None else ms * MS,
                "duration_source": None if ms is None else "gap", "grouping": "label",
                "confidence": 1.0, "dp_size": dp_size, "fusion_width": len(ranks),
                "num_idle_ranks": 0 if unknown else silent,
                "num_unknown_ranks": silent if unknown else 0,
                "num_new_tokens": sum(ranks.values()),
                "max_rank_new_tokens": max(ranks.values(), default=0),
            }
        )  # fmt: skip
    event_table = table(EVENTS, events)
    iteration_table = table(ITERATIONS, iterations)
    bounds = [0, *cuts, len(grid)]
    parts = [
        Part(
            event_table.filter(pl.col("iteration").is_between(a, b, closed="left")),
            iteration_table.slice(a, b - a),
        )
        for a, b in pairwise(bounds)
    ]
    return Run(
        engine=engine
        or EngineInfo(
            dp_size=dp_size, tp_size=dp_size, pp_size=1, role="prefill", lock_step=True,
            delayer=DelayerInfo(enabled=False),
        ),
        files=(SourceFile(path, "scheduler_log", 1000, 40, len(events), {"torn": 1}),),
        parts=tuple(parts),
        requests=table(REQUESTS, tables.get("requests", [])),
        decisions=table(DECISIONS, tables.get("decisions", [])),
        incidents=tuple(tables.get("incidents", ())),
        warnings=tuple(tables.get("warnings", ())),
        dp_size=dp_size,
        grouping="label",
    )  # fmt: skip


def table(declared: Any, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows as a declared table; empty if there are none."""
    if not rows:
        return declared.empty()
    return declared.conform(pl.DataFrame(rows, schema_overrides=_plain(declared)))


def _plain(declared: Any) -> dict[str, Any]:
    return {c.name: pl.Int64 for c in declared if c.dtype in (pl.Datetime("ns", "UTC"),)}


def request(rid: str, received: int | None, finished: int | None, **more: Any) -> dict[str, Any]:
    """A request row; times in ms after START."""
    times = {"received": received, "finished": finished}
    return {
        "rid": rid, "source": "scheduler_log", "source_id": 0, "engine_run": 0,
        "status": "finished",
        **{k: None if v is None else START + v * MS for k, v in times.items()}, **more,
    }  # fmt: skip


def decision(source: str, rank: int, reason: str, count: int, **more: Any) -> dict[str, Any]:
    """A decision row."""
    return {
        "source": source, "source_id": 0, "engine_run": 0, "dp_rank": rank, "count": count,
        "output_reason": reason, "output_allow": reason != "delay", **more,
    }  # fmt: skip
