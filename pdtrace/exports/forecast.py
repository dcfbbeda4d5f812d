"""What the replay predicts, as JSON and as a report.

History of ``schema_version``: 1, the first.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from pdtrace.exports.report import Report, Section
from pdtrace.exports.wording import plural, seconds, whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pdtrace.delayer.replay import EngineModel, Prediction, Setting
    from pdtrace.delayer.tuning import Advice, Outcome

SCHEMA_VERSION = 1


def write_forecast(
    model: EngineModel, measured: Mapping[str, float | None], predictions: Sequence[Prediction]
) -> str:
    """JSON of a what-if: ``measured``, ``scenarios`` with ``predicted`` and ``intervals``."""
    scenarios = [
        {
            "max_delay_passes": p.setting.max_delay_passes,
            "token_usage_low_watermark": p.setting.token_usage_low_watermark,
            "predicted": {k: _plain(v) for k, v in p.values.items()},
            "intervals": {k: [_plain(a), _plain(b)] for k, (a, b) in p.intervals.items()},
        }
        for p in predictions
    ]
    return _dump(
        {
            "measured": {k: _plain(v) for k, v in measured.items()},
            "scenarios": scenarios,
            "engine": _engine(model),
        }
    )


def write_advice(model: EngineModel, advice: Advice) -> str:
    """JSON of a tuning: ``chosen`` (null: leave it off), ``flags``, ``outcomes``, ``remarks``."""
    return _dump(
        {
            "chosen": None if advice.chosen is None else _outcome(advice.chosen),
            "flags": list(advice.flags),
            "outcomes": [_outcome(o) for o in advice.outcomes],
            "remarks": list(advice.remarks),
            "engine": _engine(model),
        }
    )


def _dump(content: dict[str, Any]) -> str:
    return json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=1) + "\n"


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _engine(model: EngineModel) -> dict[str, Any]:
    """What the prediction rests on."""
    cost = model.costs[0]
    names = ("floor_s", "s_per_1000_tokens", "s_per_1e6_squares", "s_per_1000_tokens_of_all", "s")
    return {
        "dp_size": model.num_ranks,
        "release": model.rules.release,
        "pass_cost": dict(zip(names, map(float, cost.theta), strict=True)),
        "is_launch_blocking": cost.is_blocking,
        "scheduler_turn_s": float(model.times[3]),
        "scheduler_turn_source": model.turn_source,
        "arrival_source": model.load.arrival_source,
        "num_stalls": len(cost.stalls),
        "num_requests_left_out": int(model.touched.sum()),
        "notes": list(model.notes),
    }


def _outcome(o: Outcome) -> dict[str, Any]:
    def change(x: tuple[float, float, float]) -> dict[str, float | None]:
        return dict(zip(("change_ratio", "low", "high"), map(_plain, x), strict=True))

    return {
        "max_delay_passes": o.setting.max_delay_passes,
        "longest_wait_s": o.bound_s,
        "request_latency_mean_s": change(o.latency),
        "ttft_p99_s": change(o.p99),
        "prefill_throughput_tok_s": change(o.throughput),
        "num_iterations": o.num_iterations,
        "num_delay_passes": o.num_delay_passes,
    }


def name_setting(setting: Setting) -> str:
    """A setting in words."""
    if not setting.max_delay_passes or setting.max_delay_passes <= 1:
        return "off"
    words = plural(setting.max_delay_passes, "pass").replace("passs", "passes")
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
    notes = ("In brackets: nine in ten runs are expected between.", *_rests_on(model))
    return Report(tuple(verdict[:3]), None, (Section("Predicted", columns, tuple(rows), notes),))


def build_advice_report(model: EngineModel, advice: Advice) -> Report:
    """The report of a tuning."""
    if advice.chosen is None:
        verdict: tuple[str, ...] = (
            "Leave the delayer off: no bound is predicted to gain more than it risks.",
        )
    else:
        o = advice.chosen
        verdict = (
            f"Use {' '.join(advice.flags)}",
            f"Predicted: mean request latency {_percent(o.latency)}, p99 time to first token "
            f"{_percent(o.p99)}, tokens per busy second {_percent(o.throughput)}.",
            f"A request is held back at most {seconds(o.bound_s)}.",
        )
    rows = tuple(
        (
            str(o.setting.max_delay_passes), seconds(o.bound_s), _percent(o.latency),
            _percent(o.p99), _percent(o.throughput), whole(o.num_iterations),
            whole(o.num_delay_passes),
        )
        for o in advice.outcomes
    )  # fmt: skip
    columns = (
        "bound", "held up to", "mean latency", "p99 to 1st token", "tok per busy s",
        "iterations", "delay passes",
    )  # fmt: skip
    notes = (
        "Changes against the delayer off; nine in ten runs are expected within ±.",
        *advice.remarks,
        *_rests_on(model),
    )
    return Report(verdict, None, (Section("Sweep", columns, rows, tuple(dict.fromkeys(notes))),))


def _percent(change: tuple[float, float, float]) -> str:
    if not math.isfinite(change[0]):
        return "not known"
    point, low, high = (100 * x for x in change)
    return f"{point:+.1f} ± {(high - low) / 2:.1f} %"


def _rests_on(model: EngineModel) -> tuple[str, ...]:
    turn = model.times[3]
    said = [
        f"A delayed scheduler turn takes {turn * 1e3:.2f} ms here"
        + (" (from spans)" if model.turn_source == "spans" else " (assumed)")
        + f", so 30 passes hold a request back up to {seconds(29 * float(turn))}."
    ]
    if model.costs[0].stalls:
        said.append(
            f"{plural(len(model.costs[0].stalls), 'recorded pass')} stalled (probably first use of "
            f"a kernel); {plural(int(model.touched.sum()), 'request')} under way then are left out "
            "of every figure."
        )
    return (*said, *model.notes)
