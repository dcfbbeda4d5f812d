"""How long a pass takes, fitted to the recorded ones.

T = max(h, a + max over ranks(b·tokens + q·squares) + c·tokens of all ranks)

Attention is local to a rank and quadratic, so fused passes run it side by side; expert work adds up
over the ranks; h is the floor set by launching. Recorded passes scatter upwards from T (launches,
pauses of the host), so the fit seeks the mode: a mixture of a narrow peak at T, a one-sided tail
above it and strays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.compiled import compiled
from pdtrace.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.delayer.load import Passes

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

NUM_STARTS = 24
NUM_RESTARTS = 6  # of a fit that begins from another's result
MOST_PASSES = 1000  # that a fit looks at; of more, so many at random
MIN_PASSES = 20
QUICKEST_S = 0.005
MIN_NEIGHBOURS = 15
MIN_TOLD = 5  # cases that must tell whether launches block
MIN_LONE = 8  # passes that stand alone
NUM_REWEIGHTED = 10


@dataclass(frozen=True)
class PassCost:
    """Fitted duration of a pass.

    Attributes:
        theta: h (s), b (s per 1000 tokens), q (s per 10⁶ squares), c (s per 1000 tokens), a (s).
        expected, excess, time: Of the recorded passes that were used, in order of expectation: T,
            what they took beyond it, when they ran; seconds.
        is_blocking: A launch with real tokens returns when the device is done with it.
        stalls: Start and end of each recorded stall, seconds.
    """

    theta: F64
    expected: F64
    excess: F64
    time: F64
    is_blocking: bool
    stalls: list[tuple[float, float]]


@compiled
def mismatch(theta: F64, rank_end: I64, tokens: F64, squares: F64, total: F64, took: F64) -> float:
    """Mean negative log likelihood of the recorded durations."""
    loss = 0.0
    at = 0
    for i in range(len(took)):
        biggest = 0.0
        while at < rank_end[i]:
            biggest = max(biggest, theta[1] * tokens[at] + theta[2] * squares[at])
            at += 1
        t = max(theta[0], theta[4] + biggest + theta[3] * total[i])
        r = took[i] - t
        width = 0.0005 + 0.012 * t
        p = 0.55 * np.exp(-abs(r) / width) / (2 * width) + 0.05 / (1.0 + 10 * t)
        if r > 0:
            p += 0.4 * np.exp(-r / (0.35 * t + 1e-6)) / (0.35 * t + 1e-6)
        loss -= np.log(p)
    return loss / len(took)


@compiled
def descend(
    theta: F64, scale: F64, rank_end: I64, tokens: F64, squares: F64, total: F64, took: F64
) -> tuple[F64, float]:
    """Nearest minimum by steps along one parameter, or from one to another; none goes below 0."""
    best = mismatch(theta, rank_end, tokens, squares, total, took)
    step = 0.5
    while step > 0.002:
        improved = False
        for k in range(5):
            for other in range(6):
                for sign in (1.0, -1.0):
                    if other == k or (other < 5 and sign < 0):
                        continue
                    trial = theta.copy()
                    trial[k] = max(0.0, trial[k] + sign * step * scale[k])
                    if other < 5:
                        trial[other] = max(0.0, trial[other] - step * scale[other])
                    loss = mismatch(trial, rank_end, tokens, squares, total, took)
                    if loss < best - 1e-9:
                        theta = trial
                        best = loss
                        improved = True
        if not improved:
            step *= 0.6
    return theta, best


def is_blocking(passes: Passes) -> bool:
    """Whether a launch with real tokens returns only when the device is done with it.

    A rank that runs real tokens twice in a row reports the first pass after it launched the second.
    Where launches block, that is after both passes; where they do not, after one. What comes nearer
    is told by how long passes take that stand alone.
    """
    launch, report = passes.launch, passes.report
    told = np.nan_to_num(report, nan=-np.inf).max(1)
    is_first = np.append(-np.inf, told[:-1]) < launch  # the engine stood idle before it
    is_followed = np.append(launch[1:], np.inf) < told
    lone = np.flatnonzero(is_first & ~is_followed)
    if len(lone) < MIN_LONE:
        return _blocks_by_reports(passes)
    alone = _expect_by_lone(passes, lone)
    misses = []
    for i in np.flatnonzero(is_first[:-1] & is_followed[:-1]):
        late = report[i][~np.isnan(report[i + 1]) & (report[i] > launch[i + 1])]
        took = float(np.median(late) - launch[i]) if len(late) else 0.0
        if took > 0:  # damaged spans can have a pass report before its launch
            both = alone[i] + alone[i + 1]
            misses.append((abs(np.log(took / both)), abs(np.log(took / alone[i]))))
    if len(misses) < MIN_TOLD:
        return _blocks_by_reports(passes)
    if_blocking, if_not = np.median(misses, axis=0)
    return bool(if_blocking < if_not)


def _expect_by_lone(passes: Passes, lone: I64) -> F64:
    """Roughly how long each pass takes, by those that stand alone; least absolute relative error.

    Not the fit of this module: that one needs to know first whether launches block.
    """
    tokens, squares = passes.tokens / 1e3, passes.squares / 1e6
    features = np.column_stack([np.ones(len(passes)), tokens.max(1), squares.max(1), tokens.sum(1)])
    took = np.maximum((passes.end - passes.launch)[lone], 1e-6)
    weight = 1 / took
    for _ in range(NUM_REWEIGHTED):
        theta = np.linalg.lstsq(features[lone] * weight[:, None], took * weight, rcond=None)[0]
        miss = np.abs(features[lone] @ theta / took - 1)
        weight = 1 / (took * np.sqrt(np.maximum(miss, 0.02)))
    out: F64 = np.maximum(features @ theta, np.quantile(took, 0.05))
    return out


def _blocks_by_reports(passes: Passes) -> bool:
    """The same where few passes stand alone: how far the reports of two in a row lie apart.

    Where launches block, the first is reported just before the second; otherwise a pass before.
    """
    shares = []
    report, launch = passes.report, passes.launch
    for i in range(len(passes) - 1):
        following = launch[i + 2] if i + 2 < len(passes) else np.inf
        both = ~np.isnan(report[i]) & ~np.isnan(report[i + 1])
        for r in np.flatnonzero(both):
            if launch[i + 1] < report[i, r] and following > report[i + 1, r]:
                gap = report[i + 1, r] - report[i, r]
                shares.append(gap / max(report[i + 1, r] - launch[i + 1], 1e-6))
    return bool(np.median(shares) < 0.3) if len(shares) >= MIN_TOLD else True


def durations(passes: Passes, blocking: bool, turn_s: float) -> F64:
    """How long each recorded pass kept the engine busy, seconds; nan where it cannot be told.

    Args:
        passes: The recorded passes.
        blocking: From :func:`is_blocking`.
        turn_s: From the end of a launch to the next launch, if work is waiting.
    """
    following = np.append(passes.launch[1:], np.inf)
    if blocking:
        overlapped = following < passes.end
        out: F64 = np.where(
            overlapped, following - passes.launch - turn_s, passes.end - passes.launch
        )
        return out
    before = np.append(-np.inf, passes.end[:-1])
    alone: F64 = passes.end - np.fmax(passes.launch, before)
    return alone


def fit_pass_cost(
    passes: Passes, *, blocking: bool, turn_s: float, seed: int = 0, near: F64 | None = None
) -> PassCost:
    """Fit the duration of a pass.

    Args:
        passes: The recorded passes.
        blocking, turn_s: As in :func:`durations`.
        seed: Of the starting points and of what is drawn.
        near: Result of a fit to the same passes: fit to as many drawn with repeats instead, from
            there and a few other points; None: fit to the passes themselves.

    Raises:
        InputError: Too few passes have a duration.
    """
    took = durations(passes, blocking, turn_s)
    usable = np.flatnonzero(np.isfinite(took) & (took > QUICKEST_S))
    if len(usable) < MIN_PASSES:
        raise InputError(
            f"nothing to replay: only {len(usable)} passes have a known duration, "
            f"{MIN_PASSES} are needed"
        )
    rng = np.random.default_rng(seed)
    sample = usable
    if near is not None:
        sample = rng.choice(usable, min(len(usable), MOST_PASSES))
    elif len(usable) > MOST_PASSES:
        sample = np.sort(rng.choice(usable, MOST_PASSES, replace=False))
    arrays = _features(passes, sample)
    b = took[sample]
    scale = np.median(b) * np.array(
        [
            0.5,
            0.5 / (np.quantile(arrays[1], 0.9) + 1e-9),
            0.5 / (np.quantile(arrays[2], 0.9) + 1e-9),
            0.3 / (np.quantile(arrays[3], 0.9) + 1e-9),
            0.3,
        ]
    )
    starts = [] if near is None else [near]
    for _ in range(NUM_STARTS if near is None else NUM_RESTARTS):
        start = scale * rng.exponential(1.0, 5)
        start[0] = np.quantile(b, rng.choice([0.01, 0.05, 0.1, 0.2]))
        starts.append(start)
    found = [descend(start, scale, *arrays, b) for start in starts]
    theta, _ = min(found, key=lambda x: x[1])
    expected = expect_passes(theta, *_features(passes, usable))
    excess = took[usable] - expected
    stalled = excess > np.maximum(STALL_FLOOR_S, 2 * expected)
    keep = np.flatnonzero(~stalled)
    keep = keep[np.argsort(expected[keep], kind="stable")]
    return PassCost(
        theta=theta,
        expected=expected[keep],
        excess=excess[keep],
        time=passes.launch[usable][keep],
        is_blocking=blocking,
        stalls=[
            (float(passes.launch[i]), float(passes.launch[i] + took[i])) for i in usable[stalled]
        ],
    )


STALL_FLOOR_S = 0.5


def expect_passes(theta: F64, rank_end: I64, tokens: F64, squares: F64, total: F64) -> F64:
    """T of passes given as in :func:`mismatch`, seconds."""
    work = theta[1] * tokens + theta[2] * squares
    starts = np.append(0, rank_end[:-1])
    biggest = np.maximum.reduceat(work, starts)
    out: F64 = np.maximum(theta[0], theta[4] + biggest + theta[3] * total)
    return out


def _features(passes: Passes, at: I64) -> tuple[I64, F64, F64, F64]:
    tokens, squares = passes.tokens[at] / 1e3, passes.squares[at] / 1e6
    real = tokens > 0
    real[~real.any(1), 0] = True  # a pass of which no tokens are known still has one rank
    return np.cumsum(real.sum(1)), tokens[real], squares[real], tokens.sum(1)


@compiled
def draw_excess(
    expected_s: float, now: float, expected: F64, excess: F64, time: F64, nearness: int
) -> float:
    """Excess of a recorded pass of like expectation, rather one from about the same time.

    The host's speed drifts over a recording, so of ``nearness`` draws the nearest in time is taken.
    """
    low = int(np.searchsorted(expected, expected_s * 0.95))
    high = int(np.searchsorted(expected, expected_s * 1.05, side="right"))
    if high - low < MIN_NEIGHBOURS:
        middle = (low + high) // 2
        low = max(0, min(len(expected) - MIN_NEIGHBOURS, middle - MIN_NEIGHBOURS // 2))
        high = min(len(expected), low + MIN_NEIGHBOURS)
    best = low + int(np.random.random() * (high - low))
    for _ in range(nearness - 1):
        other = low + int(np.random.random() * (high - low))
        if abs(time[other] - now) < abs(time[best] - now):
            best = other
    return float(excess[best])
