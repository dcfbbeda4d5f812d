"""Latency by kind of request: an overall gain may be the loss of some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.labels import show_label
from pdtrace.figures.pair import COLOURS, SIGNS, Pair
from pdtrace.wording import change, plural, seconds

if TYPE_CHECKING:
    from pdtrace.compare.verdicts import Compared

SUBJECT = "comparison"
TITLE = "Latency by kind of request"
_ROW = 25


def draw_phases(pair: Pair) -> Figure:
    """Draw the mean latency of each kind of request in both runs, with the interval of its change.

    Args:
        pair: The two runs.
    """
    rows = [(n, r) for n, r in pair.result.phases if r.baseline and r.candidate]
    if not rows:
        return build_empty(
            TITLE, "Request ids tell no kinds here, or the requests of the runs have no partner."
        )
    names = [show_label(name or "(no name)", most=24) for name, _ in rows]
    scale = 1e3
    y = list(range(len(rows)))
    before = [scale * (r.baseline or 0) for _, r in rows]
    after = [scale * (r.candidate or 0) for _, r in rows]
    colours = [LIGHT[COLOURS[r.verdict]] for _, r in rows]
    hover = [
        f"{name}: {seconds(r.baseline)} → {seconds(r.candidate)} ({change(r.change_ratio)})<br>"
        f"{r.n[0]:,} requests in {plural(r.num_blocks, 'independent block')} – {r.verdict}"
        for name, (_, r) in zip(names, rows, strict=True)
    ]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False,
            "x": [v for a, b in zip(before, after, strict=True) for v in (a, b, None)],
            "y": [v for k in y for v in (k, k, None)],
            "line": {"color": LIGHT["soft"], "width": 1},
        },
        {
            "type": "scatter", "mode": "markers", "name": "baseline", "x": before, "y": y,
            "text": hover, "hovertemplate": "%{text}<extra></extra>",
            "marker": {
                "size": 10, "symbol": "circle-open", "color": LIGHT["soft"], "line": {"width": 2},
            },
        },
        {
            "type": "scatter", "mode": "markers", "name": "candidate, 95 % interval", "x": after,
            "y": y, "text": hover, "hovertemplate": "%{text}<extra></extra>",
            "marker": {"size": 9, "color": LIGHT["prefill"]},
            "error_x": {
                "type": "data", "symmetric": False, "thickness": 2.5, "width": 0,
                "color": LIGHT["prefill"],
                "array": [_half(r, 1) for _, r in rows],
                "arrayminus": [_half(r, 0) for _, r in rows],
            },
        },
    ]  # fmt: skip
    notes = [
        {
            "xref": "paper", "yref": "y", "x": 1, "y": k, "xanchor": "left", "xshift": 10,
            "showarrow": False, "font": {"size": 12, "color": colour},
            "text": f"{SIGNS[r.verdict]} {change(r.change_ratio)}",
        }
        for k, ((_, r), colour) in enumerate(zip(rows, colours, strict=True))
    ]  # fmt: skip
    layout = build_layout(
        x_title=f"{rows[0][1].quantity.title} (ms)",
        y_title="",
        margin={"l": 100, "r": 86, "t": 26, "b": 40},
        xaxis={"rangemode": "tozero", "fixedrange": True},
        yaxis={
            "range": [len(rows) - 0.4, -0.6],
            "fixedrange": True,
            "tickvals": y,
            "ticktext": names,
            "zeroline": False,
        },
        annotations=notes,
    )
    table = pl.DataFrame(
        [
            {
                "kind": name,
                "requests": r.n[0],
                "baseline (ms)": round(scale * (r.baseline or 0), 1),
                "candidate (ms)": round(scale * (r.candidate or 0), 1),
                "change (%)": _percent(r.change_ratio),
                "low (%)": _percent(r.low),
                "high (%)": _percent(r.high),
                "verdict": r.verdict,
                "note": r.note,
            }
            for name, r in rows
        ],
        infer_schema_length=None,
    )
    told = ", ".join(f"{n} {change(r.change_ratio)}" for n, (_, r) in zip(names, rows, strict=True))
    return Figure(
        TITLE,
        {"data": data, "layout": layout},
        table,
        f"Change of {rows[0][1].quantity.title} by kind of request: {told}.",
        note=(
            "The kind is the first part of the request id. ? means too few independent stretches "
            "for a verdict; of many kinds some differ by chance."
        ),
        height=76 + _ROW * len(rows),
    )


def _half(row: Compared, end: int) -> float:
    bound = row.high if end else row.low
    if bound is None or row.change_ratio is None or row.baseline is None:
        return 0.0
    return 1e3 * row.baseline * abs(bound - row.change_ratio)


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)
