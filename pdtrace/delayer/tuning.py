"""Which delayer settings to use: a sweep over the replay, and what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.delayer.outcomes import Advice, Outcome, Range, RoutingOutcome, TurnPoint
from pdtrace.delayer.remarks import name_change, refuse_delayer, remark_on, write_flags
from pdtrace.delayer.replay import (
    QUANTITIES,
    Bias,
    EngineModel,
    Setting,
    measure_bias,
    measure_recording,
    replay_settings,
    spread_of,
)
from pdtrace.delayer.routing import ROUTINGS
from pdtrace.wording import percent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

__all__ = ["Advice", "Outcome", "RoutingOutcome", "TurnPoint", "tune"]

SWEPT_PASSES = (2, 4, 8, 16, 30, 60, 120, 240, 500)
DEFAULT_PASSES = 30
LEAST_GAIN = 0.02  # below this a setting is not worth its risk
USAGE_QUANTILES = (0.1, 0.5, 0.9)
NUM_TURNS = 5
RARELY = 0.01  # waits for each iteration, below which a setting does nothing


def tune(
    model: EngineModel,
    chosen: NDArray[np.bool_],
    *,
    passes: tuple[int, ...] = SWEPT_PASSES,
    watermarks: tuple[float, ...] | None = None,
    repeats: int | None = None,
) -> Advice:
    """Sweep the bound on delay passes and the low watermark, and say which to use.

    Settings are compared with the delayer off under the same draws, so what a setting changes is
    told apart from what draws differ in. A setting pays if its mean latency improves by more than
    ``LEAST_GAIN`` with nine in ten of the interval on that side, and its p99 does not get worse by
    more than that. Of those that pay (on the front, if any is), those within ``LEAST_GAIN`` of the
    best mean latency are alike; the one with the most throughput is taken. A watermark is advised
    only where it is better by more than ``LEAST_GAIN`` than the best setting without one.

    Args:
        model: The engine.
        chosen: Requests that count.
        passes: Bounds to try.
        watermarks: Low watermarks to try beside none; None: from the KV pool usage at which waits
            begin in the replay.
        repeats: Replays of each; None: as many as the load's length asks for.

    Raises:
        InputError: There is nothing to replay.
    """
    measured = measure_recording(model, chosen, None)
    usage = np.zeros(1001, np.int64)
    plain = [model.recorded, Setting(None), *(Setting(n) for n in passes)]
    recorded, off, *tried = replay_settings(model, plain, chosen, repeats, usage=usage)
    judge = Judge(model, measure_bias(recorded, measured), off)
    baseline = judge.weigh(Setting(None), off)
    outcomes = [judge.weigh(s, f) for s, f in zip(plain[2:], tried, strict=True)]
    if watermarks is None:
        watermarks = choose_watermarks(usage)
    if np.isfinite(model.pool):
        forced = [Setting(n, w) for w in watermarks for n in passes]
        found = replay_settings(model, forced, chosen, repeats)
        outcomes += [judge.weigh(s, f) for s, f in zip(forced, found, strict=True)]
    baseline, *outcomes = mark_front([baseline, *outcomes])
    refusal = refuse_delayer(model)
    pick = None if refusal else choose_setting(outcomes)
    nearest = min(outcomes, key=lambda o: o.latency[0], default=None) if pick is None else None
    default = DEFAULT_PASSES if DEFAULT_PASSES in passes else max(passes)
    shown = pick.setting if pick is not None else Setting(default)
    routings = _try_routings(judge, shown, chosen, repeats, baseline)
    sensitivity = _move_turn(judge, shown, chosen, repeats)
    return Advice(
        chosen=pick,
        reason=refusal or _say_why(pick, nearest),
        nearest=nearest,
        off=baseline,
        outcomes=tuple(outcomes),
        flags=write_flags(model, pick.setting) if pick is not None else (),
        remarks=remark_on(model, baseline, outcomes, usage),
        routings=routings,
        sensitivity=sensitivity,
        turn_s=(float(model.times[3]), *model.turn_range),
        recorded=model.recorded,
        measured=measured,
        reproduced={q: _point(judge.bias.place(q, recorded[q], 0.0)) for q in QUANTITIES},
    )


def _point(placed: Range) -> float | None:
    return placed[0] if np.isfinite(placed[0]) else None


class Judge:
    """Turns replays of a setting into an outcome, against the delayer off."""

    def __init__(self, model: EngineModel, bias: Bias, off: dict[str, F64]) -> None:
        self.model, self.bias, self.off = model, bias, off

    def weigh(self, setting: Setting, figures: dict[str, F64]) -> Outcome:
        """The outcome of a setting.

        Args:
            setting: The setting.
            figures: From :func:`~pdtrace.delayer.replay.replay_settings`.
        """

        def change(quantity: str) -> Range:
            return compare_draws(figures[quantity], self.off[quantity])

        def place(quantity: str) -> Range:
            return self.bias.place(quantity, figures[quantity], self.model.drift)

        refusals = max((setting.max_delay_passes or 0) - 1, 0)
        low, high = self.model.turn_range
        waits = float(figures["num_waits"].sum())
        near = float(figures["num_near_bound"].sum())
        return Outcome(
            setting=setting,
            bound_s=refusals * float(self.model.times[3]),
            bound_range_s=(refusals * low, refusals * high),
            latency=change("request_latency_mean_s"),
            p99=change("ttft_p99_s"),
            throughput=change("prefill_throughput_tok_s"),
            request_latency_mean_s=place("request_latency_mean_s"),
            ttft_p99_s=place("ttft_p99_s"),
            throughput_tok_s=place("prefill_throughput_tok_s"),
            num_iterations=place("num_iterations")[0],
            num_fully_fused_iterations=place("num_fully_fused_iterations")[0],
            num_delay_passes=float(figures["num_delay_passes"].mean()),
            near_bound_ratio=near / waits if waits else None,
            does_nothing=waits < RARELY * float(figures["num_iterations"].sum()),
        )


def compare_draws(candidate: F64, baseline: F64) -> Range:
    """Change from paired draws: point, low, high."""
    ratio = candidate / baseline - 1
    ratio = ratio[np.isfinite(ratio)]
    if not len(ratio):
        return (float("nan"),) * 3
    mean, half = float(ratio.mean()), spread_of(ratio)
    return mean, mean - half, mean + half


def choose_watermarks(usage: NDArray[np.int64]) -> tuple[float, ...]:
    """Low watermarks that tell waits apart.

    Just above zero lets prefill through where any rank that asks holds nothing; the others lie at
    quantiles of the usage of waits that begin above that.

    Args:
        usage: Waits by the least usage among the ranks that ask, in thousandths.
    """
    filled = usage[1:]
    found = [0.001]
    if filled.sum():
        share = np.cumsum(filled) / filled.sum()
        found += [(int(np.searchsorted(share, q)) + 2) / 1000 for q in USAGE_QUANTILES]
    return tuple(sorted({min(w, 1.0) for w in found}))


def mark_front(outcomes: list[Outcome]) -> list[Outcome]:
    """Mark what no other outcome dominates in throughput and p99; of equals only the first."""
    place = [(o.throughput_tok_s[0], -o.ttft_p99_s[0]) for o in outcomes]
    marked = []
    for i, (o, mine) in enumerate(zip(outcomes, place, strict=True)):
        beaten = any(
            other[0] >= mine[0] and other[1] >= mine[1] and (other != mine or j < i)
            for j, other in enumerate(place)
            if j != i
        )
        marked.append(replace(o, on_front=not beaten and all(map(np.isfinite, mine))))
    return marked


def choose_setting(outcomes: list[Outcome]) -> Outcome | None:
    """The setting to use; None: none pays."""
    paying = [
        o
        for o in outcomes
        if o.latency[0] < -LEAST_GAIN and o.latency[2] < 0 and not o.p99[0] > LEAST_GAIN
    ]
    paying = [o for o in paying if o.on_front] or paying
    plain = _best_of([o for o in paying if o.setting.token_usage_low_watermark is None])
    best = _best_of(paying)
    if plain is None or best is None:
        return best
    is_faster = best.latency[0] < plain.latency[0] - LEAST_GAIN
    does_more = (
        best.throughput[0] > plain.throughput[0] + LEAST_GAIN
        and best.latency[0] <= plain.latency[0]
    )
    return best if is_faster or does_more else plain


def _best_of(paying: list[Outcome]) -> Outcome | None:
    quickest = min((o.latency[0] for o in paying), default=0.0)
    alike = [o for o in paying if o.latency[0] <= quickest + LEAST_GAIN]
    return max(alike, key=lambda o: o.throughput[0], default=None)


def _say_why(pick: Outcome | None, nearest: Outcome | None) -> str:
    if pick is not None:
        return (
            f"among the settings within {percent(LEAST_GAIN)} of the best mean latency it computes "
            "the most tokens per busy second"
        )
    if nearest is None:
        return "no setting was tried"
    if nearest.does_nothing:
        return "no setting does better than one that never holds anything back"
    told = f"mean latency {name_change(nearest.latency)}, p99 {name_change(nearest.p99)}"
    if nearest.latency[0] >= -LEAST_GAIN:
        return f"no setting gains {percent(LEAST_GAIN)} of mean latency; the best: {told}"
    if nearest.latency[2] >= 0:
        return f"the best gain may be none: {told}"
    return f"what the mean latency gains, the p99 loses: {told}"


def _try_routings(
    judge: Judge,
    setting: Setting,
    chosen: NDArray[np.bool_],
    repeats: int | None,
    baseline: Outcome,
) -> tuple[RoutingOutcome, ...]:
    """Every routing with the delayer off and with a setting, against the recorded one off."""
    settings = [replace(s, routing=r.name) for r in ROUTINGS for s in (Setting(None), setting)]
    figures = replay_settings(judge.model, settings, chosen, repeats)
    weighed = [judge.weigh(s, f) for s, f in zip(settings, figures, strict=True)]
    return tuple(
        RoutingOutcome(
            r.name,
            r.title,
            r.meaning,
            r.method,
            baseline if r.name == "recorded" else weighed[2 * i],
            weighed[2 * i + 1],
        )
        for i, r in enumerate(ROUTINGS)
    )


def _move_turn(
    judge: Judge, setting: Setting, chosen: NDArray[np.bool_], repeats: int | None
) -> tuple[TurnPoint, ...]:
    """The setting under turns over the range that the recording allows."""
    low, high = judge.model.turn_range
    points = []
    for turn in np.geomspace(low, high, NUM_TURNS):
        off, on = replay_settings(
            judge.model, [Setting(None), setting], chosen, repeats, turn_s=float(turn)
        )
        at = Judge(judge.model, judge.bias, off).weigh(setting, on)
        bound = float(turn) * max((setting.max_delay_passes or 0) - 1, 0)
        points.append(
            TurnPoint(float(turn), replace(at, bound_s=bound, bound_range_s=(bound,) * 2))
        )
    return tuple(points)
