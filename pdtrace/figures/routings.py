"""Routings: what the same arrivals would give under other assignments to ranks."""

from __future__ import annotations

from typing import Any

import polars as pl

from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.outlook import TITLES, Outlook, halves, name_bound

SUBJECT = "whatif"
TITLE = "The same arrivals, routed otherwise"
_ROW = 44


def draw_routings(outlook: Outlook) -> Figure:
    """Draw the change of mean latency by routing, with the delayer off and on.

    Args:
        outlook: The sweep.
    """
    routings = outlook.advice.routings
    if not routings:
        return build_empty(TITLE, "No routing was tried.")
    on = f"delayer on, {name_bound(routings[0].on)} passes"
    data: list[dict[str, Any]] = []
    rows = (
        ("delayer off", [r.off for r in routings], "unknown", "circle-open", -0.13),
        (on, [r.on for r in routings], "prefill", "circle", 0.13),
    )
    for name, outcomes, colour, symbol, shift in rows:
        above, below = halves([o.latency for o in outcomes], 100)
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": name,
                "x": [round(100 * o.latency[0], 2) for o in outcomes],
                "y": [k + shift for k in range(len(outcomes))],
                "hovertemplate": "%{x:+.1f} %<extra>" + name + "</extra>",
                "marker": {
                    "symbol": symbol, "size": 10, "color": LIGHT[colour],
                    "line": {"width": 2, "color": LIGHT[colour]},
                },
                "error_x": {
                    "type": "data", "symmetric": False, "array": above, "arrayminus": below,
                    "color": LIGHT[colour], "thickness": 2, "width": 0,
                },
            }
        )  # fmt: skip
    layout = build_layout(
        x_title=f"change of {TITLES['latency']} (%)  –  left is better",
        y_title="",
        margin={"t": 34},
        xaxis={"zerolinecolor": LIGHT["ink"]},
        yaxis={
            "range": [len(routings) - 0.5, -0.5],
            "zeroline": False,
            "tickvals": list(range(len(routings))),
            "ticktext": [r.title for r in routings],
        },
    )
    columns = [
        {
            "routing": r.title,
            "what it does": r.meaning,
            "--load-balance-method": r.method,
            **{
                f"{name}: {what} (%)": round(100 * getattr(o, field)[0], 2)
                for name, o in (("off", r.off), ("on", r.on))
                for what, field in (("mean latency", "latency"), ("tok per busy s", "throughput"))
            },
        }
        for r in routings
    ]
    methods = ", ".join(f"{r.title} ({r.method})" for r in routings if r.method)
    return Figure(
        TITLE,
        {"data": data, "layout": layout},
        pl.DataFrame(columns, infer_schema_length=None),
        "Predicted change of mean latency by routing, with the delayer off and on.",
        note=(
            "Against the recorded assignment with the delayer off; bars: nine in ten draws. "
            f"--load-balance-method: {methods}."
        ),
        height=90 + _ROW * len(routings),
    )
