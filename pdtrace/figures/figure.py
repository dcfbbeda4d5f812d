"""What a figure is before it is put on a page: a Plotly specification and the table behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe–Ito hues, so that they stay apart for colour-blind readers; light page → dark page.
PALETTE = {
    "prefill": ("#0f5c99", "#56b4e9"),
    "decode": ("#007a5e", "#2fbf95"),
    "idle": ("#f0b060", "#a8702a"),
    "delayed": ("#b5447c", "#e08ab8"),
    "unknown": ("#84898f", "#7d848c"),
    "cell": ("#eef0f2", "#22282e"),
    "ink": ("#1f2429", "#e3e7eb"),
    "soft": ("#5c656e", "#a3adb7"),
    "grid": ("#e4e7ea", "#31383f"),
    "paper": ("#ffffff", "#171b1f"),
}
LIGHT = {name: light for name, (light, _) in PALETTE.items()}

# Hatches for roles drawn as bars, the second mark beside colour.
HATCH = {"prefill": "", "decode": "x", "idle": "/", "delayed": "-", "unknown": "."}


@dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Attributes:
        title: Heading of its tile.
        spec: ``data`` and ``layout`` as Plotly takes them, in the light palette.
        table: The numbers behind it, one row a mark or an interval of time.
        alt: What it shows, in a sentence, for readers who do not see it.
        note: A remark under the figure: what a reader could misread.
        height: Pixels.
        least_width: Pixels below which a page scrolls it instead of squeezing it.
        levels: Packed arrays that the page's script refines the figure from on zoom.
        time_axis: Whether x is seconds since the start, so that zooms go together.
    """

    title: str
    spec: dict[str, Any]
    table: pl.DataFrame
    alt: str
    note: str = ""
    height: int = 240
    least_width: int = 0
    levels: dict[str, Any] = field(default_factory=dict)
    time_axis: bool = False

    def to_plotly(self) -> go.Figure:
        """The figure as a Plotly graph object, for a notebook."""
        import plotly.graph_objects as go  # noqa: PLC0415  (a page needs the bundle only)

        return go.Figure(self.spec)


def build_layout(*, x_title: str, y_title: str, **extra: object) -> dict[str, Any]:
    """The layout all figures share: quiet axes, no frame, numbers with their unit."""
    axis: dict[str, Any] = {
        "gridcolor": LIGHT["grid"],
        "linecolor": LIGHT["grid"],
        "zerolinecolor": LIGHT["grid"],
        "automargin": True,
        "tickfont": {"color": LIGHT["soft"], "size": 11},
    }
    title = {"standoff": 6, "font": {"size": 12, "color": LIGHT["soft"]}}
    layout: dict[str, Any] = {
        "paper_bgcolor": LIGHT["paper"],
        "plot_bgcolor": LIGHT["paper"],
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": LIGHT["ink"]},
        "margin": {"l": 56, "r": 12, "t": 8, "b": 40},
        "xaxis": axis | {"title": title | {"text": x_title}},
        "yaxis": axis | {"title": title | {"text": y_title}},
        "hoverlabel": {
            "align": "left",
            "bgcolor": LIGHT["paper"],
            "bordercolor": LIGHT["soft"],
            "font": {"color": LIGHT["ink"], "size": 12},
        },
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 11},
        },
        "dragmode": "zoom",
        "bargap": 0.25,
    }
    for key, value in extra.items():
        old = layout.get(key)
        layout[key] = old | value if isinstance(old, dict) and isinstance(value, dict) else value
    return layout


def build_empty(title: str, reason: str) -> Figure:
    """A figure for which the run has nothing: it says why instead of drawing zeros."""
    layout = build_layout(x_title="", y_title="")
    layout["xaxis"] |= {"visible": False}
    layout["yaxis"] |= {"visible": False}
    layout["annotations"] = [
        {
            "text": reason,
            "showarrow": False,
            "font": {"color": LIGHT["soft"], "size": 13},
            "xref": "paper",
            "yref": "paper",
            "x": 0.5,
            "y": 0.5,
        }
    ]
    return Figure(title, {"data": [], "layout": layout}, pl.DataFrame(), reason, height=120)


def shorten_count(count: int) -> str:
    """A count in three digits, for labels that stand side by side."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 10 * size or (unit != "k" and count >= size):
            return f"{count / size:.3g}{unit}"
    return f"{count:,}"
