"""Rank balance: how each rank's time in passes divides, and the tokens it computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pdtrace.figures.figure import HATCH, LIGHT, Figure, build_empty, build_layout, shorten_count
from pdtrace.figures.survey import ROLE_NAMES, Survey, survey_run

if TYPE_CHECKING:
    from pdtrace.run import Run

TITLE = "Time and tokens by rank"


def draw_rank_balance(run: Run | Survey) -> Figure:
    """Draw one bar a rank: its seconds in passes by role, labelled with its tokens."""
    survey = survey_run(run)
    if not len(survey):
        return build_empty(TITLE, "No iteration was rebuilt from this input.")
    ranks = [f"rank {r}" for r in range(survey.dp_size)]
    tokens = survey.tokens.sum(axis=0)
    columns: dict[str, Any] = {"rank": np.arange(survey.dp_size)}
    data: list[dict[str, Any]] = []
    whole = float(survey.busy.sum())
    for code, name in enumerate(ROLE_NAMES):
        mine = survey.role == code
        if not mine.any():
            continue
        seconds = (mine * survey.busy[:, None]).sum(axis=0)
        columns[f"{name} (s)"] = np.round(seconds, 3)
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": ranks,
                "x": np.round(seconds, 3).tolist(),
                "customdata": np.round(100 * seconds / max(whole, 1e-12), 1).tolist(),
                "hovertemplate": "%{y}: " + name + " %{x:,.2f} s, %{customdata} % of its passes"
                "<extra></extra>",
                "marker": {
                    "color": LIGHT[name],
                    "pattern": {
                        "shape": HATCH[name],
                        "size": 6,
                        "solidity": 0.2,
                        "fillmode": "overlay",
                        "fgcolor": LIGHT["ink"],
                        "fgopacity": 0.3,
                    },
                },
            }
        )
    columns["passes in prefill"] = (survey.role == 0).sum(axis=0)
    columns["prompt tokens"] = tokens
    layout = build_layout(
        x_title="seconds in passes",
        y_title="",
        barmode="stack",
        xaxis={"fixedrange": True},
        yaxis={
            "fixedrange": True,
            "autorange": "reversed",
            "showgrid": False,
            "tickmode": "array",
            "tickvals": ranks,
            "ticktext": [f"rank {r} · {shorten_count(t)} tokens" for r, t in enumerate(tokens)],
        },
    )
    alt = "Prompt tokens by rank: " + ", ".join(f"{r}: {t:,}" for r, t in enumerate(tokens)) + "."
    return Figure(
        TITLE,
        {"data": data, "layout": layout},
        pl.DataFrame(columns),
        alt,
        height=max(240, 90 + 22 * survey.dp_size),
    )
