"""Sensitivity of a prediction: over the bound on delay passes, or over a turn's length."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import polars as pl

from pdtrace.errors import UsageError
from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.outlook import COLOURS, SYMBOLS, TITLES, Outlook, halves
from pdtrace.wording import seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pdtrace.delayer.outcomes import Outcome, Range

SUBJECT = "whatif"
TITLE = {
    "passes": "How the bound on delay passes changes the prediction",
    "turn": "If a delay pass takes longer or shorter than thought",
}
_MOST = 200.0  # per cent shown; beyond it a change reads off the table


def draw_sensitivity(outlook: Outlook, *, over: str = "passes") -> Figure:
    """Draw the change of latency, p99 and throughput against the delayer off, with intervals.

    Args:
        outlook: The sweep.
        over: ``passes`` moves the bound; ``turn`` keeps the setting to use and moves the length of
            a delayed scheduler turn over what the recording allows.
    """
    if over not in TITLE:
        raise UsageError(f"sensitivity: unknown over {over!r}; known: passes, turn")
    if over == "passes":
        outcomes: Sequence[Outcome] = outlook.bounds
        values = [float(o.setting.max_delay_passes or 0) for o in outcomes]
        # Side by side, however near each other: what is asked about may lie beside what is swept.
        x = [float(k) for k in range(len(values))]
        words = [f"{o.setting.max_delay_passes}<br>{seconds(o.bound_s)}" for o in outcomes]
        x_title = "bound on delay passes, and how long that holds a request back at most"
        what = "bound (passes)"
    else:
        points = outlook.advice.sensitivity
        outcomes = [p.outcome for p in points]
        x = values = [1e3 * p.turn_s for p in points]
        words = [f"{v:.3g}" for v in x]
        x_title = f"length of a delay pass (ms), at {outlook.shown.max_delay_passes} passes"
        what = "delay pass (ms)"
    if not outcomes:
        return build_empty(TITLE[over], "No setting was tried.")
    changes = {
        "latency": [o.latency for o in outcomes],
        "p99": [o.p99 for o in outcomes],
        "throughput": [o.throughput for o in outcomes],
    }
    shown = _choose_range(r for ranges in changes.values() for r in ranges)
    data = [_draw(kind, x, ranges) for kind, ranges in changes.items()]
    layout = build_layout(
        x_title=x_title,
        y_title="change against the delayer off (%)",
        margin={"t": 34, "b": 56},
        xaxis={"tickvals": x, "ticktext": words, "tickangle": 0, "zeroline": False},
        yaxis={"zerolinecolor": LIGHT["ink"], "range": shown},
        shapes=_mark_chosen(outlook, over, values),
    )
    columns: dict[str, Any] = {what: values}
    for kind, ranges in changes.items():
        for k, end in enumerate(("", ", low", ", high")):
            columns[f"{TITLES[kind]}{end} (%)"] = [round(100 * r[k], 2) for r in ranges]
    note = "Bars: nine in ten draws lie within; latency below zero and throughput above are better."
    if over == "passes":
        note += " Dotted: the setting to use." if outlook.advice.chosen is not None else ""
    else:
        note += " Dotted: the length that fits the recording; the axis spans what it allows."
    if any(100 * r[0] > shown[1] for ranges in changes.values() for r in ranges):
        note += f" Changes above {shown[1]:.0f} % are in the table."
    return Figure(
        TITLE[over],
        {"data": data, "layout": layout},
        pl.DataFrame(columns),
        f"Predicted change of latency and throughput over {len(x)} values of the {what}.",
        note=note,
        height=330,
    )


def _draw(kind: str, x: Sequence[float], ranges: Sequence[Range]) -> dict[str, Any]:
    above, below = halves(ranges, 100)
    colour = LIGHT[COLOURS[kind]]
    return {
        "type": "scatter", "mode": "lines+markers", "name": TITLES[kind], "x": list(x),
        "y": [round(100 * r[0], 3) for r in ranges],
        "customdata": [[round(100 * r[1], 1), round(100 * r[2], 1)] for r in ranges],
        "hovertemplate": "%{y:+.1f} % (%{customdata[0]:+} to %{customdata[1]:+})",
        "line": {"color": colour, "width": 2},
        "marker": {"symbol": SYMBOLS[kind], "size": 8, "color": colour},
        "error_y": {
            "type": "data", "symmetric": False, "array": above, "arrayminus": below,
            "color": colour, "thickness": 1.2, "width": 3,
        },
    }  # fmt: skip


def _choose_range(ranges: Iterable[Range]) -> list[float]:
    ends = [100 * v for r in ranges for v in r if math.isfinite(v)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    room = 0.06 * max(high - low, 1.0)
    return [max(low, -100.0) - room, min(high, _MOST) + room]


def _mark_chosen(outlook: Outlook, over: str, values: Sequence[float]) -> list[dict[str, Any]]:
    chosen = outlook.advice.chosen
    if over == "turn":
        at = 1e3 * outlook.advice.turn_s[0]
    elif chosen is not None and chosen.setting.token_usage_low_watermark is None:
        at = float(values.index(chosen.setting.max_delay_passes or 0))
    else:
        return []
    return [
        {
            "type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1,
            "line": {"color": LIGHT["ink"], "width": 1.5, "dash": "dot"},
        }
    ]  # fmt: skip
