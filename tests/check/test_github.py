"""Annotations, summary and outputs: within GitHub's limits, and safe against what logs may hold."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdtrace.check.github import (
    MOST_ANNOTATIONS,
    MOST_SUMMARY_BYTES,
    append_to_step,
    build_annotations,
    fence_text,
)
from pdtrace.check.markdown import build_summary, fit_summary
from pdtrace.check.verdicts import CheckResult, Finding, Verdict
from pdtrace.errors import OutputError
from tests.check import made

COMMAND = re.compile(r"::(error|warning|notice) ((?:\w+=[^,:]*,?)+)::(.*)")


def parse_command(line: str) -> tuple[str, dict[str, str], str]:
    """A workflow command as the runner reads it: level, properties, message."""
    found = COMMAND.fullmatch(line)
    assert found, line

    def unescape(text: str, codes: dict[str, str]) -> str:
        for code, char in codes.items():
            text = text.replace(code, char)
        return text.replace("%25", "%")

    data = {"%0D": "\r", "%0A": "\n"}
    parts = (part.partition("=") for part in found[2].split(","))
    told = {name: unescape(value, data | {"%3A": ":", "%2C": ","}) for name, _, value in parts}
    return found[1], told, unescape(found[3], data)


def test_failures_are_errors_at_their_log_line():
    """An annotation leads to the line; without metric, values and rule it only alarms."""
    lines = [parse_command(line) for line in build_annotations(made.failed())]
    assert [level for level, _, _ in lines] == ["error", "error", "warning", "warning"]
    _, told, message = lines[1]
    assert told == {
        "file": "runs/candidate/server.log",
        "line": "815",
        "title": "pdtrace FAIL: idle share of rank passes",
    }
    for part in ("idle_rank_pass_ratio", "38.9 %", "limit 30 %", "gate.toml:4"):
        assert part in message


def test_paths_are_relative_to_the_checkout(tmp_path):
    """GitHub links only paths of the repository."""
    where = replace(made.RULE.where, file=str(tmp_path / "logs" / "server.log"))
    lines = build_annotations(made.failed(replace(made.RULE, where=where)), str(tmp_path))
    assert parse_command(lines[0])[1]["file"] == "logs/server.log"


def test_uncomparable_is_an_error_that_says_why():
    """Nothing failed, so without this line the step would be red without a word."""
    (line,) = build_annotations(made.uncomparable())
    level, told, message = parse_command(line)
    assert (level, told["title"]) == ("error", "pdtrace: not judged")
    for reason in made.uncomparable().reasons:
        assert reason in message


def test_passed_is_no_error():
    """An error on a check that passed would be a false alarm."""
    levels = [parse_command(line)[0] for line in build_annotations(made.passed())]
    assert levels == ["warning", "notice"]


@pytest.mark.parametrize("count", [9, 10, 11, 40])
def test_ten_annotations_of_a_kind(count):
    """GitHub drops the eleventh silently: the worst come first, the last says what is missing."""
    findings = [
        replace(made.COUNT, metric=f"m{i}", change=0.1 + i / 100, title=f"metric {i}")
        for i in range(count)
    ]
    lines = [parse_command(x) for x in build_annotations(made.failed(*findings))]
    assert len(lines) == min(count, MOST_ANNOTATIONS)
    assert f"m{count - 1}" in lines[0][2]
    if count > MOST_ANNOTATIONS:
        assert lines[-1][2].startswith(f"{count - 9} more ")


@given(st.text(), st.text())
def test_no_text_becomes_a_command(text, path):
    """A log line that could start a command could set outputs or hide what failed."""
    where = replace(made.RULE.where, file=path, text=text)
    finding = replace(made.RULE, title=text, reason=text, rule=text, where=where)
    result = CheckResult(Verdict.UNMEASURED, (finding,), (text,), (made.RUN,), text, text)
    for line in build_annotations(result):
        assert len(line.splitlines()) == 1
        assert parse_command(line)[0] == "error"


def test_report_is_fenced():
    """The runner reads commands from standard output, where the report shows log lines too."""
    text = fence_text("a\n::error::owned\n")
    first, *_, last = text.splitlines()
    token = first.removeprefix("::stop-commands::")
    assert last == f"::{token}::"
    assert len(token) >= 32
    assert fence_text("a") != fence_text("a")


def test_summary_is_appended_and_outputs_are_named(tmp_path):
    """Later steps of a job read the outputs, and other tools write into the same summary."""
    summary, outputs = tmp_path / "summary.md", tmp_path / "outputs"
    summary.write_text("before\n")
    names = {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(outputs)}
    assert append_to_step(made.failed(), names) == []
    assert summary.read_text(encoding="utf-8").startswith("before\n\n## ❌ pdtrace check")
    assert outputs.read_text() == "verdict=fail\nexit-code=1\n"


def test_nothing_is_written_outside_of_a_step():
    """On a developer's machine the files are not named, and annotations alone are printed."""
    assert append_to_step(made.failed(), {}) == []


def test_summary_that_cannot_be_written_is_one_line(tmp_path):
    """A runner with a wrong mount gets a message, not a traceback."""
    with pytest.raises(OutputError, match="cannot be written"):
        append_to_step(made.failed(), {"GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "file")})


def big_result(count: int) -> CheckResult:
    """A check whose summary would be over the limit."""
    finding = replace(made.COUNT, reason="because " * 600)
    return made.failed(*(replace(finding, metric=f"m{i}") for i in range(count)))


def test_summary_keeps_within_the_limit(tmp_path):
    """GitHub refuses a summary over its limit whole, so it must be cut before, with a note."""
    summary = tmp_path / "summary.md"
    summary.write_bytes(b"x" * 1000)
    append_to_step(big_result(400), {"GITHUB_STEP_SUMMARY": str(summary)})
    text = summary.read_text(encoding="utf-8")
    assert MOST_SUMMARY_BYTES - 10_000 < summary.stat().st_size <= MOST_SUMMARY_BYTES
    assert "do not fit here" in text
    assert text.count("<details") == text.count("</details>")


def test_full_summary_is_left_alone(tmp_path):
    """What another tool wrote must not be lost because this one wanted to add to it."""
    summary = tmp_path / "summary.md"
    summary.write_bytes(b"x" * MOST_SUMMARY_BYTES)
    (note,) = append_to_step(made.failed(), {"GITHUB_STEP_SUMMARY": str(summary)})
    assert "full" in note
    assert summary.stat().st_size == MOST_SUMMARY_BYTES


@given(st.integers(0, 6000))
def test_summary_fits_any_room(num_bytes):
    """The cut, note included, never exceeds what is left."""
    text = fit_summary(build_summary(made.failed()), num_bytes)
    assert len(text.encode()) <= num_bytes


@given(st.text())
def test_summary_lets_no_markup_in(text):
    """A table bar would shift the columns, HTML would fake a verdict."""
    finding = Finding("m", text, text, "rule", Verdict.FAIL, 1.0, None, "s", text)
    result = CheckResult(Verdict.FAIL, (finding,), (text,), (made.RUN,), text, text, (text,))
    shown = "".join(build_summary(result))
    bare = re.sub(r"</?(?:details|summary)(?: open)?>", "", shown)
    assert "<" not in bare
    (row,) = [line for line in shown.splitlines() if line.startswith("| ❌")]
    assert len(re.findall(r"(?<!\\)\|", re.sub(r"\\\\", "", row))) == 8


def test_summary_shows_the_worst_first():
    """The table is read from its top."""
    text = "".join(build_summary(made.failed()))
    rows = [line for line in text.splitlines() if line.startswith("| ❌") or "| ✅" in line]
    assert rows[0].startswith("| ❌ FAIL | iterations per 1000 requests | 688 | 500 | +37.5 % |")
    assert rows[-1].startswith("| ✅")
