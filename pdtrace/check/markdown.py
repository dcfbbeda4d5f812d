"""A check as Markdown: the summary of a CI step, the comment on a change."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from pdtrace.check.text import COLUMNS, finding_cells
from pdtrace.check.verdicts import Verdict
from pdtrace.check.wording import (
    describe_run,
    detail_lines,
    headline,
    other_reasons,
    show_place,
    sort_by_gravity,
)
from pdtrace.exports.strip import strip_heading, strip_legend, strip_place
from pdtrace.exports.untrusted import show_in_markdown
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pdtrace.check.verdicts import CheckResult
    from pdtrace.exports.strip import Strip

SIGNS = {
    Verdict.PASS: "✅",
    Verdict.EQUIVALENT: "✅",
    Verdict.FAIL: "❌",
    Verdict.INCONCLUSIVE: "⚠️",
    Verdict.UNMEASURED: "⚠️",
    Verdict.UNCOMPARABLE: "⚠️",
}
CUT = "\n\n*{} more lines do not fit here; the other outputs have them all.*\n"


def build_summary(result: CheckResult, strip: Strip | None = None) -> list[str]:
    """Build the summary, in pieces from the most important on, each shown whole or not at all.

    Args:
        result: The check.
        strip: The worst stretch of the run under test; shown where the check failed.
    """
    return list(_blocks(result, strip))


def fit_summary(blocks: list[str], num_bytes: int) -> str:
    """As much of a summary as fits into so many bytes, with a note where it is cut.

    Returns:
        Markdown; empty where not even the first piece fits.
    """
    text = "".join(blocks)
    if len(_encode(text)) <= num_bytes:
        return text
    room = num_bytes - len(_encode(CUT.format(len(blocks))))
    kept, used = [], 0
    for block in blocks:
        used += len(_encode(block))
        if used > room:
            break
        kept.append(block)
    return "".join(kept) + CUT.format(len(blocks) - len(kept)) if kept else ""


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _blocks(result: CheckResult, strip: Strip | None) -> Iterator[str]:
    md = show_in_markdown
    yield f"\n## {SIGNS[result.verdict]} pdtrace check\n\n**{md(headline(result))}**\n"
    for i, reason in enumerate(other_reasons(result)):
        yield f"{'' if i else chr(10)}- {md(reason)}\n"
    if result.findings:
        columns = (*COLUMNS, "look at")
        yield (
            f"\n| {' | '.join(columns)} |\n"
            f"| --- | --- |{' ---: |' * (len(columns) - 4)} --- | --- |\n"
        )
        for f in sort_by_gravity(result.findings):
            cells = [md(cell) for cell in finding_cells(f)]
            cells[0] = f"{SIGNS[f.verdict]} {cells[0]}"
            cells.append("" if f.where is None else md(show_place(f.where)))
            yield f"| {' | '.join(cells)} |\n"
    for f in sort_by_gravity(result.findings):
        if not f.has_passed:
            lines = [f"- {name}: {md(text)}\n" for name, text in detail_lines(f)]
            yield _fold(f"{SIGNS[f.verdict]} {f.title}", "".join(lines), is_open=False)
    if strip is not None and result.verdict is Verdict.FAIL:
        yield _fold("Worst stretch of this run", _strip_text(strip), is_open=True)
    told = [f"- this run: {md(describe_run(run))}\n" for run in result.runs]
    told += [f"- baseline: {md(result.baseline)}\n"] if result.baseline else []
    told += [f"- {md(note)}\n" for note in result.notes]
    yield _fold("What was judged", "".join(told), is_open=False)


def _fold(title: str, text: str, *, is_open: bool) -> str:
    start = "<details open>" if is_open else "<details>"
    return f"\n{start}<summary>{html.escape(show(title))}</summary>\n\n{text}\n</details>\n"


def _strip_text(strip: Strip) -> str:
    lines = [show_in_markdown(strip_heading(strip))]
    if strip.path is not None:
        lines.append(show_in_markdown(strip_place(strip)))
    digits = len(str(max(strip.rows)))
    rows = [f"rank {rank:>{digits}}  {marks}" for rank, marks in strip.rows.items()]
    return "\n\n".join(lines) + "\n\n" + "\n".join(["```text", *rows, strip_legend(strip), "```"])
