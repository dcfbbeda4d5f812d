"""SARIF of checks: valid, and telling of what is left to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from pdtrace.check.sarif import build_sarif, write_sarif
from tests.check import made

SCHEMA = Path(__file__).parent.parent / "data" / "sarif" / "sarif-2.1.0-rtm.4.json"
RESULTS = {
    "passed": made.passed(),
    "failed": made.failed(),
    "uncomparable": made.uncomparable(),
    "inconclusive": made.inconclusive(),
    "hostile": made.hostile(),
}


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft4Validator:
    """The schema of SARIF 2.1.0, which also judges the form of URIs."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("name", RESULTS)
def test_log_is_valid(name, validator):
    """Code scanning refuses a log that the schema refuses."""
    validator.validate(json.loads(write_sarif(RESULTS[name])))


def test_failure_leads_to_its_line():
    """A result without place or with an absolute one is not shown beside the file."""
    first, second, *_ = build_sarif(made.failed())["runs"][0]["results"]
    assert first["level"] == second["level"] == "error"
    place = second["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "runs/candidate/server.log"
    assert place["region"] == {"startLine": 815}
    assert "region" not in first["locations"][0]["physicalLocation"]
    for part in ("idle_rank_pass_ratio", "38.9 %", "30 %", "gate.toml:4"):
        assert part in second["message"]["text"]


def test_passed_leaves_only_what_has_no_verdict():
    """Viewers list every result as something to fix."""
    results = build_sarif(made.passed())["runs"][0]["results"]
    assert [(r["ruleId"], r["level"]) for r in results] == [("ttft_p99_s", "warning")]


def test_uncomparable_is_an_error():
    """An empty list of results would read as: nothing wrong."""
    (run,) = build_sarif(made.uncomparable())["runs"]
    (result,) = run["results"]
    assert result["level"] == "error"
    (invocation,) = run["invocations"]
    assert not invocation["executionSuccessful"]
    told = [n["message"]["text"] for n in invocation["toolExecutionNotifications"]]
    assert told == list(made.uncomparable().reasons)


def test_rules_are_those_of_the_results():
    """Viewers take a result's title from the rule that its index points to."""
    (run,) = build_sarif(made.failed())["runs"]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    assert len({r["id"] for r in rules}) == len(rules)


def test_fingerprint_outlives_values_and_lines():
    """A regression that lasts is one alert, not one a run."""

    def fingerprint(finding):
        (run,) = build_sarif(made.failed(finding))["runs"]
        return run["results"][0]["partialFingerprints"]

    later = replace(
        made.RULE, value=0.41, reason="other", where=replace(made.RULE.where, line=9, file="x")
    )
    assert fingerprint(later) == fingerprint(made.RULE)
    stricter = replace(made.RULE, rule="idle_rank_pass_ratio<=0.2")
    assert fingerprint(stricter) != fingerprint(made.RULE)
