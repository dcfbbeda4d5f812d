"""The front of a sweep: what each setting is predicted to give, throughput against p99."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from pdtrace.errors import UsageError
from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.outlook import (
    Outlook,
    describe_range,
    halves,
    is_known,
    name_bound,
    span_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.delayer.outcomes import Outcome

SUBJECT = "whatif"
TITLE = "What each setting gives: throughput against waiting"
_LOG_FROM = 5.0  # times the smallest p99 from which the axis is logarithmic


def draw_front(outlook: Outlook, *, intervals: str = "marked") -> Figure:
    """Draw one point a setting: tokens per busy second against the p99 time to first token.

    Args:
        outlook: The sweep.
        intervals: ``marked`` draws those of the delayer off, of the setting to choose and of those
            asked about; ``all`` those of every setting; ``none`` none.
    """
    if intervals not in ("marked", "all", "none"):
        raise UsageError(f"front: unknown intervals {intervals!r}; known: marked, all, none")
    advice = outlook.advice
    every = [
        o for o in (advice.off, *advice.outcomes) if is_known(o.ttft_p99_s, o.throughput_tok_s)
    ]
    if not every:
        return build_empty(TITLE, "The replay gave no time to first token.")
    marked = [o for o in every if o is advice.off or o is advice.chosen or outlook.is_asked(o)]
    plain = [o for o in outlook.bounds if o in every]
    forced = [o for o in every if o.setting.token_usage_low_watermark is not None]
    front = sorted((o for o in every if o.on_front), key=lambda o: o.ttft_p99_s[0])
    is_log = span_of(o.ttft_p99_s[0] for o in every) > _LOG_FROM
    drawn = {"marked": marked, "all": every, "none": []}[intervals]
    data = [_intervals(drawn)] if drawn else []
    if len(front) > 1:
        data.append(_line(front))
    if forced:
        name = "with a low watermark"
        data.append(_points(forced, name, "diamond-open", "unknown", size=8))
    data.append(_points(plain, "bound on delay passes", "circle", "prefill", size=10, label=True))
    data.append(_points([advice.off], "delayer off", "square", "ink", size=13, label=True))
    asked = [o for o in every if outlook.is_asked(o)]
    if asked:
        data.append(_points(asked, "asked about", "circle-open", "ink", size=18))
    if advice.chosen is not None and advice.chosen in every:
        data.append(_points([advice.chosen], "to use", "star", "delayed", size=20))
    measured = _measured(outlook)
    if measured is not None:
        data.append(measured)
    layout = build_layout(
        x_title="p99 time to first token (ms)  –  left is better",
        y_title="prompt tokens per busy second  –  up is better",
        margin={"t": 34, "l": 70, "r": 24},
        xaxis=_log_axis(every) if is_log else {},
        yaxis={"tickformat": ",d"},
    )
    named = ", ".join(name_bound(o) for o in front)
    return Figure(
        TITLE,
        {"data": data, "layout": layout},
        _tabulate([advice.off, *advice.outcomes], advice.chosen),
        f"Predicted throughput against p99 time to first token of {len(every)} settings; on the "
        f"front: {named or 'none'}.",
        note=(
            "Numbers: the bound on delay passes. Line: the front – no other setting has both more "
            "throughput and a lower p99. Bars: nine in ten runs are expected within, "
            "host drift included."
        ),
        height=400,
    )


def _log_axis(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    values = [1e3 * v for o in outcomes for v in o.ttft_p99_s if v > 0]
    ticks = [m * 10.0**e for e in range(-2, 8) for m in (1, 2, 5)]
    ticks = [t for t in ticks if 0.5 * min(values) <= t <= 2 * max(values)]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{t:,.6g}" for t in ticks]}


def _hover(o: Outcome) -> str:
    return (
        f"<b>{name_bound(o)}</b>"
        f"<br>p99 TTFT {describe_range(o.ttft_p99_s, 'ms', 1e3, 0)}"
        f"<br>{describe_range(o.throughput_tok_s, 'tok/s', 1, 0)}"
        f"<br>mean latency {describe_range(o.request_latency_mean_s, 'ms', 1e3, 0)}"
    )


def _points(
    outcomes: Sequence[Outcome],
    name: str,
    symbol: str,
    colour: str,
    *,
    size: int,
    label: bool = False,
) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "scatter", "mode": "markers+text" if label else "markers", "name": name,
        "x": [1e3 * o.ttft_p99_s[0] for o in outcomes],
        "y": [o.throughput_tok_s[0] for o in outcomes],
        "hovertext": [_hover(o) for o in outcomes],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "cliponaxis": False,
        "marker": {
            "symbol": symbol, "size": size, "color": LIGHT[colour],
            "line": {"width": 2 if symbol.endswith("open") else 1,
                     "color": LIGHT[colour if symbol.endswith("open") else "paper"]},
        },
    }  # fmt: skip
    if label:
        trace["text"] = [name_bound(o) for o in outcomes]
        trace["textposition"] = "bottom right"
        trace["textfont"] = {"size": 12, "color": LIGHT["ink"]}
    return trace


def _intervals(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    above, below = halves([o.ttft_p99_s for o in outcomes], 1e3)
    up, down = halves([o.throughput_tok_s for o in outcomes])
    bar = {"type": "data", "symmetric": False, "thickness": 1.2, "width": 0, "color": LIGHT["soft"]}
    return {
        "type": "scatter", "mode": "markers", "name": "interval", "showlegend": False,
        "x": [1e3 * o.ttft_p99_s[0] for o in outcomes],
        "y": [o.throughput_tok_s[0] for o in outcomes], "hoverinfo": "skip",
        "marker": {"size": 1, "color": LIGHT["soft"]},
        "error_x": bar | {"array": above, "arrayminus": below},
        "error_y": bar | {"array": up, "arrayminus": down},
    }  # fmt: skip


def _line(front: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "name": "front", "hoverinfo": "skip",
        "x": [1e3 * o.ttft_p99_s[0] for o in front], "y": [o.throughput_tok_s[0] for o in front],
        "line": {"color": LIGHT["prefill"], "width": 2},
    }  # fmt: skip


def _measured(outlook: Outlook) -> dict[str, Any] | None:
    measured = outlook.advice.measured
    x, y = measured.get("ttft_p99_s"), measured.get("prefill_throughput_tok_s")
    if x is None or y is None:
        return None
    return {
        "type": "scatter", "mode": "markers", "name": "as recorded", "x": [1e3 * x], "y": [y],
        "hovertemplate": "as recorded: %{x:,.0f} ms, %{y:,.0f} tok/s<extra></extra>",
        "marker": {
            "symbol": "x-thin-open", "size": 12, "color": LIGHT["ink"], "line": {"width": 2},
        },
    }  # fmt: skip


def _tabulate(outcomes: Sequence[Outcome], chosen: Outcome | None) -> pl.DataFrame:
    def scaled(values: tuple[float, float, float], scale: float, what: str) -> dict[str, float]:
        names = (what, f"{what}, low", f"{what}, high")
        return {n: round(scale * v, 1) for n, v in zip(names, values, strict=True)}

    return pl.DataFrame(
        [
            {
                "passes": o.setting.max_delay_passes,
                "watermark": o.setting.token_usage_low_watermark,
                "marks": ", ".join(
                    word
                    for word, is_so in (
                        ("to use", o is chosen),
                        ("on the front", o.on_front),
                        ("near its bound", o.is_bistable),
                        ("does nothing", o.does_nothing),
                    )
                    if is_so
                ),
                "held at most (ms)": round(1e3 * o.bound_s, 1),
                **scaled(o.ttft_p99_s, 1e3, "p99 TTFT (ms)"),
                **scaled(o.throughput_tok_s, 1, "tok per busy s"),
                **scaled(o.latency, 100, "mean latency, change (%)"),
                "iterations": round(o.num_iterations),
                "delay passes": round(o.num_delay_passes),
            }
            for o in outcomes
        ],
        infer_schema_length=None,
    )
