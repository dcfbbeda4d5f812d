"""Fusion widths of two runs: in which share of iterations 1, 2, … ranks prefilled together."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from pdtrace.figures.figure import HATCH, LIGHT, Figure, build_empty, build_layout, shorten_count
from pdtrace.figures.pair import NAMES, Pair
from pdtrace.wording import name_ranks

SUBJECT = "comparison"
TITLE = "Ranks that prefilled together"
_MOST_LABELLED = 8
COLOURS = {"baseline": "unknown", "candidate": "prefill"}


def draw_fusion_widths(pair: Pair) -> Figure:
    """Draw the share of iterations by number of ranks that prefilled, in both runs.

    Args:
        pair: The two runs.
    """
    for name, survey in zip(NAMES, pair.surveys, strict=True):
        if survey.run.missing_ranks:
            missing = name_ranks(survey.run.missing_ranks)
            return build_empty(TITLE, f"Not known: nothing was read of the {name}'s DP {missing}.")
    widths = [s.width[s.width > 0] for s in pair.surveys]
    if not any(len(w) for w in widths):
        return build_empty(TITLE, "No iteration was rebuilt from either run.")
    size = max(s.dp_size for s in pair.surveys)
    columns: dict[str, Any] = {"ranks that prefilled": list(range(1, size + 1))}
    data: list[dict[str, Any]] = []
    for name, width in zip(NAMES, widths, strict=True):
        counts = np.bincount(width, minlength=size + 1)[1:]
        shares = 100 * counts / max(len(width), 1)
        columns |= {f"{name} (iterations)": counts, f"{name} (%)": np.round(shares, 1)}
        data.append(
            {
                "type": "bar", "name": f"{name}, {len(width):,} iterations",
                "x": [str(k) for k in range(1, size + 1)], "y": shares.round(2).tolist(),
                # Beside many ranks there is no room for numbers that can be read.
                "text": [
                    f"{s:.0f} %" if c and size <= _MOST_LABELLED else ""
                    for s, c in zip(shares, counts, strict=True)
                ],
                "textfont": {"size": 11}, "constraintext": "none",
                "customdata": [shorten_count(int(c)) for c in counts],
                "textposition": "outside", "cliponaxis": False, "textangle": 0,
                "hovertemplate": "%{x} ranks: %{y:.1f} %, %{customdata} iterations"
                f"<extra>{name}</extra>",
                "marker": {
                    "color": LIGHT[COLOURS[name]],
                    "pattern": {
                        "shape": HATCH["idle"] if name == "baseline" else "", "size": 6,
                        "solidity": 0.2, "fillmode": "overlay", "fgcolor": LIGHT["paper"],
                    },
                },
            }
        )  # fmt: skip
    layout = build_layout(
        x_title="ranks that prefilled in an iteration",
        y_title="iterations (%)",
        barmode="group",
        margin={"t": 34},
        xaxis={"type": "category", "fixedrange": True},
        yaxis={"rangemode": "tozero", "fixedrange": True},
    )
    means = [float(w.mean()) if len(w) else float("nan") for w in widths]
    return Figure(
        TITLE,
        {"data": data, "layout": layout},
        pl.DataFrame(columns),
        f"Fusion widths: on average {means[0]:.2f} ranks in the baseline, {means[1]:.2f} in the "
        "candidate.",
        note="Bars further right: more ranks share one pass, and fewer sit idle beside it.",
        height=300,
    )
