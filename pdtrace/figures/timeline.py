"""Rank × iteration timeline: what every DP rank ran, pass by pass.

The figure is a raster that the page's script fills for the window in view, from packed arrays: one
cell an iteration × rank where the window is short enough, otherwise columns of shares. So neither
the size of the page nor a redraw grows without bound with the length of the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pdtrace.errors import UsageError
from pdtrace.figures.cells import describe_levels, list_roles, pack_cells
from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.survey import PREFILL, Survey, survey_run

if TYPE_CHECKING:
    from pdtrace.run import Run

TITLE = "What each rank ran"
# The page may take 8 MB; plotly.js, the other tiles and the scripts take 2.3 of them.
MAX_LEVEL_KB = 5_600
_MAX_TABLE_ROWS = 120
# Pixels: of all ranks together where each can have enough, of one rank, of a rank's name.
_ROOM = 560
_LOWEST, _HIGHEST = 9, 34
_LABEL = 13


def draw_timeline(
    run: Run | Survey, *, x: str = "time", row_height: int = 0, max_kb: int = MAX_LEVEL_KB
) -> Figure:
    """Draw the timeline.

    Args:
        run: The run, or its survey.
        x: ``time`` or ``iteration``: the axis shown first; the page can switch.
        row_height: Pixels a rank takes; 0: what leaves all ranks in view.
        max_kb: Kilobytes of the page that the run may take; what does not fit is kept in blocks.
    """
    if x not in ("time", "iteration"):
        raise UsageError(f"timeline: unknown x {x!r}; known: time, iteration")
    survey = survey_run(run)
    if not len(survey):
        return build_empty(TITLE, "No iteration was rebuilt from this input.")
    ranks = survey.dp_size
    row_height = row_height or min(max(_ROOM // ranks, _LOWEST), _HIGHEST)
    levels = pack_cells(survey, max_kb * 1000) | {"x": x, "rowHeight": row_height}
    levels["roles"] = list_roles(survey)
    step = -(-_LABEL // row_height)
    layout = build_layout(
        x_title="",
        y_title="",
        margin={"l": 62, "r": 12, "t": 6, "b": 40},
        yaxis={
            "automargin": False,
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
            "range": [ranks, 0],
            "tickmode": "array",
            "tickvals": [r + 0.5 for r in range(0, ranks, step)],
            "ticktext": [f"rank {r}" for r in range(0, ranks, step)],
        },
        xaxis={"automargin": False, "showgrid": False, "zeroline": False},
        showlegend=False,
    )
    labels = {
        "type": "scatter",
        "mode": "text",
        "x": [],
        "y": [],
        "text": [],
        "hoverinfo": "skip",
        "textfont": {"size": 11, "color": LIGHT["paper"]},
    }
    return Figure(
        TITLE,
        {"data": [labels], "layout": layout},
        _tabulate(survey),
        f"Timeline of {len(survey):,} iterations on {ranks} ranks; the table below gives the share "
        "of each rank's time by interval.",
        note=(
            "Drag to zoom, double-click to see all. Where one column holds several iterations, "
            "heights are shares of time. " + describe_levels(levels)
        ),
        height=52 + row_height * ranks,
        levels=levels,
        time_axis=True,
    )


def _tabulate(survey: Survey) -> pl.DataFrame:
    """Share of each rank's time in prefill, by interval of iterations."""
    n = len(survey)
    size = -(-n // _MAX_TABLE_ROWS)
    first = np.arange(0, n, size)
    last = np.minimum(first + size, n) - 1
    busy = survey.busy
    whole = np.add.reduceat(busy, first)
    columns: dict[str, Any] = {
        "first iteration": survey.iteration[first],
        "last iteration": survey.iteration[last],
        "start (s)": np.round(survey.start[first], 3),
        "passes (s)": np.round(whole, 3),
    }
    for rank in range(survey.dp_size):
        seconds = np.add.reduceat((survey.role[:, rank] == PREFILL) * busy, first)
        share = 100 * seconds / np.where(whole > 0, whole, np.nan)
        columns[f"rank {rank} prefill (%)"] = np.round(share, 1)
    return pl.DataFrame(columns)
