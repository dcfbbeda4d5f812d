"""A check as one HTML page without scripts: the verdict, and every finding drawn at its limit."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from pdtrace.check.text import COLUMNS, finding_cells
from pdtrace.check.verdicts import Verdict
from pdtrace.check.wording import (
    describe_run,
    detail_lines,
    has_bound,
    headline,
    other_reasons,
    show_place,
    sort_by_gravity,
)
from pdtrace.exports.plain_style import STYLE
from pdtrace.exports.strip import strip_heading, strip_legend, strip_place
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pdtrace.check.verdicts import CheckResult, Finding
    from pdtrace.exports.strip import Strip

EXTRA_STYLE = """
.pass,.equivalent{color:var(--better)}.fail,.uncomparable{color:var(--worse)}
svg .limit{stroke:var(--worse);stroke-width:2}svg .axis{stroke:var(--grid)}
pre{overflow:auto hidden;line-height:1.1}
dl{display:grid;grid-template-columns:max-content 1fr;gap:0 1rem}
dt{color:var(--soft)}dd{margin:0}
"""
SIGNS = {
    Verdict.PASS: "✓",
    Verdict.EQUIVALENT: "✓",
    Verdict.FAIL: "✗",
    Verdict.INCONCLUSIVE: "?",
    Verdict.UNMEASURED: "?",
    Verdict.UNCOMPARABLE: "?",
}
WIDTH, HEIGHT, ZERO, EDGE = 260, 18, 70, 6
REACH = 30.0  # limits of worsening that are drawn; what lies beyond stands at the edge


def render_check_page(result: CheckResult, strip: Strip | None = None) -> str:
    """Render a check as one HTML file that needs nothing else.

    Args:
        result: The check.
        strip: The worst stretch of the run under test.
    """
    return "\n".join(_lines(result, strip)) + "\n"


def _text(text: str) -> str:
    return html.escape(show(text))


def _lines(result: CheckResult, strip: Strip | None) -> Iterator[str]:
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>pdtrace check: {result.verdict}</title>"
    yield f"<style>{STYLE}{EXTRA_STYLE}</style></head><body><h1>pdtrace check</h1>"
    sign = SIGNS[result.verdict]
    yield f'<p class="verdict {result.verdict}">{sign} {_text(headline(result))}</p>'
    yield from (f"<p>{_text(reason)}</p>" for reason in other_reasons(result))
    if result.findings:
        yield "<h2>Findings</h2>"
        yield (
            '<p class="note">The red line is the limit, the dashed one no change, worse is to the '
            "right, ever closer together beyond the limit. Dot: the change; bar: its 95 % "
            "interval. Of a bound on the value itself, the dot is the value.</p>"
        )
        yield from _table(result)
    if strip is not None:
        yield f"<h2>Worst stretch of this run</h2><p>{_text(strip_heading(strip))}</p>"
        yield f"<p>{_text(strip_place(strip))}</p><pre>"
        digits = len(str(max(strip.rows)))
        yield from (f"rank {rank:>{digits}}  {marks}" for rank, marks in strip.rows.items())
        yield f'</pre><p class="note">{_text(strip_legend(strip))}</p>'
    for finding in sort_by_gravity(result.findings):
        if not finding.has_passed:
            yield f"<h2>{SIGNS[finding.verdict]} {_text(finding.title)}</h2><dl>"
            yield from (f"<dt>{a}</dt><dd>{_text(b)}</dd>" for a, b in detail_lines(finding))
            yield "</dl>"
    yield "<h2>What was judged</h2>"
    yield from (f"<p>This run: {_text(describe_run(run))}.</p>" for run in result.runs)
    if result.baseline:
        yield f"<p>Baseline: {_text(result.baseline)}.</p>"
    yield from (f'<p class="note">{_text(note)}</p>' for note in result.notes)
    yield "</body></html>"


def _table(result: CheckResult) -> Iterator[str]:
    words = "".join(f'<th class="text">{name}</th>' for name in COLUMNS[:2])
    numbers = "".join(f"<th>{name}</th>" for name in COLUMNS[2:])
    yield f'<div class="wide"><table><thead><tr>{words}{numbers}'
    yield '<th class="text"></th><th class="text">look at</th></tr></thead><tbody>'
    for finding in result.findings:
        verdict, title, *values = (_text(cell) for cell in finding_cells(finding))
        kind = str(finding.verdict)
        place = "" if finding.where is None else _text(show_place(finding.where))
        cells = "".join(f"<td>{cell}</td>" for cell in values)
        yield (
            f'<tr><td class="text {kind}">{SIGNS[finding.verdict]}\u00a0{verdict}</td>'
            f'<td class="text">{title}</td>{cells}'
            f'<td class="text {kind}">{_draw(finding)}</td><td class="text">{place}</td></tr>'
        )
    yield "</tbody></table></div>"


def _draw(finding: Finding) -> str:
    """The change in units of what is allowed, so that the limit stands at one place in all rows."""
    limit = finding.limit
    sign = -1.0 if finding.better == "higher" else 1.0
    measured = finding.value if has_bound(finding) else finding.change
    if not limit or measured is None:
        return ""
    if has_bound(finding):
        dot, ends = 1 + sign * (measured - limit) / abs(limit), []
        lines = [("limit", 1.0)]
    else:
        dot = sign * measured / abs(limit)
        ends = [sign * e / abs(limit) for e in (finding.low, finding.high) if e is not None]
        lines = [("zero", 0.0), ("limit", 1.0)]
    middle = HEIGHT / 2
    drawn = [f'<line class="axis" x1="0" x2="{WIDTH}" y1="{middle}" y2="{middle}"/>']
    for kind, at in lines:
        x = f"{_place(at):.1f}"
        drawn.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="0" y2="{HEIGHT}"/>')
    if len(ends) == 2:
        x1, x2 = sorted(_place(end) for end in ends)
        drawn.append(
            f'<line class="line" x1="{x1:.1f}" x2="{x2:.1f}" y1="{middle}" y2="{middle}"/>'
        )
    drawn.append(f'<circle class="dot" cx="{_place(dot):.1f}" cy="{middle}" r="4"/>')
    told = "beyond the limit" if dot > 1 else "within the limit"
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{told}">'
        f"{''.join(drawn)}</svg>"
    )


def _place(limits: float) -> float:
    """Where a change stands: evenly within the limit, ever closer together beyond."""
    reach = math.asinh(min(REACH, limits)) / math.asinh(REACH)
    return max(EDGE, ZERO + reach * (WIDTH - EDGE - ZERO))
