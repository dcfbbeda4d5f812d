"""A comparison as one HTML page without scripts: the verdict, every interval drawn, both runs.

What a log says is untrusted: all text is escaped, and the page's policy allows no script at all.
"""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from pdtrace.exports.comparison import describe_ratio, show_value
from pdtrace.exports.untrusted import show
from pdtrace.exports.wording import UNKNOWN, number, percent, seconds, significant, whole
from pdtrace.metrics import measure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pdtrace.compare import Comparison
    from pdtrace.compare.verdicts import Compared
    from pdtrace.exports.report import Report, Section
    from pdtrace.run import Run

# Okabe–Ito hues; a sign stands beside each, so that colour says nothing alone.
STYLE = """
:root{--ink:#1f2429;--soft:#5c656e;--paper:#fff;--grid:#e4e7ea;--better:#007a5e;--worse:#b5447c;
--same:#0f5c99;--unsure:#84898f}
@media(prefers-color-scheme:dark){:root{--ink:#e3e7eb;--soft:#a3adb7;--paper:#171b1f;
--grid:#31383f;--better:#2fbf95;--worse:#e08ab8;--same:#56b4e9;--unsure:#9aa1a8}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:2rem auto;
max-width:76rem;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}.verdict{font-size:1.1rem;font-weight:600}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:right;padding:.25rem .6rem;border-bottom:1px solid var(--grid);
white-space:nowrap}
th{color:var(--soft);font-weight:500}.text{text-align:left;white-space:normal}
.note{color:var(--soft);font-size:.9rem;margin:.2rem 0}
.better{color:var(--better)}.worse{color:var(--worse)}.same{color:var(--same)}
.inconclusive,.unmeasured{color:var(--unsure)}
svg{display:block}svg .line{stroke:currentColor;stroke-width:2}svg .dot{fill:currentColor}
svg .zero{stroke:var(--soft);stroke-dasharray:3 3}
"""
WIDTH, HEIGHT, REACH = 220, 18, 1.0
SIGNS = {"better": "▲", "worse": "▼", "same": "=", "inconclusive": "?", "unmeasured": UNKNOWN}
KEY_FIGURES = (
    "num_iterations", "fusion_width_mean", "solo_iteration_ratio", "idle_rank_pass_ratio",
    "idle_rank_seconds", "busy_seconds", "prefill_throughput_tok_s", "num_new_tokens",
    "iteration_seconds_p50", "ttft_p50_s", "ttft_p99_s", "num_requests",
    "num_unfinished_requests", "num_delay_passes", "grouping_confidence_mean",
)  # fmt: skip


def render_comparison_page(result: Comparison, report: Report, runs: tuple[Run, Run]) -> str:
    """Render a comparison as one HTML file that needs nothing else.

    Args:
        result: The comparison.
        report: What it says, for the verdict and the sections without metrics.
        runs: Baseline and candidate, for the key figures of each.
    """
    return "\n".join(_lines(result, report, runs)) + "\n"


def _lines(result: Comparison, report: Report, runs: tuple[Run, Run]) -> Iterator[str]:
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Two prefill runs compared</title><style>{STYLE}</style></head><body>"
    yield "<h1>Two prefill runs compared</h1>"
    for line in report.verdict:
        yield f'<p class="verdict">{_text(line)}</p>'
    if result.rows:
        yield "<h2>What changed</h2>"
        yield (
            '<p class="note">Dot: the change; bar: its 95 % interval, on a scale from half to '
            "double. A verdict is given where the whole bar lies beyond ± 3 %.</p>"
        )
        yield from _metric_table(result.rows)
    yield "<h2>Both runs as a whole</h2>"
    yield '<p class="note">As analyze prints them: warm-up and stalls included, no filter.</p>'
    yield from _key_figures(runs)
    for section in report.sections:
        if not section.columns or section.columns[0] != "metric":
            yield from _section(section)
    yield "</body></html>"


def _text(text: str) -> str:
    return html.escape(show(text))


def _metric_table(rows: tuple[Compared, ...]) -> Iterator[str]:
    yield '<div class="wide"><table><thead><tr><th class="text">metric</th>'
    yield '<th class="text">verdict</th><th>baseline</th><th>candidate</th><th>change</th>'
    yield '<th>95 % interval</th><th class="text"></th></tr></thead><tbody>'
    for row in rows:
        ends = UNKNOWN
        if row.low is not None and row.high is not None:
            ends = f"{describe_ratio(row.low)} to {describe_ratio(row.high)}"
        title = f' title="{_text(row.note)}"' if row.note else ""
        yield (
            f'<tr{title}><td class="text">{_text(row.quantity.title)}</td>'
            f'<td class="text {row.verdict}">{SIGNS[row.verdict]}\u00a0{row.verdict}</td>'
            f"<td>{show_value(row.baseline, row)}</td><td>{show_value(row.candidate, row)}</td>"
            f"<td>{describe_ratio(row.change_ratio)}</td><td>{ends}</td>"
            f'<td class="text {row.verdict}">{_draw(row)}</td></tr>'
        )
    yield "</tbody></table></div>"


def _draw(row: Compared) -> str:
    if row.change_ratio is None or row.low is None or row.high is None:
        return ""
    low, dot, high = (_place(r) for r in (row.low, row.change_ratio, row.high))
    middle, centre = HEIGHT / 2, WIDTH / 2
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{describe_ratio(row.change_ratio)}">'
        f'<line class="zero" x1="{centre}" x2="{centre}" y1="0" y2="{HEIGHT}"/>'
        f'<line class="line" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        f'<circle class="dot" cx="{dot:.1f}" cy="{middle}" r="4"/></svg>'
    )


def _place(ratio: float) -> float:
    """Where a change stands on a logarithmic axis from half to double; beyond, at its end."""
    octaves = math.log2(1 + ratio) if ratio > -1 else -REACH
    return WIDTH / 2 + max(-REACH, min(REACH, octaves)) / REACH * (WIDTH / 2 - 6)


def _key_figures(runs: tuple[Run, Run]) -> Iterator[str]:
    tables = []
    for run in runs:
        rows = measure(run).select("metric", "dp_rank", "value", "unit").iter_rows()
        tables.append({name: (value, unit) for name, rank, value, unit in rows if rank is None})
    yield '<div class="wide"><table><thead><tr><th class="text">metric</th><th>baseline</th>'
    yield "<th>candidate</th></tr></thead><tbody>"
    for name in KEY_FIGURES:
        cells = [_figure(*t.get(name, (None, ""))) for t in tables]
        yield f'<tr><td class="text">{name}</td><td>{cells[0]}</td><td>{cells[1]}</td></tr>'
    yield "</tbody></table></div>"


def _figure(value: float | None, unit: str) -> str:
    if unit == "s":
        return seconds(value)
    if unit == "ratio":
        return percent(value)
    if unit == "ranks":
        return number(value)
    return significant(value) if unit in ("usd", "gpu_h") else whole(value)


def _section(section: Section) -> Iterator[str]:
    yield f"<h2>{_text(section.title)}</h2>"
    if section.rows:
        kinds = [
            ' class="text"' if i < section.num_texts else "" for i in range(len(section.columns))
        ]
        heads = zip(kinds, section.columns, strict=True)
        head = "".join(f"<th{k}>{_text(c)}</th>" for k, c in heads)
        yield f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>'
        for row in section.rows:
            cells = "".join(f"<td{k}>{_text(c)}</td>" for k, c in zip(kinds, row, strict=True))
            yield f"<tr>{cells}</tr>"
        yield "</tbody></table></div>"
    for note in section.notes:
        yield f'<p class="note">{_text(note)}</p>'
