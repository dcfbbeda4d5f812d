"""Small recordings whose stages and causes a person can count; all times in ms."""

from __future__ import annotations

from itertools import pairwise

import polars as pl

from pdtrace.joined import explain_run
from pdtrace.run import DelayerInfo, EngineInfo, Part, Run, SourceFile
from pdtrace.schema import DECISIONS, EVENTS, ITERATIONS, REQUESTS
from pdtrace.sources.joining import join_requests

MS = 1_000_000
START = 1_795_397_312_000 * MS
STAMPS = (
    "sent", "arrived", "tokenized", "dispatched", "received", "bootstrapped", "queued", "selected",
    "forward_end", "transferred", "finished", "answered",
)  # fmt: skip


def make_run(passes, requests, *, delayer=None, decisions=(), dp_size=2, chunk=100, cuts=()):
    """A run from (begin, end, {rank: (tokens, pending tokens, sequences)}) and request rows.

    Args:
        passes: One entry an iteration.
        requests: As ``request`` makes them.
        delayer: Whether it is on; None: nothing says so.
        decisions: As ``decision`` makes them.
        dp_size: Ranks.
        chunk: Chunk size of a rank.
        cuts: Iterations before which a new part begins.
    """
    events, iterations = [], []
    for number, (begin, end, ranks) in enumerate(passes):
        for rank, (tokens, pending, seqs) in ranks.items():
            events.append(
                {
                    "event_id": len(events), "source": "scheduler_log", "source_id": 0,
                    "line": 1 + len(events), "ts": at(end), "ts_resolution": 0, "engine_run": 0,
                    "dp_rank": rank, "kind": "prefill", "num_new_seqs": seqs,
                    "num_new_tokens": tokens, "num_pending_tokens": pending, "iteration": number,
                }
            )  # fmt: skip
        iterations.append(
            {
                "iteration": number, "engine_run": 0, "start": at(begin), "end": at(end),
                "duration": (end - begin) * MS, "duration_source": "selection",
                "grouping": "label", "confidence": 1.0, "dp_size": dp_size,
                "fusion_width": len(ranks), "num_idle_ranks": dp_size - len(ranks),
                "num_unknown_ranks": 0, "num_new_tokens": sum(r[0] for r in ranks.values()),
                "max_rank_new_tokens": max(r[0] for r in ranks.values()),
            }
        )  # fmt: skip
    e, i = frame(EVENTS, events), frame(ITERATIONS, iterations)
    bounds = [0, *cuts, len(passes)]
    inside = [pl.col("iteration").is_between(a, b - 1) for a, b in pairwise(bounds)]
    run = Run(
        engine=EngineInfo(
            dp_size=dp_size, role="prefill", lock_step=True, chunked_prefill_size=chunk,
            prints_after_result=True,
            delayer=DelayerInfo(enabled=delayer, max_delay_passes=30 if delayer else None),
        ),
        files=(SourceFile("server.log", "scheduler_log", 1),),
        parts=tuple(Part(e.filter(x), i.filter(x)) for x in inside),
        requests=frame(REQUESTS, requests),
        decisions=frame(DECISIONS, list(decisions)),
        incidents=(),
        warnings=(),
        dp_size=dp_size,
        grouping="label",
    )  # fmt: skip
    return explain_run(run, join_requests(run.requests))


def at(ms):
    """Nanoseconds since 1970 of a time in ms."""
    return START + round(ms * MS)


def frame(table, rows):
    """Rows as a declared table."""
    if not rows:
        return table.empty()
    plain = {c.name: pl.Int64 for c in table if c.dtype in (pl.Datetime("ns", "UTC"),)}
    plain |= {c.name: pl.Int64 for c in table if c.dtype == pl.Duration("ns")}
    return table.conform(pl.DataFrame(rows, schema_overrides=plain))


def request(rid, rank, *, tokens=50, source="otel_spans", status="finished", **stamps):
    """A request row; stamps by their names."""
    return {
        "rid": rid, "source": source, "source_id": 0, "engine_run": 0, "dp_rank": rank,
        "num_prompt_tokens": tokens, "num_cached_tokens": 0, "status": status,
        **{name: None if name not in stamps else at(stamps[name]) for name in STAMPS},
    }  # fmt: skip


def decision(ts, rank, reason):
    """A line of the negotiation."""
    return {
        "source": "scheduler_log", "source_id": 0, "engine_run": 0, "dp_rank": rank, "count": 1,
        "ts": at(ts), "output_reason": reason, "output_allow": True, "input_estimation": "mixed",
    }  # fmt: skip


def stages_of(run, rid):
    """(stage, held by, iteration, ms) of one request, in order."""
    rows = run.stages.filter(pl.col("rid") == rid)
    return [
        (s, h, i, round(d.total_seconds() * 1e3, 3))
        for s, h, i, d in rows.select("stage", "held_by", "iteration", "duration").iter_rows()
    ]


def causes_of(run):
    """(iteration, rank) → (cause, detail) of the idle passes."""
    idle = run.rank_passes.filter(pl.col("role").cast(pl.String) == "idle")
    columns = idle.select("iteration", "dp_rank", "cause", "cause_detail").iter_rows()
    return {(i, r): (c, d) for i, r, c, d in columns}
