"""A made-up run of any length, for tests and measurements of figures and pages."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import numpy as np
import polars as pl

from pdtrace.run import EngineInfo, Part, Run, SourceFile
from pdtrace.schema import DECISIONS, EVENTS, ITERATIONS, REQUESTS

ORIGIN = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


def make_run(
    num_iterations: int = 200,
    dp_size: int = 2,
    *,
    path: str = "server.log",
    seed: int = 7,
    part_size: int = 100_000,
    lose_every: int = 0,
) -> Run:
    """Make a run: passes of 50–400 ms with pauses, every tenth preceded by delay passes.

    Args:
        num_iterations: Iterations over all parts.
        dp_size: Ranks.
        path: Name of its one file.
        seed: Of the random numbers.
        part_size: Iterations of a part.
        lose_every: Every so many iterations the silent ranks are unknown instead of idle.
    """
    rng = np.random.default_rng(seed)
    parts, delays, line = [], [], 100
    now = int(ORIGIN.timestamp()) * 10**9
    for first in range(0, num_iterations, part_size):
        n = min(part_size, num_iterations - first)
        duration = rng.integers(50, 400, n) * 10**6
        pause = np.where(rng.random(n) < 0.1, rng.integers(1, 900, n), 2) * 10**6
        end = now + np.cumsum(duration + pause)
        now = int(end[-1])
        runs = rng.random((n, dp_size)) < rng.choice([0.2, 0.6, 0.98], n)[:, None]
        runs[np.arange(n), rng.integers(0, dp_size, n)] = True
        rows, ranks = np.nonzero(runs)
        number = np.arange(first, first + n)
        k = len(rows)
        tokens = rng.integers(64, 8193, k)
        ts = pl.Series(end[rows]).cast(pl.Datetime("ns", "UTC"))
        events = EVENTS.conform(
            pl.DataFrame(
                {
                    "event_id": np.arange(line, line + k),
                    "source": ["scheduler_log"] * k,
                    "source_id": np.zeros(k, np.int64),
                    "line": np.arange(line, line + k),
                    "ts": ts,
                    "ts_resolution": pl.Series([10**6] * k).cast(pl.Duration("ns")),
                    "engine_run": np.zeros(k, np.int64),
                    "dp_rank": ranks,
                    "kind": ["prefill"] * k,
                    "num_new_seqs": rng.integers(1, 5, k),
                    "num_new_tokens": tokens,
                    "num_queue_reqs": rng.poisson(3, k),
                    "num_inflight_reqs": rng.poisson(1, k),
                    "token_usage": rng.random(k) * 0.4,
                    "iteration": number[rows],
                }
            )
        )
        line += k
        width = runs.sum(axis=1)
        lost = (number % lose_every == 1) if lose_every else np.zeros(n, bool)
        parts.append(
            Part(
                events,
                ITERATIONS.conform(
                    pl.DataFrame(
                        {
                            "iteration": number,
                            "engine_run": np.zeros(n, np.int64),
                            "forward_iter": number + 1,
                            "start": pl.Series(end - duration).cast(pl.Datetime("ns", "UTC")),
                            "end": pl.Series(end).cast(pl.Datetime("ns", "UTC")),
                            "duration": pl.Series(duration).cast(pl.Duration("ns")),
                            "duration_source": ["gap"] * n,
                            "grouping": ["label"] * n,
                            "confidence": np.where(number % 7, 1.0, 0.93),
                            "dp_size": np.full(n, dp_size),
                            "fusion_width": width,
                            "num_idle_ranks": np.where(lost, 0, dp_size - width),
                            "num_unknown_ranks": np.where(lost, dp_size - width, 0),
                            "num_new_tokens": np.bincount(rows, tokens, n).astype(np.int64),
                            "max_rank_new_tokens": np.full(n, int(tokens.max())),
                        }
                    )
                ),
            )
        )
        delays.append((end - duration - 10**6)[number % 10 == 9])
    told = np.concatenate(delays)
    decisions = DECISIONS.conform(
        pl.DataFrame(
            {
                "source": ["scheduler_log"] * len(told),
                "source_id": np.zeros(len(told), np.int64),
                "ts": pl.Series(told).cast(pl.Datetime("ns", "UTC")),
                "engine_run": np.zeros(len(told), np.int64),
                "dp_rank": np.zeros(len(told), np.int64),
                "count": np.full(len(told), 12),
                "output_allow": [False] * len(told),
                "output_reason": ["delay"] * len(told),
            }
        )
    )
    return Run(
        engine=EngineInfo(
            dp_size=dp_size,
            release_min="0.5.13",
            release_max="0.5.13",
            role="prefill",
            model_path="/models/example",
        ),
        files=(SourceFile(path, "scheduler_log", 1, line, line),),
        parts=_Parts(parts),
        requests=REQUESTS.empty(),
        decisions=decisions,
        incidents=(),
        warnings=(),
        dp_size=dp_size,
        grouping="label",
    )


class _Parts:
    """Parts that are handed out afresh each time, as from a spill."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[Part]:
        return (Part(p.events, p.iterations) for p in self.parts)
