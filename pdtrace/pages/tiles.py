"""The tiles of a page: a figure with the table behind it, or a row of metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pdtrace.errors import UsageError
from pdtrace.pages.numbers import format_cell
from pdtrace.pages.policy import show_text
from pdtrace.registry import describe_unknown

if TYPE_CHECKING:
    import polars as pl

    from pdtrace.figures.figure import Figure
    from pdtrace.pages.content import Number
    from pdtrace.pages.page_file import Tile


def render_figure_tile(tile: Tile, figure: Figure, name: str) -> str:
    """A figure's tile: heading, place to draw, note, table."""
    title = show_text(tile.title or figure.title)
    note = show_text(tile.note or figure.note)
    refined = bool(figure.levels)
    tools = legend = readout = ""
    if refined:
        buttons = (
            ("time", "time", ' aria-pressed="true"'),
            ("iteration", "iterations", ' aria-pressed="false"'),
            ("in", "+", ' aria-label="Zoom in"'),
            ("out", "−", ' aria-label="Zoom out"'),
            ("all", "all", ' aria-label="Show all"'),
        )
        tools = "".join(f'<button data-do="{d}"{a}>{t}</button>' for d, t, a in buttons)
        tools = f'<span class="note status"></span><span class="tools">{tools}</span>'
        roles = figure.levels["roles"]
        legend = "".join(f'<span class="{r}"><i></i>{r}</span>' for r in roles)
        legend = f'<div class="legend">{legend}</div>'
        readout = (
            '<div class="readout" role="status" aria-live="polite">'
            "Point at a cell, or walk them with the arrow keys.</div>"
        )
        keys = (
            "Arrow keys walk the cells, with Shift they select a stretch; + and − zoom, 0 shows "
            "all, S selects what is shown, R shows the way of the cell's request, Escape clears."
        )
        access = f'tabindex="0" role="application" aria-label="{show_text(figure.alt)} {keys}"'
    else:
        access = f'role="img" aria-label="{show_text(figure.alt)}"'
    return (
        f'<section class="tile {tile.width}" aria-labelledby="{name}-title">'
        f'<div class="head"><h2 id="{name}-title">{title}</h2>{legend}{tools}</div>\n'
        f'<div class="plot" id="{name}" {access} style="height:{figure.height}px"></div>\n'
        + readout
        + (f'<p class="note">{note}</p>' if note else "")
        + _render_table(figure.table, title)
        + "</section>\n"
    )


def _render_table(table: pl.DataFrame, title: str) -> str:
    if not table.width:
        return ""
    head = "".join(f'<th scope="col">{show_text(c)}</th>' for c in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{format_cell(v)}</td>" for v in row) + "</tr>\n"
        for row in table.iter_rows()
    )
    return (
        f"<details><summary>Table · {table.height:,} rows</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table: {title}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def render_metrics_tile(tile: Tile, numbers: dict[str, Number]) -> str:
    """A row of metrics, with their intervals or why they are not known."""
    items = []
    for name in tile.metrics:
        if name not in numbers:
            raise UsageError(describe_unknown("metric", name, numbers))
        number = numbers[name]
        hint = f' data-metric="{show_text(name)}" data-unit="{show_text(number.kind)}"'
        hint += f' title="{show_text(number.hint)}"' if number.hint else ""
        items.append(
            f"<div{hint}><dt>{show_text(number.label)}</dt><dd>{show_text(number.value)} "
            f'<span class="unit">{show_text(number.unit)}</span>'
            + (f"<small>{show_text(number.small)}</small>" if number.small else "")
            + "</dd></div>"
        )
    title = f"<h2>{show_text(tile.title)}</h2>" if tile.title else ""
    return (
        f'<section class="tile {tile.width}" aria-label="{show_text(tile.title or "Metrics")}">'
        f'{title}<dl class="metrics">{"".join(items)}</dl></section>\n'
    )
