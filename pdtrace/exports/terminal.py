"""The report on a terminal, or as plain text where there is none."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pdtrace.exports.strip import MARKS, strip_heading, strip_legend, strip_place
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from pdtrace.exports.report import Report
    from pdtrace.exports.section import Section
    from pdtrace.exports.strip import Strip

PLAIN_WIDTH = 100
INDENT = 2
GAP = 3  # columns between two cells
LABEL = 12  # a text is folded no narrower than this
JOINT = "\ue000"  # stands for a blank where a number must not part from its unit
COLOURS = {"prefill": "green", "idle": "red", "unknown": "yellow", "decode": "blue"}


def render_terminal(report: Report, *, width: int | None = None, is_wrapped: bool = True) -> str:
    """Render a report as text.

    Args:
        report: The report.
        width: Columns of the terminal it is for, which then gets colours (none if the environment
            sets ``NO_COLOR``); None: plain text of ``PLAIN_WIDTH`` columns without any escape.
        is_wrapped: Whether verdict and notes are folded into these columns; off: a path in them
            stays in one piece.
    """
    out = StringIO()
    console = Console(
        file=out,
        width=width or PLAIN_WIDTH,
        force_terminal=width is not None,
        no_color=True if width is None else None,
        color_system=None if width is None else "standard",
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    for line in report.verdict:
        console.print(Text(show(line), style="bold"), soft_wrap=not is_wrapped)
    if report.strip:
        _print_strip(console, report.strip)
    for section in report.sections:
        _print_section(console, section, is_wrapped=is_wrapped)
    text = out.getvalue().replace(JOINT, " ")
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _print_strip(console: Console, strip: Strip) -> None:
    console.print(Text("\nWorst stretch", style="bold underline"))
    console.print(Text("  " + show(strip_heading(strip))))
    if strip.path is not None:
        console.print(Text("  " + show(strip_place(strip))))
    style = {mark: COLOURS[role] for role, mark in MARKS.items()}
    digits = len(str(max(strip.rows)))
    for rank, marks in strip.rows.items():
        row = Text(f"  rank {rank:>{digits}}  ")
        for mark in marks:
            row.append(mark, style=style[mark])
        console.print(row, overflow="ignore", no_wrap=True)
    console.print(Text("  " + strip_legend(strip), style="dim"))


def _build_table(section: Section, width: int) -> Table:
    """The table of a section: first texts are folded, down to a label, then headings."""
    widest = [
        max(len(show(text)) for text in (name, *(row[i] for row in section.rows)))
        for i, name in enumerate(section.columns)
    ]
    least = [min(w, LABEL) if i < section.num_texts else w for i, w in enumerate(widest)]
    is_tight = sum(least) + GAP * (len(least) - 1) > width
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for i, name in enumerate(section.columns):
        is_text = i < section.num_texts
        table.add_column(
            Text(name),
            justify="left" if is_text else "right",
            no_wrap=not is_text and not is_tight,
            min_width=least[i] if is_text else _word_width(section, i) if is_tight else None,
            overflow="fold",
        )
    for row in section.rows:
        cells = [show(cell) for cell in row]
        if is_tight:
            numbers = (cell.replace(" ", JOINT) for cell in cells[section.num_texts :])
            cells[section.num_texts :] = numbers
        table.add_row(*map(Text, cells))
    return table


def _word_width(section: Section, column: int) -> int:
    """The widest that must stay in one piece: a number with its unit, or a word of the heading."""
    words = (*section.columns[column].split(), *(show(row[column]) for row in section.rows))
    return max(map(len, words), default=0)


def _print_section(console: Console, section: Section, *, is_wrapped: bool) -> None:
    console.print(Text(f"\n{section.title}", style="bold underline"))
    if section.rows:
        console.print(Padding(_build_table(section, console.width - INDENT), (0, 0, 0, INDENT)))
    for note in section.notes:
        if is_wrapped:
            console.print(Padding(Text(show(note), style="dim"), (0, 0, 0, 2)))
        else:
            console.print(Text(f"  {show(note)}", style="dim"), soft_wrap=True)
