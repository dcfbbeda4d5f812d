"""Do the sources agree: the comparisons as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.survey import Survey

if TYPE_CHECKING:
    from pdtrace.run import Run

TITLE = "Do the sources agree?"
MARKS = {"agrees": "agrees", "differs": "DIFFERS", "not_comparable": "not comparable"}
COLOURS = {"agrees": "decode", "differs": "delayed", "not_comparable": "soft"}


def draw_agreement(run: Run | Survey) -> Figure:
    """Draw the table of what two sources say of one quantity.

    Args:
        run: The run, or its survey.
    """
    rows = (run.run if isinstance(run, Survey) else run).agreement
    if rows.is_empty():
        return build_empty(TITLE, "There is but one source, or the sources were not compared.")
    verdict = rows["verdict"].cast(pl.String)

    def spell(column: str) -> list[str]:
        return ["–" if v is None else f"{v:,.0f}" for v in rows[column].to_list()]

    table = pl.DataFrame(
        {
            "what": rows["what"],
            "source a": rows["source_a"],
            "a": spell("value_a"),
            "source b": rows["source_b"],
            "b": spell("value_b"),
            "verdict": [MARKS[v] for v in verdict.to_list()],
            "reason": rows["reason"].fill_null(""),
        }
    )
    colours = [LIGHT[COLOURS[v]] for v in verdict.to_list()]
    ink = [LIGHT["ink"]] * rows.height
    is_number = [name in ("a", "b") for name in table.columns]
    cell = {"line": {"color": LIGHT["grid"]}, "fill": {"color": LIGHT["paper"]}, "height": 24}
    spec = {
        "type": "table",
        "columnwidth": [16, 14, 8, 20, 8, 9, 40],
        "header": cell
        | {
            "values": table.columns,
            "align": ["right" if n else "left" for n in is_number],
            "font": {"color": LIGHT["soft"], "size": 12},
        },
        "cells": cell
        | {
            "values": [table[name].to_list() for name in table.columns],
            "align": ["right" if n else "left" for n in is_number],
            "font": {
                "size": 12,
                "color": [colours if name == "verdict" else ink for name in table.columns],
            },
        },
    }
    layout = build_layout(x_title="", y_title="", margin={"l": 0, "r": 0, "t": 0, "b": 0})
    counts = verdict.value_counts(sort=True).iter_rows()
    said = ", ".join(f"{MARKS[v].lower()} {n}" for v, n in counts)
    alt = f"Of {rows.height} comparisons between sources: {said}."
    # A row whose text wraps.
    is_long = (
        (pl.col("reason").fill_null("").str.len_chars() > 50)
        | (pl.col("source_b").str.len_chars() > 24)
        | (pl.col("what").str.len_chars() > 24)
        | (pl.col("verdict").cast(pl.String) == "not_comparable")
    )
    long = rows.filter(is_long).height
    height = min(900, 44 + 24 * rows.height + 20 * long)
    return Figure(TITLE, {"data": [spec], "layout": layout}, table, alt, alt, height=height)
