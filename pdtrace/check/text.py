"""A check as a report, which the terminal and plain text are rendered from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pdtrace.check.verdicts import Verdict
from pdtrace.check.wording import (
    WORDS,
    describe_run,
    detail_lines,
    headline,
    other_reasons,
    show_change,
    show_limit,
    show_rule,
    show_values,
    sort_by_gravity,
)
from pdtrace.exports.report import Report
from pdtrace.exports.section import Section
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pdtrace.check.verdicts import CheckResult, Finding
    from pdtrace.exports.strip import Strip

COLUMNS = ("verdict", "metric", "this run", "baseline", "change", "allowed")


def build_check_report(result: CheckResult, strip: Strip | None = None) -> Report:
    """Build the report of a check: the verdict, why not, each failure in full, all findings.

    Args:
        result: The check.
        strip: The worst stretch of the run under test; shown where the check failed.
    """
    return Report(
        verdict=(headline(result),),
        strip=strip if result.verdict is Verdict.FAIL else None,
        sections=tuple(_sections(result)),
    )


def _sections(result: CheckResult) -> Iterator[Section]:
    if reasons := other_reasons(result):
        yield Section("Why it was not judged", notes=tuple(reasons))
    if result.findings:
        rows = tuple(finding_cells(finding) for finding in result.findings)
        yield Section("All findings", COLUMNS, rows, num_texts=2)
    for finding in sort_by_gravity(result.findings):
        if not finding.has_passed:
            lines = [f"{name:<9} {text}" for name, text in detail_lines(finding)]
            title = show(f"{WORDS[finding.verdict]}: {finding.title}")
            yield Section(title, notes=tuple(lines[1:]))
    runs = [f"this run  {describe_run(run)}" for run in result.runs]
    runs += [f"baseline  {result.baseline}"] if result.baseline else []
    yield Section("What was judged", notes=tuple(runs))
    if result.notes:
        yield Section("Notes", notes=result.notes)


def finding_cells(finding: Finding) -> tuple[str, ...]:
    """A finding as a row under :data:`COLUMNS`."""
    values = [finding.value, finding.baseline]
    return (
        WORDS[finding.verdict],
        finding.title,
        *show_values(values, finding.unit),
        show_change(finding.change, finding),
        show_limit(finding) if finding.limit is not None else show_rule(finding),
    )
