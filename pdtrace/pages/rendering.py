"""Rendering: a page's tiles, drawn and put into the template."""

from __future__ import annotations

import html
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from plotly.offline import get_plotlyjs

from pdtrace.figures import draw_figure
from pdtrace.figures.figure import PALETTE
from pdtrace.figures.packing import pack_text
from pdtrace.figures.survey import survey_run
from pdtrace.pages.head import render_facts, render_warnings, state_shares
from pdtrace.pages.page_file import find_dashboards, load_page
from pdtrace.pages.policy import build_policy, dump_data, one_newline
from pdtrace.pages.tiles import render_figure_tile, render_metrics_tile

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from pdtrace.run import Run


def render_page(
    run: Run,
    *,
    page: str = "overview",
    metrics: pl.DataFrame | None = None,
    verdict: Sequence[str] = (),
) -> str:
    """Render a page of a run as one HTML file that needs nothing else.

    Args:
        run: The run.
        page: A name among the dashboards, or the path of a TOML file.
        metrics: Table ``metrics``; measured here where it is not given.
        verdict: Sentences for the head, the most important first.

    Raises:
        UsageError: The page, a tile or an option is not known.
    """
    told = load_page(page)
    if metrics is None:
        from pdtrace.metrics import measure  # noqa: PLC0415  (a page given its metrics needs none)

        metrics = measure(run)
    survey = survey_run(run)
    tiles: list[str] = []
    drawn: list[dict[str, Any]] = []
    for number, tile in enumerate(told.tiles):
        if tile.figure is None:
            tiles.append(render_metrics_tile(tile, metrics))
            continue
        figure = draw_figure(tile.figure, survey, tile.options)
        name = f"figure-{number}"
        tiles.append(render_figure_tile(tile, figure, name))
        drawn.append(
            {
                "id": name,
                "figure": tile.figure,
                "options": tile.options,
                "spec": figure.spec,
                "timeAxis": figure.time_axis,
                **({"levels": figure.levels} if figure.levels else {}),
            }
        )
    folder = find_dashboards()
    template = (folder / "page.html").read_text("utf-8")
    # Every script that the template names stands in the page, and its hash in the policy.
    scripts = {
        name: one_newline((folder / name).read_text("utf-8"))
        for name in re.findall(r"\{\{(\w+\.js)\}\}", template)
    }
    plotly = one_newline(get_plotlyjs())
    subject = ", ".join("/".join(PurePath(f.path).parts[-2:]) for f in run.files[:3]) or "run"
    if len(run.files) > 3:
        subject += f" and {len(run.files) - 3} more"
    slots = {
        "csp": build_policy(plotly, *scripts.values()),
        "title": html.escape(told.title),
        "subject": html.escape(subject),
        "version": html.escape(find_version()),
        "css": (folder / "page.css").read_text("utf-8"),
        "facts": render_facts(run, survey),
        "verdict": "".join(
            f"<p>{html.escape(line)}</p>\n" for line in (verdict or state_shares(survey))
        ),
        "warnings": render_warnings(run.warnings),
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
