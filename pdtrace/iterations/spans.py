"""Iterations from spans alone: batches of different ranks that were scheduled together.

A batch's ``schedule`` event is stamped when the all-gather of the pass returns (0.5.5 on), so the
members of one iteration agree to about a millisecond while consecutive iterations lie a pass apart.
On a loaded host the stamps spread, and neither a fixed window nor the widest gap separates them
everywhere; what always holds is that a rank runs once an iteration, and that the passes of all
ranks keep one order. Releases before 0.5.5 and trace levels below 3 stamp before the all-gather and
spread wider; the same search serves them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pdtrace.iterations.evidence import Evidence, Grouping

if TYPE_CHECKING:
    from pdtrace.run import Recording

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

Note = Callable[[str, int], None]

MIN_LOG_SHARE = 0.9
SHORTEST_S = 0.001  # ranks leave the all-gather within this; shorter distances tell no more
MAX_END_ODDS = 4.0  # results of one pass may be processed late on a rank: they only support
CAP = 0.995  # a clustering is never quite certain
ROUNDS = 8


def choose_source(recording: Recording) -> str:
    """The one source whose prefill events become iterations; the others stay for cross-checks.

    The log goes first: it has the engine's own labels, or at least tokens and lines to lead back
    to. Spans replace it where it misses many of their batches (0.5.9 prints none; a log cut short);
    forward-pass metrics, stamped only on receipt, come last.

    Args:
        recording: What the sources read.
    """
    num: dict[str, int] = {}
    for file in recording.files:
        num[file.source] = num.get(file.source, 0) + file.num_events
    log, spans = num.get("scheduler_log", 0), num.get("otel_spans", 0)
    if log and log >= MIN_LOG_SHARE * spans:
        return "scheduler_log"
    if spans:
        return "otel_spans"
    return "fpm" if num.get("fpm") and not log else "scheduler_log"


def choose_selections(requests: pl.DataFrame) -> pl.DataFrame:
    """Rows of the one source that knows most selection times: a request must not count twice.

    Args:
        requests: Table ``requests``.
    """
    counts = (
        requests.filter(pl.col("selected").is_not_null() & pl.col("dp_rank").is_not_null())
        .group_by(pl.col("source").cast(pl.String))
        .len()
        .sort("len", "source", descending=True)
    )
    if not counts.height:
        return requests.clear()
    return requests.filter(pl.col("source") == counts["source"][0])


def group_by_spans(evidence: Evidence, batches: pl.DataFrame, note: Note) -> Grouping:
    """Put batches of spans into iterations.

    Args:
        evidence: Batches; ``t`` is when each was scheduled.
        batches: Their rows of ``events``.
        note: Told of trouble: text and number of batches.

    Returns:
        Every batch in a block; ``t`` are the times of the results, which is what an iteration's end
        means, and the confidence of a block is that of the cuts on its two sides.
    """
    n = len(evidence)
    order = np.argsort(evidence.t, kind="stable")
    nanoseconds = batches["duration"].cast(pl.Int64).cast(pl.Float64)
    duration = nanoseconds.fill_null(np.nan).to_numpy() / 1e9
    end = evidence.t + duration
    first, sure = cut_blocks(evidence.t[order], end[order], evidence.rank[order])
    block = np.empty(n, np.int64)
    block[order] = np.cumsum(first) - 1
    num = int(block.max()) + 1
    confidence = np.full(num, CAP)
    for at in np.flatnonzero(sure < CAP).tolist():
        here = int(block[order[at]])
        confidence[here] = min(confidence[here], sure[at])
        if first[at]:
            confidence[here - 1] = min(confidence[here - 1], sure[at])
    unknown = batches["num_new_tokens"].null_count()
    if unknown:
        note(
            "spans do not say how a prompt was cut into chunks; with server_info.json beside them "
            "the chunk size tells, without it the tokens of such batches count as 0",
            unknown,
        )
    missing = int(np.isnan(duration).sum())
    if missing:
        note("batches have no end recorded; their time of scheduling is used instead", missing)
    return Grouping(
        "span", np.arange(n), block, confidence, np.where(np.isnan(end), evidence.t, end)
    )


def cut_blocks(t: F64, end: F64, rank: I64) -> tuple[NDArray[np.bool_], F64]:
    """Cut batches in order of time into iterations.

    How far neighbours lie apart inside an iteration and across two is learned from the run itself,
    for the times of scheduling and for those of the results: two passes may be scheduled within
    milliseconds when a burst begins, but the device then runs one after the other. The cheapest cut
    under those distributions is taken, by dynamic programming over blocks without a rank twice.

    Args:
        t: Times of scheduling in seconds, ascending.
        end: Times of the results; nan where not recorded.
        rank: DP ranks.

    Returns:
        Whether an iteration starts at each batch; and how sure that is (0.5 to ``CAP``).
    """
    n = len(t)
    num_ranks = int(rank.max()) + 1
    # an engine with one rank has nothing to put together
    if num_ranks == 1 or n == 1:
        return np.ones(n, np.bool_), np.full(n, CAP)
    gap = np.maximum(np.diff(t), SHORTEST_S)
    end_gap = np.maximum(np.abs(np.diff(end)), SHORTEST_S)
    # Results do not lead: ranks that idle next hold theirs back, all by different times.
    first = _start(t, rank, gap)
    odds = np.zeros(n - 1)
    for _ in range(ROUNDS):
        odds = np.zeros(n - 1)
        for apart, most in ((gap, np.inf), (end_gap, MAX_END_ODDS)):
            known = ~np.isnan(apart)
            inside, between = _fit(apart[~first[1:] & known]), _fit(apart[first[1:] & known])
            mine = np.clip(_density(apart, inside) - _density(apart, between), -most, most)
            odds += np.where(known, mine, 0.0)
        new = _cheapest(odds, rank, num_ranks)
        if (new == first).all():
            break
        first = new
    sure = np.full(n, CAP)
    # a cut that a repeated rank forces somewhere is as sure as the next best place for it is worse
    sure[1:] = np.minimum(CAP, 1 / (1 + np.exp(-np.abs(_margin(odds, first, rank)))))
    return first, np.maximum(sure, 0.5)


def _start(t: F64, rank: I64, gap: F64) -> NDArray[np.bool_]:
    """A first cut: at gaps longer than half of the shortest pass of any one rank."""
    order = np.lexsort((t, rank))
    same = np.diff(rank[order]) == 0
    own = np.diff(t[order])[same]
    shortest = float(np.quantile(own, 0.01)) if len(own) else float(gap.max())
    return np.concatenate([[True], gap > 0.5 * shortest])


def _fit(gaps: F64) -> tuple[float, float]:
    """Mean and spread of the logarithm of some gaps."""
    if len(gaps) < 3:
        return (float(np.log(gaps).mean()) if len(gaps) else np.log(0.001)), 1.0
    logs = np.log(gaps)
    middle = float(np.median(logs))
    return middle, max(1.4826 * float(np.median(np.abs(logs - middle))), 0.3)


def _density(gap: F64, fit: tuple[float, float]) -> F64:
    """Log density with the heavy tails of Student's t (3 degrees), so that no gap is impossible."""
    # where nothing is known of a gap, neither is anything said about it
    z = (np.log(np.nan_to_num(gap, nan=1.0)) - fit[0]) / fit[1]
    out: F64 = -2.0 * np.log1p(z * z / 3.0) - np.log(fit[1])
    return out


def _cheapest(odds: F64, rank: I64, num_ranks: int) -> NDArray[np.bool_]:
    """Cuts that maximise the sum of odds inside blocks, no rank twice in a block."""
    n = len(rank)
    best = np.zeros(n + 1)  # best sum over the first k batches, cut behind them
    back = np.zeros(n + 1, np.int64)
    value, ranks = odds.tolist(), rank.tolist()
    for k in range(1, n + 1):
        total, top, at = 0.0, best[k - 1], k - 1
        seen = {ranks[k - 1]}
        for i in range(k - 2, max(k - num_ranks, 0) - 1, -1):
            if ranks[i] in seen:
                break
            seen.add(ranks[i])
            total += value[i]
            if best[i] + total > top:
                top, at = best[i] + total, i
        best[k], back[k] = top, at
    first = np.zeros(n, np.bool_)
    k = n
    while k:
        k = int(back[k])
        first[k] = True
    return first


def _margin(odds: F64, first: NDArray[np.bool_], rank: I64) -> F64:
    """How much each decision would cost if it alone were moved; inf where it cannot be moved."""
    out = np.abs(odds)
    cuts = np.flatnonzero(first)
    for a, b, c in zip(cuts[:-1], cuts[1:], np.append(cuts[2:], len(rank)), strict=True):
        members = rank[a:c].tolist()
        if len(set(members)) == len(members):
            continue  # the cut at b could simply be dropped, at the cost of its odds
        # a repeated rank needs a cut between a and c; the second best place decides
        others = odds[a : c - 1][np.arange(a, c - 1) != b - 1]
        out[b - 1] = float(others.min() - odds[b - 1]) if len(others) else np.inf
    return out
