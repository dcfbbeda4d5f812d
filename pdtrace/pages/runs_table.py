"""A table of runs: one row each, sorted by any column, numbers with a bar behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pdtrace.errors import UsageError
from pdtrace.pages.numbers import format_metric, spell_metric
from pdtrace.pages.policy import show_text
from pdtrace.registry import describe_unknown

if TYPE_CHECKING:
    from pdtrace.figures.fleet import Fleet, FleetRow
    from pdtrace.pages.page_file import Tile


_SORTED = ' aria-sort="descending"'


def render_runs_tile(tile: Tile, fleet: Fleet) -> str:
    """A table of runs with the columns that the tile names.

    Raises:
        UsageError: A column is no metric of any run; the known ones are named.
    """
    known = list(dict.fromkeys(name for row in fleet.read for name in row.metrics))
    for name in tile.runs:
        if known and name not in known:
            raise UsageError(describe_unknown("metric", name, known))
    title = show_text(tile.title or "Runs")
    head = (
        '<th scope="col" class="text" data-first="ascending">Run</th>'
        '<th scope="col" class="text" data-first="ascending">Recorded</th>'
    )
    head += "".join(
        f'<th scope="col"{_SORTED if n == tile.runs[0] else ""}>{show_text(spell_metric(n))}</th>'
        for n in tile.runs
    )
    tops = {name: max((v for _, v in fleet.values(name)), default=0.0) for name in tile.runs}
    # The first column tells whom to look at: the largest comes first, what is not known last.
    worth = {row.name: value for row, value in fleet.values(tile.runs[0])} if tile.runs else {}
    order = sorted(fleet.rows, key=lambda r: -worth.get(r.name, float("-inf")))
    rows = "".join(
        _render_row(number, row, fleet.label(row), tile.runs, tops)
        for number, row in enumerate(order, 1)
    )
    note = tile.note or "Choose a heading to sort by it; again for the other way round."
    return (
        f'<section class="tile {tile.width}" aria-label="{title}">'
        f'<div class="head"><h2>{title}</h2>'
        '<span class="note sorted" role="status" aria-live="polite"></span></div>\n'
        f'<div class="runs" tabindex="0" role="region" aria-label="Table: {title}">'
        f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>'
        "</div>"
        f'<p class="note">{show_text(note)}</p></section>\n'
    )


def _render_row(
    number: int, row: FleetRow, label: str, columns: tuple[str, ...], tops: dict[str, float]
) -> str:
    name = show_text(label)
    cells = (
        f'<td class="text name" data-v="{name}" title="{show_text(row.name)}">'
        f'<a href="#run-{number}">{name}</a></td>'
        f'<td class="text" data-v="{show_text(" ".join(row.facts))}">{_render_facts(row)}</td>'
    )
    if row.reason and not row.metrics:
        cells += '<td data-v="">–</td>' * len(columns)
    else:
        cells += "".join(_render_cell(row, column, tops[column]) for column in columns)
    kind = ' class="unread"' if row.reason else ""
    return f'<tr id="run-{number}"{kind}>{cells}</tr>\n'


def _render_facts(row: FleetRow) -> str:
    lines = [f'<p class="note">{show_text(f)}</p>' for f in row.facts]
    if row.reason:
        lines.append(f'<p class="reason">{show_text(row.reason)}</p>')
    if row.num_warnings:
        word = "warning" if row.num_warnings == 1 else "warnings"
        lines.append(f'<p class="note">{row.num_warnings:,} {word}</p>')
    return "".join(lines)


def _render_cell(row: FleetRow, column: str, top: float) -> str:
    told = row.metrics.get(column)
    if told is None or told.value is None:
        hint = f' title="{show_text(told.note)}"' if told is not None and told.note else ""
        return f'<td data-v=""{hint}>–</td>'
    value, unit = format_metric(told.value, told.unit)
    # Shares are of the whole, other numbers of the largest in their column.
    whole = 1.0 if told.unit == "ratio" else top
    share = min(max(told.value / whole, 0.0), 1.0) if whole > 0 else 0.0
    kind = "amount bad" if column.startswith("idle_") else "amount"
    bar = f'<span class="{kind}"><i style="width:{100 * share:.1f}%"></i></span>'
    text = f"{show_text(value)} {show_text(unit)}".strip()
    return f'<td data-v="{told.value!r}">{text}{bar}</td>'
