"""Delay episodes over time: how long each wait was, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from pdtrace.delayer.ledger import Ledger, build_ledger
from pdtrace.figures.figure import LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.survey import Survey, survey_run

if TYPE_CHECKING:
    from pdtrace.run import Run

TITLE = "Delay episodes"
# How it ended → name, colour, symbol: shapes stay apart where colours do not.
MARKS = {
    "fused": ("all ranks ready", "prefill", "circle"),
    "timeout": ("wait ran out", "delayed", "x"),
    "watermark": ("low watermark", "decode", "triangle-up"),
    "open": ("recording ended", "soft", "diamond-open"),
    "unknown": ("unknown", "unknown", "square-open"),
}
COLUMNS = 600  # stretches of time in each of which only the longest wait of a kind is drawn


def draw_delay_episodes(run: Run | Survey, *, scale: str = "linear") -> Figure:
    """Draw one mark an episode: when it began, and how long prefill was withheld.

    Args:
        run: The run, or its survey.
        scale: Of the lengths, ``linear`` or ``log``.
    """
    survey = survey_run(run)
    ledger = build_ledger(survey.run)
    if ledger.reason is not None:
        return build_empty(TITLE, f"{ledger.reason[0].upper()}{ledger.reason[1:]}.")
    known = ledger.episodes.filter(pl.col("begin").is_not_null())
    if known.is_empty():
        num = ledger.episodes.height
        return build_empty(
            TITLE,
            f"{num:,} waits ran out; a log alone does not tell since when. Spans or request time "
            "stats would.",
        )
    told = known.select(
        "episode",
        ((pl.col("begin").dt.epoch("ns") - survey.origin_ns) / 1e9).round(4).alias("from (s)"),
        (pl.col("wait").dt.total_nanoseconds() / 1e6).round(2).alias("wait (ms)"),
        pl.col("ended_by").cast(pl.String).alias("how"),
        pl.col("num_delay_passes").alias("delay passes"),
        pl.col("passes_source").cast(pl.String).alias("passes"),
        pl.col("held_ranks").fill_null("–").alias("ranks withheld"),
        pl.col("num_held").alias("requests withheld"),
        pl.col("joined_ranks").fill_null("–").alias("ranks that joined"),
        (pl.col("request_seconds") * 1e3).round(2).alias("withheld in all (ms)"),
        pl.col("num_saved_forwards").alias("forwards saved (estimate)"),
        pl.col("iteration"),
    )
    drawn = _thin_out(told)
    data = [_draw_kind(drawn.filter(pl.col("how") == how), *mark) for how, mark in MARKS.items()]
    high = max(float(survey.end[-1]) if len(survey) else 0.0, float(str(told["from (s)"].max())))
    layout = build_layout(
        x_title="seconds since the first iteration",
        y_title="prefill withheld (ms)",
        xaxis={"range": [min(0.0, float(str(told["from (s)"].min()))), high]},
        yaxis={"rangemode": "tozero", "fixedrange": True, "nticks": 5, "type": scale},
    )
    names = {how: name for how, (name, _, _) in MARKS.items()}
    table = drawn.with_columns(
        pl.col("how").replace_strict(names),
        pl.when(pl.col("passes") == "limit")
        .then(pl.lit("by rule"))
        .otherwise(pl.col("passes"))
        .alias("passes"),
    ).rename({"how": "ended by", "passes": "passes are"})
    spec = {"data": [d for d in data if d["x"]], "layout": layout}
    return Figure(TITLE, spec, table, _describe(told), _remark(ledger, told, drawn), time_axis=True)


def _thin_out(told: pl.DataFrame) -> pl.DataFrame:
    """In every stretch of time the longest wait of each kind; all where they are few."""
    low, high = (float(str(v)) for v in (told["from (s)"].min(), told["from (s)"].max()))
    if told.height <= 3 * COLUMNS:
        return told
    width = max(high - low, 1e-9) / COLUMNS
    stretch = ((pl.col("from (s)") - low) / width).floor()
    longest = told.sort("wait (ms)", descending=True).group_by(stretch.alias("_"), "how").first()
    return longest.drop("_").sort("episode").select(told.columns)


def _draw_kind(mine: pl.DataFrame, name: str, colour: str, symbol: str) -> dict[str, Any]:
    shown = ("episode", "delay passes", "ranks withheld", "requests withheld", "ranks that joined")
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": mine["from (s)"].to_list(),
        "y": mine["wait (ms)"].to_list(),
        "customdata": [list(row) for row in mine.select(shown).iter_rows()],
        "hovertemplate": "episode %{customdata[0]}, at %{x:,.3f} s: %{y:,.1f} ms, "
        f"{name}<br>"
        "%{customdata[1]} delay passes; withheld: ranks %{customdata[2]} "
        "(%{customdata[3]} requests); joined: %{customdata[4]}<extra></extra>",
        "marker": {"color": LIGHT[colour], "symbol": symbol, "size": 7, "opacity": 0.85},
    }


def _describe(told: pl.DataFrame) -> str:
    parts = []
    for how, (name, _, _) in MARKS.items():
        mine = told.filter(pl.col("how") == how)["wait (ms)"]
        if len(mine):
            parts.append(f"{len(mine):,} {name} (median {float(str(mine.median())):,.1f} ms)")
    return f"{told.height:,} delay episodes: " + ", ".join(parts) + "."


def _remark(ledger: Ledger, told: pl.DataFrame, drawn: pl.DataFrame) -> str:
    t = ledger.totals
    texts = []
    if t.wait_s is not None and t.request_seconds is not None:
        texts.append(
            f"{t.wait_s:,.2f} s of waiting cost {t.request_seconds:,.2f} request-seconds"
            + (
                "."
                if t.num_saved_forwards is None
                else f" and saved an estimated {t.num_saved_forwards:,} forwards."
            )
        )
    for entry in ledger.balance:
        if entry.counted is not None and entry.rebuilt is not None and entry.unit != "s":
            texts.append(
                f"{entry.what[0].upper()}{entry.what[1:]}: {entry.rebuilt:,.0f} rebuilt, "
                f"{entry.counted:,.0f} counted."
            )
    if drawn.height < told.height:
        texts.append("Of many episodes close together the longest of each kind is drawn.")
    return " ".join(texts)
