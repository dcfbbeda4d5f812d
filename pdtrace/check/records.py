"""From a run to what a check keeps of it: facts, the run's metrics, and its blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.check.cutting import (
    NOWHERE,
    cut_passes,
    cut_requests,
    find_blocks,
    find_pass_blocks,
)
from pdtrace.check.measures import FEATURES
from pdtrace.check.samples import Sample, Sketch, Workload, round_to
from pdtrace.compare.matching import read_requests
from pdtrace.compare.passes import assign_blocks, find_touched, read_passes
from pdtrace.metrics import measure

if TYPE_CHECKING:
    from pdtrace.check.samples import F64, I64, Mask
    from pdtrace.compare.matching import Requests
    from pdtrace.compare.passes import Passes
    from pdtrace.run import EngineInfo, Run

_COLUMNS = ("metric", "value", "unit", "note")
MOST_ESTIMATED = 0.2  # share of durations that may be estimates before times are not judged


@dataclass(frozen=True)
class Record:
    """What a check keeps of one run.

    Attributes:
        name: As the user named it.
        files: Names of its source files, without folders.
        engine: What it says of itself.
        dp_size: Ranks that the iterations were put together for.
        grouping: How they were put together.
        confidence: Mean over the iterations; None without any.
        num_requests, num_unanswered: Sent, and without an answer.
        num_iterations, num_stalls: Of the run.
        metrics: Those of ``analyze`` that the run tells: name → value, unit.
        missing: Those that it does not tell: name → what would give them.
        workload: What the sample's blocks are.
        sample: The blocks.
        notes: What a reader should know of it.
    """

    name: str
    files: tuple[str, ...]
    engine: EngineInfo
    dp_size: int
    grouping: str
    confidence: float | None
    num_requests: int
    num_unanswered: int
    num_iterations: int
    num_stalls: int
    metrics: dict[str, tuple[float, str]]
    workload: Workload
    sample: Sample
    missing: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def build_record(run: Run, name: str, workload: Workload | None = None) -> Record:
    """Measure a run for a check.

    Args:
        run: The run.
        name: As the user named it.
        workload: Whose blocks are sought in the run; None: the run's own.
    """
    passes, requests = read_passes(run), read_requests(run)
    is_named = len(requests) > 0 if workload is None else workload.is_named
    notes: list[str] = []
    if is_named:
        if workload is None:
            workload = cut_requests(requests)
        blocks = find_blocks(requests, workload)
        mine = np.flatnonzero(blocks != NOWHERE)
        requests_here = requests.take(mine)
        pass_blocks, num_by_time = assign_blocks(passes, requests_here, blocks[mine])
        if num_by_time:
            notes.append(
                f"{num_by_time:,} requests of {name} have no selection time or rank: the "
                "iterations while they were in flight are taken for theirs"
            )
        sample = _sample_requests(requests_here, blocks[mine], passes, pass_blocks, workload)
    else:
        if workload is None:
            workload = cut_passes(passes)
        sample = _sample_passes(passes, find_pass_blocks(passes, workload), workload.num_blocks)
    if passes.estimated_share > MOST_ESTIMATED:
        notes.append(
            f"{passes.estimated_share:.0%} of the durations of {name} are estimates: its "
            "throughput and idle seconds are not judged; request time stats or spans give them"
        )
    table = measure(run).filter(pl.col("dp_rank").is_null())
    if run.missing_ranks:  # what is "at least" so much cannot be judged
        is_bound = pl.col("low").is_not_null() & pl.col("high").is_null()
        table = table.with_columns(pl.when(~is_bound).then(pl.col("value")).alias("value"))
    rows = {m: (v, u, note) for m, v, u, note in table.select(*_COLUMNS).iter_rows()}
    confidence = run.iterations["confidence"].cast(float).mean()
    return Record(
        name=name,
        files=tuple(sorted({f.path.replace("\\", "/").rpartition("/")[2] for f in run.files})),
        engine=run.engine,
        dp_size=run.dp_size,
        grouping=run.grouping,
        confidence=confidence if isinstance(confidence, float) else None,
        num_requests=len(requests),
        num_unanswered=int((~requests.is_finished).sum()),
        num_iterations=int((passes.width > 0).sum()),
        num_stalls=int(passes.is_stall.sum()),
        metrics={m: (_round(v), str(u)) for m, (v, u, _) in rows.items() if v is not None},
        missing={m: note or "not measured" for m, (v, _, note) in rows.items() if v is None},
        workload=workload,
        sample=sample,
        notes=tuple(notes),
    )


def _round(value: float) -> float:
    return float(round_to(np.array([value], np.float64))[0])


def _sample_requests(
    requests: Requests, blocks: I64, passes: Passes, pass_blocks: I64, workload: Workload
) -> Sample:
    num = workload.num_blocks
    sent = np.bincount(blocks, minlength=num)
    unanswered = np.bincount(blocks, weights=~requests.is_finished, minlength=num)
    touched = find_touched(requests, passes)
    is_clean = np.bincount(blocks, weights=touched, minlength=num) == 0
    counts = _count_passes(passes, pass_blocks, num)
    has_passes = (counts[:, 0] > 0) | (passes.missing is not None)
    is_stalled = np.zeros(num, np.bool_)
    is_stalled[pass_blocks[passes.is_stall & (pass_blocks >= 0)]] = True
    first, last = np.full(num, np.inf), np.full(num, -np.inf)
    np.fmin.at(first, blocks, requests.begin)
    np.fmax.at(last, blocks, requests.begin)
    sketches = {}
    for name, begin, end in (
        ("request_latency", requests.sent, requests.answered),
        ("ttft", requests.arrived, requests.finished),
        ("ttft_received", requests.received, requests.finished),
    ):
        took = end - begin
        told = np.isfinite(took) & requests.is_finished
        # A time that most requests have not is not the run's.
        if told.sum() >= 0.9 * max(int(requests.is_finished.sum()), 1) and told.any():
            sketches[name] = Sketch.of(took[told], blocks[told])
    return Sample(
        counts=counts,
        is_usable=(sent > 0) & (unanswered == 0) & is_clean & ~is_stalled & has_passes,
        unanswered=np.where(sent > 0, unanswered, np.nan),
        span_s=round_to(np.where(np.isfinite(first), last - first, np.nan), 4),
        sketches=sketches,
    )


def _sample_passes(passes: Passes, blocks: I64, num: int) -> Sample:
    counts = _count_passes(passes, blocks, num)
    is_stalled = np.zeros(num, np.bool_)
    is_stalled[blocks[passes.is_stall & (blocks >= 0)]] = True
    nothing = np.full(num, np.nan)
    return Sample(counts, (counts[:, 0] > 0) & ~is_stalled, nothing, nothing)


def _count_passes(passes: Passes, blocks: I64, num: int) -> F64:
    """Table blocks × ``FEATURES``."""
    ran = (blocks >= 0) & (passes.width > 0)
    is_timed = ran & np.isfinite(passes.duration) & ~passes.is_stall
    took = np.nan_to_num(passes.duration)
    known = (passes.dp_size - passes.unknown).astype(np.float64)
    idle = passes.idle.astype(np.float64)
    is_silent = passes.unknown[ran].any() and not idle[ran].any()
    is_whole = passes.missing is None
    is_told = bool(known[ran].sum() > 0 and not is_silent and is_whole)
    has_times = is_whole and bool(is_timed.any()) and passes.estimated_share <= MOST_ESTIMATED

    def add(values: F64, mask: Mask, is_known: bool = True) -> F64:
        if not is_known:
            return np.full(num, np.nan)
        return np.bincount(blocks[mask], weights=values[mask], minlength=num).astype(np.float64)

    one = np.ones(len(passes))
    columns = {
        "iterations": add(one, ran, is_whole),
        "solo": add((passes.width == 1).astype(np.float64), ran, is_whole),
        "prefills": add(passes.width.astype(np.float64), ran, is_whole),
        "idle": add(idle, ran, is_told),
        "known": add(known, ran, is_told),
        "busy_s": add(took, is_timed, has_times),
        "busy_tokens": add(passes.tokens, is_timed, has_times),
        "idle_s": add(idle * took, is_timed, has_times and is_told),
        "rank_s": add(known * took, is_timed, has_times and is_told),
    }
    return round_to(np.column_stack([columns[name] for name in FEATURES]))
