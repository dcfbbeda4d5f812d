"""The report as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pdtrace.exports.strip import strip_heading, strip_legend, strip_place
from pdtrace.exports.untrusted import show_in_markdown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pdtrace.exports.report import Report
    from pdtrace.exports.section import Section


def render_markdown(report: Report) -> str:
    """Render a report as Markdown; text from the input cannot become markup or HTML."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield "# Prefill report"
    for line in report.verdict:
        yield ""
        yield f"**{show_in_markdown(line)}**"
    if report.strip:
        yield from ("", "## Worst stretch", "", show_in_markdown(strip_heading(report.strip)), "")
        if report.strip.path is not None:
            yield from (show_in_markdown(strip_place(report.strip)), "")
        yield "```text"
        digits = len(str(max(report.strip.rows)))
        for rank, marks in report.strip.rows.items():
            yield f"rank {rank:>{digits}}  {marks}"
        yield strip_legend(report.strip)
        yield "```"
    for section in report.sections:
        yield from ("", f"## {section.title}")
        yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    if section.rows:
        aligns = ("---" if i < section.num_texts else "---:" for i in range(len(section.columns)))
        yield ""
        yield f"| {' | '.join(section.columns)} |"
        yield f"| {' | '.join(aligns)} |"
        for row in section.rows:
            yield f"| {' | '.join(show_in_markdown(cell) for cell in row)} |"
    for note in section.notes:
        yield from ("", show_in_markdown(note))
