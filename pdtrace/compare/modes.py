"""Whether one run ran at two speeds: the same passes, now fast, now slow, for stretches of time.

ln(duration) = ln(expected) + excess usual in its kind + speed at that time + scatter

The expectation is fitted to what each pass carries, as for a replay. The rest is split into
stretches at two levels. What is found must stand against its rivals: one speed, a speed that
drifts, and other work in the slow stretches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pdtrace.delayer.pass_cost import fit_pass_cost
from pdtrace.errors import InputError

if TYPE_CHECKING:
    from pdtrace.compare.matching import F64, I64
    from pdtrace.compare.passes import Passes
    from pdtrace.delayer.load import Passes as Recorded

    Flags = NDArray[np.bool_]

MIN_PASSES = 60
TURN_S = 0.003  # from a launch's end to the next launch; small beside any pass
NUM_SIZES = 6  # kinds of passes by expected duration
WIDEST = 8  # ranks from which on passes are of one kind
OWN_VIEW = 4  # passes by which a kind's own median is drawn to none
SWITCH_COST = 8.0  # of a change of speed, in log likelihood
MOST_BLOCKS = 3000  # that a segmentation looks at; longer runs are pooled
MIN_SCATTER = 0.02  # a pass of 100 ms is known to 2 ms
NUM_TURNS = 5
NUM_REWEIGHTED = 12
MOST_KNOTS = 200
MOST_LAG = 10  # passes after which scatter depends no more on what came before
WINDOW = 25  # passes whose median is a first view of the speed
_STARTS = ((0.1, 0.6), (0.25, 0.75), (0.4, 0.9))  # quantiles of such medians

MIN_SHARE = 0.15  # of the passes, at either speed
MIN_STRETCH = 12  # passes in the middle one of the stretches, at either speed
MIN_DISTANCE = 0.14  # of the logarithm: 15 %
DISTANCE, PER_SCATTER = 0.12, 0.9  # more of it is asked where passes scatter
MIN_EVIDENCE = 17.0  # log likelihood beyond one speed
MIN_STEPS = 5.0  # and beyond a drift
STEPS_RATIO = 0.15  # of the former
MIN_ALIKE = 0.3  # of the slow passes that must have fast ones of their kind
MIN_KIND = 3  # passes at either speed by which a kind can be compared


@dataclass(frozen=True)
class Modes:
    """Two speeds of one run.

    Attributes:
        ratio: Slow ÷ fast: how many times as long the same pass takes.
        slow_share: Share of the time that was slow, counted in passes.
    """

    ratio: float
    slow_share: float


@dataclass(frozen=True)
class Pace:
    """How long passes took beside what was expected of them, in order of time.

    Attributes:
        residual: ln(duration ÷ expectation).
        kind: Passes of the same number carry like work, and overlap their neighbours alike.
    """

    residual: F64
    kind: I64


def find_modes(passes: Passes) -> Modes | None:
    """Find two speeds in a run, or None.

    Nothing is said of a run whose durations are largely estimates, for want of the times at which
    requests were selected, or with under 60 passes.
    """
    pace = None if passes.recorded is None else measure_pace(passes.recorded)
    if pace is None or len(pace.residual) < MIN_PASSES:
        return None
    return split_speeds(pace)


def measure_pace(recorded: Recorded) -> Pace | None:
    """Lay each pass beside its expectation; stalls are left out.

    Whether a launch blocks is not asked of the recording, since a change of speed may mislead the
    answer: both are tried, and what explains the durations better is taken.
    """
    best = None
    for blocking in (True, False):
        try:
            cost = fit_pass_cost(recorded, blocking=blocking, turn_s=TURN_S)
        except InputError:
            continue
        residual = np.log(np.maximum(cost.expected + cost.excess, 1e-6) / cost.expected)
        spread = _spread(residual)
        if best is None or spread < best[0]:
            best = (spread, cost, residual)
    if best is None:
        return None
    _, cost, residual = best
    in_time = np.argsort(cost.time, kind="stable")
    order = np.argsort(recorded.launch, kind="stable")
    row = order[np.searchsorted(recorded.launch[order], cost.time[in_time])]
    runs_on = np.append(recorded.launch[1:], np.inf) < recorded.end
    ran_before = np.append(-np.inf, recorded.end[:-1]) > recorded.launch
    expected = cost.expected[in_time]
    edges = np.quantile(expected, np.arange(1, NUM_SIZES) / NUM_SIZES)
    width = np.minimum((recorded.tokens > 0).sum(1), WIDEST)
    neighbours = 2 * ran_before + runs_on
    kind = np.searchsorted(edges, expected) * 100 + (10 * width + neighbours)[row]
    return Pace(residual[in_time], kind.astype(np.int64))


def split_speeds(pace: Pace) -> Modes | None:
    """Two speeds in passes in order of time; None unless they stand against every rival."""
    residual, kind = pace.residual, pace.kind
    single = residual - _typical(residual, kind)
    found = [f for start in _STARTS if (f := _fit_stretches(pace, single, start)) is not None]
    if not found:
        return None
    even, is_slow = min(found, key=lambda f: _spread(f[0], f[1]))
    distance = _distance(even, is_slow)
    if distance < 0:
        distance, is_slow = -distance, ~is_slow
    spread = max(_spread(even, is_slow), 1e-3)
    cuts = np.flatnonzero(np.diff(is_slow)) + 1
    alike, matched = _compare_alike(residual, kind, is_slow)
    num = len(residual) / _dependence(even, is_slow)
    evidence = num * np.log(_spread(single) / spread)
    drifted = min(_spread_of_drift(view, cuts) for view in (even, single))
    steps = num * np.log(drifted / spread)
    is_named = (
        MIN_SHARE <= is_slow.mean() <= 1 - MIN_SHARE
        and _usual_stretch(is_slow, cuts) >= MIN_STRETCH
        and min(distance, matched) >= MIN_DISTANCE
        and (distance + matched) / 2 >= DISTANCE + PER_SCATTER * spread
        and alike >= MIN_ALIKE
        and evidence >= MIN_EVIDENCE
        and steps >= max(MIN_STEPS, STEPS_RATIO * evidence)
    )
    if not is_named:
        return None
    return Modes(ratio=float(np.exp(distance)), slow_share=float(is_slow.mean()))


def _fit_stretches(pace: Pace, single: F64, start: tuple[float, float]) -> tuple[F64, Flags] | None:
    """Speeds and what kinds of passes take, by turns; None if one speed is left."""
    windows = np.array_split(single, max(len(single) // WINDOW, 4))
    fast, slow = np.quantile([np.median(w) for w in windows], start)
    even = single
    is_slow = np.zeros(len(single), np.bool_)
    for _ in range(NUM_TURNS):
        is_slow = segment(even, float(fast), float(slow))
        if is_slow.all() or not is_slow.any():
            return None
        even = pace.residual - _typical(
            pace.residual - _distance(even, is_slow) * is_slow, pace.kind
        )
        fast, slow = np.median(even[~is_slow]), np.median(even[is_slow])
    return even, is_slow


def segment(residual: F64, fast: float, slow: float) -> Flags:
    """Which passes were slow: the likeliest stretches, where each change of speed has its price.

    Scatter is taken for Laplace's, so that one late pass does not make a stretch.
    """
    cost = np.abs(residual[:, None] - np.array([fast, slow]))
    cost = cost / max(float(cost.min(1).mean()), MIN_SCATTER)
    num = len(residual)
    starts = np.unique(np.linspace(0, num, min(num, MOST_BLOCKS) + 1).astype(np.int64)[:-1])
    cost = np.add.reduceat(cost, starts, axis=0)
    came = np.zeros((len(cost), 2), np.int64)
    total = [float(x) for x in cost[0]]
    for i in range(1, len(cost)):
        before, total = total, []
        for state in (0, 1):
            change = before[1 - state] + SWITCH_COST
            came[i, state] = state if before[state] <= change else 1 - state
            total.append(min(before[state], change) + float(cost[i, state]))
    state = int(total[1] < total[0])
    out = np.zeros(len(cost), np.bool_)
    for i in range(len(cost) - 1, -1, -1):
        out[i] = state
        state = int(came[i, state])
    return np.repeat(out, np.diff(np.append(starts, num)))


def _typical(residual: F64, kind: I64) -> F64:
    """Median of each pass's kind, drawn to zero where a kind has few."""
    out = np.zeros(len(residual))
    for k in np.unique(kind):
        mine = kind == k
        out[mine] = np.median(residual[mine]) * mine.sum() / (mine.sum() + OWN_VIEW)
    return out


def _distance(residual: F64, is_slow: Flags) -> float:
    return float(np.median(residual[is_slow]) - np.median(residual[~is_slow]))


def _spread(residual: F64, is_slow: Flags | None = None) -> float:
    """Mean distance from the median, or from that of its speed."""
    return float(np.abs(_center(residual, is_slow)).mean())


def _center(residual: F64, is_slow: Flags | None) -> F64:
    middle = np.median(residual) if is_slow is None else np.where(
        is_slow, np.median(residual[is_slow]), np.median(residual[~is_slow])
    )  # fmt: skip
    return np.asarray(residual - middle, np.float64)


def _dependence(residual: F64, is_slow: Flags) -> float:
    """How many passes say as much as an independent one: 1 + 2·sum of correlations of signs."""
    sign = np.sign(_center(residual, is_slow))
    return max(
        1.0, 1 + 2 * sum(float(np.mean(sign[:-k] * sign[k:])) for k in range(1, MOST_LAG + 1))
    )


def _usual_stretch(is_slow: Flags, cuts: I64) -> float:
    """Middle length of the stretches of the speed that has the shorter ones, passes."""
    edges = np.concatenate([[0], cuts, [len(is_slow)]])
    length, state = np.diff(edges), is_slow[edges[:-1]]
    return float(min(np.median(length[state]), np.median(length[~state])))


def _spread_of_drift(residual: F64, cuts: I64) -> float:
    """What scatter a drift would leave: ramps between the middles of the stretches, or a cubic."""
    num = len(residual)
    edges = np.concatenate([[0], cuts, [num]])
    knots = np.unique(np.concatenate([[0], (edges[:-1] + edges[1:]) / 2, [num - 1]]))
    knots = knots[np.unique(np.linspace(0, len(knots) - 1, MOST_KNOTS).astype(np.int64))]
    at = np.arange(num)
    ramps = np.column_stack([np.interp(at, knots, unit) for unit in np.eye(len(knots))])
    cubic = np.vander(np.linspace(-1, 1, num), 4)
    return min(_spread(residual - _fit_robustly(residual, basis)) for basis in (ramps, cubic))


def _fit_robustly(residual: F64, basis: F64) -> F64:
    """Least absolute deviations."""
    weight = np.ones(len(residual))
    fitted = np.zeros(len(residual))
    for _ in range(NUM_REWEIGHTED):
        level = np.linalg.lstsq(basis * weight[:, None], residual * weight, rcond=None)[0]
        fitted = basis @ level
        weight = 1 / np.sqrt(np.maximum(np.abs(residual - fitted), MIN_SCATTER))
    return np.asarray(fitted, np.float64)


def _compare_alike(residual: F64, kind: I64, is_slow: Flags) -> tuple[float, float]:
    """Share of the slow passes with fast ones of their kind, and how far apart those are."""
    num_alike, distances, weights = 0, [], []
    for k in np.unique(kind):
        slow, fast = is_slow & (kind == k), ~is_slow & (kind == k)
        if min(slow.sum(), fast.sum()) >= MIN_KIND:
            num_alike += int(slow.sum())
            distances.append(float(np.median(residual[slow]) - np.median(residual[fast])))
            weights.append(int(min(slow.sum(), fast.sum())))
    if not distances:
        return 0.0, 0.0
    return num_alike / int(is_slow.sum()), float(np.average(distances, weights=weights))
