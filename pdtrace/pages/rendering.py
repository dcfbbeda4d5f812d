"""Rendering: a page's tiles, drawn and put into the template."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from plotly.offline import get_plotlyjs

from pdtrace.figures import draw_figure
from pdtrace.figures.figure import PALETTE
from pdtrace.figures.fleet import Fleet
from pdtrace.figures.packing import pack_text
from pdtrace.pages.head import render_facts, render_remarks, render_verdict
from pdtrace.pages.page_file import find_dashboards
from pdtrace.pages.policy import build_policy, dump_data, one_newline, show_text
from pdtrace.pages.runs_table import render_runs_tile
from pdtrace.pages.tiles import is_tabular, render_figure_tile, render_metrics_tile

if TYPE_CHECKING:
    from pdtrace.pages.content import Content
    from pdtrace.pages.page_file import Page

STYLES = ("page.css", "content.css")


def render(page: Page, content: Content) -> str:
    """Render a page as one HTML file that needs nothing else.

    Raises:
        UsageError: A tile or an option is not known.
    """
    tiles: list[str] = []
    drawn: list[dict[str, Any]] = []
    for number, tile in enumerate(page.tiles):
        if tile.runs and isinstance(content.drawn, Fleet):
            tiles.append(render_runs_tile(tile, content.drawn))
            continue
        if tile.figure is None:
            tiles.append(render_metrics_tile(tile, content.numbers))
            continue
        figure = draw_figure(tile.figure, content.drawn, tile.options)
        name = f"figure-{number}"
        tiles.append(render_figure_tile(tile, figure, name))
        if not figure.spec["data"]:
            continue
        tabular = is_tabular(figure)
        drawn.append(
            {
                "id": name,
                "figure": tile.figure,
                "options": tile.options,
                "spec": {} if tabular else figure.spec,
                "tabular": tabular,
                "timeAxis": figure.time_axis,
                **({"levels": figure.levels} if figure.levels else {}),
            }
        )
    folder = find_dashboards()
    template = (folder / "page.html").read_text("utf-8")
    if any(tile.runs for tile in page.tiles):
        template = template.replace("</body>", "<script>{{sortable.js}}</script>\n</body>")
    # Every script that the template names stands in the page, and its hash in the policy.
    scripts = {
        name: one_newline((folder / name).read_text("utf-8"))
        for name in re.findall(r"\{\{(\w+\.js)\}\}", template)
    }
    plotly = one_newline(get_plotlyjs())
    slots = {
        "csp": build_policy(plotly, *scripts.values()),
        "title": show_text(page.title),
        "subject": show_text(content.name),
        "version": show_text(find_version()),
        "css": "".join((folder / name).read_text("utf-8") for name in STYLES),
        "facts": render_facts(content),
        "verdict": render_verdict(content),
        "warnings": render_remarks(content),
        "tiles": "".join(tiles),
        "data": dump_data({"palette": PALETTE, "tiles": drawn}),
        "plotly": pack_text(plotly),
        **scripts,
    }
    # One pass, so that no text put into a slot can open another.
    return re.sub(r"\{\{(\w+(?:\.js)?)\}\}", lambda m: slots[m[1]], template)


def find_version() -> str:
    """The version of this package."""
    try:
        return version("pdtrace")
    except PackageNotFoundError:
        return "(checkout)"
