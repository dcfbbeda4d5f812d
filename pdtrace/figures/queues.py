"""Queues and token usage over time, as the scheduler printed them with its prefill batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.survey import QUEUES, Survey, survey_run

if TYPE_CHECKING:
    from pdtrace.run import Run

TITLE = "Queues and token usage"
_LINES = {
    "num_queue_reqs": ("prefill", "solid"),
    "num_bootstrap_reqs": ("delayed", "dash"),
    "num_inflight_reqs": ("decode", "dot"),
    "token_usage": ("ink", "solid"),
}


def draw_queues(run: Run | Survey, *, intervals: int = 120) -> Figure:
    """Draw the longest queue of any rank, and the fullest KV pool, by interval.

    Args:
        run: The run, or its survey.
        intervals: Stretches of equal length that the run is cut into.
    """
    survey = survey_run(run)
    events = survey.queues
    present = [c for c in QUEUES if c in events.columns and events[c].null_count() < len(events)]
    if not present:
        return build_empty(TITLE, "The input prints no queue lengths and no token usage.")
    low, high = float(np.min(events["t"].to_numpy())), float(np.max(events["t"].to_numpy()))
    low = min(low, 0.0)
    width = max(high - low, 1e-9) / intervals
    table = (
        events.with_columns(((pl.col("t") - low) / width).floor().clip(0, intervals - 1).alias("i"))
        .group_by("i")
        .agg(pl.col(present).max())
        .sort("i")
        .select(
            (low + pl.col("i") * width).round(3).alias("from (s)"),
            (low + (pl.col("i") + 1) * width).round(3).alias("to (s)"),
            *present,
        )
    )
    middle = ((table["from (s)"] + table["to (s)"]) / 2).round(3).to_list()
    data: list[dict[str, Any]] = []
    for name in present:
        colour, dash = _LINES[name]
        usage = name == "token_usage"
        values = (table[name] * 100).round(2) if usage else table[name]
        data.append(
            {
                "type": "scatter",
                # Marks, so that one value between two gaps is seen.
                "mode": "lines+markers",
                "marker": {"size": 3, "color": LIGHT[colour]},
                "connectgaps": True,
                "x": middle,
                "y": values.to_list(),
                "name": QUEUES[name] + ("" if usage else " (requests)"),
                "yaxis": "y2" if usage else "y",
                "line": {"color": LIGHT[colour], "width": 1.6, "dash": dash, "shape": "hvh"},
                "hovertemplate": "%{x:,.1f} s<br>%{fullData.name}: %{y:,}"
                + (" %" if usage else "")
                + "<extra></extra>",
            }
        )
    both = "token_usage" in present and len(present) > 1
    layout = build_layout(
        x_title="seconds since the first iteration",
        y_title="",
        xaxis={
            "range": [0, max(high, float(survey.end[-1]) if len(survey) else 0.0)],
            "anchor": "y2" if "token_usage" in present else "y",
        },
        yaxis={
            "domain": [0.42, 1] if both else [0, 1],
            "rangemode": "tozero",
            "fixedrange": True,
            "nticks": 4,
        },
    )
    layout["yaxis2"] = layout["yaxis"] | {
        "domain": [0, 0.3] if both else [0, 1],
        "ticksuffix": " %",
        "nticks": 3,
    }
    alt = "Longest queue of any rank by interval; peaks: " + ", ".join(
        f"{QUEUES[c]} {100 * _peak(table, c):.0f} %"
        if c == "token_usage"
        else f"{QUEUES[c]} {_peak(table, c):,.0f}"
        for c in present
    )
    return Figure(
        TITLE,
        {"data": data, "layout": layout},
        table.rename({c: QUEUES[c] + " (max)" for c in present}),
        alt + ".",
        note="The largest value that any rank printed in the interval.",
        time_axis=True,
    )


def _peak(table: pl.DataFrame, column: str) -> float:
    return float(np.nanmax(table[column].cast(pl.Float64).fill_null(0).to_numpy()))
