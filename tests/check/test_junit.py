"""JUnit XML of checks: valid, never green by mistake, and with what a developer needs to see."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st

from pdtrace.check.junit import write_junit
from pdtrace.check.verdicts import CheckResult, Finding, Verdict
from tests.check import made

SCHEMA = Path(__file__).parent.parent / "data" / "junit" / "junit-10.xsd"
WHEN = datetime(2025, 3, 1, 12, 30, 5, 999, tzinfo=UTC)
RESULTS = {
    "passed": made.passed(),
    "failed": made.failed(),
    "uncomparable": made.uncomparable(),
    "inconclusive": made.inconclusive(),
    "hostile": made.hostile(),
}


@pytest.fixture(scope="module")
def schema() -> xmlschema.XMLSchema:
    """The schema that Jenkins holds such files against."""
    return xmlschema.XMLSchema(str(SCHEMA))


def suite_of(result: CheckResult) -> ET.Element:
    """The suite of the document, read back."""
    suite = ET.fromstring(write_junit(result, WHEN, elapsed_s=1.25)).find("testsuite")
    assert suite is not None
    return suite


@pytest.mark.parametrize("name", RESULTS)
def test_document_is_valid(name, schema):
    """A document that the schema refuses is dropped by the CI system, and with it the verdict."""
    schema.validate(write_junit(RESULTS[name], WHEN, elapsed_s=1.25))


@pytest.mark.parametrize("name", RESULTS)
def test_document_suits_the_older_schema(name):
    """Ant's schema, which some systems use, demands this order, these attributes, and one cause."""
    document = ET.fromstring(write_junit(RESULTS[name], WHEN))
    assert not document.attrib
    suite = suite_of(RESULTS[name])
    tags = [child.tag for child in suite]
    cases = [child for child in suite if child.tag == "testcase"]
    assert tags == ["properties", *["testcase"] * len(cases), "system-out", "system-err"]
    needed = {"name", "timestamp", "hostname", "tests", "failures", "errors", "time"}
    assert set(suite.keys()) >= needed | {"package", "id"}
    assert suite.get("timestamp") == "2025-03-01T12:30:05"
    for case in cases:
        assert set(case.keys()) >= {"name", "classname", "time"}
        assert len(case) <= 1
        for cause in case:
            assert cause.tag == "skipped" or cause.get("type")


@given(st.sampled_from(list(Verdict)), st.lists(st.sampled_from(list(Verdict)), max_size=4))
def test_green_only_if_the_check_passed(verdict, others):
    """What has neither failure nor error is shown green, and that must mean exit code 0."""
    kinds = [v for v in others if v is not Verdict.UNCOMPARABLE]
    if Verdict.FAIL in kinds:
        verdict = Verdict.FAIL
    elif verdict is Verdict.FAIL:
        kinds.append(Verdict.FAIL)
    findings = tuple(
        Finding("m", "metric", f"rule {i}", "A", v, 1.0, 1.0, "s", "reason")
        for i, v in enumerate(kinds)
    )
    result = CheckResult(verdict, findings, (), (made.RUN,), None, "summary")
    suite = suite_of(result)
    is_green = suite.get("failures") == suite.get("errors") == "0"
    assert is_green == (result.exit_code == 0)


def test_counts_are_those_of_the_cases():
    """CI systems show the attributes, and developers open the cases: both must say the same."""
    suite = suite_of(made.failed())
    causes = [case[0].tag if len(case) else "passed" for case in suite.iter("testcase")]
    assert causes == ["passed", "failure", "failure", "error", "error", "passed"]
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "6", "failures": "2", "errors": "2", "skipped": "0"}


def test_no_verdict_in_a_check_that_passed_is_skipped():
    """One noisy metric beside others that passed must neither be green nor stop the build."""
    cases = list(suite_of(made.passed()).iter("testcase"))
    assert [case[0].tag for case in cases if len(case)] == ["skipped"]


def test_failure_says_what_where_and_by_which_rule():
    """Whoever sees only the failing line needs metric, both values, rule and log line."""
    rule, count = list(suite_of(made.failed()).iter("failure"))
    for part in ("idle_rank_pass_ratio", "38.9 %", "30 %", "gate.toml:4", "server.log:815"):
        assert part in (rule.get("message") or "")
        assert part in (rule.text or "")
    for part in ("688", "500", "+37.5 %", "at most 3 % worse than the baseline", "spans.pb"):
        assert part in (count.get("message") or "")


def test_reasons_of_an_uncomparable_run_are_in_the_error():
    """A run that never came to judging has no failing finding: the error must say why."""
    (error,) = list(suite_of(made.uncomparable()).iter("error"))
    for reason in made.uncomparable().reasons:
        assert reason in (error.text or "")


@given(st.text())
def test_any_text_survives_as_xml(text):
    """Log lines hold any character, also those that XML has no way to write."""
    finding = Finding("m", text, text, "rule", Verdict.FAIL, 1.0, None, "s", text)
    result = CheckResult(Verdict.FAIL, (finding,), (text,), (made.RUN,), text, text, (text,))
    assert len(list(suite_of(result).iter("failure"))) == 1
