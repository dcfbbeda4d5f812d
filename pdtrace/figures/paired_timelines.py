"""Both runs on one axis of time: what their ranks did, phase beside the same phase."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pdtrace.errors import UsageError
from pdtrace.figures.figure import HATCH, LIGHT, Figure, build_empty, build_layout
from pdtrace.figures.labels import show_label
from pdtrace.figures.pair import NAMES, Pair
from pdtrace.figures.survey import DELAYED, IDLE, ROLE_NAMES, Survey

if TYPE_CHECKING:
    from pdtrace.compare.matching import F64

SUBJECT = "comparison"
TITLE = "Both runs, on the same axis"
_BINS = 220
_SLACK_S = 0.05  # passes end a little before their requests are answered
_LETTER = 0.008  # of the axis, a letter of a kind's name takes on a page 800 pixels wide
_DOMAINS = ((0.54, 1.0), (0.0, 0.46))


@dataclass(frozen=True)
class Stretch:
    """A stretch of one run, and where it begins on the common axis."""

    begin: float
    end: float
    place: float


def draw_paired_timelines(pair: Pair, *, align: str = "phases", bins: int = _BINS) -> Figure:
    """Draw, for both runs, which share of the ranks' time was prefill and which idle.

    Args:
        pair: The two runs.
        align: ``phases`` lays each kind of request beside the same kind of the other run, where
            kinds follow each other; ``start`` lays the runs beside each other from their start.
        bins: Intervals of the axis.
    """
    if align not in ("phases", "start"):
        raise UsageError(f"paired_timelines: unknown align {align!r}; known: phases, start")
    if bins < 2:
        raise UsageError("paired_timelines: bins must be at least 2")
    if not all(len(s) for s in pair.surveys):
        return build_empty(TITLE, "No iteration was rebuilt from one of the runs.")
    bands = _match_phases(pair) if align == "phases" else []
    if bands:
        stretches = [[b[1] for b in bands], [b[2] for b in bands]]
    else:
        stretches = [[Stretch(*_extent(s), 0.0)] for s in pair.surveys]
    total = max(s.place + s.end - s.begin for side in stretches for s in side)
    edges = np.linspace(0.0, max(total, 1e-3), bins + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    data: list[dict[str, Any]] = []
    columns: dict[str, Any] = {"from (s)": edges[:-1].round(3), "to (s)": edges[1:].round(3)}
    for side, survey in enumerate(pair.surveys):
        shares = _share_time(survey, stretches[side], edges)
        for role, share in shares.items():
            columns[f"{NAMES[side]} {role} (%)"] = (100 * share).round(1)
            data.append(_draw_share(role, share, middle, edges[1] - edges[0], side))
    layout = build_layout(
        x_title="seconds" + (", each phase beside the same phase" if bands else " since the start"),
        y_title="",
        barmode="stack",
        bargap=0,
        margin={"l": 62, "r": 12, "t": 44, "b": 40},
        xaxis={"range": [0, float(edges[-1])], "zeroline": False, "anchor": "y2"},
        yaxis=_share_axis(0),
        yaxis2=_share_axis(1),
        legend={"x": 1, "xanchor": "right", "y": 1.07},
        annotations=_name_bands(bands),
        shapes=_draw_edges(bands),
    )
    told = "; ".join(
        _tell_run(s, n, mine) for s, n, mine in zip(pair.surveys, NAMES, stretches, strict=True)
    )
    note = f"{told[0].upper()}{told[1:]}. Height: share of all ranks' time. Blank: no pass ran."
    if bands:
        note += " Dotted: the next kind of request, as the first part of its id tells."
    return Figure(
        TITLE,
        {"data": data, "layout": layout},
        pl.DataFrame(columns),
        f"Share of the ranks' time by role in both runs: {told}.",
        note=note,
        height=360,
    )


def _extent(survey: Survey) -> tuple[float, float]:
    return float(survey.start[0]), float(survey.end[-1])


def _match_phases(pair: Pair) -> list[tuple[str, Stretch, Stretch]]:
    """Kinds that follow each other in both runs, each beside its own; none if they overlap."""
    names = np.array(pair.phases, dtype=object)
    kinds = list(dict.fromkeys(pair.phases))
    if len(kinds) < 2:
        return []
    found: list[tuple[str, list[tuple[float, float]]]] = []
    for kind in kinds:
        mine = names == kind
        ends = [(pair.times(s, "begin")[mine], pair.times(s, "end")[mine]) for s in (0, 1)]
        if not all(np.isfinite(b).any() and np.isfinite(e).any() for b, e in ends):
            return []
        found.append((kind, [(float(np.nanmin(b)), float(np.nanmax(e))) for b, e in ends]))
    found.sort(key=lambda f: f[1][0][0])
    for (_, before), (_, after) in pairwise(found):
        if any(y[0] < x[1] - _SLACK_S for x, y in zip(before, after, strict=True)):
            return []
    bands, place = [], 0.0
    for kind, (a, b) in found:
        bands.append((kind, Stretch(*a, place), Stretch(*b, place)))
        place += max(a[1] - a[0], b[1] - b[0]) * 1.02 + _SLACK_S
    return bands


def _share_time(survey: Survey, stretches: list[Stretch], edges: F64) -> dict[str, F64]:
    """Share of the ranks' time by role in each interval of the common axis."""
    out: dict[str, F64] = {}
    width = edges[1] - edges[0]
    for code, role in enumerate(ROLE_NAMES):
        ranks = (survey.role == code).sum(axis=1).astype(np.float64)
        if not ranks.any():
            continue
        done = np.concatenate([[0.0], np.cumsum(ranks * survey.busy)])
        share = np.zeros(len(edges) - 1)
        for stretch in stretches:
            # What was done until a time: whole passes, and the part of the one that runs then.
            times = np.clip(edges - stretch.place + stretch.begin, stretch.begin, stretch.end)
            at = np.searchsorted(survey.start, times, side="right") - 1
            safe = np.maximum(at, 0)
            part = np.clip(times - survey.start[safe], 0, survey.busy[safe]) * ranks[safe]
            until = np.where(at >= 0, done[safe] + part, 0.0)
            share += np.diff(until)
        out[role] = share / (width * survey.dp_size)
    return out


def _draw_share(role: str, share: F64, middle: F64, width: float, side: int) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "bar", "name": role, "legendgroup": role, "showlegend": side == 0,
        "x": middle.round(4).tolist(), "y": (100 * share).round(2).tolist(),
        "width": float(width), "xaxis": "x", "yaxis": "y" if side == 0 else "y2",
        "hovertemplate": "%{x:.1f} s: %{y:.0f} % " + role + f"<extra>{NAMES[side]}</extra>",
        "marker": {"color": LIGHT[role], "line": {"width": 0}},
    }  # fmt: skip
    if role != "prefill":
        trace["marker"]["pattern"] = {
            "shape": HATCH[role], "size": 5, "solidity": 0.2, "fillmode": "overlay",
            "fgcolor": LIGHT["ink"], "fgopacity": 0.3,
        }  # fmt: skip
    return trace


def _share_axis(side: int) -> dict[str, Any]:
    axis: dict[str, Any] = build_layout(x_title="", y_title=f"<b>{NAMES[side]}</b>, %")["yaxis"]
    return axis | {
        "domain": list(_DOMAINS[side]), "range": [0, 100], "fixedrange": True,
        "tickvals": [0, 50, 100], "zeroline": False,
    }  # fmt: skip


def _tell_run(survey: Survey, name: str, stretches: list[Stretch]) -> str:
    idle = survey.busy @ np.isin(survey.role, (IDLE, DELAYED)).sum(axis=1) / survey.dp_size
    return f"{name} {sum(s.end - s.begin for s in stretches):,.1f} s, {idle:,.1f} s idle a rank"


def _name_bands(bands: list[tuple[str, Stretch, Stretch]]) -> list[dict[str, Any]]:
    if not bands:
        return []
    total = max(s.place + s.end - s.begin for _, *both in bands for s in both)
    free = 0.0  # where the name before ends, on a page of usual width
    out = []
    for kind, a, b in bands:
        name = show_label(kind, most=16)
        length = max(a.end - a.begin, b.end - b.begin)
        if length < 0.045 * total or a.place < free:
            continue
        free = a.place + _LETTER * (len(name) + 1) * total
        out.append(
            {
                "xref": "x", "yref": "paper", "x": a.place, "y": 1.0, "xanchor": "left",
                "yanchor": "bottom", "showarrow": False, "text": name,
                "font": {"size": 11, "color": LIGHT["soft"]}, "xshift": 2,
            }
        )  # fmt: skip
    return out


def _draw_edges(bands: list[tuple[str, Stretch, Stretch]]) -> list[dict[str, Any]]:
    return [
        {
            "type": "line", "xref": "x", "yref": "paper", "x0": a.place, "x1": a.place, "y0": 0,
            "y1": 1, "line": {"color": LIGHT["soft"], "width": 1, "dash": "dot"},
        }
        for _, a, _ in bands[1:]
    ]  # fmt: skip
