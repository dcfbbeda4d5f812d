"""The page, the text and the JSON of a check."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdtrace.check.document import build_check_json, write_check_json
from pdtrace.check.page import render_check_page
from pdtrace.check.text import build_check_report
from pdtrace.check.verdicts import CheckResult, Finding, Verdict
from pdtrace.exports.terminal import render_terminal
from tests.check import made


def drawing_of(finding: Finding) -> dict[str, float]:
    """Where dot, limit and the ends of the bar stand in a finding's drawing."""
    page = render_check_page(made.failed(finding))
    (text,) = re.findall(r"<svg.*?</svg>", page)
    svg = ET.fromstring(text)
    out = {"dot": float(svg.find("circle").get("cx"))}
    for line in svg.findall("line"):
        out |= {f"{line.get('class')}1": float(line.get("x1"))}
        out |= {f"{line.get('class')}2": float(line.get("x2"))}
    return out


def test_worse_is_to_the_right_of_the_limit():
    """A picture in which a loss of throughput pointed the other way would be read wrongly."""
    at = drawing_of(made.COUNT)
    assert at["zero1"] < at["limit1"] < at["line1"] < at["line2"]
    at = drawing_of(replace(made.SAME, verdict=Verdict.FAIL, change=-0.08, low=-0.1, high=-0.06))
    assert at["zero1"] < at["limit1"] < at["line1"] < at["dot"] < at["line2"]


def test_bound_is_drawn_with_the_value():
    """A rule without a baseline has no change: the value stands beyond its bound, or before it."""
    at = drawing_of(made.RULE)
    assert at["dot"] > at["limit1"]
    floor = replace(made.RULE, rule="x>=1.5", better="higher", value=1.2, limit=1.5)
    at = drawing_of(floor)
    assert at["dot"] > at["limit1"]
    assert drawing_of(replace(floor, value=0.0))["dot"] > at["dot"]
    assert drawing_of(replace(floor, value=1.9))["dot"] < at["limit1"]


@given(st.text())
def test_page_lets_no_markup_in(text):
    """Log lines on a page are text, whatever they hold."""
    finding = Finding("m", text, text, "rule", Verdict.FAIL, 1.0, None, "s", text)
    result = CheckResult(Verdict.FAIL, (finding,), (text,), (made.RUN,), text, text, (text,))
    page = render_check_page(result)
    assert "<script" not in page.lower()
    plain = render_check_page(made.failed(replace(finding, title="t", rule="t", reason="t")))
    tags = set(re.findall(r"<(/?\w+)", page))
    assert tags <= set(re.findall(r"<(/?\w+)", plain)) | {"dl", "/dl"}


@pytest.mark.parametrize("result", [made.failed(), made.uncomparable(), made.hostile()])
def test_text_is_plain(result):
    """Standard output of a CI job is a file: no escapes, no control characters of a log."""
    text = render_terminal(build_check_report(result))
    assert all(c.isprintable() or c == "\n" for c in text)
    assert text.startswith(("FAILED: ", "FAILED:\n", "NOT JUDGED (not comparable): "))


def test_text_keeps_paths_in_one_piece():
    """A path folded into columns cannot be clicked, copied, or searched for."""
    path = f"runs/{'long-' * 40}/server.log"
    finding = replace(made.RULE, where=replace(made.RULE.where, file=path))
    text = render_terminal(build_check_report(made.failed(finding)), is_wrapped=False)
    assert f"{path}:815 " in text


def test_text_names_everything_of_a_failure():
    """The terminal is where a developer reproduces it."""
    text = render_terminal(build_check_report(made.failed()))
    for part in ("idle_rank_pass_ratio", "38.9 %", "30 %", "gate.toml:4", "server.log:815"):
        assert part in text


def test_json_has_every_field():
    """Scripts read the same values that people see, in full precision; absent is null."""
    told = json.loads(write_check_json(made.failed()), parse_constant=pytest.fail)
    assert told["schema_version"] == 1
    assert (told["verdict"], told["exit_code"]) == ("fail", 1)
    rule = told["findings"][0]
    assert rule["value"] == made.RULE.value
    assert rule["baseline"] is None
    assert rule["where"]["line"] == 815
    assert told["runs"][0]["dp_size"] == 2


def test_json_of_an_infinite_value_is_null():
    """JSON has no infinity, and a reader that is strict would refuse the whole file."""
    told = build_check_json(made.failed(replace(made.RULE, value=float("inf"))))
    assert told["findings"][0]["value"] is None


def test_hostile_text_survives_json():
    """Undecodable bytes of a path must not stop the document."""
    json.loads(write_check_json(made.hostile()))
