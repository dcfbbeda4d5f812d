"""The timeline as a still: what a page's script paints for the window in view, for a whole run.

A picture has so many columns and no zoom. Where each iteration has a column or more it is drawn by
itself, otherwise columns hold shares of time, as on the page.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pdtrace.figures.figure import HATCH, LIGHT, Figure
from pdtrace.figures.survey import DECODE, DELAYED, IDLE, PREFILL, ROLE_NAMES, UNKNOWN, Survey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

ORDER = (PREFILL, DECODE, DELAYED, IDLE, UNKNOWN)  # from the bottom of a row up
# Bottom and top of a lone cell in its row: shapes stay apart where colours do not.
SPANS = {
    PREFILL: (0.0, 1.0), DECODE: (0.5, 1.0), DELAYED: (0.0, 0.6), IDLE: (0.0, 0.3),
    UNKNOWN: (0.0, 1.0),
}  # fmt: skip
ROW = 0.86  # of the distance between rows
PIXELS = 2  # to a column


def build_timeline_picture(figure: Figure, survey: Survey, *, x: str, width: int) -> Figure:
    """Build the timeline of a survey for a picture so wide.

    Args:
        figure: The timeline as a page has it.
        survey: The run.
        x: ``time`` or ``iteration``.
        width: Pixels.
    """
    if x == "iteration":
        edges = np.arange(len(survey) + 1, dtype=float)
        start, end = edges[:-1], edges[1:]
    else:
        start, end = survey.start, survey.end
    num = max(width // PIXELS, 1)
    is_whole = len(survey) <= num
    data = [
        _draw_cells(survey, start, end, role)
        if is_whole
        else _draw_shares(survey, start, end, role, num)
        for role in ORDER
        if (survey.role == role).any()
    ]
    layout = figure.spec["layout"] | {"barmode": "overlay", "showlegend": True, "bargap": 0}
    title = "seconds since the first iteration" if x == "time" else "iterations"
    low, high = min(float(start[0]), 0.0), float(end[-1])
    layout["xaxis"] = layout["xaxis"] | {"title": {"text": title}, "range": [low, high]}
    note = "White: no pass ran. "
    if not is_whole:
        note += (
            f"A column is {(high - low) / num:,.3g} {'s' if x == 'time' else 'iterations'}; "
            "heights are shares of its time, from prefill at the bottom up."
        )
    return replace(figure, spec={"data": data, "layout": layout}, note=note.strip(), levels={})


def _draw_cells(survey: Survey, start: F64, end: F64, role: int) -> dict[str, Any]:
    row, rank = np.nonzero(survey.role == role)
    low, high = SPANS[role]
    return _bars(role, start[row], end[row], rank, np.full(len(row), low), np.full(len(row), high))


def _draw_shares(survey: Survey, start: F64, end: F64, role: int, num: int) -> dict[str, Any]:
    edges = np.linspace(min(start[0], 0.0), end[-1], num + 1)
    size = edges[1] - edges[0]
    below = list(ORDER[: ORDER.index(role)])
    columns, ranks, lows, highs = [], [], [], []
    for rank in range(survey.dp_size):
        mine = survey.role[:, rank]
        low = _share(np.isin(mine, below), start, end, edges) / size
        high = low + _share(mine == role, start, end, edges) / size
        shown = np.flatnonzero(high - low > 1e-6)
        columns.append(shown)
        ranks.append(np.full(len(shown), rank))
        lows.append(low[shown])
        highs.append(high[shown])
    at = np.concatenate(columns)
    return _bars(
        role,
        edges[at],
        edges[at + 1],
        np.concatenate(ranks),
        np.concatenate(lows),
        np.concatenate(highs),
    )


def _share(chosen: NDArray[np.bool_], start: F64, end: F64, edges: F64) -> F64:
    """Length of the chosen stretches between each two neighbouring edges."""
    low, high = start[chosen], end[chosen]
    done = np.r_[0.0, np.cumsum(high - low)]
    k = np.searchsorted(low, edges, side="right")
    inside = np.zeros(len(edges))
    some = k > 0
    inside[some] = np.minimum(edges[some] - low[k[some] - 1], (high - low)[k[some] - 1])
    out: F64 = np.diff(done[np.maximum(k - 1, 0)] + inside)
    return out


def _bars(
    role: int, start: F64, end: F64, rank: NDArray[np.int64], low: F64, high: F64
) -> dict[str, Any]:
    """Bars of one role; the axis of ranks runs downwards, so they reach up from a row's foot."""
    foot = rank + (1 + ROW) / 2
    name = ROLE_NAMES[role]
    marker: dict[str, Any] = {"color": LIGHT[name], "line": {"width": 0}}
    if role == UNKNOWN:
        marker = {"color": LIGHT["paper"], "line": {"width": 1, "color": LIGHT[name]}}
    elif role == DELAYED:
        marker["pattern"] = {
            "shape": HATCH[name],
            "size": 5,
            "solidity": 0.4,
            "fgcolor": LIGHT["paper"],
            "fillmode": "overlay",
        }
    return {
        "type": "bar",
        "name": name,
        "x": ((start + end) / 2).round(5).tolist(),
        "width": (end - start).round(5).tolist(),
        "base": (foot - low * ROW).round(4).tolist(),
        "y": (-(high - low) * ROW).round(4).tolist(),
        "marker": marker,
        "hoverinfo": "skip",
    }
