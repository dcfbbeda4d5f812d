"""What the engine would have done with other delayer settings: its recorded load, replayed.

The engine's timing is fitted to the same recording, then its lock-step loop is run again with the
negotiation of its release. First of all the replay must reproduce the recording itself; how far it
is off there is part of every prediction's interval.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.delayer.engine_model import EngineModel, Setting, fit_engine
from pdtrace.delayer.load import find_passes
from pdtrace.delayer.pass_cost import PassCost
from pdtrace.delayer.policy_kernel import pack_settings
from pdtrace.delayer.records import PolicyConfig
from pdtrace.delayer.replay_kernel import run_engine
from pdtrace.delayer.routing import BY_NAME, assign_ranks
from pdtrace.errors import InputError, UsageError
from pdtrace.untrusted import compile_pattern, shorten, show

__all__ = ["EngineModel", "Prediction", "Setting", "fit_engine", "predict"]

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

QUANTITIES = (
    "num_iterations",
    "num_solo_iterations",
    "num_fully_fused_iterations",
    "num_delay_passes",
    "request_latency_mean_s",
    "ttft_p50_s",
    "ttft_p99_s",
    "prefill_throughput_tok_s",
)
COUNTS = QUANTITIES[:3]
WAITS = ("num_waits", "num_near_bound")  # what a replay tells beside
MIN_COUNT = 50  # iterations from which their number is worth scaling by
NEARNESS = 6
REPLAYED_REQUESTS = 60_000  # a long load averages over its own passes, so fewer repeats do
FEWEST_REPEATS, MOST_REPEATS = 3, 14
NUM_THREADS = 2
COUNTING = Lock()  # counts are added up over replays in several threads


@dataclass(frozen=True)
class Prediction:
    """Figures of one setting: quantity → value, and quantity → (low, high) with 90 % between."""

    setting: Setting
    values: dict[str, float | None]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


def choose_requests(model: EngineModel, pattern: str | None) -> NDArray[np.bool_]:
    """Requests that figures are given for.

    Args:
        model: The engine.
        pattern: Regular expression searched for in request ids; None: all.

    Raises:
        UsageError: Not a regular expression, or it matches no request.
    """
    chosen = np.ones(len(model.load), bool)
    if pattern is not None:
        wanted = compile_pattern("--request-filter", pattern)
        chosen = np.array([wanted.search(r) is not None for r in model.load.rid])
        if not chosen.any():
            raise UsageError(f"--request-filter '{show(shorten(pattern))}' matches no request id")
    return chosen


def measure_recording(
    model: EngineModel, chosen: NDArray[np.bool_], num_delay_passes: float | None
) -> dict[str, float | None]:
    """The same quantities as recorded.

    Args:
        model: The engine.
        chosen: From :func:`choose_requests`.
        num_delay_passes: As the engine counted; None where nothing says it.
    """
    load, passes = model.load, model.passes
    keep = chosen & ~model.touched
    if chosen.all():
        inside = np.ones(len(passes), bool)
    else:
        first, last = find_passes(load, passes)
        inside = np.zeros(len(passes), bool)
        for a, b in zip(first[chosen], last[chosen], strict=True):
            inside[a : b + 1] = True
    width = (passes.tokens[inside] > 0).sum(1)
    told = inside & model.is_timed
    busy_s = float(passes.busy[told].sum())
    is_held = (model.recorded.max_delay_passes or 0) > 1
    return {
        "num_iterations": float(inside.sum()),
        "num_solo_iterations": float((width == 1).sum()),
        "num_fully_fused_iterations": float((width == model.num_ranks).sum()),
        "num_delay_passes": (num_delay_passes if chosen.all() else None) if is_held else 0.0,
        "request_latency_mean_s": _mean((load.finish - load.begin)[keep]),
        "ttft_p50_s": _percentile((load.done - load.first)[keep], 50),
        "ttft_p99_s": _percentile((load.done - load.first)[keep], 99),
        "prefill_throughput_tok_s": float(passes.tokens[told].sum()) / busy_s if busy_s else None,
    }


def _mean(values: F64) -> float | None:
    ok = values[np.isfinite(values)]
    return float(ok.mean()) if len(ok) else None


def _percentile(values: F64, q: float) -> float | None:
    ok = values[np.isfinite(values)]
    return float(np.percentile(ok, q)) if len(ok) else None


@dataclass(frozen=True)
class Beside:
    """What is as recorded in any replay: what came before the schedulers and after the result.

    Attributes:
        at: Requests that count.
        latency, ttft: What is to be added to when their results are processed, seconds.
    """

    at: I64
    latency: F64
    ttft: F64


def measure_beside(model: EngineModel, chosen: NDArray[np.bool_]) -> Beside:
    """The recorded part of latencies, of chosen requests that no stall touched."""
    load = model.load
    at = np.flatnonzero(chosen & ~model.touched)
    tail, engine_tail = (np.nan_to_num(x - load.forward_end) for x in (load.finish, load.done))
    return Beside(at, (tail - load.begin)[at], (engine_tail - load.first)[at])


def replay_once(
    model: EngineModel,
    setting: Setting,
    chosen: NDArray[np.bool_],
    *,
    seed: int,
    cost: PassCost,
    turn_factor: float = 1.0,
    usage: I64 | None = None,
    beside: Beside | None = None,
) -> dict[str, float]:
    """One replay of the whole load; figures of the chosen requests.

    Args:
        model, setting, chosen: What to replay, how, and whose figures.
        seed: Of the draws.
        cost: Pass cost to use.
        turn_factor: By which the length of an idle or delayed turn is scaled.
        usage: 1001 counts that waits are added to, by KV pool usage in thousandths; None: not told.
        beside: From :func:`measure_beside`, where many replays share it.

    Raises:
        UsageError: A watermark is asked for, and the size of the KV pool is not known.
    """
    load = model.load
    passes = setting.max_delay_passes or 0
    if passes > 1 and setting.token_usage_low_watermark is not None and np.isinf(model.pool):
        raise UsageError(
            "a low watermark cannot be replayed: the recording does not tell the size of the KV "
            "pool (the line max_total_num_tokens=… of the log, or /server_info)"
        )
    routing = BY_NAME[setting.routing]
    config = PolicyConfig(
        dp_size=model.num_ranks,
        max_delay_passes=max(passes, 1),
        token_usage_low_watermark=setting.token_usage_low_watermark,
    )
    times = model.times.copy()
    times[3:5] *= turn_factor
    trace = run_engine(
        pack_settings(config, model.rules), passes > 0, model.rules.mid_chunk_asks,
        load.arrival, assign_ranks(routing.name, load.rank, model.num_ranks), load.tokens,
        model.num_ranks, model.chunk, model.pool,
        cost.theta, cost.expected, cost.excess, cost.time, cost.is_blocking,
        model.launches.idle, model.launches.took, model.launches.share, times, NEARNESS, seed,
        load.hold, routing.rule,
    )  # fmt: skip
    finish, first, final, width, batch, busy, delays = trace[:7]
    if usage is not None:
        with COUNTING:
            usage += trace.usage
    inside = np.ones(len(width), bool)
    held = float(delays.sum())
    if not chosen.all():
        inside = np.zeros(len(width), bool)
        for a, b in zip(first[chosen], final[chosen], strict=True):
            if a >= 0:
                inside[a : max(a, b) + 1] = True
        held = float(delays[:-1][inside].sum())
    beside = beside or measure_beside(model, chosen)
    ttft = finish[beside.at] + beside.ttft
    ttft = ttft[np.isfinite(ttft)]
    p50, p99 = np.percentile(ttft, (50, 99)) if len(ttft) else (np.nan, np.nan)
    return {
        "num_iterations": float(inside.sum()),
        "num_solo_iterations": float((width[inside] == 1).sum()),
        "num_fully_fused_iterations": float((width[inside] == model.num_ranks).sum()),
        "num_delay_passes": held,
        "request_latency_mean_s": _mean(finish[beside.at] + beside.latency) or np.nan,
        "ttft_p50_s": float(p50),
        "ttft_p99_s": float(p99),
        "prefill_throughput_tok_s": float(batch[inside].sum() / max(busy[inside].sum(), 1e-9))
        * model.busy_ratio,
        "num_waits": float(trace.num_waits),
        "num_near_bound": float(trace.num_near_bound),
    }


def predict(
    model: EngineModel,
    settings: Sequence[Setting],
    chosen: NDArray[np.bool_],
    measured: dict[str, float | None],
    *,
    repeats: int | None = None,
) -> list[Prediction]:
    """Predict the figures of several settings, with intervals.

    The interval holds the scatter of repeated replays with resampled fits and turns of 0.8 to 1.25
    times their length, the drift of the host's speed between runs, and the error with which the
    replay reproduces the recording itself. Counts of iterations are scaled by recorded ÷ replayed
    iterations of the recording's own setting: passes that the replay splits or joins too often it
    splits or joins at other settings too.

    Args:
        model: The engine.
        settings: To try.
        chosen: Whose figures.
        measured: Of the recording.
        repeats: Replays of each setting; None: fewer for long loads, which average by themselves.
    """
    recorded, *tried = replay_settings(model, [model.recorded, *settings], chosen, repeats)
    bias = measure_bias(recorded, measured)
    out = []
    for setting, figures in zip(settings, tried, strict=True):
        values: dict[str, float | None] = {}
        intervals: dict[str, tuple[float, float]] = {}
        for q in QUANTITIES:
            point, low, high = bias.place(q, figures[q], model.drift)
            values[q] = point if np.isfinite(point) else None
            if values[q] is not None:
                intervals[q] = (low, high)
        out.append(Prediction(setting, values, intervals))
    return out


@dataclass(frozen=True)
class Bias:
    """How far the replay is off on the recording itself.

    Attributes:
        factor: By which counts of iterations are scaled.
        error: Relative error of each quantity that was measured.
    """

    factor: float
    error: dict[str, float]

    def place(self, quantity: str, drawn: F64, drift: float) -> tuple[float, float, float]:
        """Point, low and high of an absolute quantity from repeated replays.

        Args:
            quantity: One of ``QUANTITIES``.
            drawn: Its values, one a repeat.
            drift: Relative scatter of the host's speed between runs.
        """
        sample = drawn[np.isfinite(drawn)] * (self.factor if quantity in COUNTS else 1.0)
        if not len(sample):
            return (float("nan"),) * 3
        value = float(sample.mean())
        half = spread_of(sample)
        half = float(np.hypot(half, 1.64 * drift * value)) + self.error.get(quantity, 0.0) * value
        return value, max(0.0, value - half), value + half


def measure_bias(own: dict[str, F64], measured: dict[str, float | None]) -> Bias:
    """Compare replays of the recording's own setting with the recording."""
    counted, found = measured["num_iterations"] or 0.0, float(own["num_iterations"].mean())
    factor = 1.0
    if counted >= MIN_COUNT and found > 0:
        factor = float(np.clip(counted / found, 0.8, 1.25))
    error = {
        q: abs(float(np.nanmedian(own[q])) - m) / m
        for q in QUANTITIES
        if (m := measured.get(q)) and np.isfinite(own[q]).any()
    }
    return Bias(factor, error)


def spread_of(sample: F64) -> float:
    """Half of the interval that nine in ten further draws like these fall into."""
    n = len(sample)
    if n < 2:
        return 0.0
    z, v = 1.645, n - 1.0
    student = 2.92 if n == 3 else z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3) / (96 * v**2)
    return float(student * np.sqrt(1 + 1 / n) * sample.std(ddof=1))


def choose_repeats(model: EngineModel) -> int:
    """Replays of each setting: a long load averages over its own passes."""
    return int(np.clip(REPLAYED_REQUESTS // max(len(model.load), 1), FEWEST_REPEATS, MOST_REPEATS))


def replay_settings(
    model: EngineModel,
    settings: Sequence[Setting],
    chosen: NDArray[np.bool_],
    repeats: int | None = None,
    *,
    turn_s: float | None = None,
    usage: I64 | None = None,
) -> list[dict[str, F64]]:
    """Figures of repeated replays of each setting: quantity → one value a repeat.

    Equal repeats of two settings share fit, turn and seed, so their ratio is of the settings.

    Args:
        model, settings, chosen: What to replay, how, and whose figures.
        repeats: Of each setting; None: fewer for long loads.
        turn_s: Length of a delayed turn, seconds; None: drawn from its range.
        usage: As in :func:`replay_once`; of all replays.
    """
    if not len(model.load):
        raise InputError("nothing to replay: no request")
    repeats = repeats or choose_repeats(model)
    low, high = (np.log(t / model.times[3]) for t in model.turn_range)
    beside = measure_beside(model, chosen)

    def one(task: tuple[int, int]) -> dict[str, float]:
        at, k = task
        # Every other repeat uses the fit to all passes, the others one to resampled passes.
        cost = model.costs[0] if k % 2 == 0 else model.costs[1 + (k // 2) % (len(model.costs) - 1)]
        factor = 1.0 if k == 0 else float(np.exp(low + (high - low) * spread_evenly(k)))
        if turn_s is not None:
            factor = turn_s / float(model.times[3])
        return replay_once(
            model, settings[at], chosen, seed=k, cost=cost, turn_factor=factor,
            usage=usage, beside=beside,
        )  # fmt: skip

    tasks = [(at, k) for at in range(len(settings)) for k in range(repeats)]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        rows = list(pool.map(one, tasks))
    return [
        {
            q: np.array([row[q] for row in rows[at * repeats : (at + 1) * repeats]])
            for q in (*QUANTITIES, *WAITS)
        }
        for at in range(len(settings))
    ]


def spread_evenly(k: int) -> float:
    """The kth of a series that fills 0 to 1 evenly wherever it ends (van der Corput, base 3)."""
    out, share = 0.0, 1 / 3
    while k:
        out, k, share = out + share * (k % 3), k // 3, share / 3
    return out
