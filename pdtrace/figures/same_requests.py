"""The same requests in both runs, pass by pass: what a comparison's numbers come from."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pdtrace.errors import UsageError
from pdtrace.figures.figure import (
    HATCH,
    LIGHT,
    Figure,
    build_empty,
    build_layout,
    shorten_count,
)
from pdtrace.figures.labels import show_label
from pdtrace.figures.pair import NAMES, Pair
from pdtrace.figures.survey import ROLE_NAMES
from pdtrace.registry import describe_unknown
from pdtrace.wording import seconds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.compare.matching import F64

SUBJECT = "comparison"
TITLE = "The same requests in both runs"
_MOST_RANKS = 16
_MOST_LISTED = 4
_ROW = 30
_MARGIN = 0.06  # of the time shown, before and after
_ROOM = 0.07  # of it that a label takes
_NOWHERE = -1  # the row of requests whose rank nothing tells


def draw_same_requests(pair: Pair, *, phase: str = "") -> Figure:
    """Draw the passes that served one group of requests, in the baseline and in the candidate.

    Of the groups that no stall touched, the one is taken whose latency changed as it did in the
    middle: neither the best example nor the worst. A group of several requests is preferred to
    one alone, because only then is there something to fuse.

    Args:
        pair: The two runs.
        phase: Kind of request, as the first part of the request id says it; any if empty.
    """
    if phase and phase not in pair.phases:
        known = [show_label(p) for p in dict.fromkeys(pair.phases)]
        raise UsageError(f"same_requests: {describe_unknown('phase', phase, known)}")
    chosen = _choose(pair, phase)
    if chosen is None:
        return build_empty(
            TITLE, "No request of one run has its partner in the other, with both latencies."
        )
    names = [show_label(pair.requests[0].rid[i], most=24) for i in chosen]
    begins = [float(np.nanmin(pair.times(s, "begin")[chosen])) for s in (0, 1)]
    took = [float(np.nanmax(pair.times(s, "end")[chosen])) - begins[s] for s in (0, 1)]
    longest = max(took)
    window = (-_MARGIN * longest, (1 + _MARGIN) * longest)
    ranks = [_choose_ranks(pair, s, chosen) for s in (0, 1)]
    rows = [(s, r) for s in (0, 1) for r in ranks[s]]
    if not rows:
        return build_empty(TITLE, "Nothing tells which passes served the requests.")
    place = {row: y + (0.9 if row[0] else 0.0) for y, row in enumerate(rows)}
    bars: list[dict[str, Any]] = []
    for s in (0, 1):
        bars += _find_passes(pair, s, ranks[s], begins[s], window)
    data = _draw_passes(bars, place)
    data.append(_label_passes(bars, place, _ROOM * (window[1] - window[0])))
    data += _draw_requests(pair, chosen, begins, place, names)
    # In the note's HTML, which is escaped as a whole, labels would be escaped twice.
    shown = ", ".join(html.unescape(name) for name in names[:_MOST_LISTED])
    if len(names) > _MOST_LISTED:
        shown += f" and {len(names) - _MOST_LISTED} more"
    kind = "1 request" if len(chosen) == 1 else f"{len(chosen)} requests sent together"
    layout = build_layout(
        x_title="milliseconds since the first of them was sent",
        y_title="",
        barmode="overlay",
        margin={"l": 86, "r": 16, "t": 30, "b": 42},
        xaxis={"range": [1e3 * window[0], 1e3 * window[1]], "zeroline": False},
        yaxis={
            "range": [max(place.values()) + 0.6, -1.0],
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
            "tickvals": [place[row] for row in rows],
            "ticktext": ["rank unknown" if r == _NOWHERE else f"rank {r}" for _, r in rows],
        },
        annotations=[
            {
                "xref": "paper", "x": 0, "y": place[s, ranks[s][0]] - 0.5, "yanchor": "bottom",
                "xanchor": "left", "showarrow": False, "font": {"size": 12, "color": LIGHT["ink"]},
                "text": f"<b>{name}</b> – all answered after {seconds(took[s])}",
            }
            for s, name in enumerate(NAMES)
        ],
        shapes=[
            {
                "type": "line", "x0": 1e3 * took[s], "x1": 1e3 * took[s], "yref": "y",
                "y0": place[s, ranks[s][0]] - 0.45, "y1": place[s, ranks[s][-1]] + 0.45,
                "line": {"color": LIGHT["ink"], "width": 2, "dash": "dot"},
            }
            for s in (0, 1)
        ],
    )  # fmt: skip
    hidden = max(s.dp_size for s in pair.surveys) - _MOST_RANKS
    more = f" Not drawn: {hidden} more ranks." if hidden > 0 else ""
    return Figure(
        TITLE,
        {"data": data, "layout": layout},
        _tabulate(pair, bars, chosen),
        f"{kind} ({shown}): {seconds(took[0])} in the baseline, {seconds(took[1])} in the "
        "candidate, with the passes that ran meanwhile.",
        note=(
            f"{kind}: {shown}. ▽ sent, ◆ answered (dotted: the last). A typical one: of all groups "
            f"that no stall touched, the change of its latency is the middle one.{more}"
        ),
        height=96 + round(_ROW * (len(rows) + 1.6)),
    )


def _choose(pair: Pair, phase: str) -> NDArray[np.int64] | None:
    """Rows of the group in the middle; None if there is none."""
    if not len(pair.groups):
        return None
    took = [pair.times(s, "end") - pair.times(s, "begin") for s in (0, 1)]
    usable = np.isfinite(took[0]) & np.isfinite(took[1]) & (took[0] > 0) & (took[1] > 0)
    broken = np.unique(pair.groups[~usable | pair.is_touched])
    usable &= ~np.isin(pair.groups, broken)
    if phase:
        usable &= np.array(pair.phases, dtype=object) == phase
    rows = np.flatnonzero(usable)
    if not len(rows):
        return None
    numbers, index, sizes = np.unique(pair.groups[rows], return_inverse=True, return_counts=True)
    with np.errstate(divide="ignore"):
        ratio = np.log(np.bincount(index, took[1][rows]) / np.bincount(index, took[0][rows]))
    wanted = sizes > 1 if (sizes > 1).any() else sizes > 0
    # Small groups can be read: of equally typical ones, the smaller and then the earlier.
    distance = np.where(wanted, np.abs(ratio - np.median(ratio[wanted])), np.inf)
    best = np.lexsort((numbers, sizes, np.round(distance, 2)))[0]
    return np.asarray(rows[index == best], np.int64)


def _choose_ranks(pair: Pair, side: int, chosen: NDArray[np.int64]) -> list[int]:
    """Ranks to show: all, or those of the requests and the first others."""
    size = pair.surveys[side].dp_size
    told = pair.requests[side].rank[chosen]
    mine = sorted({int(r) for r in told[np.isfinite(told)] if r < size})
    rest = [r for r in range(size) if r not in mine] if len(pair.surveys[side]) else []
    nowhere = [_NOWHERE] if not np.isfinite(told).all() else []
    return [*sorted([*mine, *rest][:_MOST_RANKS]), *nowhere]


def _find_passes(
    pair: Pair, side: int, ranks: list[int], begin: float, window: tuple[float, float]
) -> list[dict[str, Any]]:
    survey = pair.surveys[side]
    low, high = begin + window[0], begin + window[1]
    inside = np.flatnonzero((survey.end > low) & (survey.start < high))
    out = []
    for i in inside:
        start, end = max(float(survey.start[i]), low), min(float(survey.end[i]), high)
        for rank in (r for r in ranks if r != _NOWHERE):
            out.append(
                {
                    "side": side,
                    "rank": rank,
                    "iteration": int(survey.iteration[i]),
                    "role": ROLE_NAMES[survey.role[i, rank]],
                    "tokens": int(survey.tokens[i, rank]),
                    "start": start - begin,
                    "length": end - start,
                }
            )
    return out


def _draw_passes(
    bars: list[dict[str, Any]], place: dict[tuple[int, int], float]
) -> list[dict[str, Any]]:
    data = []
    for role in ROLE_NAMES:
        mine = [b for b in bars if b["role"] == role]
        if not mine:
            continue
        works = role in ("prefill", "decode")
        data.append(
            {
                "type": "bar", "orientation": "h", "name": role,
                "base": [1e3 * b["start"] for b in mine],
                "x": [1e3 * b["length"] for b in mine],
                "y": [place[b["side"], b["rank"]] for b in mine],
                "width": 0.72 if works else 0.36,
                "customdata": [
                    [NAMES[b["side"]], b["iteration"], b["rank"], round(1e3 * b["length"], 1)]
                    for b in mine
                ],
                "hovertemplate": "%{customdata[0]}, iteration %{customdata[1]}, rank "
                "%{customdata[2]}: " + role + ", %{customdata[3]} ms<extra></extra>",
                "marker": {
                    "color": LIGHT[role],
                    "line": {"color": LIGHT["paper"], "width": 1},
                    "pattern": {
                        "shape": HATCH[role], "size": 7, "solidity": 0.15, "fillmode": "overlay",
                        "fgcolor": LIGHT["ink"], "fgopacity": 0.25,
                    },
                },
            }
        )  # fmt: skip
    return data


def _label_passes(
    bars: list[dict[str, Any]], place: dict[tuple[int, int], float], room: float
) -> dict[str, Any]:
    """Tokens in the middle of each pass that is long enough to hold them."""
    mine = [b for b in bars if b["role"] in ("prefill", "decode") and b["length"] >= room]
    return {
        "type": "scatter", "mode": "text", "showlegend": False, "hoverinfo": "skip",
        "x": [1e3 * (b["start"] + b["length"] / 2) for b in mine],
        "y": [place[b["side"], b["rank"]] for b in mine],
        "text": [f"{shorten_count(b['tokens'])} tokens" for b in mine],
        "textfont": {"size": 11, "color": LIGHT["paper"]},
    }  # fmt: skip


def _draw_requests(
    pair: Pair,
    chosen: NDArray[np.int64],
    begins: list[float],
    place: dict[tuple[int, int], float],
    names: list[str],
) -> list[dict[str, Any]]:
    data = []
    for what, name, symbol in (
        ("begin", "sent", "triangle-down"),
        ("end", "answered", "diamond"),
    ):
        x, y, text = [], [], []
        for side in (0, 1):
            values: F64 = pair.times(side, what)[chosen] - begins[side]
            for value, rank, rid in zip(
                values, pair.requests[side].rank[chosen], names, strict=True
            ):
                row = side, int(rank) if np.isfinite(rank) else _NOWHERE
                if row not in place:
                    continue
                x.append(1e3 * float(value))
                y.append(place[row])
                text.append(f"{rid} {name} after {seconds(float(value))}, {NAMES[side]}")
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": name, "x": x, "y": y, "text": text,
                "hovertemplate": "%{text}<extra></extra>", "cliponaxis": False,
                "marker": {
                    "symbol": symbol, "size": 12 if what == "begin" else 11,
                    "color": LIGHT["paper" if what == "begin" else "ink"],
                    "line": {"width": 1.5, "color": LIGHT["ink" if what == "begin" else "paper"]},
                },
            }
        )  # fmt: skip
    return data


def _tabulate(pair: Pair, bars: list[dict[str, Any]], chosen: NDArray[np.int64]) -> pl.DataFrame:
    rows = []
    for i in chosen:
        for side in (0, 1):
            begin, end = (float(pair.times(side, n)[i]) for n in ("begin", "end"))
            tokens = pair.requests[side].tokens[i]
            rows.append(
                {
                    "run": NAMES[side],
                    "what": f"request {pair.requests[side].rid[i]}",
                    "rank": pair.requests[side].rank[i],
                    "tokens": tokens,
                    "start (ms)": 0.0,
                    "took (ms)": round(1e3 * (end - begin), 1),
                }
            )
    for b in bars:
        rows.append(
            {
                "run": NAMES[b["side"]],
                "what": f"iteration {b['iteration']}: {b['role']}",
                "rank": float(b["rank"]),
                "tokens": float(b["tokens"]),
                "start (ms)": round(1e3 * b["start"], 1),
                "took (ms)": round(1e3 * b["length"], 1),
            }
        )
    return pl.DataFrame(rows)
