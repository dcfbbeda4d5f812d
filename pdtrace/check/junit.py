"""A check as JUnit XML: one test case a finding, and one for whether it could be judged at all.

The document is valid against both schemas in use: ``junit-10.xsd`` of Jenkins' xunit plugin, and
the older ``JUnit.xsd`` of Ant, whose order and required attributes it keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from pdtrace.check.verdicts import Verdict
from pdtrace.check.wording import (
    describe_finding,
    describe_run,
    detail_lines,
    headline,
    other_reasons,
    show_rule,
)
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from pdtrace.check.verdicts import CheckResult, Finding

SUITE = "pdtrace check"
CLASSES = {"A": "pdtrace.check.counts", "B": "pdtrace.check.times", "rule": "pdtrace.check.rules"}
JUDGED = "the run can be judged"


def write_junit(result: CheckResult, when: datetime, *, elapsed_s: float = 0.0) -> str:
    """Write a check as JUnit XML.

    A broken finding is a ``failure``. One without a verdict is an ``error`` unless the check passed
    all the same, and then ``skipped``: so the document is green only if the exit code is 0.

    Args:
        result: The check.
        when: When it was made, in UTC.
        elapsed_s: How long it took.
    """
    suites = ET.Element("testsuites")
    cases = [_judged_case(result), *(_case(finding, result) for finding in result.findings)]
    kinds = [case[0].tag if len(case) else "passed" for case in cases]
    suite = ET.SubElement(
        suites,
        "testsuite",
        {
            "name": SUITE,
            "tests": str(len(cases)),
            "failures": str(kinds.count("failure")),
            "errors": str(kinds.count("error")),
            "skipped": str(kinds.count("skipped")),
            "time": f"{elapsed_s:.3f}",
            "timestamp": f"{when:%Y-%m-%dT%H:%M:%S}",
            "hostname": "localhost",
            "id": "0",
            "package": "pdtrace",
        },
    )
    _add_properties(suite, result)
    suite.extend(cases)
    ET.SubElement(suite, "system-out").text = _lines(
        [headline(result), *other_reasons(result), *(describe_finding(f) for f in result.findings)]
    )
    ET.SubElement(suite, "system-err").text = _lines(result.notes)
    ET.indent(suites)
    text = ET.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _add_properties(suite: ET.Element, result: CheckResult) -> None:
    properties = ET.SubElement(suite, "properties")
    told = [("verdict", str(result.verdict)), ("exit_code", str(result.exit_code))]
    told += [("run", describe_run(run)) for run in result.runs]
    told += [("baseline", result.baseline)] if result.baseline else []
    for name, value in told:
        ET.SubElement(properties, "property", {"name": name, "value": show(value)})


def _judged_case(result: CheckResult) -> ET.Element:
    """The case that is red where no finding can be: nothing comparable, nothing measured."""
    case = ET.Element("testcase", {"name": JUDGED, "classname": "pdtrace.check", "time": "0"})
    if result.exit_code == 2:
        told = {"message": show(result.summary), "type": str(result.verdict)}
        ET.SubElement(case, "error", told).text = _lines([headline(result), *other_reasons(result)])
    return case


def _case(finding: Finding, result: CheckResult) -> ET.Element:
    name = show(f"{finding.metric}: {show_rule(finding)}")
    case = ET.Element("testcase", {"name": name, "classname": CLASSES[finding.tier], "time": "0"})
    if finding.has_passed:
        return case
    told = {"message": show(describe_finding(finding)), "type": str(finding.verdict)}
    if finding.verdict is Verdict.FAIL:
        tag = "failure"
    elif result.exit_code == 0:
        tag, told = "skipped", {"message": told["message"]}
    else:
        tag = "error"
    lines = [f"{name:<9} {text}" for name, text in detail_lines(finding)]
    ET.SubElement(case, tag, told).text = _lines(lines)
    return case


def _lines(lines: Iterable[str]) -> str:
    """Lines of text; what XML forbids (control characters, surrogates) becomes visible escapes."""
    return "\n".join(show(line) for line in lines)
