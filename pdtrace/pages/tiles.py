"""The tiles of a page: a figure with the table behind it, or a row of metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pdtrace.errors import UsageError
from pdtrace.pages.numbers import format_cell
from pdtrace.pages.policy import show_text
from pdtrace.registry import describe_unknown
from pdtrace.wording import plural

if TYPE_CHECKING:
    from pdtrace.figures.figure import Figure
    from pdtrace.pages.content import Number
    from pdtrace.pages.page_file import Tile


def render_figure_tile(tile: Tile, figure: Figure, name: str) -> str:
    """A figure's tile: heading, place to draw, note, table; of one without data, why it has none.

    A figure that is a table is the table behind it, in HTML.
    """
    title = show_text(tile.title or figure.title)
    note = show_text(tile.note or figure.note)
    begin = (
        f'<section class="tile {tile.width}" aria-labelledby="{name}-title">'
        f'<div class="head"><h2 id="{name}-title">{title}</h2>'
    )
    if not figure.spec["data"]:
        return f'{begin}</div>\n<p class="nothing">{show_text(figure.alt)}</p></section>\n'
    if is_tabular(figure):
        table = _render_scroll(figure.table, title)
        return f'{begin}</div>\n<div class="plot tabular" id="{name}">{table}</div>' + (
            f'<p class="note">{note}</p></section>\n'
        )
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
    size = f"height:{figure.height}px"
    plot = f'<div class="plot" id="{name}" {access} style="{size}"></div>\n'
    if figure.least_width:
        plot = plot.replace(size, f"{size};min-width:{figure.least_width}px")
        plot = f'<div class="wide">{plot}</div>\n'
    return (
        f"{begin}{legend}{tools}</div>\n{plot}"
        + readout
        + (f'<p class="note">{note}</p>' if note else "")
        + _render_table(figure.table, title)
        + "</section>\n"
    )


def is_tabular(figure: Figure) -> bool:
    """Whether the figure is a table and nothing else."""
    return all(trace["type"] == "table" for trace in figure.spec["data"])


def _render_table(table: pl.DataFrame, title: str) -> str:
    if not table.width:
        return ""
    return (
        f"<details><summary>Table · {plural(table.height, 'row')}</summary>"
        f"{_render_scroll(table, title)}</details>"
    )


_TEXT = {True: ' class="text"', False: ""}


def _is_text(value: object) -> bool:
    """Whether a cell is words; a number may come written out."""
    return isinstance(value, str) and not value.replace(",", "").isdecimal()


def _render_scroll(table: pl.DataFrame, title: str) -> str:
    words = (table[c].dtype == pl.String and any(map(_is_text, table[c])) for c in table.columns)
    head = "".join(
        f'<th scope="col"{_TEXT[is_text]}>{show_text(c)}</th>'
        for c, is_text in zip(table.columns, words, strict=True)
    )
    rows = "".join(
        "<tr>" + "".join(f"<td{_TEXT[_is_text(v)]}>{format_cell(v)}</td>" for v in row) + "</tr>\n"
        for row in table.iter_rows()
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table: {title}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
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
