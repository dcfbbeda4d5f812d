"""The head of a page: what was recorded, the verdict, the warnings."""

from __future__ import annotations

import datetime as dt
import html
from typing import TYPE_CHECKING

from pdtrace.figures.survey import PREFILL, ROLE_NAMES, Survey
from pdtrace.pages.numbers import format_ratio, format_span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.run import Run

_MAX_WARNINGS = 50


def render_facts(run: Run, survey: Survey) -> str:
    """What was recorded, in a line: engine, role, ranks, time, delayer."""
    engine = run.engine
    low, high = engine.release_min, engine.release_max
    release = low or high
    if low and high and low != high:
        release = f"{low}–{high}"
    facts = [f"{engine.engine} {release}" if release else engine.engine]
    if engine.role and engine.role != "null":
        facts.append(f"{engine.role} engine")
    facts.append(f"{run.dp_size} DP ranks")
    if engine.model_path:
        facts.append(engine.model_path)
    if len(survey):
        begin = dt.datetime.fromtimestamp(survey.origin_ns / 1e9, dt.UTC)
        facts.append(f"from {begin:%Y-%m-%d %H:%M:%S} UTC, {format_span(float(survey.end[-1]))}")
    facts.append(f"iterations by {run.grouping}")
    delayer = engine.delayer
    if delayer.enabled is not None:
        words = "delayer on" if delayer.enabled else "delayer off"
        if delayer.enabled and delayer.max_delay_passes is not None:
            words += f", at most {delayer.max_delay_passes} passes"
        if delayer.enabled and delayer.token_usage_low_watermark is not None:
            words += f", watermark {delayer.token_usage_low_watermark}"
        facts.append(words)
    return "".join(f"<span>{html.escape(f)}</span>" for f in facts)


def state_shares(survey: Survey) -> list[str]:
    """What the iterations alone say, where no verdict was given."""
    if not len(survey):
        return ["No iteration was rebuilt from this input."]
    known = survey.role != ROLE_NAMES.index("unknown")
    idle = (known & (survey.role != PREFILL) & (survey.role != 1)).sum()
    full = (survey.width == survey.dp_size).mean()
    share = idle / max(int(known.sum()), 1)
    return [
        f"{format_ratio(float(share))} of the rank passes were idle; in "
        f"{format_ratio(float(full))} of {len(survey):,} iterations every rank prefilled."
    ]


def render_warnings(warnings: Sequence[str]) -> str:
    """The warnings of reading, folded away."""
    if not warnings:
        return ""
    items = "".join(f"<li>{html.escape(w)}</li>" for w in warnings[:_MAX_WARNINGS])
    if len(warnings) > _MAX_WARNINGS:
        items += f"<li>and {len(warnings) - _MAX_WARNINGS:,} more</li>"
    one = "1 warning" if len(warnings) == 1 else f"{len(warnings):,} warnings"
    return f"<details class=warnings><summary>{one}</summary><ul>{items}</ul></details>\n"
