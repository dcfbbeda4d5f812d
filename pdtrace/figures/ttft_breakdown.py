"""Time to first token by stage: the mean request, the one in the middle, and the slow one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.survey import Survey
from pdtrace.joined.breakdown import break_down

if TYPE_CHECKING:
    from pdtrace.run import Run

TITLE = "Where the time to first token went"
NOTHING = "No source says when each request was where: spans or request time stats would."
BARS = (("mean", "mean"), ("p50", "p50 request"), ("p99", "p99 request"))
# Parts in order of time: name, (stage, held by), colour, hatch. What is not listed is the rest.
PARTS = (
    ("behind a running forward", ("pickup", "waiting"), "forward", "idle", "/"),
    ("held by the delayer", ("pickup", "waiting"), "delayer", "delayed", "-"),
    ("scheduler loop", ("pickup", "waiting"), "loop", "unknown", "."),
    ("forward", ("forward",), None, "prefill", ""),
    ("KV transfer", ("transfer",), None, "decode", "x"),
)
REST = "all else"  # tokenize, dispatch, bootstrap, answer


def draw_ttft_breakdown(run: Run | Survey) -> Figure:
    """Draw one bar each for the mean, the p50 and the p99 request, cut into its parts.

    Args:
        run: The run, or its survey.
    """
    stages = (run.run if isinstance(run, Survey) else run).stages
    told = break_down(stages)
    if not told.num_requests:
        return build_empty(TITLE, NOTHING)
    rows = told.table.with_columns(pl.col("stage", "held_by").cast(pl.String))
    labels = [label for _, label in BARS]
    data: list[dict[str, Any]] = []
    left = rows
    for name, of, held, colour, hatch in PARTS:
        mine = pl.col("stage").is_in(of) & pl.col("held_by").eq_missing(pl.lit(held, pl.String))
        data.append(_bar(name, rows.filter(mine), labels, colour, hatch))
        left = left.filter(~mine)
    data.append(_bar(REST, left, labels, "soft", "\\"))
    # A part that no request had would only lengthen the legend.
    data = [trace for trace in data if any(trace["x"])]
    layout = build_layout(
        x_title="milliseconds",
        y_title="",
        barmode="stack",
        legend={"traceorder": "normal"},
        xaxis={"fixedrange": True, "rangemode": "tozero"},
        yaxis={"fixedrange": True, "autorange": "reversed", "showgrid": False},
    )
    table = rows.select(
        "stage",
        pl.col("held_by").fill_null("–").alias("held by"),
        *((pl.col(f"{q}_s") * 1e3).round(3).alias(f"{label} (ms)") for q, label in BARS),
        (pl.col("share") * 100).round(1).alias("share of the mean (%)"),
    )
    alt = (
        f"Time to first token: mean {1e3 * (told.mean_s or 0):,.0f} ms, p50 "
        f"{1e3 * (told.p50_s or 0):,.0f} ms, p99 {1e3 * (told.p99_s or 0):,.0f} ms; "
        f"{100 * (told.delay_ratio or 0):.1f} % held by the delayer."
    )
    note = (
        f"Of {told.num_requests:,} finished requests. The p50 and p99 bars are one request each, "
        "so their parts need not look like the mean's. All else: tokenize, dispatch, bootstrap, "
        "answer."
    )
    return Figure(TITLE, {"data": data, "layout": layout}, table, alt, note, height=250)


def _bar(
    name: str, rows: pl.DataFrame, labels: list[str], colour: str, hatch: str
) -> dict[str, Any]:
    sums = [round(1e3 * float(rows[f"{q}_s"].sum()), 3) for q, _ in BARS]
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": labels,
        "x": sums,
        "hovertemplate": "%{y}: " + name + " %{x:,.1f} ms<extra></extra>",
        "marker": {
            "color": LIGHT[colour],
            "pattern": {
                "shape": hatch,
                "size": 6,
                "solidity": 0.2,
                "fillmode": "overlay",
                "fgcolor": LIGHT["ink"],
                "fgopacity": 0.3,
            },
        },
    }
