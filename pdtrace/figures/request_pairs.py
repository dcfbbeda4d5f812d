"""Each request in both runs: who gains, and who pays for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.labels import show_label
from pdtrace.figures.pair import Pair
from pdtrace.wording import percent, seconds

SUBJECT = "comparison"
TITLE = "Latency of each request in both runs"
_MOST_POINTS = 3000
_MOST_ROWS = 200
_LATER = 0.05


def draw_request_pairs(pair: Pair) -> Figure:
    """Draw one point a request: its latency in the baseline against that in the candidate.

    Args:
        pair: The two runs.
    """
    took = [1e3 * (pair.times(s, "end") - pair.times(s, "begin")) for s in (0, 1)]
    ok = np.isfinite(took[0]) & np.isfinite(took[1]) & (took[0] > 0) & (took[1] > 0)
    ok &= ~pair.is_touched
    rows = np.flatnonzero(ok)
    if not len(rows):
        return build_empty(TITLE, "No request of one run has its partner in the other.")
    before, after = took[0][rows], took[1][rows]
    kinds = (
        ("later", "answered over 5 % later", after > before * (1 + _LATER), "delayed", "x"),
        ("earlier", "over 5 % earlier", after < before * (1 - _LATER), "decode", "circle"),
        ("the same", "within 5 %", np.abs(after / before - 1) <= _LATER, "soft", "circle-open"),
    )
    drawn = np.zeros(len(rows), bool)
    drawn[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_POINTS)).astype(int)] = True
    low, high = 0.9 * min(before.min(), after.min()), 1.1 * max(before.max(), after.max())
    data: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "lines", "x": [low, high], "y": [low, high],
            "hoverinfo": "skip", "showlegend": False,
            "line": {"color": LIGHT["soft"], "width": 1, "dash": "dot"},
        }
    ]  # fmt: skip
    counts = {}
    for _, name, mask, colour, symbol in kinds:
        counts[name] = int(mask.sum())
        shown = np.flatnonzero(mask & drawn)
        data.append(
            {
                "type": "scatter", "mode": "markers",
                "name": f"{counts[name]:,} {name}",
                "x": before[shown].round(2).tolist(), "y": after[shown].round(2).tolist(),
                "text": [show_label(pair.requests[0].rid[rows[i]]) for i in shown],
                "hovertemplate": "%{text}: %{x:,.0f} → %{y:,.0f} ms<extra></extra>",
                "marker": {"color": LIGHT[colour], "symbol": symbol, "size": 6, "opacity": 0.7},
            }
        )  # fmt: skip
    ticks = [t for t in _ticks() if low <= t <= high]
    axis = {
        "type": "log", "range": [float(np.log10(low)), float(np.log10(high))],
        "tickvals": ticks, "ticktext": [f"{t:,.0f}" for t in ticks],
    }  # fmt: skip
    layout = build_layout(
        x_title="latency in the baseline (ms)",
        y_title="in the candidate (ms)",
        margin={"t": 30, "l": 64},
        xaxis=axis,
        yaxis=axis,
    )
    worst = np.argsort(-np.abs(np.log(after / before)), kind="stable")[:_MOST_ROWS]
    table = pl.DataFrame(
        {
            "request": [pair.requests[0].rid[rows[i]] for i in worst],
            "prompt (tokens)": pair.requests[0].tokens[rows[worst]],
            "baseline (ms)": before[worst].round(1),
            "candidate (ms)": after[worst].round(1),
            "change (%)": (100 * (after / before - 1))[worst].round(1),
        }
    )
    told = ", ".join(f"{n:,} {name}" for name, n in counts.items())
    note = (
        "Below the line: faster in the candidate. Requests that a stall touched are left out. "
        "The table holds those that changed most."
    )
    if len(rows) > _MOST_POINTS:
        note += f" Drawn: {_MOST_POINTS:,} of {len(rows):,}, evenly over the run."
    later = counts["answered over 5 % later"] / len(rows)
    return Figure(
        TITLE,
        {"data": data, "layout": layout},
        table,
        f"Of {len(rows):,} requests: {told}; {percent(later)} pay. The largest change is from "
        f"{seconds(before[worst[0]] / 1e3)} to {seconds(after[worst[0]] / 1e3)}.",
        note=note,
        height=340,
    )


def _ticks() -> list[float]:
    return [m * 10.0**e for e in range(-3, 8) for m in (1, 2, 5)]
