"""A check as SARIF 2.1.0, which code-scanning views read.

Findings that passed are left out: such views list every result as something to do.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pdtrace
from pdtrace.check.fingerprints import find_fingerprint
from pdtrace.check.locations import find_uri
from pdtrace.check.verdicts import Verdict
from pdtrace.check.wording import describe_finding, headline, other_reasons, sort_by_gravity
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from pdtrace.check.verdicts import CheckResult, Finding

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
NOT_JUDGED = "not-judged"


def build_sarif(result: CheckResult, root: str | None = None) -> dict[str, Any]:
    """Build the SARIF log of a check.

    Args:
        result: The check.
        root: The checkout, which paths are relative to.
    """
    open_findings = [f for f in sort_by_gravity(result.findings) if not f.has_passed]
    results = [_result(f, result, root) for f in open_findings]
    if result.exit_code == 2:
        results.insert(0, _not_judged(result, root))
    rules: dict[str, dict[str, Any]] = {}
    for entry in results:
        rule_id = entry["ruleId"]
        rules.setdefault(rule_id, _rule(rule_id, open_findings))
    order = list(rules)
    for entry in results:
        entry["ruleIndex"] = order.index(entry["ruleId"])
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "pdtrace",
                        "semanticVersion": pdtrace.__version__,
                        "rules": list(rules.values()),
                    }
                },
                "invocations": [_invocation(result)],
                "results": results,
            }
        ],
    }


def write_sarif(result: CheckResult, root: str | None = None) -> str:
    """The check as SARIF text; see :func:`build_sarif`."""
    return json.dumps(build_sarif(result, root), indent=1, allow_nan=False) + "\n"


def _rule(rule_id: str, findings: list[Finding]) -> dict[str, Any]:
    titles = {f.metric: f.title for f in findings}
    text = titles.get(rule_id, "the run could not be judged")
    return {"id": rule_id, "shortDescription": {"text": show(text)}}


def _result(finding: Finding, result: CheckResult, root: str | None) -> dict[str, Any]:
    where = finding.where
    return {
        "ruleId": show(finding.metric),
        "level": "error" if finding.verdict is Verdict.FAIL else "warning",
        "message": {"text": show(describe_finding(finding))},
        "locations": [
            _location(result.runs[0].name, None, root)
            if where is None
            else _location(where.file, where.line, root)
        ],
        "partialFingerprints": {"pdtraceFinding/v1": find_fingerprint(finding)},
    }


def _not_judged(result: CheckResult, root: str | None) -> dict[str, Any]:
    return {
        "ruleId": NOT_JUDGED,
        "level": "error",
        "message": {"text": show(". ".join([headline(result), *other_reasons(result)]))},
        "locations": [_location(result.runs[0].name, None, root)],
        "partialFingerprints": {"pdtraceFinding/v1": find_fingerprint(None)},
    }


def _location(file: str, line: int | None, root: str | None) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": find_uri(file, root)}}
    if line is not None:
        place["region"] = {"startLine": line}
    return {"physicalLocation": place}


def _invocation(result: CheckResult) -> dict[str, Any]:
    told: dict[str, Any] = {
        "executionSuccessful": result.exit_code != 2,
        "exitCode": result.exit_code,
    }
    if result.reasons:
        told["toolExecutionNotifications"] = [
            {"level": "error", "message": {"text": show(reason)}} for reason in result.reasons
        ]
    return told
