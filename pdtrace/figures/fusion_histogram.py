"""Fusion histogram: in how many iterations did 1, 2, … all ranks prefill together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.survey import Survey, survey_run
from pdtrace.wording import name_ranks

if TYPE_CHECKING:
    from pdtrace.run import Run

TITLE = "Ranks that prefilled together"


def draw_fusion_histogram(run: Run | Survey) -> Figure:
    """Draw iterations by fusion width, with their share of iterations and of time."""
    survey = survey_run(run)
    if not len(survey):
        return build_empty(TITLE, "No iteration was rebuilt from this input.")
    if survey.run.missing_ranks:
        missing = name_ranks(survey.run.missing_ranks)
        return build_empty(TITLE, f"Not known: nothing was read of DP {missing}.")
    size = survey.dp_size
    # A width of 0 is an iteration in which no rank was seen prefilling (decode, or lines lost).
    widths = np.arange(0 if (survey.width == 0).any() else 1, size + 1)
    counts = np.bincount(survey.width, minlength=size + 1)[widths]
    seconds = np.bincount(survey.width, weights=survey.busy, minlength=size + 1)[widths]
    share = 100 * counts / len(survey)
    time_share = 100 * seconds / max(float(survey.busy.sum()), 1e-12)
    labels = [
        f"{w}<br>solo" if w == 1 < size else f"{w}<br>all ranks" if w == size else str(w)
        for w in widths
    ]
    solid = [w == size for w in widths]
    data = [
        {
            "type": "bar",
            "x": labels,
            "y": counts.tolist(),
            "text": [f"{s:.0f} %" if s >= 10 else f"{s:.1f} %" for s in share],
            "textposition": "outside",
            "cliponaxis": False,
            "customdata": [
                [int(w), round(float(t), 1), round(float(s), 2)]
                for w, t, s in zip(widths, time_share, seconds, strict=True)
            ],
            "hovertemplate": "%{customdata[0]} of " + str(size) + " ranks prefilled<br>"
            "%{y:,} iterations (%{text})<br>%{customdata[2]:,} s, %{customdata[1]} % of the time"
            "<extra></extra>",
            "marker": {
                "color": [LIGHT["prefill"] if s else LIGHT["idle"] for s in solid],
                "pattern": {
                    "shape": ["" if s else "/" for s in solid],
                    "size": 6,
                    "solidity": 0.2,
                    "fillmode": "overlay",
                    "fgcolor": LIGHT["ink"],
                    "fgopacity": 0.3,
                },
            },
        }
    ]
    layout = build_layout(
        x_title="ranks that prefilled",
        y_title="iterations",
        xaxis={"type": "category", "showgrid": False, "fixedrange": True},
        yaxis={"rangemode": "tozero", "fixedrange": True, "nticks": 5},
        margin={"t": 24},
        showlegend=False,
    )
    table = pl.DataFrame(
        {
            "ranks that prefilled": widths,
            "iterations": counts,
            "iterations (%)": np.round(share, 1),
            "time (s)": np.round(seconds, 3),
            "time (%)": np.round(time_share, 1),
        }
    )
    alt = "Iterations by number of ranks that prefilled: " + ", ".join(
        f"{w}: {c:,}" for w, c in zip(widths, counts, strict=True)
    )
    return Figure(TITLE, {"data": data, "layout": layout}, table, alt + ".")
