"""The prefill passes of a run as arrays, and which of them prefilled each request.

No table says which batch a request was in. A request is selected into the pass of its rank that
begins next, its chunks are computed pass after pass, and its result is processed just before the
line of its last pass is printed; so both ends can be found by time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.run import Run

    I64 = NDArray[np.int64]

NEVER = np.iinfo(np.int64).max
SLACK_NS = 2_000_000  # a log prints times to a millisecond, and the delayer's line before selecting
COARSE_NS = 100_000_000  # stamps wider than this do not order the passes of one rank


@dataclass(frozen=True)
class Passes:
    """The prefill passes of all ranks, in order of rank and iteration; times in ns since 1970.

    Attributes:
        iteration, rank: Of the pass.
        start: First selection of the iteration, or an estimate of its begin.
        report: When this rank had processed the result.
        num_seqs, num_tokens: Of the batch; −1 where not known.
        is_continuing: The batch may hold nothing but the next chunk of a prompt, by its tokens.
        iterations: ``iteration``, ``start``, ``report`` (last of its ranks) of every iteration.
        is_timed: Whether reports are known to a tenth of a second or better.
    """

    iteration: I64
    rank: I64
    start: I64
    report: I64
    num_seqs: I64
    num_tokens: I64
    is_continuing: NDArray[np.bool_]
    iterations: pl.DataFrame
    is_timed: bool

    def of_rank(self, rank: int) -> slice:
        """Where the passes of one rank stand."""
        low, high = np.searchsorted(self.rank, [rank, rank + 1])
        return slice(int(low), int(high))


def read_passes(run: Run) -> Passes:
    """Read the prefill passes of a run, walking its parts once."""
    frames, iterations = [], []
    after = run.engine.prints_after_result is not False
    coarse = False
    for part in run:
        told = part.iterations.select(
            "iteration",
            pl.coalesce(pl.col("start"), pl.col("end")).dt.epoch("ns").alias("start"),
            pl.col("end").dt.epoch("ns"),
        )
        events = part.events.filter(
            pl.col("iteration").is_not_null(), pl.col("kind").cast(pl.String) == "prefill"
        )
        width = events["ts_resolution"].dt.total_nanoseconds()
        coarse = coarse or (events.height > 0 and int(str(width.max())) > COARSE_NS)
        stamp = pl.col("ts").dt.epoch("ns")
        is_span = pl.col("source").cast(pl.String) == "otel_spans"
        # A span's event is stamped at the launch, a line after the result (before it up to 0.5.8).
        report = (
            pl.when(is_span)
            .then(stamp + pl.col("duration").dt.total_nanoseconds())
            .when(pl.lit(after) & (pl.col("ts_resolution").dt.total_nanoseconds() <= COARSE_NS))
            .then(stamp + pl.col("ts_resolution").dt.total_nanoseconds())
        )
        mine = events.select(
            "iteration",
            "dp_rank",
            report.alias("report"),
            "num_new_seqs",
            "num_new_tokens",
            "num_pending_tokens",
        ).join(told, on="iteration", how="left", maintain_order="left")
        frames.append(mine.with_columns(pl.coalesce("report", "end")))
        iterations.append(told)
    if not frames:
        return _no_passes()
    frame = pl.concat(frames).sort("dp_rank", "iteration", maintain_order=True)
    last = frame.group_by("iteration").agg(pl.col("report").max())
    table = (
        pl.concat(iterations)
        .join(last, on="iteration", how="left", maintain_order="left")
        .select("iteration", "start", pl.max_horizontal("end", "report").alias("report"))
        .sort("iteration")
    )
    chunk = run.engine.chunked_prefill_size
    full = pl.col("num_new_tokens") >= (chunk or 1)
    before = ((pl.col("num_pending_tokens") > 0) & full).shift(1).over("dp_rank")
    continuing = (before & (pl.col("num_new_seqs") == 1)).fill_null(value=False)
    columns = frame.with_columns(continuing.alias("continues"))
    return Passes(
        iteration=_ints(columns["iteration"]),
        rank=_ints(columns["dp_rank"]),
        start=_ints(columns["start"]),
        report=_ints(columns["report"]),
        num_seqs=_ints(columns["num_new_seqs"].cast(pl.Int64).fill_null(-1)),
        num_tokens=_ints(columns["num_new_tokens"].cast(pl.Int64).fill_null(-1)),
        is_continuing=columns["continues"].to_numpy(),
        iterations=table,
        is_timed=after and not coarse,
    )


def _no_passes() -> Passes:
    none = np.zeros(0, np.int64)
    table = pl.DataFrame(schema={"iteration": pl.UInt32, "start": pl.Int64, "report": pl.Int64})
    return Passes(none, none, none, none, none, none, np.zeros(0, np.bool_), table, is_timed=False)


def _ints(column: pl.Series) -> I64:
    return column.cast(pl.Int64).to_numpy()


def join_stretches(start: I64, end: I64) -> I64:
    """Union of intervals: begin, end, begin, end … ascending, those that touch put together."""
    if not len(start):
        return np.zeros(0, np.int64)
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(np.maximum(end[order], start[order]))
    is_first = np.r_[True, start[1:] > end[:-1]]
    is_last = np.r_[is_first[1:], True]
    return np.column_stack((start[is_first], end[is_last])).ravel()


def overlap(busy: I64, low: I64, high: I64) -> I64:
    """Nanoseconds of each interval that lie inside the stretches."""
    if not len(busy):
        return np.zeros(len(low), np.int64)
    lengths = np.diff(busy)[::2]
    done = np.r_[0, np.cumsum(lengths)]

    def before(at: I64) -> I64:
        k = np.searchsorted(busy[::2], at, side="right")
        since = np.where(k > 0, at - busy[::2][k - 1], 0)
        whole: I64 = done[np.maximum(k - 1, 0)]
        return whole + np.minimum(since, lengths[np.maximum(k - 1, 0)])

    covered: I64 = before(high) - before(low)
    return covered


def link_requests(joined: pl.DataFrame, passes: Passes) -> pl.DataFrame:
    """Find the first and the last pass of each request.

    Args:
        joined: Table ``requests``, one row a request.
        passes: The passes of the run.

    Returns:
        A row for each row of ``joined``: ``first``, ``last`` (index into the arrays of ``passes``;
        null where the request was not prefilled or its pass is not known).
    """
    n = joined.height
    first, last = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    rank = joined["dp_rank"].cast(pl.Int64).fill_null(-1).to_numpy()
    selected = joined["selected"].dt.epoch("ns").fill_null(NEVER).to_numpy()
    end = joined["forward_end"].dt.epoch("ns").fill_null(NEVER).to_numpy()
    cached = pl.max_horizontal(pl.col("num_cached_tokens").fill_null(0), 0)
    needs = (
        joined.select((pl.col("num_prompt_tokens").cast(pl.Int64) - cached).fill_null(0))
        .to_series()
        .to_numpy()
    )
    for r in np.unique(passes.rank).tolist():
        at = passes.of_rank(r)
        start = np.maximum.accumulate(passes.start[at])
        report = np.maximum.accumulate(passes.report[at])
        tokens = np.r_[0, np.cumsum(np.maximum(passes.num_tokens[at], 0))]
        mine = np.flatnonzero((rank == r) & (selected < NEVER))
        begin = np.searchsorted(start, selected[mine] + SLACK_NS, side="right") - 1
        # A pass that was over before the selection cannot hold it (its successor's begin is late).
        late = (begin < 0) | (report[np.maximum(begin, 0)] < selected[mine])
        begin = begin + late
        is_known = (end[mine] < NEVER) & passes.is_timed
        by_report = np.searchsorted(report, end[mine], side="left")
        enough = np.searchsorted(tokens, tokens[np.minimum(begin, len(report) - 1)] + needs[mine])
        by_tokens = np.maximum(enough - 1, begin)
        stop = np.where(is_known, by_report, by_tokens)
        ok = (begin < len(report)) & (stop < len(report))
        begin, stop, mine = begin[ok], stop[ok], mine[ok]
        # The report is the sharper of the two clocks: a batch cannot begin after it.
        begin = np.minimum(begin, stop)
        # A pass that met all that was needed has no successor of the same request before it.
        whole = (stop > begin) & ~_goes_on(passes, at, begin, stop)
        begin = np.where(whole, stop, begin)
        first[mine], last[mine] = at.start + begin, at.start + stop
    return pl.DataFrame(
        {"first": first, "last": last}, schema={"first": pl.Int64, "last": pl.Int64}
    ).with_columns(pl.when(pl.all() >= 0).then(pl.all()))


def settle_iterations(joined: pl.DataFrame, passes: Passes, links: pl.DataFrame) -> I64:
    """When each iteration was settled: the last selection into it; its begin where none is known.

    What a rank had not selected by then could not run in it, and nothing of it ran before.
    """
    first = links["first"].fill_null(-1).to_numpy()
    number = np.r_[passes.iteration, -1][first]
    last = (
        joined.select(pl.Series(number).alias("iteration"), pl.col("selected").dt.epoch("ns"))
        .filter(pl.col("iteration") >= 0)
        .group_by("iteration")
        .agg(pl.col("selected").max())
    )
    table = passes.iterations.with_columns(pl.col("iteration").cast(pl.Int64)).join(
        last, on="iteration", how="left", maintain_order="left"
    )
    # A selection after the report is of another clock.
    chosen = pl.min_horizontal(pl.coalesce("selected", "start"), "report")
    return _ints(table.select(chosen).to_series())


def _goes_on(passes: Passes, at: slice, begin: I64, stop: I64) -> NDArray[np.bool_]:
    """Whether every pass after ``begin`` up to ``stop`` can hold the next chunk of a prompt."""
    full = passes.num_tokens[at] >= np.maximum(passes.num_tokens[at].max(initial=1), 1) * 0.5
    done = np.r_[0, np.cumsum(full)]
    out: NDArray[np.bool_] = done[stop] - done[begin] == stop - begin
    return out
