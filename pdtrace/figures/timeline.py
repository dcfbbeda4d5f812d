"""Rank × iteration timeline: what every DP rank ran, pass by pass.

The figure is a raster that the page's script fills for the window in view, from packed arrays: one
cell an iteration × rank where a run is small enough, otherwise blocks of iterations. So neither the
size of the page nor a redraw grows with the length of the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pdtrace.errors import UsageError
from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.packing import count_chars, pack_array
from pdtrace.figures.survey import (
    DECODE,
    DELAYED,
    PREFILL,
    ROLE_NAMES,
    UNKNOWN,
    Survey,
    survey_run,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.run import Run

TITLE = "What each rank ran"
# The page may take 8 MB and plotly.js takes 4.8 of them.
MAX_LEVEL_CHARS = 2_600_000
_MAX_CELLS = 1_600_000
_MAX_TABLE_ROWS = 120


def draw_timeline(run: Run | Survey, *, x: str = "time", row_height: int = 34) -> Figure:
    """Draw the timeline.

    Args:
        run: The run, or its survey.
        x: ``time`` or ``iteration``: the axis shown first; the page can switch.
        row_height: Pixels a rank takes.
    """
    if x not in ("time", "iteration"):
        raise UsageError(f"timeline: unknown x {x!r}; known: time, iteration")
    survey = survey_run(run)
    if not len(survey):
        return build_empty(TITLE, "No iteration was rebuilt from this input.")
    size = 1
    while survey.role.size > _MAX_CELLS * size:
        size *= 2
    levels = pack_levels(survey, size)
    while count_chars(levels) > MAX_LEVEL_CHARS:
        size *= 2
        levels = pack_levels(survey, size)
    levels["x"] = x
    levels["rowHeight"] = row_height
    seen = np.bincount(survey.role.ravel(), minlength=len(ROLE_NAMES)) > 0
    seen[DELAYED] |= bool(survey.delay_passes.any())
    levels["roles"] = [name for name, there in zip(ROLE_NAMES, seen, strict=True) if there]
    ranks = survey.dp_size
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
            "tickvals": [r + 0.5 for r in range(ranks)],
            "ticktext": [f"rank {r}" for r in range(ranks)],
        },
        xaxis={"showgrid": False, "zeroline": False},
        showlegend=False,
    )
    trace = {
        "type": "heatmap",
        "x": [],
        "y": [],
        "z": [],
        # Clear: the script paints the cells as an image under it, and this answers the pointer.
        "colorscale": [[0, "rgba(0,0,0,0)"], [1, "rgba(0,0,0,0)"]],
        "showscale": False,
        "hoverongaps": False,
        "hovertemplate": "%{text}<extra></extra>",
    }
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
        {"data": [trace, labels], "layout": layout},
        _tabulate(survey),
        f"Timeline of {len(survey):,} iterations on {ranks} ranks; the table below gives the share "
        "of each rank's time by interval.",
        note=(
            "Drag to zoom, double-click to see all. Where one column holds several iterations, "
            "heights are shares of time."
            + ("" if size == 1 else f" At this length the finest block is {size} iterations.")
        ),
        height=52 + row_height * ranks,
        levels=levels,
        time_axis=True,
    )


def pack_levels(survey: Survey, size: int) -> dict[str, Any]:
    """Pack the arrays that the script draws from, ``size`` iterations to a block.

    With ``size`` 1 a block is an iteration, and roles are exact; otherwise a block holds, for each
    rank, the share of its passes and of its time by role, its tokens and its first line.
    """
    n, ranks = survey.role.shape
    first = np.arange(0, n, size)
    last = np.minimum(first + size, n) - 1
    lines = _first_lines(survey, first)
    levels: dict[str, Any] = {
        "size": size,
        "blocks": len(first),
        "iterations": n,
        "ranks": ranks,
        "origin": survey.origin_ns / 1e6,
        "files": [f.path for f in survey.run.files],
        "t0": pack_array(np.rint(survey.start[first] * 1e5), delta=True),
        "t1": pack_array(np.rint((survey.end[last] - survey.start[first]) * 1e5)),
        "delays": pack_array(np.add.reduceat(survey.delay_passes, first)),
        "confidence": pack_array(np.floor(np.minimum.reduceat(survey.confidence, first) * 100)),
        "tokens": pack_array(np.add.reduceat(survey.tokens, first, axis=0).T),
        "line": pack_array(_fill_forward(lines).T, delta=True),
        "has_line": pack_array((lines > 0).T),
    }
    if (survey.iteration != np.arange(n)).any():
        levels["number"] = pack_array(survey.iteration[first] - np.arange(n)[first], delta=True)
    if (survey.forward_iter >= 0).any():
        levels["forward"] = pack_array(
            survey.forward_iter[first] - survey.iteration[first], delta=True
        )
    if len(survey.run.files) > 1:
        levels["source"] = pack_array(survey.source[first].T)
    if size == 1:
        levels["role"] = pack_array(survey.role.T)
        levels["observed"] = pack_array(survey.observed.T)
        return levels
    busy = survey.busy
    whole = np.add.reduceat(busy, first)
    levels["busy"] = pack_array(np.rint(whole * 1e5))
    for code in (PREFILL, DECODE, DELAYED, UNKNOWN):
        mine = survey.role == code
        if mine.any():
            seconds = np.add.reduceat(mine * busy[:, None], first, axis=0)
            share = seconds / np.where(whole > 0, whole, 1)[:, None]
            levels[f"time{code}"] = pack_array(np.rint(share.T * 250))
            counts = np.add.reduceat(mine.astype(np.int64), first, axis=0)
            levels[f"count{code}"] = pack_array(counts.T)
    return levels


def _first_lines(survey: Survey, first: NDArray[np.int64]) -> NDArray[np.int64]:
    """First line of each block × rank; 0 where it has none."""
    big = np.iinfo(np.int64).max
    lines = np.minimum.reduceat(np.where(survey.line > 0, survey.line, big), first, axis=0)
    return np.where(lines == big, 0, lines)


def _fill_forward(lines: NDArray[np.int64]) -> NDArray[np.int64]:
    """Repeat the line above where there is none, so that differences stay small."""
    at = np.where(lines > 0, np.arange(len(lines))[:, None], 0)
    filled: NDArray[np.int64] = np.take_along_axis(lines, np.maximum.accumulate(at, axis=0), axis=0)
    return filled


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
