"""Published results of delaying prefill, beside what this comparison found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from pdtrace.compare.published import LATENCY, THROUGHPUT, read_published
from pdtrace.figures.figure import LIGHT, Figure, build_layout
from pdtrace.figures.pair import COLOURS, SYMBOLS, Pair
from pdtrace.wording import change

if TYPE_CHECKING:
    from pdtrace.compare.verdicts import Compared

SUBJECT = "comparison"
TITLE = "Beside what others published"
_ROW = 26
# The first that was measured stands for this comparison.
OURS = {
    LATENCY: ("group_makespan_mean_s", "request_latency_mean_s", "ttft_mean_s"),
    THROUGHPUT: ("served_throughput_tok_s", "prefill_throughput_tok_s"),
}


@dataclass(frozen=True)
class Row:
    """A line of the figure: a heading, a published change, or this comparison's."""

    label: str
    low: float | None = None
    high: float | None = None
    mine: Compared | None = None


def draw_published(pair: Pair) -> Figure:
    """Draw the change that each source reports, and this comparison's between them.

    Args:
        pair: The two runs.
    """
    rows: list[Row] = []
    for of, names in OURS.items():
        rows.append(Row(f"<i>{of}, {'left' if of == LATENCY else 'right'} is better</i>"))
        rows += [Row(p.source.split(",")[0], p.low, p.high) for p in read_published() if p.of == of]
        mine = _find_ours(pair, names)
        if mine is not None and mine.change_ratio is not None:
            low = mine.change_ratio if mine.low is None else mine.low
            high = mine.change_ratio if mine.high is None else mine.high
            rows.append(Row("<b>these runs</b>", low, high, mine))
    layout = build_layout(
        x_title="change (%)",
        y_title="",
        showlegend=False,
        xaxis={"fixedrange": True, "zerolinecolor": LIGHT["soft"]},
        yaxis={
            "range": [len(rows) - 0.4, -0.6],
            "fixedrange": True,
            "zeroline": False,
            "tickvals": list(range(len(rows))),
            "ticktext": [r.label for r in rows],
        },
    )
    table = pl.DataFrame(
        [
            {
                "source": p.source, "setting": p.setting, "of": p.of,
                "change, low (%)": 100 * p.low, "change, high (%)": 100 * p.high, "note": p.note,
            }
            for p in read_published()
        ]
    )  # fmt: skip
    return Figure(
        TITLE,
        {"data": [t for y, r in enumerate(rows) for t in _draw_row(r, y)], "layout": layout},
        table,
        "Published changes of latency and throughput from delaying prefill, and those found here.",
        note=(
            "Other hardware, models and loads: a reference band, no target. These runs: "
            + (" and ".join(r.mine.quantity.title for r in rows if r.mine) or "nothing to show")
            + "."
        ),
        height=60 + _ROW * len(rows),
    )


def _find_ours(pair: Pair, names: tuple[str, ...]) -> Compared | None:
    if not pair.result.is_comparable:
        return None
    rows = (pair.result.get(n) for n in names)
    return next((r for r in rows if r.verdict != "unmeasured"), None)


def _draw_row(row: Row, y: int) -> list[dict[str, Any]]:
    if row.low is None or row.high is None:
        return []
    mine = row.mine
    colour = LIGHT["soft"] if mine is None else LIGHT[COLOURS[mine.verdict]]
    text = change(row.low) if row.low == row.high else f"{change(row.low)} to {change(row.high)}"
    if mine is not None:
        text = f"{mine.quantity.title} {change(mine.change_ratio)} ({text})"
    hover = f"{row.label}: {text}<extra></extra>"
    ends: dict[str, Any] = {
        "type": "scatter", "mode": "lines+markers" if mine is None else "lines",
        "x": [100 * row.low, 100 * row.high], "y": [y, y], "hovertemplate": hover,
        "line": {"color": colour, "width": 3},
        "marker": {
            "symbol": "line-ns-open", "size": 11, "color": colour, "line": {"width": 3},
        },
    }  # fmt: skip
    if mine is None or mine.change_ratio is None:
        return [ends]
    point = {
        "type": "scatter", "mode": "markers", "x": [100 * mine.change_ratio], "y": [y],
        "hovertemplate": hover,
        "marker": {
            "symbol": SYMBOLS[mine.verdict], "size": 12, "color": colour,
            "line": {"width": 2, "color": colour},
        },
    }  # fmt: skip
    return [ends, point]
