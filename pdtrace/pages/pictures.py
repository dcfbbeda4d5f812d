"""Figures as pictures, for a pull request or a paper: PNG or SVG, drawn by a headless browser."""

from __future__ import annotations

import copy
import html
import logging
import re
import textwrap
from typing import TYPE_CHECKING, Any

from pdtrace.errors import OutputError, UsageError
from pdtrace.figures import draw_figure
from pdtrace.figures.labels import show_label
from pdtrace.figures.survey import Survey
from pdtrace.figures.timeline_picture import build_timeline_picture

if TYPE_CHECKING:
    from pdtrace.figures.figure import Figure

KINDS = ("png", "svg")
WIDTH = 1200
NARROWEST, WIDEST = 600, 4000
PNG_SCALE = 2  # pixels of the file to one of the picture: sharp on a dense screen
TEXT = 14
LINE = 19  # pixels to a line of text
TITLE = 78
EDGE = 24
LEGEND = 30
AXIS = 62
CHARACTER = 6.6  # pixels, of the note's letters on average
TALLER = 1.4  # than on a page, where other tiles stand around
TABLE_TALLER = 1.12  # larger letters wrap into more lines
LETTER = 7.6  # pixels, of a label's letters on average


def draw_picture(name: str, drawn: object, width: int = WIDTH) -> Figure:
    """Draw a figure as a picture needs it: what a page's script paints is drawn here.

    Args:
        name: Of the figure.
        drawn: What it is about, as :func:`pdtrace.figures.draw_figure` takes it.
        width: Pixels.

    Raises:
        UsageError: The figure is not known, or draws something else; the known ones are named.
    """
    figure = draw_figure(name, drawn)
    if figure.levels and isinstance(drawn, Survey):
        return build_timeline_picture(figure, drawn, x=figure.levels["x"], width=width)
    return figure


def render_picture(figure: Figure, subject: str, kind: str, width: int = WIDTH) -> bytes:
    """Render a figure as a picture with its title, what it is about, its legend and its note.

    Args:
        figure: As :func:`draw_picture` gives it.
        subject: What it is about, in a line (untrusted text).
        kind: ``png`` or ``svg``.
        width: Pixels; a PNG has twice as many.

    Raises:
        UsageError: The extra or a browser is missing.
        OutputError: The browser failed.
    """
    spec, height = _dress(figure, subject, width)
    try:
        import kaleido  # noqa: PLC0415  (an extra)
        from kaleido.errors import (  # noqa: PLC0415
            BrowserClosedError,
            BrowserFailedError,
            ChromeNotFoundError,
            JavascriptError,
            KaleidoError,
        )
    except ImportError:
        raise UsageError(
            "drawing pictures needs the extra pdtrace[pictures]: pip install 'pdtrace[pictures]'"
        ) from None
    for talker in ("kaleido", "choreographer"):
        logging.getLogger(talker).setLevel(logging.CRITICAL + 1)  # what matters is raised
    options = {"format": kind, "width": width, "height": height}
    if kind == "png":
        options["scale"] = PNG_SCALE
    try:
        # Formulas would be fetched from outside, and make markup of a dollar sign in a name.
        picture: bytes = kaleido.calc_fig_sync(spec, opts=options, kopts={"mathjax": False})
    except ChromeNotFoundError:
        raise UsageError(
            "drawing pictures needs Chromium or Chrome: install it, or set BROWSER_PATH to it"
        ) from None
    except (
        BrowserClosedError, BrowserFailedError, JavascriptError, KaleidoError, TimeoutError,
    ) as error:  # fmt: skip
        said = str(error.args[0] if error.args else "").splitlines()
        reason = said[0] if said else type(error).__name__
        raise OutputError(f"the browser did not draw the picture: {reason}") from error
    return picture


def _dress(figure: Figure, subject: str, width: int) -> tuple[dict[str, Any], int]:
    """The specification with title, note and larger letters; and its height."""
    spec = copy.deepcopy(figure.spec)
    layout = spec["layout"]
    margin = layout["margin"]
    left = max(round(1.2 * margin["l"]), 72, EDGE + round(LETTER * _longest_label(spec)))
    right = max(round(1.15 * margin["r"]), EDGE)
    note = textwrap.wrap(figure.note, int((width - 2 * EDGE) / CHARACTER))
    is_table = any(trace["type"] == "table" for trace in spec["data"])
    has_legend = not is_table and layout.get("showlegend", len(spec["data"]) > 1)
    top = TITLE + (LEGEND if has_legend else 0) + (margin["t"] if margin["t"] > 20 else 0)
    foot = (12 if is_table else max(AXIS, margin["b"])) + LINE * len(note) + (8 if note else 0)
    plot = max(figure.height - margin["t"] - margin["b"], 100) * (
        TABLE_TALLER if is_table else TALLER
    )
    height = round(top + plot + foot)
    layout["margin"] = margin | {"l": left, "r": right, "t": top, "b": foot}
    layout["font"] = layout["font"] | {"size": TEXT}
    soft = layout["xaxis"].get("tickfont", {}).get("color", layout["font"]["color"])
    layout["title"] = {
        "text": f"<b>{figure.title}</b>",
        "subtitle": {
            "text": show_label(subject, most=140), "font": {"size": TEXT, "color": soft},
        },
        "x": EDGE / width, "xref": "container", "xanchor": "left",
        "y": 1 - 26 / height, "yref": "container", "yanchor": "middle",
        "font": {"size": TEXT + 5},
    }  # fmt: skip
    for key in layout:
        if key.startswith(("xaxis", "yaxis")):
            axis = layout[key]
            axis["tickfont"] = axis.get("tickfont", {}) | {"size": TEXT - 1}
            heading = axis.get("title") or {}
            axis["title"] = heading | {"font": heading.get("font", {}) | {"size": TEXT}}
    if "legend" in layout:
        layout["legend"] = layout["legend"] | {"font": {"size": TEXT - 1}}
    if note:
        layout["annotations"] = [
            *layout.get("annotations", ()),
            {
                "text": "<br>".join(note), "showarrow": False, "align": "left",
                "xref": "paper", "x": 0, "xanchor": "left", "xshift": EDGE - left,
                "yref": "paper", "y": 0, "yanchor": "top",
                "yshift": -(foot - LINE * len(note) - 4),
                "font": {"size": TEXT - 2, "color": soft},
            },
        ]  # fmt: skip
    return spec, height


def _longest_label(spec: dict[str, Any]) -> int:
    """Characters of the longest name that stands left of the plot."""
    names: list[Any] = []
    for key, axis in spec["layout"].items():
        if key.startswith("yaxis"):
            names += axis.get("ticktext", ())
    for trace in spec["data"]:
        names += [y for y in trace.get("y", ()) if isinstance(y, str)]
    plain = (html.unescape(re.sub(r"<[^>]*>", "", str(name))) for name in names)
    return max((len(name) for name in plain), default=0)
