"""The passes of one run as arrays: which prefilled the compared requests, and which stalled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pdtrace.compare.matching import find_origin
from pdtrace.delayer import load
from pdtrace.errors import InputError
from pdtrace.metrics.tally import note_missing

if TYPE_CHECKING:
    from pdtrace.compare.matching import F64, I64, Requests
    from pdtrace.run import Run

SLACK_S = 0.002  # a log prints times to a millisecond
STALL_S = 0.5
STALL_FACTOR = 4.0
MIN_BIN = 5
MOST_ESTIMATED = 0.2  # of the durations; with more, a change of speed cannot be told
MIN_SELECTED = 0.5  # of the requests, whose selection bounds the durations
NO_BLOCK = -1
OUTSIDE = -2


@dataclass(frozen=True)
class Passes:
    """The iterations of one run in order of time.

    Times are seconds since the run's first request, nan where unknown. ``estimated_share`` is the
    share of those that prefilled whose duration is a typical one of their size, because the log
    does not tell it. ``recorded`` is the same with tokens by rank, as a replay is fitted to it, or
    None where durations are largely estimates or no request is known. ``missing`` says which ranks
    were not read and what gives them; what all ranks did is then not known.
    """

    start: F64
    end: F64
    duration: F64
    width: I64
    dp_size: I64
    idle: I64
    unknown: I64
    tokens: F64
    busiest: F64
    is_stall: NDArray[np.bool_]
    prefills: pl.DataFrame
    estimated_share: float
    recorded: load.Passes | None
    missing: str | None = None

    def __len__(self) -> int:
        return len(self.end)


def read_passes(run: Run) -> Passes:
    """Read the iterations of a run, and find its stalls."""
    iterations = run.iterations.with_row_index("row")
    origin = find_origin(run)
    times = iterations.select(
        (pl.col("start").dt.epoch("ns") - origin).cast(pl.Float64) / 1e9,
        (pl.col("end").dt.epoch("ns") - origin).cast(pl.Float64) / 1e9,
        pl.col("duration").dt.total_nanoseconds().cast(pl.Float64) / 1e9,
    )
    start, end, duration = (times[c].fill_null(float("nan")).to_numpy() for c in times.columns)
    prefills = (
        run.rank_passes.filter(pl.col("role") == "prefill")
        .select("iteration", "dp_rank")
        .join(iterations.select("iteration", "row"), on="iteration")
        .select(pl.col("row").cast(pl.Int64), pl.col("dp_rank").cast(pl.Int64))
        .sort("dp_rank", "row")
    )

    def count(name: str) -> I64:
        return iterations[name].cast(pl.Int64).to_numpy()

    busiest = iterations["max_rank_new_tokens"].cast(pl.Float64).to_numpy()
    width = count("fusion_width")
    return Passes(
        start=np.where(np.isnan(start), end - np.nan_to_num(duration), start),
        end=end,
        duration=duration,
        width=width,
        dp_size=count("dp_size"),
        idle=count("num_idle_ranks"),
        unknown=count("num_unknown_ranks"),
        tokens=iterations["num_new_tokens"].cast(pl.Float64).to_numpy(),
        busiest=busiest,
        is_stall=find_stalls(np.where(width > 0, duration, np.nan), busiest),
        prefills=prefills,
        estimated_share=_share_estimated(iterations),
        recorded=None if run.missing_ranks else _read_recorded(run),
        missing=note_missing(run),
    )


def _share_estimated(iterations: pl.DataFrame) -> float:
    source = iterations.filter(pl.col("fusion_width") > 0)["duration_source"].cast(pl.String)
    return float((source == "bounded").sum()) / max(len(source), 1)


def _read_recorded(run: Run) -> load.Passes | None:
    selected = run.requests["selected"]
    if selected.count() < MIN_SELECTED * max(len(selected), 1):
        return None
    if _share_estimated(run.iterations) > MOST_ESTIMATED:
        return None
    try:
        recorded = load.read_passes(run, load.read_load(run.requests))
    except InputError:
        return None
    ran = recorded.tokens.any(1)
    columns = ("launch", "end", "report", "tokens", "squares", "busy")
    return load.Passes(*(getattr(recorded, name)[ran] for name in columns))


def typical_durations(duration: F64, busiest: F64) -> F64:
    """What a pass of each size usually takes: the median in its octave of tokens.

    A pass does not usually take longer than a larger one, so the lower of both medians holds: a
    few small passes that all stalled do not pass for usual. An octave with fewer than five passes
    takes over what the next larger one with enough has, or else the next smaller.
    """
    octave = np.floor(np.log2(np.maximum(busiest, 1.0))).astype(np.int64)
    known = np.isfinite(duration)
    levels: dict[int, float] = {}
    for k in np.unique(octave[known]):
        mine = duration[known & (octave == k)]
        if len(mine) >= MIN_BIN:
            levels[int(k)] = float(np.median(mine))
    if not levels:
        middle = float(np.median(duration[known])) if known.any() else np.nan
        return np.full(len(duration), middle)
    keys = np.array(sorted(levels))
    values = np.minimum.accumulate(np.array([levels[k] for k in keys])[::-1])[::-1]
    place = np.minimum(np.searchsorted(keys, octave), len(keys) - 1)
    return np.asarray(values[place], np.float64)


def find_stalls(duration: F64, busiest: F64) -> NDArray[np.bool_]:
    """Passes of half a second or more that took over four times what their size usually takes.

    They are few, long and carry few tokens: probably kernels compiled on first use. They strike
    either run by chance, so what they touched says nothing about a setting.
    """
    typical = typical_durations(duration, busiest)
    with np.errstate(invalid="ignore"):
        return np.asarray((duration >= STALL_S) & (duration > STALL_FACTOR * typical), np.bool_)


def find_touched(requests: Requests, passes: Passes) -> NDArray[np.bool_]:
    """Requests that were in flight during a stall."""
    touched = np.zeros(len(requests), np.bool_)
    for start, length in zip(
        passes.start[passes.is_stall], passes.duration[passes.is_stall], strict=True
    ):
        touched |= (requests.begin < start + length) & (requests.end > start)
    return touched


def assign_blocks(passes: Passes, requests: Requests, blocks: I64) -> tuple[I64, int]:
    """Give each pass the block of the first compared request that it prefilled.

    A request is selected into the pass of its rank that begins next and runs in the passes of
    that rank up to the result of its last chunk. Where selection or rank are not known, all passes
    whose middle lies while it was in flight are taken for its own.

    Args:
        passes: Of the run.
        requests: The compared ones, in any order.
        blocks: The block of each.

    Returns:
        Block of each pass, ``OUTSIDE`` where it prefilled none of them; and the number of requests
        for which the time in flight had to do.
    """
    block = np.full(len(passes), OUTSIDE, np.int64)
    middle = passes.end - np.nan_to_num(passes.duration) / 2
    rows = passes.prefills["row"].to_numpy()
    ranks = passes.prefills["dp_rank"].to_numpy()
    of_rank = {int(r): rows[ranks == r] for r in np.unique(ranks)}
    every = np.unique(rows)
    num_by_time = 0
    # The latest first, so that the earliest has the last word.
    for i in np.argsort(-requests.begin, kind="stable"):
        rank = requests.rank[i]
        mine = of_rank.get(int(rank)) if np.isfinite(rank) else None
        stop = requests.forward_end[i]
        if np.isnan(stop):
            stop = requests.end[i]
        if mine is None or np.isnan(requests.selected[i]):
            num_by_time += 1
            mine = every if mine is None else mine
            low = np.searchsorted(middle[mine], requests.begin[i])
            high = np.searchsorted(middle[mine], stop + SLACK_S)
        else:
            selected = requests.selected[i]
            low = np.searchsorted(passes.start[mine], selected + SLACK_S, side="right") - 1
            if low < 0 or passes.end[mine[low]] < selected:
                low += 1
            last = stop if np.isfinite(stop) else selected
            high = max(np.searchsorted(middle[mine], last, side="right"), low + 1)
        block[mine[low:high]] = blocks[i]
    return block, num_by_time


def cut_blocks(passes: Passes) -> I64:
    """Blocks of passes where no request is named: cut at pauses, and every n passes in between.

    A pause is where nothing ran for longer than the longest ordinary pass; n is the cube root of
    the number of passes, at least 3.
    """
    size = max(3, int(np.ceil(len(passes) ** (1 / 3))))
    usual = passes.duration[~passes.is_stall & np.isfinite(passes.duration)]
    pause = float(usual.max()) if len(usual) else np.inf
    block = np.zeros(len(passes), np.int64)
    number, length = 0, 0
    for i in range(len(passes)):
        if i and (length >= size or passes.start[i] - passes.end[i - 1] > pause):
            number, length = number + 1, 0
        block[i] = number
        length += 1
    return block
