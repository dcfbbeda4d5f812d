"""Durations by fusion width: what a pass costs when more ranks share it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout, shorten_count
from pdtrace.figures.survey import Survey, survey_run
from pdtrace.wording import name_ranks

if TYPE_CHECKING:
    from pdtrace.run import Run

TITLE = "Pass duration by ranks that prefilled"
Axis = dict[str, Any]
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def draw_durations(run: Run | Survey, *, scale: str = "log") -> Figure:
    """Draw boxes of the duration by fusion width, from quantiles and not from points.

    Args:
        run: The run, or its survey.
        scale: ``log`` or ``linear``: the axis of durations.
    """
    survey = survey_run(run)
    if survey.run.missing_ranks:
        missing = name_ranks(survey.run.missing_ranks)
        return build_empty(TITLE, f"By width not known: nothing was read of DP {missing}.")
    timed = survey.duration > 0
    if not timed.any():
        return build_empty(TITLE, "No iteration has a duration in this input.")
    rows = []
    for width in np.unique(survey.width[timed]):
        mine = timed & (survey.width == width)
        low, q1, median, q3, high = np.quantile(survey.duration[mine], _QUANTILES) * 1e3
        busiest = float(np.median(survey.tokens[mine].max(axis=1)))
        rows.append((int(width), int(mine.sum()), low, q1, median, q3, high, busiest))
    table = pl.DataFrame(
        rows,
        schema=[
            "ranks that prefilled",
            "iterations",
            "p5 (ms)",
            "p25 (ms)",
            "median (ms)",
            "p75 (ms)",
            "p95 (ms)",
            "busiest rank, median (tokens)",
        ],
        orient="row",
    ).with_columns(pl.selectors.float().round(1))
    data = [
        {
            "type": "box",
            "x": [str(r[0]) for r in rows],
            "lowerfence": table["p5 (ms)"].to_list(),
            "q1": table["p25 (ms)"].to_list(),
            "median": table["median (ms)"].to_list(),
            "q3": table["p75 (ms)"].to_list(),
            "upperfence": table["p95 (ms)"].to_list(),
            "hoverinfo": "y",
            "line": {"color": LIGHT["prefill"], "width": 1.5},
            "fillcolor": "rgba(86,180,233,0.25)",
            "whiskerwidth": 0.5,
        }
    ]
    layout = build_layout(
        x_title="ranks that prefilled; number of iterations",
        y_title="duration",
        xaxis={
            "type": "category",
            "showgrid": False,
            "fixedrange": True,
            "tickmode": "array",
            "tickvals": [str(r[0]) for r in rows],
            "ticktext": [f"{r[0]}<br>{shorten_count(r[1])}" for r in rows],
            "tickangle": 0,
        },
        yaxis={
            "type": scale,
            "ticksuffix": "" if scale == "log" else " ms",
            "fixedrange": True,
            "title": None,
            "hoverformat": ",.1f",
            **(_mark_log_axis(rows) if scale == "log" else {}),
        },
        showlegend=False,
    )
    alt = "Median pass duration by ranks that prefilled: " + ", ".join(
        f"{r[0]}: {r[4]:,.0f} ms" for r in rows
    )
    note = "Box: middle half with the median; whiskers: 5 % and 95 %."
    return Figure(TITLE, {"data": data, "layout": layout}, table, alt + ".", note=note)


def _mark_log_axis(rows: list[tuple[int, int, float, float, float, float, float, float]]) -> Axis:
    """Ticks at 1, 2, 5, 10, … ms with their unit: Plotly's own drop the leading digits."""
    low, high = min(r[2] for r in rows) / 1.2, max(r[6] for r in rows) * 1.2
    marks = [m * 10.0**e for e in range(-3, 8) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    return {
        "tickmode": "array",
        "tickvals": marks,
        "ticktext": [f"{m:,g} ms" if m < 1000 else f"{m / 1000:,g} s" for m in marks],
        "range": [float(np.log10(low)), float(np.log10(high))],
    }
