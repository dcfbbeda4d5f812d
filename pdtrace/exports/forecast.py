"""What the replay predicts of given settings, as JSON and as a report.

History of ``schema_version``: 1, the first.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from pdtrace.exports.report import Report, Section
from pdtrace.wording import plural, seconds, whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pdtrace.delayer.replay import EngineModel, Prediction, Setting

SCHEMA_VERSION = 1


def write_forecast(
    model: EngineModel, measured: Mapping[str, float | None], predictions: Sequence[Prediction]
) -> str:
    """JSON of a what-if: ``measured``, ``scenarios`` with ``predicted`` and ``intervals``."""
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
            "measured": {k: plain_number(v) for k, v in measured.items()},
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


ROWS = (
    ("iterations", "num_iterations", whole),
    ("of them on one rank", "num_solo_iterations", whole),
    ("of them on all ranks", "num_fully_fused_iterations", whole),
    ("delay passes", "num_delay_passes", whole),
    ("request latency, mean", "request_latency_mean_s", seconds),
    ("time to first token, p50", "ttft_p50_s", seconds),
    ("time to first token, p99", "ttft_p99_s", seconds),
    ("tokens per busy second", "prefill_throughput_tok_s", whole),
)


def build_forecast_report(
    model: EngineModel, measured: Mapping[str, float | None], predictions: Sequence[Prediction]
) -> Report:
    """The report of a what-if."""
    verdict = []
    base = measured.get("request_latency_mean_s")
    for p in predictions:
        value = p.values.get("request_latency_mean_s")
        if base and value:
            low, high = p.intervals["request_latency_mean_s"]
            verdict.append(
                f"Delayer {name_setting(p.setting)}: mean request latency "
                f"{seconds(base)} → {seconds(value)} ({seconds(low)} to {seconds(high)})."
            )
    verdict = [*warn_of_arrivals(model), *verdict[:3]]
    rows = []
    for title, key, word in ROWS:
        cells = [title, word(measured.get(key))]
        for p in predictions:
            text = word(p.values.get(key))
            if key in p.intervals:
                text += " ({} – {})".format(*(word(x) for x in p.intervals[key]))
            cells.append(text)
        rows.append(tuple(cells))
    columns = ("", "recorded", *(name_setting(p.setting) for p in predictions))
    notes = ("In brackets: nine in ten runs are expected between.", *rests_on(model))
    return Report(tuple(verdict), None, (Section("Predicted", columns, tuple(rows), notes),))


def warn_of_arrivals(model: EngineModel) -> tuple[str, ...]:
    """A line for the verdict where arrivals are known too late to predict by."""
    if model.load.arrival_source != "received":
        return ()
    return (
        "Provisional: arrivals are known only as the schedulers' pickups, up to a pass late, so "
        "requests that came together look staggered and fuse too rarely below. Spans "
        "(--enable-trace) tell them.",
    )


def rests_on(model: EngineModel) -> tuple[str, ...]:
    """Notes on what a prediction rests on."""
    turn, (low, high) = float(model.times[3]), model.turn_range
    source = "from spans" if model.turn_source == "spans" else "assumed"
    said = [
        f"A delayed scheduler turn takes {turn * 1e3:.2f} ms here ({source}; {low * 1e3:.2f} to "
        f"{high * 1e3:.2f} ms are possible), so 30 passes hold a request back up to "
        f"{seconds(29 * turn)} ({seconds(29 * low)} to {seconds(29 * high)})."
    ]
    if model.costs[0].stalls:
        said.append(
            f"{plural(len(model.costs[0].stalls), 'recorded pass')} stalled (probably first use of "
            f"a kernel); {plural(int(model.touched.sum()), 'request')} under way then are left out "
            "of every figure."
        )
    return (*said, *model.notes)
