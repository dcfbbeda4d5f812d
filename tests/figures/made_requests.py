"""Made-up requests with their stages for a made-up run, for tests and measurements of pages."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl

from pdtrace.run import Run
from pdtrace.schema import REQUEST_STAGES, REQUESTS

# Stage and what held it, and its mean in milliseconds; the forward takes its iteration's time.
WAY = (
    ("pickup", "loop", 1),
    ("bootstrap", None, 4),
    ("waiting", "forward", 90),
    ("waiting", "delayer", 30),
    ("forward", None, 0),
    ("transfer", None, 12),
    ("answer", None, 2),
)


def add_requests(run: Run, num_requests: int, *, prefix: str = "req-", seed: int = 3) -> Run:
    """Give a run so many requests, each prefilled in one pass, in no particular order.

    Args:
        run: A run of ``make_run``.
        num_requests: How many.
        prefix: What each id begins with; the rest is hexadecimal.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    passes = pl.concat(
        part.rank_passes.filter(pl.col("role") == "prefill").select(
            "iteration",
            "dp_rank",
            pl.col("start").dt.epoch("ns"),
            pl.col("duration").cast(pl.Int64),
        )
        for part in run
    )
    mine = passes[rng.integers(0, passes.height, num_requests)]
    took = np.column_stack([rng.exponential(max(ms, 1), num_requests) * 1e6 for *_, ms in WAY])
    took = took.astype(np.int64) + 1000
    forward = [stage for stage, *_ in WAY].index("forward")
    took[:, forward] = mine["duration"].to_numpy()
    ends = np.cumsum(took, axis=1)
    begin = mine["start"].to_numpy() - ends[:, forward - 1]
    starts = begin[:, None] + ends - took
    marks = rng.integers(0, 2**63, num_requests)
    rids = pl.Series([f"{prefix}{mark:016x}" for mark in marks.tolist()])
    k, n = len(WAY), num_requests
    each = np.repeat(np.arange(n), k)
    is_forward = np.tile([stage == "forward" for stage, *_ in WAY], n)
    iteration = pl.Series(mine["iteration"].to_numpy()[each])
    stages = pl.DataFrame(
        {
            "request": each,
            "rid": rids[each],
            "dp_rank": mine["dp_rank"].to_numpy()[each],
            "status": pl.repeat("finished", n * k, eager=True),
            "stage": [stage for stage, *_ in WAY] * n,
            "held_by": [held for _, held, _ in WAY] * n,
            "iteration": pl.select(pl.when(pl.Series(is_forward)).then(iteration)).to_series(),
            "start": pl.Series(starts.ravel()).cast(pl.Datetime("ns", "UTC")),
            "duration": pl.Series(took.ravel()).cast(pl.Duration("ns")),
            "is_estimated": np.zeros(n * k, np.bool_),
        }
    )
    finished = pl.Series(begin + ends[:, -1]).cast(pl.Datetime("ns", "UTC"))
    requests = pl.DataFrame(
        {
            "rid": rids,
            "source": pl.repeat("otel_spans", n, eager=True),
            "source_id": np.zeros(n, np.int64),
            "engine_run": np.zeros(n, np.int64),
            "dp_rank": mine["dp_rank"],
            "num_prompt_tokens": rng.integers(16, 9000, n),
            "arrived": pl.Series(begin).cast(pl.Datetime("ns", "UTC")),
            "finished": finished,
            "status": pl.repeat("finished", n, eager=True),
        }
    )
    return dataclasses.replace(
        run, requests=REQUESTS.conform(requests), stages=REQUEST_STAGES.conform(stages)
    )
