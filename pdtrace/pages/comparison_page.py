"""Pages about two runs compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pdtrace.compare.quantities import QUANTITIES
from pdtrace.exports.comparison import build_comparison_report
from pdtrace.figures.pair import NAMES, SIGNS, survey_pair
from pdtrace.pages.content import Content, Number
from pdtrace.pages.head import describe_delayer, name_run
from pdtrace.pages.page_file import load_page
from pdtrace.pages.rendering import render
from pdtrace.wording import change, in_unit

if TYPE_CHECKING:
    from pdtrace.compare import Comparison
    from pdtrace.compare.verdicts import Compared
    from pdtrace.run import Run

# Sections of the report that no figure shows.
TOLD = ("What is compared", "Notes")


def render_comparison(
    result: Comparison,
    runs: tuple[Run, Run],
    *,
    page: str = "comparison",
    request_filter: str | None = None,
) -> str:
    """Render a page of a comparison as one HTML file that needs nothing else.

    Args:
        result: What ``compare_runs`` gave.
        runs: Baseline and candidate.
        page: A name among the dashboards, or the path of a TOML file.
        request_filter: The regular expression that they were compared with.

    Raises:
        UsageError: The page, a tile or an option is not known, or it is not about a comparison.
    """
    told = load_page(page, subject="comparison")
    report = build_comparison_report(result, runs)
    facts = []
    for name, run in zip(NAMES, runs, strict=True):
        state = describe_delayer(run)
        facts.append(f"{name}: {name_run(run)}" + (f" ({state})" if state else ""))
    if request_filter is not None:
        facts.append(f"requests that match {request_filter}")
    notes = [n for s in report.sections if s.title in TOLD for n in s.notes]
    verdict = tuple(report.verdict)
    if not result.is_comparable:
        verdict = ("These runs cannot be compared, so no gain is claimed.",)
    content = Content(
        drawn=survey_pair(result, runs, request_filter),
        name=" against ".join(name_run(run) for run in reversed(runs)),
        facts=tuple(facts),
        verdict=verdict,
        numbers={
            **{q.name: Number(q.title, "–", small="not comparable") for q in QUANTITIES},
            **{row.quantity.name: _number(row) for row in result.rows},
        },
        reasons=result.reasons,
        warnings=tuple(f"{n}: {w}" for n, r in zip(NAMES, runs, strict=True) for w in r.warnings),
        notes=tuple(notes),
    )
    return render(told, content)


def _number(row: Compared) -> Number:
    unit = row.quantity.unit
    small = f"{in_unit(row.baseline, unit)} → {in_unit(row.candidate, unit)}"
    if row.low is not None and row.high is not None:
        small += f", {change(row.low)} to {change(row.high)}"
    sign = SIGNS[row.verdict]
    if row.verdict == "unmeasured":
        return Number(row.quantity.title, sign, small=row.note or "", hint=row.note or "")
    told = change(row.change_ratio) if row.change_ratio is not None else row.verdict
    return Number(row.quantity.title, f"{sign} {told}", small=small, hint=row.note or "")
