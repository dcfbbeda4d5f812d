"""Gain and cost: how much each metric changed between two runs, with its interval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import polars as pl

from pdtrace.compare.published import LATENCY, THROUGHPUT, find_band
from pdtrace.compare.quantities import QUANTITIES
from pdtrace.compare.verdicts import FLOOR
from pdtrace.errors import UsageError
from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.pair import COLOURS, SIGNS, SYMBOLS, Pair
from pdtrace.registry import describe_unknown
from pdtrace.wording import change, in_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.compare.verdicts import Compared

SUBJECT = "comparison"
TITLE = "Gain, and what it costs"
# One of each kind: what users feel, what the engine does, what it costs.
SHOWN = (
    "group_makespan_mean_s",
    "request_latency_mean_s",
    "request_latency_p99_s",
    "served_throughput_tok_s",
    "prefill_throughput_tok_s",
    "idle_rank_time_ratio",
    "num_iterations",
    "fusion_width_mean",
    "num_unfinished_requests",
    "num_delay_passes",
    "delay_seconds_total",
)
# What stands in for a metric that was not measured.
INSTEAD = {"request_latency_mean_s": "ttft_mean_s", "request_latency_p99_s": "ttft_p99_s"}
NAMES = {
    "served_throughput_tok_s": "prompt tokens per second with a request in flight",
    "prefill_throughput_tok_s": "prompt tokens per busy second",
}
_ROW = 27
_MOST = 4.0  # times better or worse at the ends of the axis, at most
_LEAST = 1.6
_TICKS = (1.25, 1.5, 2.0, 3.0, 4.0)
_APART = 0.2  # of half the axis: what a tick's words take on a narrow page


def draw_gain(pair: Pair, *, metrics: tuple[str, ...] = SHOWN) -> Figure:
    """Draw one row a metric: its change on an axis where right is better, with its interval.

    Args:
        pair: The two runs.
        metrics: Names of compared metrics, from the top; what was not measured is left out.
    """
    names = [q.name for q in QUANTITIES]
    for name in metrics:
        if name not in names:
            raise UsageError(f"gain: {describe_unknown('metric', name, names)}")
    if not pair.result.is_comparable:
        return build_empty(TITLE, "The runs cannot be compared; the reasons stand above.")
    rows = [pair.result.get(n) for n in metrics]
    rows = [
        pair.result.get(INSTEAD[r.quantity.name])
        if r.verdict == "unmeasured" and r.quantity.name in INSTEAD
        else r
        for r in rows
    ]
    # A cost that is only known of the whole runs is told all the same, without a verdict.
    rows = [r for r in rows if r.verdict != "unmeasured" or _is_raw(r)]
    if not rows:
        return build_empty(TITLE, "Nothing was measured in both runs.")
    rows.sort(key=lambda r: r.quantity.is_cost)
    reach = _find_reach(rows)
    end = math.log2(reach)
    shapes = [_box(-_factor(FLOOR), _factor(FLOOR), -0.6, len(rows) - 0.4, "cell")]
    data: list[dict[str, Any]] = []
    for y, row in enumerate(rows):
        band = _find_published(row)
        if band is not None:
            low, high = (max(-end, min(end, v)) for v in band)
            shapes.append(_box(low, high, y - 0.36, y + 0.36, "grid"))
        data += _draw_row(row, y, end)
    costs = sum(r.quantity.is_cost for r in rows)
    if 0 < costs < len(rows):
        edge = len(rows) - costs - 0.5
        shapes.append(
            {
                "type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": edge,
                "y1": edge, "line": {"color": LIGHT["soft"], "width": 1, "dash": "dot"},
            }
        )  # fmt: skip
    ticks = _choose_ticks(reach)
    layout = build_layout(
        x_title="← worse   (factor against the baseline)   better →",
        y_title="",
        showlegend=False,
        margin={"l": 320, "r": 372, "t": 26, "b": 44},
        xaxis={
            "range": [-end, end],
            "fixedrange": True,
            "tickvals": [*(-math.log2(t) for t in reversed(ticks)), 0, *map(math.log2, ticks)],
            "ticktext": [
                *(f"{t:g}×" for t in reversed(ticks)),
                "same",
                *(f"{t:g}×" for t in ticks),
            ],
            "tickangle": 0,
            "zerolinecolor": LIGHT["soft"],
            "automargin": False,
        },
        yaxis={
            "range": [len(rows) - 0.4, -0.6],
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
            "automargin": False,
            "tickvals": list(range(len(rows))),
            "ticktext": [("cost: " if r.quantity.is_cost else "") + _name(r) for r in rows],
            "tickfont": {"color": LIGHT["ink"], "size": 12},
        },
        shapes=shapes,
        annotations=[*_head_columns(), *(a for y, r in enumerate(rows) for a in _tell(r, y))],
    )
    parts = [f"{_name(r)} {change(r.change_ratio)}, {r.verdict}" for r in rows]
    return Figure(
        TITLE,
        {"data": data, "layout": layout},
        _tabulate(pair.result.rows),
        f"Change of each metric with its 95 % interval: {'; '.join(parts)}.",
        note=(
            "Line: 95 % interval. ▲ better, ▼ worse: all of it lies beyond the narrow band, "
            f"± {FLOOR * 100:.0f} %, by which repeats of one setting differ; ■ the same; ○ could "
            "be chance. Wide bands: what others published for delaying prefill, on other hardware."
        ),
        height=70 + _ROW * len(rows) + 18,
        least_width=980,
    )


def _is_raw(row: Compared) -> bool:
    return row.verdict == "unmeasured" and row.quantity.is_cost and bool(row.raw[1])


def _name(row: Compared) -> str:
    return NAMES.get(row.quantity.name, row.quantity.title)


def _factor(ratio: float) -> float:
    return math.log2(1 + ratio) if ratio > -1 else -math.inf


def _place(ratio: float, row: Compared) -> float:
    """Octaves towards better."""
    octaves = _factor(ratio)
    return octaves if row.quantity.better == "higher" else -octaves


def _find_reach(rows: Sequence[Compared]) -> float:
    ends = [
        2 ** abs(p)
        for r in rows
        for v in (r.change_ratio, r.low, r.high)
        if v is not None and math.isfinite(p := _place(v, r))
    ]
    return min(_MOST, max(_LEAST, *ends, 1) * 1.08)


def _choose_ticks(reach: float) -> list[float]:
    """Ticks whose words do not run into each other, nor into the middle's."""
    chosen: list[float] = []
    least = _APART * math.log2(reach)
    for tick in _TICKS:
        if math.log2(tick / (chosen[-1] if chosen else 1)) >= least and tick <= reach:
            chosen.append(tick)
    return chosen


def _find_published(row: Compared) -> tuple[float, float] | None:
    name = row.quantity.name
    if name in ("request_latency_mean_s", "group_makespan_mean_s"):
        band = find_band(LATENCY)
    elif name in ("served_throughput_tok_s", "prefill_throughput_tok_s"):
        band = find_band(THROUGHPUT)
    else:
        return None
    low, high = sorted(_place(v, row) for v in band)
    return (low - 0.02, high + 0.02) if high - low < 0.04 else (low, high)


def _box(x0: float, x1: float, y0: float, y1: float, colour: str) -> dict[str, Any]:
    return {
        "type": "rect", "xref": "x", "yref": "y", "x0": x0, "x1": x1, "y0": y0, "y1": y1,
        "fillcolor": LIGHT[colour], "line": {"width": 0}, "layer": "below",
    }  # fmt: skip


def _draw_row(row: Compared, y: int, end: float) -> list[dict[str, Any]]:
    if _is_raw(row):
        return []
    colour = LIGHT[COLOURS[row.verdict]]
    hover = (
        f"{_name(row)}: {_values(row)}, {change(row.change_ratio)} – {row.verdict}"
        + (f"<br>{row.note}" if row.note else "")
        + "<extra></extra>"
    )
    out: list[dict[str, Any]] = []
    if row.low is not None and row.high is not None:
        low, high = sorted(max(-end, min(end, _place(v, row))) for v in (row.low, row.high))
        out.append(
            {
                "type": "scatter", "mode": "lines", "x": [low, high], "y": [y, y],
                "line": {"color": colour, "width": 3}, "hovertemplate": hover,
            }
        )  # fmt: skip
    if row.change_ratio is None:
        # From none to some: no factor, so an arrow at the end of the axis.
        place = end if row.verdict == "better" else -end
    else:
        place = _place(row.change_ratio, row)
    symbol = SYMBOLS[row.verdict]
    if abs(place) >= end:
        place = math.copysign(end, place)
        symbol = "arrow-right" if place > 0 else "arrow-left"
    out.append(
        {
            "type": "scatter", "mode": "markers", "x": [place], "y": [y], "cliponaxis": False,
            "marker": {
                "color": colour, "size": 11, "symbol": symbol,
                "line": {"width": 2, "color": colour},
            },
            "hovertemplate": hover,
        }
    )  # fmt: skip
    return out


def _values(row: Compared) -> str:
    unit = row.quantity.unit
    if _is_raw(row):
        return " → ".join(in_unit(v, unit) for v in row.raw)
    suffix = " tok/s" if unit == "tok/s" else ""
    return f"{in_unit(row.baseline, unit)} → {in_unit(row.candidate, unit)}{suffix}"


def _note(x: float, y: float, text: str, **extra: object) -> dict[str, Any]:
    return {
        "xref": "paper", "yref": "y", "x": x, "y": y, "text": text, "showarrow": False,
        "xanchor": "left", "align": "left", "font": {"size": 12, "color": LIGHT["ink"]}, **extra,
    }  # fmt: skip


def _tell(row: Compared, y: int) -> list[dict[str, Any]]:
    is_known = row.change_ratio is not None and (row.baseline or row.candidate)
    told = f"{SIGNS[row.verdict]} {change(row.change_ratio) if is_known else row.verdict}"
    if _is_raw(row):
        told = "– of the whole runs"
    if is_known and row.low is not None and row.high is not None:
        told += f"  ({change(row.low)} to {change(row.high)})"
    font = {"size": 12, "color": LIGHT[COLOURS[row.verdict]]}
    return [
        _note(1.0, y, _values(row), xshift=14),
        _note(1.0, y, told, xshift=184, font=font),
    ]


def _head_columns() -> list[dict[str, Any]]:
    font = {"size": 11, "color": LIGHT["soft"]}
    return [
        _note(1.0, 1.0, text, yref="paper", yanchor="bottom", xshift=shift, yshift=2, font=font)
        for shift, text in ((14, "baseline → candidate"), (184, "change (95 % interval)"))
    ]


def _tabulate(rows: Sequence[Compared]) -> pl.DataFrame:
    def percent(value: float | None) -> float | None:
        return None if value is None else round(100 * value, 2)

    return pl.DataFrame(
        [
            {
                "metric": r.quantity.title,
                "unit": r.quantity.unit,
                "baseline": r.baseline,
                "candidate": r.candidate,
                "change (%)": percent(r.change_ratio),
                "low (%)": percent(r.low),
                "high (%)": percent(r.high),
                "verdict": r.verdict,
                "baseline, stalls included": r.raw[0],
                "candidate, stalls included": r.raw[1],
                "note": r.note,
            }
            for r in rows
        ],
        infer_schema_length=None,
    )
