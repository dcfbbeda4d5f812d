"""Idle share over time: how much of the ranks' time went into empty batches, and when."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.figures.figure import HATCH, LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.survey import DELAYED, IDLE, UNKNOWN, Survey, survey_run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.run import Run

TITLE = "Idle share over time"


def draw_idle_share(run: Run | Survey, *, intervals: int = 120) -> Figure:
    """Draw the share of rank-seconds in idle passes, and of time in which no pass ran.

    Args:
        run: The run, or its survey.
        intervals: Stretches of equal length that the run is cut into.
    """
    survey = survey_run(run)
    if not len(survey) or survey.end[-1] <= 0:
        return build_empty(TITLE, "No iteration with a duration: idle time cannot be told.")
    edges = np.linspace(0.0, float(survey.end[-1]), intervals + 1)
    idle = np.isin(survey.role, (IDLE, DELAYED)).sum(axis=1)
    known = (survey.role != UNKNOWN).sum(axis=1)
    idle_s = spread(survey, idle, edges)
    known_s = spread(survey, known, edges)
    pass_s = spread(survey, np.ones(len(survey)), edges)
    width = np.diff(edges)
    share = 100 * idle_s / np.where(known_s > 0, known_s, np.nan)
    # Rounded edges leave a hair of time in intervals where nothing ran.
    quiet = 100 * np.clip(1 - pass_s / width, 0, 1)
    share[quiet > 99.5] = np.nan
    middle = (edges[:-1] + edges[1:]) / 2
    text = [f"{a:,.1f}–{b:,.1f} s" for a, b in pairwise(edges.tolist())]
    hover = "%{text}<br>%{fullData.name}: %{y:.1f} %<extra></extra>"
    bars = {
        "type": "bar",
        "x": _tidy(middle),
        "text": text,
        "textposition": "none",
        "hovertemplate": hover,
        "width": round(float(width[0]), 6),
    }
    data = [
        bars
        | {
            "name": "idle (of the ranks' time in passes)",
            "y": _tidy(share),
            "marker": {
                "color": LIGHT["idle"],
                "line": {"width": 0},
                "pattern": {
                    "shape": HATCH["idle"],
                    "size": 6,
                    "solidity": 0.2,
                    "fillmode": "overlay",
                    "fgcolor": LIGHT["ink"],
                    "fgopacity": 0.3,
                },
            },
        },
        bars
        | {
            "name": "no pass running (of the time)",
            "y": _tidy(quiet),
            "yaxis": "y2",
            "marker": {"color": LIGHT["unknown"], "line": {"width": 0}},
        },
    ]
    layout = build_layout(
        x_title="seconds since the first iteration",
        y_title="",
        barmode="overlay",
        xaxis={"range": [0, float(edges[-1])], "anchor": "y2"},
        yaxis={"range": [0, 102], "ticksuffix": " %", "fixedrange": True, "nticks": 4},
    )
    layout["yaxis2"] = layout["yaxis"] | {"domain": [0, 0.22], "nticks": 3}
    layout["yaxis"] = layout["yaxis"] | {"domain": [0.34, 1]}
    table = pl.DataFrame(
        {
            "from (s)": np.round(edges[:-1], 3),
            "to (s)": np.round(edges[1:], 3),
            "idle (% of ranks' time in passes)": np.round(share, 1),
            "no pass running (% of time)": np.round(quiet, 1),
            "idle (rank-seconds)": np.round(idle_s, 3),
        }
    )
    total, all_known = float(idle_s.sum()), float(known_s.sum())
    alt = (
        f"Idle rank time by interval; {100 * total / all_known:.1f} % over the whole run."
        if all_known
        else "Idle rank time by interval."
    )
    return Figure(TITLE, {"data": data, "layout": layout}, table, alt, time_axis=True)


def spread(
    survey: Survey, weight: NDArray[np.int64] | NDArray[np.float64], edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Seconds × weight of the iterations that fall between each pair of edges."""
    seconds = survey.busy * weight
    after = np.cumsum(seconds)
    times = np.column_stack((survey.start, survey.end)).ravel()
    totals = np.column_stack((after - seconds, after)).ravel()
    return np.diff(np.interp(edges, times, totals))


def _tidy(values: NDArray[np.float64]) -> list[float | None]:
    """Plain numbers at a precision that the eye can use; NaN becomes a gap."""
    return [None if np.isnan(v) else round(float(v), 4) for v in values]
