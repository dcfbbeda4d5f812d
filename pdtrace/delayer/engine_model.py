"""The engine as fitted to one recording: its load, its timing, its negotiation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.delayer.launches import Launches, measure_launches
from pdtrace.delayer.load import Load, Passes, read_load, read_passes, require_believable
from pdtrace.delayer.pass_cost import PassCost, fit_pass_cost, is_blocking
from pdtrace.delayer.rules import ReleaseRules, rules_for
from pdtrace.errors import InputError
from pdtrace.wording import plural

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.run import Run

    F64 = NDArray[np.float64]

DEFAULT_TURN_S = 1.6e-3  # an idle scheduler turn on a GPU host, where spans do not tell it
DEFAULT_TURN_RANGE_S = (1.0e-3, 2.2e-3)
TURN_RANGE = (0.8, 1.25)  # turns told by spans were within a fifth of those with the delayer on
# On a GPU host, where a recording has too few requests that tell it.
DEFAULT_TAKING_S = 0.9e-3
DEFAULT_LAUNCHING_S = 1.7e-3
DEFAULT_PICKUP_S = 0.3e-3
# Not told by any recording; a pass takes fifty times as long.
PROCESSING_S = 2e-3
ASYNCHRONOUS_S = 2e-3
MOST_SKEW = 2.5  # of the upper to the lower half of the waits for a turn
MIN_SAMPLES = 8
NUM_RESAMPLED_FITS = 4
LEAST_DRIFT = 0.03  # two runs of one setting differ by a few per cent in the host's speed alone


@dataclass(frozen=True)
class Setting:
    """A scenario to try.

    Attributes:
        max_delay_passes: Bound on delay passes; None or ≤ 1: the delayer never holds back.
        token_usage_low_watermark: Share of the KV pool below which prefill is let through.
        routing: How requests go to ranks: a name of :data:`pdtrace.delayer.routing.ROUTINGS`.
    """

    max_delay_passes: int | None
    token_usage_low_watermark: float | None = None
    routing: str = "recorded"


@dataclass(frozen=True)
class EngineModel:
    """The engine as fitted to one recording.

    Attributes:
        load, passes, costs: The recorded load and passes; the fitted pass cost, then refits to
            resampled passes.
        times: As ``replay_kernel`` takes them, seconds.
        turn_source: Where the length of a delayed turn comes from: ``timeouts`` (waits that ran
            out), ``spans`` (an idle turn) or ``default``.
        turn_range: Shortest and longest turn that this allows, seconds.
        launches: How long launches keep the host.
        num_ranks, chunk, pool: DP ranks; token budget of a batch; KV tokens of a rank.
        rules: The negotiation.
        recorded: The setting that the recording was made with.
        drift: Relative scatter of the host's speed over the recording.
        is_timed: Recorded passes with a duration that did not stall.
        busy_ratio: Replayed ÷ reported time of the recorded passes: a pass is replayed from its
            launch until the next may begin, and reports know it from its results.
        touched: Requests that were under way during a stall; left out of every figure.
        role: ``prefill``, ``decode`` or ``null`` (unified); None where nothing says it.
        notes: What was assumed.
    """

    load: Load
    passes: Passes
    costs: tuple[PassCost, ...]
    times: F64
    turn_source: str
    turn_range: tuple[float, float]
    launches: Launches
    num_ranks: int
    chunk: float
    pool: float
    rules: ReleaseRules
    recorded: Setting
    drift: float
    touched: NDArray[np.bool_]
    is_timed: NDArray[np.bool_]
    busy_ratio: float = 1.0
    role: str | None = None
    notes: tuple[str, ...] = ()


def fit_engine(
    run: Run, requests: pl.DataFrame, *, engine_version: str | None = None
) -> EngineModel:
    """Fit the engine's timing to its recording.

    Args:
        run: The run.
        requests: Its requests, one row each.
        engine_version: Release whose negotiation is to be used; None: the recording's own.

    Raises:
        InputError: The recording does not hold what a replay needs.
        UsageError: The release has no delayer.
    """
    if run.engine.role == "decode":
        raise InputError("nothing to replay: this is a decode engine, which prefills nothing")
    fits = pl.col("dp_rank").is_null() | (pl.col("dp_rank") < run.dp_size)
    num_alien = len(requests) - len(requests.filter(fits))
    load = read_load(requests.filter(fits))
    passes = read_passes(run, load)
    known_chunk = max(float(run.engine.chunked_prefill_size or 0), 0.0)
    chunk = known_chunk or float(max(passes.tokens.max(), 1.0))
    require_believable(load, passes, chunk)
    notes: list[str] = []
    if num_alien:
        notes.append(
            f"left out: {plural(num_alien, 'request')} of ranks that an engine of "
            f"{plural(run.dp_size, 'DP rank')} does not have"
        )
    if load.arrival_source != "routed":
        notes.append(
            f"arrivals are the times '{load.arrival_source}', not the controller's dispatch (spans "
            "of level 2 give it); requests that came together may look staggered"
        )
    blocking = is_blocking(passes)
    pickup, turn = _measure_turns(load, passes)
    source = "spans" if turn is not None else "default"
    turn_range = DEFAULT_TURN_RANGE_S
    if turn is not None:
        turn_range = (turn * TURN_RANGE[0], turn * TURN_RANGE[1])
    else:
        turn = DEFAULT_TURN_S
        notes.append(
            f"the length of an idle scheduler turn is not recorded; {turn * 1e3:.1f} ms is assumed "
            f"({turn_range[0] * 1e3:.1f} to {turn_range[1] * 1e3:.1f} ms)"
        )
    is_on = bool(run.engine.delayer.enabled)
    delayed = _measure_delayed_turn(run) if is_on else None
    if delayed is None:
        delayed = turn
    else:
        source, turn_range = "timeouts", (delayed * TURN_RANGE[0], delayed * TURN_RANGE[1])
    taking = _quantile(
        _pickup_to_selection(load, passes), 0.02 if is_on else 0.25, DEFAULT_TAKING_S
    )
    launching = _quantile(_selection_to_launch(load, passes), 0.25, DEFAULT_LAUNCHING_S)
    times = np.array([taking, launching, PROCESSING_S, delayed, turn, ASYNCHRONOUS_S])
    turn_s = taking + launching + PROCESSING_S
    cost = fit_pass_cost(passes, blocking=blocking, turn_s=turn_s)

    def refit(k: int) -> PassCost:
        return fit_pass_cost(passes, blocking=blocking, turn_s=turn_s, seed=k + 1, near=cost.theta)

    is_timed = _list_timed(passes, cost)
    with ThreadPoolExecutor(2) as threads:
        refits = tuple(threads.map(refit, range(NUM_RESAMPLED_FITS)))
    engine = run.engine
    version = engine_version or engine.release_max or engine.release_min
    if version is None:
        version = "0.5.13"
        notes.append("the engine's release is not known; the negotiation of 0.5.13 is assumed")
    if not known_chunk:
        notes.append(f"the chunk budget is not known; the largest batch seen, {chunk:.0f}, is used")
    delayer, pool = engine.delayer, float(engine.max_total_num_tokens or np.inf)
    watermark = delayer.token_usage_low_watermark if delayer.enabled else None
    if watermark is not None and np.isinf(pool):
        watermark = None
        notes.append(
            "the recording was made with a low watermark, and the size of the KV pool is not known:"
            " the watermark is left out"
        )
    most = 30 if delayer.max_delay_passes is None else delayer.max_delay_passes
    recorded = Setting(most if delayer.enabled else None, watermark)
    return EngineModel(
        load=_shift(load, pickup),
        passes=passes,
        costs=(cost, *refits),
        times=times,
        turn_source=source,
        turn_range=turn_range,
        launches=measure_launches(passes, cost),
        num_ranks=run.dp_size,
        chunk=chunk,
        pool=pool,
        rules=rules_for(version),
        recorded=recorded,
        drift=max(LEAST_DRIFT, _measure_drift(cost)),
        touched=_touched(load, cost),
        is_timed=is_timed,
        busy_ratio=_compare_busy(passes, cost, is_timed),
        role=engine.role,
        notes=tuple(notes),
    )


def _quantile(values: F64, q: float, default: float) -> float:
    ok = values[np.isfinite(values) & (values >= 0)]
    return float(np.quantile(ok, q)) if len(ok) >= MIN_SAMPLES else default


def _pickup_to_selection(load: Load, passes: Passes) -> F64:
    """From pickup to selection, seconds, of requests that no launch came between.

    Others waited for room in a batch. With the delayer on most of these were held back as well, so
    only the quickest tell what taking them in costs.
    """
    launches = np.sort(passes.launch)
    told = np.isfinite(load.picked) & np.isfinite(load.selected)
    picked, selected = load.picked[told], load.selected[told]
    at_once = np.searchsorted(launches, picked) == np.searchsorted(launches, selected)
    out: F64 = (selected - picked)[at_once]
    return out


def _selection_to_launch(load: Load, passes: Passes) -> F64:
    """From each selection to the next launch, seconds; pauses left out by the quantile taken."""
    order = np.argsort(passes.launch)
    at = np.searchsorted(passes.launch[order], load.selected)
    ok = np.isfinite(load.selected) & (at < len(order))
    return passes.launch[order][at[ok]] - load.selected[ok]


def _measure_turns(load: Load, passes: Passes) -> tuple[float, float | None]:
    """Delay from dispatch to a scheduler's view, and the length of an idle turn, seconds.

    A request that finds the engine idle waits for the rest of a turn, uniform over its length: the
    10th and 90th percentile of its wait are 0.8 turns apart.
    """
    if load.arrival_source == "received":
        return 0.0, None
    if load.arrival_source == "sent":  # how long the way to the rank takes varies more than a turn
        return DEFAULT_PICKUP_S, None
    reported = np.nan_to_num(passes.report, nan=-np.inf).max(1)
    at = np.searchsorted(passes.launch, load.arrival) - 1
    before = np.where(at >= 0, reported[np.maximum(at, 0)], -np.inf)
    following = np.append(passes.launch, np.inf)[at + 1]
    idle = (load.arrival > before + 0.02) & (following > load.picked)
    wait = load.picked - load.arrival
    usable = np.flatnonzero(idle & (wait >= 0))
    # Requests of one burst find the same turn: one wait for each idle stretch.
    wait = wait[usable[np.unique(at[usable], return_index=True)[1]]]
    if len(wait) < 2 * MIN_SAMPLES:
        return DEFAULT_PICKUP_S, None
    low, middle, high = np.quantile(wait, [0.1, 0.5, 0.9])
    turn = float(high - low) / 0.8
    if high - middle > MOST_SKEW * (middle - low):
        # No uniform wait: where passes are known roughly, some requests met one. They wait longest.
        turn = float(middle - low) / 0.4
    return max(float(low) - 0.1 * turn, 0.0), turn


def _measure_delayed_turn(run: Run) -> float | None:
    """A turn on which prefill was withheld, by the waits that ran out; None: too few did."""
    told = run.episodes.filter(pl.col("pass_source").cast(pl.String) == "timeouts")["pass_s"]
    return float(np.median(told.to_numpy())) if len(told) else None


def _shift(load: Load, seconds: float) -> Load:
    return replace(load, arrival=load.arrival + seconds)


def _measure_drift(cost: PassCost) -> float:
    """Relative scatter of pass durations between tenths of the recording."""
    ratio = (cost.expected + cost.excess) / cost.expected
    edges = np.quantile(cost.time, np.linspace(0, 1, 11)[1:-1])
    tenth = np.searchsorted(edges, cost.time)
    medians = [np.median(ratio[tenth == k]) for k in range(10) if (tenth == k).sum() >= MIN_SAMPLES]
    return float(np.std(medians) / np.sqrt(10)) if len(medians) > 2 else 0.0


def _list_timed(passes: Passes, cost: PassCost) -> NDArray[np.bool_]:
    stalled = np.isin(passes.launch, [start for start, _ in cost.stalls])
    return np.isfinite(passes.busy) & ~stalled


def _compare_busy(passes: Passes, cost: PassCost, is_timed: NDArray[np.bool_]) -> float:
    """Fitted ÷ reported durations of the passes that have both."""
    both = np.isin(cost.time, passes.launch[is_timed])
    replayed = float((cost.expected + cost.excess)[both].sum())
    reported = float(passes.busy[is_timed & np.isin(passes.launch, cost.time)].sum())
    return replayed / reported if reported > 0 and replayed > 0 else 1.0


def _touched(load: Load, cost: PassCost) -> NDArray[np.bool_]:
    out = np.zeros(len(load), bool)
    for start, stop in cost.stalls:
        out |= (load.begin < stop) & (load.finish > start)
    return out
