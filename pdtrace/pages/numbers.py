"""Numbers and names for people: a ratio in percent, a time in its unit, a metric in words."""

from __future__ import annotations

import math
import re

from pdtrace.pages.policy import show_text

_LABELS = {
    "idle_rank_pass_ratio": "Idle rank passes",
    "idle_rank_seconds": "Idle rank time",
    "fusion_width_mean": "Fusion width, mean",
    "iteration_seconds_p50": "Iteration time, median",
    "prefill_throughput_tok_s": "Prefill throughput",
    "num_new_tokens": "Prompt tokens computed",
    "delay_seconds_total": "Time delayed",
    "grouping_confidence_mean": "Grouping confidence",
}


def spell_metric(metric: str) -> str:
    """A metric's name in words; its unit is shown with the number."""
    words = re.sub(r"_(ratio|tok_s|s|total)$", "", metric)
    words = re.sub(r"\bttft\b", "TTFT", re.sub(r"^num_", "", words).replace("_", " "))
    return _LABELS.get(metric, words[:1].upper() + words[1:])


def format_metric(value: float | None, unit: str) -> tuple[str, str]:
    """A number for people, and its unit: never rounded to a false 0 or 100 %."""
    if value is None or math.isnan(value):
        return "–", ""
    if unit == "ratio":
        return format_ratio(value), ""
    if unit == "s":
        number, _, scale = format_span(value).partition(" ")
        return number, scale
    shown = "" if unit == "count" else unit
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}", shown
    return f"{value:.3g}", shown


def format_ratio(value: float) -> str:
    """A ratio in percent, never rounded to a false 0 or 100 %."""
    if 0 < value < 0.001:
        return "< 0.1 %"
    if 0.999 < value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def format_span(seconds: float) -> str:
    """A time in ms or s."""
    if seconds == 0 or abs(seconds) >= 1000:
        return f"{seconds:,.0f} s"
    return f"{seconds * 1e3:.3g} ms" if abs(seconds) < 1 else f"{seconds:.4g} s"


def format_cell(value: object) -> str:
    """A cell of a figure's table, as HTML."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else show_text(str(value))
