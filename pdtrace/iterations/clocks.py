"""Sub-millisecond times of lines whose stamps are whole seconds, and offsets between clocks.

Three facts fix the times. The printed throughput gives the gap between consecutive lines of a rank
(tokens ÷ throughput) far finer than the stamp; every stamp bounds the sum of those gaps to one
second; and the order of the lines in one file bounds the ranks against one another, because a line
is written when it is stamped. Lines of different files have no order: there the offset is sought
among the differences that recur most, and decided by how well the lines then fall into iterations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pdtrace.compiled import compiled

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MAX_GAP_ERROR_S = 0.0015  # a coarser gap starts a new chain
STAMP_SLACK_S = 0.004  # a line is stamped a little after its throughput is computed
ORDER_REACH_S = 1.5  # lines further apart in time do not bound one another
TIGHTEST = 30  # constraints kept for each pair of chains
WRITING_SLACK_S = 0.02  # ranks write their lines this much out of order at most
MAX_DISORDER_S = 0.05  # beyond this a file's order is not the order of writing
MAX_BROKEN_ORDER = 0.005  # of the bounds by the order
MAX_SPLIT_SHARE = 0.1  # new chains among the lines: lost lines give a few, a shuffled log most
OFFSET_REACH_S = 5.0
NUM_CANDIDATES = 4


@compiled
def link_chains(
    rank: I64,
    stamp: F64,
    resolution: F64,
    gap: F64,
    gap_error: F64,
    num_ranks: int,
    file: I64,
    disorder: float,
) -> tuple[F64, I64, F64, F64, F64]:
    """Chain the lines of each rank by their printed gaps.

    A chain ends where the stamps contradict it (the clock was stepped, or a line was lost), and
    where the order of the lines does: a lost line takes its gap with it, so that all later lines of
    its rank come out too early, before lines that stand above them.

    Args:
        rank, stamp, resolution: DP rank, stamp in seconds, its resolution; n lines in file order.
        gap, gap_error: Seconds since the rank's previous line (nan unknown) and its rounding error.
        num_ranks: DP ranks.
        file: File of each line; lines of different files have no order.
        disorder: Seconds by which a line may come out before one above it; infinite: the order is
            not used.

    Returns:
        relative time and chain of each line; low and high bound of each chain's offset; seconds by
        which its first line contradicts the chain before it, 0 if the gap was unknown.
    """
    n = len(stamp)
    relative = np.zeros(n)
    chain = np.zeros(n, np.int64)
    low = np.empty(n)
    high = np.empty(n)
    excess = np.empty(n)
    last = np.full(num_ranks, -1, np.int64)
    current = np.zeros(num_ranks, np.int64)
    # Largest offset of one rank's chain less that of another's, by the order so far.
    upper = np.full((num_ranks, num_ranks), np.inf)
    is_bounded = np.isfinite(disorder)
    num = 0
    for i in range(n):
        r = rank[i]
        fresh = last[r] < 0 or np.isnan(gap[i]) or gap_error[i] > MAX_GAP_ERROR_S
        at = stamp[i]
        over = 0.0
        if not fresh:
            at = relative[last[r]] + gap[i]
            c = current[r]
            a = max(stamp[i] - at, low[c])
            b = min(stamp[i] + resolution[i] - at, high[c])
            over = a - b
            fresh = over > STAMP_SLACK_S
            if is_bounded:
                for s in range(num_ranks):
                    j = last[s]
                    if s != r and j >= 0 and file[j] == file[i]:
                        early = relative[j] - at - min(upper[r, s], b - low[current[s]])
                        over = max(over, early)
                        fresh = fresh or early > disorder
        if fresh:
            c = num
            num += 1
            current[r] = c
            at = stamp[i]
            low[c] = 0.0
            high[c] = resolution[i]
            excess[c] = over
            upper[r, :] = np.inf
            upper[:, r] = np.inf
        else:
            low[c] = max(low[c], stamp[i] - at)
            high[c] = min(high[c], stamp[i] + resolution[i] - at)
        if is_bounded:
            for s in range(num_ranks):
                j = last[s]
                if s != r and j >= 0 and file[j] == file[i]:
                    upper[s, r] = min(upper[s, r], at - relative[j])
        relative[i] = at
        chain[i] = c
        last[r] = i
    return relative, chain, low[:num].copy(), high[:num].copy(), excess[:num].copy()


@compiled
def pair_bounds(
    file: I64, rank: I64, relative: F64, chain: I64, num_ranks: int
) -> tuple[I64, I64, F64]:
    """Bounds 'offset of a - offset of b ≤ d' from the order of lines within one file.

    Returns:
        a, b, d: chains before and after, and the bound in seconds.
    """
    n = len(rank)
    a = np.empty(n * max(num_ranks - 1, 1), np.int64)
    b = np.empty_like(a)
    d = np.empty(len(a))
    last = np.full(num_ranks, -1, np.int64)
    num = 0
    for i in range(n):
        for r in range(num_ranks):
            j = last[r]
            if r == rank[i] or j < 0 or file[j] != file[i]:
                continue
            x = relative[i] - relative[j]
            if x < ORDER_REACH_S:
                a[num] = chain[j]
                b[num] = chain[i]
                d[num] = x
                num += 1
        last[rank[i]] = i
    return a[:num].copy(), b[:num].copy(), d[:num].copy()


def _best_offset(value: float, low: float, high: float, upper: F64, lower: F64) -> float:
    """The offset within [low, high] that breaks the bounds least; the middle if many do."""
    candidates = np.concatenate([upper, lower, [low, high, value]])
    candidates = candidates[(candidates >= low - 1e-9) & (candidates <= high + 1e-9)]
    broken = np.maximum(0, candidates[:, None] - upper).sum(1)
    broken += np.maximum(0, lower - candidates[:, None]).sum(1)
    best = candidates[broken <= broken.min() + 1e-12]
    return float((best.min() + best.max()) / 2)


def settle_offsets(low: F64, high: F64, a: I64, b: I64, d: F64) -> F64:
    """Offsets of the chains that fit the stamps and break the order least.

    Args:
        low, high: Bounds of each chain's offset from its stamps, seconds.
        a, b, d: From ``pair_bounds``.

    Returns:
        Offset of each chain, seconds.
    """
    crossed = low > high
    middle = (low + high) / 2
    low, high = np.where(crossed, middle, low), np.where(crossed, middle, high)
    offset: F64 = (low + high) / 2
    if not len(a):
        return offset
    order = np.lexsort((d, b, a))
    a, b, d = a[order], b[order], d[order]
    first = np.r_[True, (a[1:] != a[:-1]) | (b[1:] != b[:-1])]
    start = np.maximum.accumulate(np.where(first, np.arange(len(a)), 0))
    tight = np.arange(len(a)) - start < TIGHTEST
    a, b, d = a[tight], b[tight], d[tight]
    num = len(low)
    by_a = np.split(np.argsort(a, kind="stable"), np.cumsum(np.bincount(a, minlength=num))[:-1])
    by_b = np.split(np.argsort(b, kind="stable"), np.cumsum(np.bincount(b, minlength=num))[:-1])
    for _ in range(60):
        moved = 0.0
        for c in range(num):
            upper = np.sort(offset[b[by_a[c]]] + d[by_a[c]])[:TIGHTEST]
            lower = np.sort(offset[a[by_b[c]]] - d[by_b[c]])[::-1][:TIGHTEST]
            new = _best_offset(float(offset[c]), float(low[c]), float(high[c]), upper, lower)
            moved = max(moved, abs(new - float(offset[c])))
            offset[c] = new
        if moved < 1e-5:
            break
    return offset


# Without an order a lost line shows only once a stamp contradicts it: with 0.1 or 1 % of the lines
# lost, .57 to 1 of the iterations of the sample runs were right then.
UNBOUND_CONFIDENCE = 0.8
_NO_BOUNDS = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


@dataclass(frozen=True)
class RefinedTimes:
    """Times finer than their stamps.

    Attributes:
        t: Time of each line, seconds.
        window: Width of the stamp window that each line's chain is left with, seconds.
        ordered: The order of the lines was that of writing, and was used.
        broken_share: Share of lines whose printed gap contradicts the stamps or is too coarse.
        num_lost: Lines whose printed gap does not reach back to the line before: lines were lost.
        max_confidence: What no iteration by these times deserves more than.
    """

    t: F64
    window: F64
    ordered: bool
    broken_share: float
    num_lost: int
    max_confidence: float


def refine_times(
    stamp: F64,
    resolution: F64,
    file: I64,
    rank: I64,
    gap: F64,
    throughput: F64,
    num_ranks: int,
    *,
    settle: bool = True,
) -> RefinedTimes:
    """Times of lines in seconds, finer than their stamps.

    Args:
        stamp: Whole-second stamps, n lines in the order of their files.
        resolution: What each stamp is rounded down to, seconds.
        file: Index of the file of each line.
        rank: DP rank of each line.
        gap: Seconds since the rank's previous line, nan where unknown.
        throughput: As printed, tok/s; the rounding error of a gap is ``0.005 · gap ÷ throughput``.
        num_ranks: DP ranks.
        settle: Bound the ranks against one another by the order of the lines.
    """
    start = np.full(int(file.max()) + 1, np.inf)
    np.minimum.at(start, file, stamp)
    if (np.diff(start[file]) < 0).any():  # pieces of a rotated log, the newest first
        order = np.argsort(start[file], kind="stable")
        found = refine_times(
            stamp[order], resolution[order], file[order], rank[order], gap[order],
            throughput[order], num_ranks, settle=settle,
        )  # fmt: skip
        back = np.argsort(order, kind="stable")
        return replace(found, t=found.t[back], window=found.window[back])
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(throughput > 0, 0.005 * gap / throughput, np.inf)
    lines = (rank, stamp, resolution, gap, error, num_ranks, file)
    relative, chain, low, high, excess = link_chains(*lines, np.inf)
    broken_share = (len(low) - len(np.unique(rank))) / max(len(stamp), 1)
    if not settle:
        return RefinedTimes(relative, _window(low, high, chain), False, broken_share, 0, 1.0)
    split = link_chains(*lines, WRITING_SLACK_S)
    if len(split[2]) - len(low) <= MAX_SPLIT_SHARE * len(stamp):
        t, num_bounds, broken = _settle(file, rank, num_ranks, *split[:4])
        if broken < MAX_BROKEN_ORDER:
            num_lost = _count_lost(split[4])
            cap = 1.0 if num_bounds or not num_lost else UNBOUND_CONFIDENCE
            window = _window(split[2], split[3], split[1])
            return RefinedTimes(t, window, True, broken_share, num_lost, cap)
    offset = settle_offsets(low, high, *_NO_BOUNDS)
    return RefinedTimes(
        relative + offset[chain], _window(low, high, chain), False, broken_share,
        _count_lost(excess), UNBOUND_CONFIDENCE,
    )  # fmt: skip


def _count_lost(excess: F64) -> int:
    return int((excess > MAX_DISORDER_S).sum())


def _settle(
    file: I64, rank: I64, num_ranks: int, relative: F64, chain: I64, low: F64, high: F64
) -> tuple[F64, int, float]:
    """Times by the order of the lines, its bounds, and the share of them that is broken by far."""
    a, b, d = pair_bounds(file, rank, relative, chain, num_ranks)
    offset = settle_offsets(low, high, a, b, d)
    broken = float(np.mean(offset[a] - offset[b] - d > MAX_DISORDER_S)) if len(a) else 0.0
    return relative + offset[chain], len(a), broken


def _window(low: F64, high: F64, chain: I64) -> F64:
    window: F64 = np.maximum(high - low, 0.0)[chain]
    return window


def find_clocks(file: I64, rank: I64) -> I64:
    """Clock of each line, 0-based: files that hold the same rank are pieces of one node's log.

    Args:
        file, rank: File and DP rank of each line.
    """
    pairs = np.unique(np.stack([file, rank]), axis=1)
    clock = np.arange(int(file.max()) + 1)
    of_rank: dict[int, int] = {}
    for f, r in pairs.T.tolist():
        mine, other = clock[f], clock[of_rank.setdefault(r, f)]
        clock[clock == max(mine, other)] = min(mine, other)
    found: I64 = np.unique(clock[file], return_inverse=True)[1].astype(np.int64)
    return found


def offset_candidates(reference: F64, other: F64, reach_s: float, kernel_s: float) -> list[float]:
    """Shifts of ``other`` that bring most of its lines onto a line of ``reference``, best first.

    Args:
        reference, other: Sorted times in seconds.
        reach_s: Largest shift considered.
        kernel_s: How near is 'onto'.
    """
    low = np.searchsorted(reference, other - reach_s)
    high = np.searchsorted(reference, other + reach_s)
    differences = np.concatenate(
        [reference[x:y] - t for x, y, t in zip(low, high, other, strict=True)] or [np.empty(0)]
    )
    if not len(differences):
        return [0.0]
    step = kernel_s / 2
    bins = np.arange(-reach_s, reach_s + step, step)
    count = np.histogram(differences, bins)[0].astype(float)
    count = np.convolve(count, [0.25, 0.5, 1.0, 0.5, 0.25], mode="same")
    found: list[float] = []
    for _ in range(NUM_CANDIDATES):
        k = int(np.argmax(count))
        found.append(float(bins[k] + step / 2))
        count[max(0, k - 6) : k + 7] = -1
    return found


def align_groups(
    time: F64,
    group: I64,
    reach_s: float,
    kernel_s: float,
    evidence: Callable[[F64, NDArray[np.bool_]], float],
) -> F64:
    """Shift of each group of lines (a file or a rank) onto the clock of the biggest.

    Args:
        time: Line times in seconds.
        group: Group of each line, 0-based.
        reach_s: Largest shift considered.
        kernel_s: How near two lines of one iteration are expected.
        evidence: Log evidence of a choice: called with shifted times and the mask of lines aligned
            so far.

    Returns:
        Seconds to add to the times of each group.
    """
    num = int(group.max()) + 1
    shift = np.zeros(num)
    by_size = np.argsort(-np.bincount(group, minlength=num))
    done = group == by_size[0]
    for g in by_size[1:]:
        mine = group == g
        candidates = [0.0, *offset_candidates(
            np.sort((time + shift[group])[done]), np.sort(time[mine]), reach_s, kernel_s
        )]  # fmt: skip
        seen = done | mine
        scores = []
        for c in candidates:
            shift[g] = c
            scores.append(evidence(time + shift[group], seen))
        shift[g] = candidates[int(np.argmax(scores))]
        done = seen
    return shift
