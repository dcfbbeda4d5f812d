"""Delay episodes, rebuilt from the requests that waited: one for each wait of the negotiation.

Prefill is withheld while some ranks, not all, have a request to prefill. So an iteration into which
new requests were selected ended a wait if, when it was settled, some rank had none (then the wait
ran out, or the watermark let it through), or if all had one, but not since the same pass.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.joined.passes import NEVER, Passes, join_stretches, overlap
from pdtrace.joined.turns import measure_turns, queue_waits, read_pickups
from pdtrace.schema import DELAY_EPISODES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.run import EngineInfo, Run

    I64 = NDArray[np.int64]
    F64 = NDArray[np.float64]
    Flags = NDArray[np.bool_]

TOLD_SHARE = 0.9
EARLY_NS = 2_000_000  # lines are stamped to a millisecond
LINE_NS = 1_000_000_000  # a line farther from its selection than this is of something else
RAN_OUT_SHARE = 0.4  # of the longest wait: what ended sooner, with a rank missing, did not run out
LONG_WAIT = 3  # passes from which a wait without a known end is told from a pass itself
MID_CHUNK_ASKS = (0, 5, 17)  # from this release on a rank in mid-chunk counts as prefillable


@dataclass(frozen=True)
class Waits:
    """Table ``delay_episodes`` without its costs, and the time a request waits that none withholds.

    Attributes:
        episodes: The table.
        look_ns: From the waiting queue to the selection, where nothing is in the way.
    """

    episodes: pl.DataFrame
    look_ns: float = 0.0


@dataclass(frozen=True)
class Releases:
    """Iterations into which requests were newly selected, in order; one value each, times in ns.

    Attributes:
        row: Of the iteration.
        engine_run: Engine starts before it.
        first, last: Earliest and latest selection into it.
        ready: Since when, after the release before, some rank had a request.
        joined: Since when the last rank had one.
        num_ranks: Ranks that had one.
        is_known: Whether it is known since when each of them had it.
        is_strange: Of every iteration: whether it ran requests that could not be followed.
    """

    row: I64
    engine_run: I64
    first: I64
    last: I64
    ready: I64
    joined: I64
    num_ranks: I64
    is_known: Flags
    is_strange: Flags


def find_waits(
    joined: pl.DataFrame, passes: Passes, links: pl.DataFrame, settled: I64, run: Run
) -> Waits:
    """Find the episodes in which the negotiation withheld prefill.

    Args:
        joined: Table ``requests``, one row a request.
        passes: The prefill passes of the run.
        links: As :func:`pdtrace.joined.passes.link_requests` gives them for ``joined``.
        settled: As :func:`pdtrace.joined.passes.settle_iterations` gives it.
        run: The run, for the delayer's settings and decisions.

    Returns:
        The episodes; none where the delayer is off, unknown, or known never to have waited.
    """
    if not len(passes.rank) or not _may_withhold(run, len(passes.rank)):
        return Waits(DELAY_EPISODES.empty())
    followed = _follow(joined, passes, links)
    if followed.is_empty():
        return Waits(DELAY_EPISODES.empty())
    at = _find_releases(followed, passes, run)
    launches, ends = _lay_out_forwards(at, passes, settled)
    begin, between, before, idle = _measure_waits(at, launches, ends)

    ran_out = _match_lines(at, run, "wait_timeout")
    marked = _match_lines(at, run, "token_watermark")
    is_all = at.num_ranks >= run.dp_size
    mark = run.engine.delayer.token_usage_low_watermark
    most = run.engine.delayer.max_delay_passes
    limit = None if most is None else most - 1
    busy = join_stretches(settled, passes.iterations["report"].to_numpy())
    late = np.maximum(at.joined, begin)
    turns = measure_turns(
        idle,
        before,
        ~is_all & (not mark) if ran_out is None else ran_out,
        limit,
        (at.first - late)[is_all & at.is_known & (at.first > late)],
        queue_waits(followed["queued"].to_numpy(), followed["selected"].to_numpy(), busy),
        read_pickups(joined, busy),
    )
    # A turn that took the last rank's request in was the one that let all run.
    taken = is_all * turns.taking
    num = np.maximum((idle - turns.look - taken) / turns.length, 0.0)
    num = np.where(before > 0, np.rint(num) + before, np.maximum(np.rint(num), 1))
    if limit is not None and run.engine.role == "prefill":
        num = np.minimum(num, limit)  # what waits longer ends as a timeout
    lasted = idle / turns.length + before

    apart = _came_apart(at, begin, before, turns.length)
    waited = np.where(at.is_known, apart, lasted >= LONG_WAIT)
    how = _name_ends(is_all, waited, lasted, limit, ran_out, marked, run.engine)
    has_limit = (how == "timeout") & (limit is not None)
    chosen = np.flatnonzero(how != "")
    by_line = np.zeros(len(how), np.bool_)
    for told, name in ((ran_out, "timeout"), (marked, "watermark")):
        by_line |= (how == name) & (told is not None)
    frame = pl.DataFrame(
        {
            "engine_run": at.engine_run,
            "begin": begin,
            "end": at.first,
            "wait": at.first - begin,
            "iteration": passes.iterations["iteration"].to_numpy()[at.row],
            "ended_by": pl.Series(how.tolist(), dtype=pl.String),
            "is_observed": by_line,
            "num_prefillable": at.num_ranks,
            "num_forwards": between,
            "num_delay_passes": np.where(has_limit, limit or 0, num).astype(np.int64),
            "passes_source": pl.Series(np.where(has_limit, "limit", "estimated").tolist()),
            "pass_s": turns.length / 1e9,
            "pass_source": pl.Series([turns.source] * len(how), dtype=pl.String),
        }
    )[chosen]
    stamps = (
        pl.from_epoch(c, time_unit="ns").dt.replace_time_zone("UTC") for c in ("begin", "end")
    )
    episodes = frame.with_row_index("episode").with_columns(stamps)
    return Waits(DELAY_EPISODES.conform(episodes), turns.look)


def _may_withhold(run: Run, num_batches: int) -> bool:
    """Whether the delayer may have withheld prefill: on, able to wait, and not known never to."""
    delayer = run.engine.delayer
    is_told = delayer.enabled is True or run.decisions.height > 0
    if delayer.enabled is False or not is_told or run.dp_size < 2:
        return False
    bound = delayer.max_delay_passes
    if run.engine.enable_dp_attention is False or (bound is not None and bound < 2):
        return False
    told = run.decisions.filter(pl.col("count") > 0, pl.col("output_reason").cast(pl.String) != "")
    reasons = told["output_reason"].cast(pl.String)
    if reasons.is_in(["delay", "wait_success", "wait_timeout"]).any():
        return True
    executed = told.filter("actual_execution").group_by("source").agg(pl.col("count").sum())
    most = executed["count"].max()
    return most is None or float(str(most)) < TOLD_SHARE * num_batches


def _follow(joined: pl.DataFrame, passes: Passes, links: pl.DataFrame) -> pl.DataFrame:
    """Requests whose passes and selection are known: rank, times in ns, rows of iterations."""
    numbers = passes.iterations["iteration"].cast(pl.Int64).to_numpy()
    rows = np.searchsorted(numbers, passes.iteration)
    selected = pl.col("selected").dt.epoch("ns")
    queued = pl.coalesce("queued", "bootstrapped").dt.epoch("ns")
    mine = (
        joined.with_columns(links)
        .filter(pl.all_horizontal(pl.col("first", "selected", "dp_rank").is_not_null()))
        .select(
            pl.col("engine_run", "dp_rank").cast(pl.Int64),
            pl.min_horizontal(queued, selected).alias("queued"),
            selected,
            "first",
            "last",
        )
    )
    first, last = (pl.Series(rows[mine[c].to_numpy()]) for c in ("first", "last"))
    return mine.with_columns(first.alias("row"), last.alias("last_row"))


def _find_releases(followed: pl.DataFrame, passes: Passes, run: Run) -> Releases:
    """Find the releases, and who could have run in each of them since when."""
    per = (
        followed.group_by("row")
        .agg(
            pl.col("engine_run").max(),
            pl.col("selected").min().alias("first_selected"),
            pl.col("selected").max().alias("last_selected"),
        )
        .sort("row")
    )
    row, last = per["row"].to_numpy(), per["last_selected"].to_numpy()
    after = np.r_[np.iinfo(np.int64).min, np.maximum.accumulate(last)[:-1]]
    ready, joined = np.full(len(row), NEVER), np.full(len(row), -NEVER)
    num, is_known = np.zeros(len(row), np.int64), np.ones(len(row), np.bool_)
    asks_mid_chunk = _release(run.engine) >= MID_CHUNK_ASKS
    numbers = passes.iterations["iteration"].cast(pl.Int64).to_numpy()
    is_strange = np.zeros(len(numbers), np.bool_)
    for rank in range(run.dp_size):
        mine = followed.filter(pl.col("dp_rank") == rank).sort("row")
        since = np.maximum(_ready_since(mine, row), after)
        has = since <= last
        # Who ran without a request that could be followed had one, nobody knows since when.
        at = passes.of_rank(rank)
        edges = np.zeros(at.stop - at.start + 1, np.int64)
        np.add.at(edges, mine["first"].to_numpy() - at.start, 1)
        np.add.at(edges, mine["last"].to_numpy() - at.start + 1, -1)
        strange = passes.num_seqs[at] > np.cumsum(edges)[:-1]
        where = np.searchsorted(numbers, passes.iteration[at][strange])
        is_strange[where] = True
        blind = np.isin(row, where) & ~has
        is_known &= ~blind
        going = np.zeros(len(row), np.bool_)
        if asks_mid_chunk:
            begun = np.searchsorted(mine["row"].to_numpy(), row)
            done = np.searchsorted(np.sort(mine["last_row"].to_numpy()), row)
            going = begun > done
        num += has | blind | going
        ready = np.where(has, np.minimum(ready, since), ready)
        joined = np.where(has, np.maximum(joined, since), joined)
    first = per["first_selected"].to_numpy()
    ready = np.minimum(ready, first)
    joined = np.maximum(joined, ready)
    runs = per["engine_run"].to_numpy()
    return Releases(row, runs, first, last, ready, joined, num, is_known, is_strange)


def _ready_since(mine: pl.DataFrame, row: I64) -> I64:
    """When the first of a rank's requests that were not selected before each row was queued."""
    if mine.is_empty():
        return np.full(len(row), NEVER)
    queued = mine["queued"].to_numpy()
    earliest = np.r_[np.minimum.accumulate(queued[::-1])[::-1], NEVER]
    out: I64 = earliest[np.searchsorted(mine["row"].to_numpy(), row)]
    return out


def _lay_out_forwards(at: Releases, passes: Passes, settled: I64) -> tuple[I64, I64]:
    """When each iteration was launched, and when it had run, in ns.

    An iteration that only goes on with prompts is launched as soon as the one before it has run,
    and nobody writes that time down: what lies between the release before it and the report after
    the last of them is shared out by the tokens of their busiest ranks.
    """
    numbers = passes.iterations["iteration"].cast(pl.Int64).to_numpy()
    where = np.searchsorted(numbers, passes.iteration)
    weights, reports = (
        np.ones(len(numbers), np.int64),
        passes.iterations["report"].to_numpy().copy(),
    )
    np.maximum.at(weights, where, passes.num_tokens)
    np.minimum.at(reports, where, passes.report)
    leads = at.is_strange.copy()
    leads[at.row] = True
    leads[0] = True
    chain = np.cumsum(leads) - 1
    start = np.maximum.accumulate(settled)[leads]
    last = np.r_[np.flatnonzero(leads)[1:], len(leads)] - 1
    stop = np.maximum(np.minimum(reports[last], np.r_[start[1:], NEVER]), start)
    done = np.cumsum(weights)
    done = done - (done - weights)[leads][chain]
    share = done / done[last][chain]
    ends = start[chain] + ((stop - start)[chain] * share).astype(np.int64)
    ends[last] = np.maximum(reports[last], start)
    launches = np.r_[start[0], ends[:-1]]
    launches[leads] = start
    return launches, ends


def _measure_waits(at: Releases, launches: I64, ends: I64) -> tuple[I64, I64, I64, I64]:
    """When each release's wait began, forwards in it, passes behind forwards, and time without one.

    The pass after a launch meets when the forward has run, so each forward that ran when a request
    stood ready, or that went on with a prompt while it stood, is followed by one refusal; unless
    the release itself was that pass.
    """
    before = np.minimum(np.searchsorted(launches, at.ready, side="right"), at.row) - 1
    own, last = np.maximum(before, 0), np.maximum(at.row - 1, 0)
    runs = (before >= 0) & (ends[own] > at.ready)
    between = at.row - 1 - before
    at_once = (at.row > 0) & (at.first <= ends[last])
    refused = np.maximum(between + runs - at_once, 0)
    begin = np.where(runs, ends[own], at.ready)
    begin = np.clip(begin, at.ready, at.first)
    idle = at.first - at.ready - overlap(join_stretches(launches, ends), at.ready, at.first)
    return begin, between, refused, np.maximum(idle, 0)


def _came_apart(at: Releases, begin: I64, refused: I64, length: F64) -> Flags:
    """Whether the last rank got its request in a later pass than the first.

    What stood ready before a forward had run met in the pass behind it.
    """
    half = 0.5 * length
    met = np.where(begin > at.ready, begin, at.ready + half)
    late = (at.joined > met) & (at.joined > at.ready + half)
    out: Flags = late & ((refused > 0) | (at.first > met))
    return out


def _match_lines(at: Releases, run: Run, reason: str) -> Flags | None:
    """Which releases the log says this of; None where it has no such lines with fine times.

    Lines are printed about the selection of the ranks that run, by others somewhat later.
    """
    lines = run.decisions.filter(
        pl.col("ts").is_not_null(),
        pl.col("source").cast(pl.String) == "scheduler_log",
        pl.col("output_reason").cast(pl.String).is_in(["wait_timeout", "token_watermark"]),
    )
    if lines.is_empty() or run.engine.has_ms is False:
        return None
    told = lines.filter(
        pl.col("actual_execution").fill_null(value=True),
        pl.col("output_reason").cast(pl.String) == reason,
    )
    ts = told["ts"].dt.epoch("ns").to_numpy()
    where = np.searchsorted(np.maximum.accumulate(at.first), ts + EARLY_NS, side="right") - 1
    out = np.zeros(len(at.row), np.bool_)
    out[where[(where >= 0) & (ts - at.last[where] < LINE_NS)]] = True
    return out


def _name_ends(
    is_all: Flags,
    waited: Flags,
    lasted: F64,
    limit: int | None,
    ran_out: Flags | None,
    marked: Flags | None,
    engine: EngineInfo,
) -> NDArray[np.str_]:
    """How the wait before each release ended; an empty text where there was none.

    Lines of the log say which waits ran out. Without them a wait that ended while a rank had no
    request ran out, or the watermark let it through; which of them, its length says.
    """
    long = lasted >= LONG_WAIT
    if ran_out is None:
        least = LONG_WAIT if limit is None else RAN_OUT_SHARE * limit
        timeout = ~is_all & (lasted >= least)
    else:
        timeout = ran_out
    if marked is not None:
        mark = marked & (long | (is_all & waited)) & ~timeout
    elif engine.delayer.token_usage_low_watermark:
        mark = ~is_all & long & ~timeout
    else:
        mark = np.zeros(len(is_all), np.bool_)
    fused = is_all & waited & ~timeout & ~mark
    strange = ~is_all & long & ~timeout & ~mark
    if marked is not None:
        strange &= ~marked
    return np.select(
        [timeout, mark, fused, strange], ["timeout", "watermark", "fused", "unknown"], ""
    )


def _release(engine: EngineInfo) -> tuple[int, ...]:
    """The release as numbers, the lowest that fits; empty where not known."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", engine.release_min or "")
    return tuple(int(n) for n in found.groups()) if found else ()
