"""Why ranks idled: idle rank passes and their time by cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from pdtrace.figures.figure import HATCH, LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.survey import Survey
from pdtrace.joined.breakdown import count_causes
from pdtrace.wording import plural

if TYPE_CHECKING:
    from pdtrace.run import Run

TITLE = "Why ranks idled"
NAMES = {
    "nothing_arrived": "nothing arrived",
    "arrived_while_running": "arrived while others ran",
    "arrived_after_selection": "arrived after selection",
    "in_bootstrap": "in bootstrap",
    "not_selected": "queued, not selected",
    "held_by_delayer": "held by the delayer",
    "other_rank_mid_chunk": "other rank mid-chunk",
    "unknown": "unknown",
}
COLOURS = {"held_by_delayer": "delayed", "unknown": "unknown"}


def spell_cause(cause: str, detail: str | None) -> str:
    """A cause in words; beside another rank's chunk the detail is of the second order."""
    name = cause if cause == "other_rank_mid_chunk" else detail or cause
    return NAMES.get(name, name.replace("_", " "))


def draw_idle_causes(run: Run | Survey) -> Figure:
    """Draw one bar a cause: the ranks' time it cost, labelled with its idle passes.

    Where no duration is known, the bars are the passes.

    Args:
        run: The run, or its survey.
    """
    causes = count_causes(run.run if isinstance(run, Survey) else run)
    if causes.is_empty():
        return build_empty(TITLE, "No rank idled, or it is not known.")
    cause, detail = pl.col("cause").cast(pl.String), pl.col("cause_detail").cast(pl.String)
    spelt = [
        spell_cause(c, d) for c, d in causes.select(cause, detail.alias("cause_detail")).iter_rows()
    ]
    rows = (
        causes.with_columns(pl.Series("name", spelt, pl.String), cause.alias("cause"))
        .group_by("name", maintain_order=True)
        .agg(pl.col("cause").first(), pl.col("num_passes", "seconds", "share").sum())
    )
    is_timed = bool(rows["seconds"].sum())
    amount = "seconds" if is_timed else "num_passes"
    rows = rows.sort(amount, descending=True, maintain_order=True)
    names = rows["name"].to_list()
    kinds = [COLOURS.get(c, "idle") for c in rows["cause"].to_list()]
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "y": names,
            "x": rows[amount].round(3).to_list(),
            "text": [plural(n, "pass") for n in rows["num_passes"].to_list()],
            "customdata": [round(100 * s, 1) for s in rows["share"].to_list()],
            # Beside the bar, where its hatch cannot make it hard to read.
            "textposition": "outside",
            "cliponaxis": False,
            "textfont": {"color": LIGHT["ink"], "size": 12},
            "hovertemplate": "%{y}: "
            + ("%{x:,.3f} s of the ranks' time, " if is_timed else "")
            + "%{text} idle, %{customdata} % of them<extra></extra>",
            "marker": {
                "color": [LIGHT[k] for k in kinds],
                "pattern": {
                    "shape": [HATCH[k] for k in kinds],
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
        x_title="idle rank time (rank-seconds)" if is_timed else "idle rank passes",
        y_title="",
        showlegend=False,
        margin={"r": 90},
        xaxis={"fixedrange": True, "rangemode": "tozero"},
        yaxis={"fixedrange": True, "autorange": "reversed", "showgrid": False},
    )
    table = causes.select(
        cause.str.replace_all("_", " "),
        detail.str.replace_all("_", " ").fill_null("–").alias("detail"),
        pl.col("num_passes").alias("idle rank passes"),
        (pl.col("share") * 100).round(1).alias("share (%)"),
        pl.col("seconds").round(3).alias("rank time (s)"),
    )
    parts = zip(names, rows["share"].to_list(), strict=True)
    alt = "Idle rank passes by cause: " + ", ".join(f"{n} {100 * s:.0f} %" for n, s in parts) + "."
    note = (
        "Arrived while others ran: no request of the rank was there at the selection, but one came "
        "before the iteration ended; a wait of that length would have run them together."
    )
    height = max(200, 90 + 26 * len(names))
    return Figure(TITLE, {"data": data, "layout": layout}, table, alt, note, height=height)
