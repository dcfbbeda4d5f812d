"""One metric over many runs, in order of size."""

from __future__ import annotations

from typing import Any

import polars as pl

from pdtrace.errors import UsageError
from pdtrace.figures.figure import HATCH, LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.fleet import Fleet
from pdtrace.figures.labels import show_label
from pdtrace.registry import describe_unknown
from pdtrace.untrusted import show
from pdtrace.wording import in_unit

SUBJECT = "fleet"
_ROW = 24


def draw_fleet_metric(
    fleet: Fleet, *, metric: str = "idle_rank_pass_ratio", most: int = 40
) -> Figure:
    """Draw one bar a run, the largest first.

    Args:
        fleet: The runs.
        metric: Name of a metric, as ``analyze --json`` gives it.
        most: Runs to draw; the table holds all of them.
    """
    known = list(dict.fromkeys(name for row in fleet.read for name in row.metrics))
    if known and metric not in known:
        raise UsageError(f"fleet_metric: {describe_unknown('metric', metric, known)}")
    title = metric.removesuffix("_ratio").replace("_", " ")
    title = title[:1].upper() + title[1:]
    unit = fleet.find_unit(metric)
    found = sorted(fleet.values(metric), key=lambda pair: -pair[1])
    if not found:
        return build_empty(title, "No run tells it.")
    shown = found[: max(most, 1)]
    scale = 100 if unit == "ratio" else 1
    kind = "idle" if metric.startswith("idle_") else "prefill"
    data: list[dict[str, Any]] = [
        {
            "type": "bar", "orientation": "h", "y": list(range(len(shown))),
            "x": [scale * v for _, v in shown],
            "text": [in_unit(v, unit) for _, v in shown], "textposition": "outside",
            "cliponaxis": False, "textfont": {"color": LIGHT["ink"], "size": 12},
            "hovertext": [show_label(r.name, most=80) for r, _ in shown],
            "hovertemplate": "%{hovertext}: %{text}<extra></extra>",
            "marker": {
                "color": LIGHT[kind],
                "pattern": {
                    "shape": HATCH[kind], "size": 6, "solidity": 0.2, "fillmode": "overlay",
                    "fgcolor": LIGHT["ink"], "fgopacity": 0.3,
                },
            },
        }
    ]  # fmt: skip
    layout = build_layout(
        x_title={"ratio": "%", "count": ""}.get(unit, unit),
        y_title="",
        showlegend=False,
        margin={"r": 70},
        xaxis={"rangemode": "tozero", "fixedrange": True},
        yaxis={
            "fixedrange": True,
            "showgrid": False,
            "range": [len(shown) - 0.4, -0.6],
            "tickvals": list(range(len(shown))),
            "ticktext": [show_label(fleet.label(r), most=34) for r, _ in shown],
        },
    )
    silent = len(fleet.rows) - len(found)
    notes = []
    if len(shown) < len(found):
        notes.append(f"The {len(shown)} largest of {len(found):,}.")
    if silent:
        notes.append(f"{silent:,} of {len(fleet.rows):,} runs do not tell it.")
    return Figure(
        title,
        {"data": data, "layout": layout},
        pl.DataFrame(
            {"run": [show(r.name) for r, _ in found], f"{metric} ({unit})": [v for _, v in found]}
        ),
        f"{title} of {len(shown):,} runs: from {in_unit(found[0][1], unit)} to "
        f"{in_unit(found[-1][1], unit)}.",
        note=" ".join(notes),
        height=64 + _ROW * len(shown),
    )
