"""What the replay predicts of given settings, as JSON and as a report.

History of ``schema_version``: 1, the first.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from pdtrace.delayer.remarks import refuse_delayer, remark_on_release
from pdtrace.exports.report import Report, Section
from pdtrace.wording import plural, seconds, seconds_within, whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pdtrace.delayer.replay import EngineModel, Prediction, Setting

SCHEMA_VERSION = 1


def write_forecast(
    model: EngineModel,
    measured: Mapping[str, float | None],
    predictions: Sequence[Prediction],
    reproduced: Prediction,
) -> str:
    """JSON of a what-if: ``measured``, ``scenarios`` with ``predicted`` and ``intervals``."""
    notes = [*warn_of_misfit(measured, reproduced.values), *warn_of_arrivals(model)]
    if measured.get("num_delay_passes") is None:
        notes.append(NOT_COUNTED)
    scenarios = [
        {
            "max_delay_passes": p.setting.max_delay_passes,
            "token_usage_low_watermark": p.setting.token_usage_low_watermark,
            "predicted": {k: plain_number(v) for k, v in p.values.items()},
            "intervals": {
                k: [plain_number(a), plain_number(b)] for k, (a, b) in p.intervals.items()
            },
        }
        for p in predictions
    ]
    return dump_json(
        {
            "notes": [*notes, *remark_on_release(model)],
            "measured": {k: plain_number(v) for k, v in measured.items()},
            "reproduced": {k: plain_number(v) for k, v in reproduced.values.items()},
            "scenarios": scenarios,
            "engine": describe_engine(model),
        }
    )


def dump_json(content: dict[str, Any]) -> str:
    """The document, its version first."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=1) + "\n"


def plain_number(value: float | None) -> float | None:
    """The number, or None for what strict JSON has no word for."""
    return value if value is not None and math.isfinite(value) else None


def describe_engine(model: EngineModel) -> dict[str, Any]:
    """What the prediction rests on."""
    cost = model.costs[0]
    names = ("floor_s", "s_per_1000_tokens", "s_per_1e6_squares", "s_per_1000_tokens_of_all", "s")
    return {
        "dp_size": model.num_ranks,
        "release": model.rules.release,
        "pass_cost": dict(zip(names, map(float, cost.theta), strict=True)),
        "is_launch_blocking": cost.is_blocking,
        "scheduler_turn_s": float(model.times[3]),
        "scheduler_turn_low_s": model.turn_range[0],
        "scheduler_turn_high_s": model.turn_range[1],
        "scheduler_turn_source": model.turn_source,
        "arrival_source": model.load.arrival_source,
        "num_stalls": len(cost.stalls),
        "num_requests_left_out": int(model.touched.sum()),
        "notes": list(model.notes),
    }


def name_setting(setting: Setting) -> str:
    """A setting in words."""
    if not setting.max_delay_passes or setting.max_delay_passes <= 1:
        return "off"
    words = plural(setting.max_delay_passes, "pass")
    if setting.token_usage_low_watermark is not None:
        words += f", watermark {setting.token_usage_low_watermark:g}"
    return words


COUNTS = (
    ("iterations", "num_iterations"),
    ("on one rank", "num_solo_iterations"),
    ("on all ranks", "num_fully_fused_iterations"),
    ("delay passes", "num_delay_passes"),
)
TIMES = (
    ("mean latency", "request_latency_mean_s"),
    ("TTFT p50", "ttft_p50_s"),
    ("TTFT p99", "ttft_p99_s"),
    ("tok per busy s", "prefill_throughput_tok_s"),
)
NUM_IN_VERDICT = 3
MOST_MISFIT = 0.2  # of the mean latency, at the recording's own setting


def build_forecast_report(
    model: EngineModel,
    measured: Mapping[str, float | None],
    predictions: Sequence[Prediction],
    reproduced: Prediction | None = None,
) -> Report:
    """The report of a what-if.

    Args:
        model: The engine.
        measured: What was recorded.
        predictions: Of the settings asked for.
        reproduced: What the replay gives at the recording's own setting.
    """
    notes = [
        "Recorded is what was measured, the rest is predicted; nine in ten runs are expected "
        "within ±. TTFT: time to first token; busy: while a pass runs.",
    ]
    if measured.get("num_delay_passes") is None:
        notes.append(NOT_COUNTED)
    bounds = [p.setting.max_delay_passes or 0 for p in predictions]
    notes += [*remark_on_release(model), *rests_on(model, [n for n in bounds if n > 1])]
    sections = (
        _predicted("Iterations", COUNTS, model, measured, predictions),
        _predicted("Times", TIMES, model, measured, predictions, notes),
    )
    misfit = () if reproduced is None else warn_of_misfit(measured, reproduced.values)
    verdict = (*misfit, *warn_of_arrivals(model), *_verdict(model, measured, predictions))
    return Report(verdict, None, sections)


NOT_COUNTED = (
    "How many delay passes were recorded is not known: the engine's counters before and after the "
    "load tell it (/metrics), of all requests together."
)


def _verdict(
    model: EngineModel, measured: Mapping[str, float | None], predictions: Sequence[Prediction]
) -> tuple[str, ...]:
    refusal = refuse_delayer(model)
    lines = [f"{refusal}: what follows is what it would do if it did."] if refusal else []
    recorded, latency = measured.get("request_latency_mean_s"), "request_latency_mean_s"
    own = name_setting(model.recorded)
    shown = {name_setting(p.setting): p for p in predictions}
    for name, p in list(shown.items())[:NUM_IN_VERDICT]:
        if recorded is None or p.values.get(latency) is None:
            continue
        low, high = p.intervals[latency]
        told = f"{seconds(p.values[latency])} ({seconds(low)} to {seconds(high)})"
        if name == own:
            lines.append(
                f"As recorded ({own}): mean request latency {seconds(recorded)}, replayed {told}."
            )
        else:
            lines.append(
                f"{name}: mean request latency {told}, recorded with {own}: {seconds(recorded)}."
            )
    return tuple(line[0].upper() + line[1:] for line in lines)


def _predicted(
    title: str,
    quantities: Sequence[tuple[str, str]],
    model: EngineModel,
    measured: Mapping[str, float | None],
    predictions: Sequence[Prediction],
    notes: Sequence[str] = (),
) -> Section:
    """One row a setting below what was recorded."""

    def cell(key: str, value: float | None, limits: tuple[float, float] | None) -> str:
        is_time = key in ("request_latency_mean_s", "ttft_p50_s", "ttft_p99_s")
        if value is None or limits is None:
            return seconds(value) if is_time else whole(value)
        half = limits[1] - value  # the other side may have been cut at 0
        return seconds_within(value, half) if is_time else f"{whole(value)} ± {whole(half)}"

    rows = [
        (
            f"recorded ({name_setting(model.recorded)})",
            *(cell(key, measured.get(key), None) for _, key in quantities),
        )
    ]
    rows += [
        (
            name_setting(p.setting),
            *(cell(key, p.values.get(key), p.intervals.get(key)) for _, key in quantities),
        )
        for p in {name_setting(p.setting): p for p in predictions}.values()
    ]
    columns = ("setting", *(name for name, _ in quantities))
    return Section(title, columns, tuple(rows), tuple(notes))


def warn_of_misfit(
    measured: Mapping[str, float | None], reproduced: Mapping[str, float | None]
) -> tuple[str, ...]:
    """A line for the verdict where the replay misses the recording that it was fitted to."""
    told, found = (x.get("request_latency_mean_s") for x in (measured, reproduced))
    if not told or not found or abs(found / told - 1) <= MOST_MISFIT:
        return ()
    return (
        f"Not to be relied on: at the recording's own setting the replay gives a mean latency of "
        f"{seconds(found)}, and {seconds(told)} was recorded. Times to the millisecond "
        "(SGLANG_LOG_MS=1) or spans (--enable-trace) make it better.",
    )


def warn_of_arrivals(model: EngineModel) -> tuple[str, ...]:
    """A line for the verdict where arrivals are known too late to predict by."""
    if model.load.arrival_source != "received":
        return ()
    return (
        "Provisional: arrivals are known only as the schedulers' pickups, up to a pass late, so "
        "requests that came together look staggered and fuse too rarely below. Spans "
        "(--enable-trace) tell them.",
    )


TURN_SOURCES = {
    "timeouts": "from the waits that ran out",
    "spans": "from spans",
    "default": "assumed",
}


def rests_on(model: EngineModel, bounds: Sequence[int] = (30,)) -> tuple[str, ...]:
    """Notes on what a prediction rests on.

    Args:
        model: The engine.
        bounds: Delay passes to say in milliseconds.
    """
    turn, (low, high) = float(model.times[3]), model.turn_range
    source = TURN_SOURCES[model.turn_source]
    text = (
        f"A delayed scheduler turn takes {turn * 1e3:.2f} ms here ({source}; {low * 1e3:.2f} to "
        f"{high * 1e3:.2f} ms are possible)"
    )
    waits = [
        f"{seconds((n - 1) * turn)} ({seconds((n - 1) * low)} to {seconds((n - 1) * high)}) with "
        f"{plural(n, 'pass')}"
        for n in dict.fromkeys(bounds)
    ]
    if waits:
        text += f", so a request is held back up to {'; '.join(waits)}"
    said = [f"{text}."]
    if model.costs[0].stalls:
        said.append(
            f"{plural(len(model.costs[0].stalls), 'recorded pass')} stalled (probably first use of "
            f"a kernel); the latencies of {plural(int(model.touched.sum()), 'request')} that were "
            "under way then are left out."
        )
    return (*said, *model.notes)
