"""What N delay passes mean in time, on this engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.outlook import Outlook
from pdtrace.wording import seconds

SUBJECT = "whatif"
TITLE = "What N delay passes mean in time"


def draw_held_time(outlook: Outlook) -> Figure:
    """Draw how long each bound holds a request back at most, beside how long a pass takes.

    Args:
        outlook: The sweep.
    """
    outcomes = [o for o in outlook.bounds if o.bound_s > 0]
    if not outcomes:
        return build_empty(TITLE, "No bound was tried that holds anything back.")
    passes = [o.setting.max_delay_passes or 0 for o in outcomes]
    held = [1e3 * o.bound_s for o in outcomes]
    low, high = ([1e3 * o.bound_range_s[k] for o in outcomes] for k in (0, 1))
    typical = _typical_pass(outlook)
    data: list[dict[str, Any]] = [
        {
            "type": "bar", "x": [str(n) for n in passes], "y": held, "name": "held at most",
            "hovertemplate": "%{x} passes: at most %{y:.3g} ms<extra></extra>",
            "marker": {"color": LIGHT["delayed"], "pattern": {
                "shape": "-", "size": 6, "solidity": 0.25, "fillmode": "overlay",
                "fgcolor": LIGHT["paper"]}},
            "error_y": {
                "type": "data", "symmetric": False,
                "array": [b - a for a, b in zip(held, high, strict=True)],
                "arrayminus": [a - b for a, b in zip(held, low, strict=True)],
                "color": LIGHT["ink"], "thickness": 1.2, "width": 4,
            },
        },
    ]  # fmt: skip
    ends = [*low, *high, *([typical] if typical else [])]
    layout = build_layout(
        x_title="bound on delay passes, and how long that is",
        y_title="milliseconds",
        margin={"t": 26, "r": 84},
        showlegend=False,
        # The length stands under the bound: above its bar the dotted line would cross it.
        xaxis={
            "type": "category",
            "tickvals": [str(n) for n in passes],
            "ticktext": [f"{n}<br>{seconds(v / 1e3)}" for n, v in zip(passes, held, strict=True)],
            "tickangle": 0,
        },
        yaxis={
            "type": "log",
            "dtick": 1,
            "tickformat": ",~g",
            "range": [float(np.log10(min(ends) * 0.6)), float(np.log10(max(ends) * 3))],
        },
        shapes=_line_at(typical),
        annotations=_label_at(typical),
    )
    turn, first, last = (1e3 * v for v in outlook.advice.turn_s)
    note = f"A delay pass takes {turn:.3g} ms here ({first:.3g} to {last:.3g} fit the recording)."
    return Figure(
        TITLE,
        {"data": data, "layout": layout},
        pl.DataFrame(
            {
                "passes": passes,
                "held at most (ms)": np.round(held, 2),
                "low (ms)": np.round(low, 2),
                "high (ms)": np.round(high, 2),
            }
        ),
        f"{note} "
        + ", ".join(f"{n} passes: {v:.3g} ms" for n, v in zip(passes, held, strict=True))
        + ".",
        note=f"{note} N passes hold back N − 1 times that. Dotted: a recorded pass, median."
        if typical
        else note,
        height=330,
    )


def _typical_pass(outlook: Outlook) -> float:
    """Milliseconds of the median recorded pass; 0 if none is known."""
    cost = outlook.model.costs[0]
    took = np.asarray(cost.expected + cost.excess)
    took = took[np.isfinite(took) & (took > 0)]
    return float(1e3 * np.median(took)) if len(took) else 0.0


def _line_at(value: float) -> list[dict[str, Any]]:
    if not value:
        return []
    return [
        {
            "type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": value,
            "y1": value, "line": {"color": LIGHT["prefill"], "width": 2, "dash": "dot"},
        }
    ]  # fmt: skip


def _label_at(value: float) -> list[dict[str, Any]]:
    if not value:
        return []
    return [
        {
            "xref": "paper", "yref": "y", "x": 1.0, "y": float(np.log10(value)),
            "xanchor": "left", "yanchor": "middle", "align": "left", "showarrow": False,
            "text": f"a pass:<br>{seconds(value / 1e3)}", "xshift": 4,
            "font": {"size": 12, "color": LIGHT["prefill"]},
        }
    ]  # fmt: skip
