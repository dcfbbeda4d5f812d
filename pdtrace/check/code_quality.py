"""A check as a GitLab code quality report.

The format is that of GitLab's documentation: a list of findings, each with a description, a check's
name, a fingerprint, a severity, and a place, whose line it demands.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pdtrace.check.fingerprints import find_fingerprint
from pdtrace.check.locations import find_location
from pdtrace.check.verdicts import Verdict
from pdtrace.check.wording import describe_finding, headline, other_reasons, sort_by_gravity
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from pdtrace.check.verdicts import CheckResult, Finding

FIRST_LINE = 1


def build_code_quality(result: CheckResult, root: str | None = None) -> list[dict[str, Any]]:
    """Build the report: ``critical`` what failed, ``major`` what has no verdict.

    Args:
        result: The check.
        root: The checkout, which paths are relative to.
    """
    name = result.runs[0].name
    entries = [_entry(f, name, root) for f in sort_by_gravity(result.findings) if not f.has_passed]
    if result.exit_code == 2:
        text = ". ".join([headline(result), *other_reasons(result)])
        place = _place(name, None, root)
        entries.insert(0, _describe(text, "not-judged", find_fingerprint(None), "blocker", place))
    return entries


def write_code_quality(result: CheckResult, root: str | None = None) -> str:
    """The report as JSON text; see :func:`build_code_quality`."""
    return json.dumps(build_code_quality(result, root), indent=1) + "\n"


def _entry(finding: Finding, name: str, root: str | None) -> dict[str, Any]:
    where = finding.where
    return _describe(
        describe_finding(finding),
        finding.metric,
        find_fingerprint(finding),
        "critical" if finding.verdict is Verdict.FAIL else "major",
        _place(name, None, root) if where is None else _place(where.file, where.line, root),
    )


def _describe(
    text: str, check: str, fingerprint: str, severity: str, place: dict[str, Any]
) -> dict[str, Any]:
    return {
        "description": show(text),
        "check_name": show(f"pdtrace/{check}"),
        "fingerprint": fingerprint,
        "severity": severity,
        "location": place,
    }


def _place(file: str, line: int | None, root: str | None) -> dict[str, Any]:
    return {
        "path": show(find_location(file, root)),
        "lines": {"begin": FIRST_LINE if line is None else line},
    }
