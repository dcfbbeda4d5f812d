"""A check where GitHub shows it: annotations on the run, the step's summary, the step's outputs.

The forms and limits are those of GitHub's documentation on workflow commands: ten annotations of a
kind a step, a mebibyte of summary a step. Everything from the input is escaped, so that a log line
can neither become a command nor markup.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from pdtrace.check.locations import find_location
from pdtrace.check.markdown import build_summary, fit_summary
from pdtrace.check.verdicts import Verdict
from pdtrace.check.wording import (
    WORDS,
    describe_finding,
    headline,
    other_reasons,
    sort_by_gravity,
)
from pdtrace.errors import OutputError
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pdtrace.check.verdicts import CheckResult, Finding
    from pdtrace.exports.strip import Strip

MOST_ANNOTATIONS = 10
MOST_SUMMARY_BYTES = 1 << 20
SUMMARY_VARIABLE, OUTPUT_VARIABLE = "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"


def build_annotations(result: CheckResult, root: str | None = None) -> list[str]:
    """Build the workflow commands that annotate a check, at most ten of a kind.

    Args:
        result: The check.
        root: The checkout; paths below it are named relative to it.

    Returns:
        One line each: ``::error`` for what failed or could not be judged, the worst first;
        ``::warning`` for findings without a verdict in a check that has one all the same. Where
        there are more than GitHub shows, the last line of that kind says how many.
    """
    lines = []
    errors = [f for f in sort_by_gravity(result.findings) if _level(f, result) == "error"]
    warnings = [f for f in sort_by_gravity(result.findings) if _level(f, result) == "warning"]
    commands = [_annotate("error", f, root) for f in errors]
    if result.exit_code == 2:
        text = "\n".join([headline(result), *other_reasons(result)])
        commands.insert(0, _command("error", {"title": "pdtrace: not judged"}, text))
    lines += _limit(commands, "error")
    lines += _limit([_annotate("warning", f, root) for f in warnings], "warning")
    if result.exit_code == 0:
        lines.append(_command("notice", {"title": "pdtrace: passed"}, headline(result)))
    return lines


def _level(finding: Finding, result: CheckResult) -> str | None:
    if finding.has_passed:
        return None
    is_error = finding.verdict is Verdict.FAIL or result.exit_code == 2
    return "error" if is_error else "warning"


def _annotate(level: str, finding: Finding, root: str | None) -> str:
    properties = {}
    if finding.where is not None:
        properties["file"] = find_location(finding.where.file, root)
        if finding.where.line is not None:
            properties["line"] = str(finding.where.line)
    properties["title"] = f"pdtrace {WORDS[finding.verdict]}: {finding.title}"
    return _command(level, properties, describe_finding(finding))


def _limit(commands: list[str], level: str) -> list[str]:
    if len(commands) <= MOST_ANNOTATIONS:
        return commands
    kept = commands[: MOST_ANNOTATIONS - 1]
    text = f"{len(commands) - len(kept)} more are in the summary of this step"
    return [*kept, _command(level, {"title": "pdtrace: more findings"}, text)]


def _command(level: str, properties: Mapping[str, str], message: str) -> str:
    told = ",".join(f"{name}={_escape_property(value)}" for name, value in properties.items())
    lines = "\n".join(show(line) for line in message.split("\n"))
    return f"::{level} {told}::{_escape_data(lines)}"


def _escape_data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape_data(show(text)).replace(":", "%3A").replace(",", "%2C")


def fence_text(text: str) -> str:
    """A text for standard output in which the runner obeys no command that a log may hold."""
    token = secrets.token_hex(16)
    return f"::stop-commands::{token}\n{text.rstrip()}\n::{token}::\n"


def append_to_step(
    result: CheckResult, environment: Mapping[str, str], strip: Strip | None = None
) -> Sequence[str]:
    """Append the summary and the outputs to the files that the runner names.

    Args:
        result: The check.
        environment: Variables of the process; files that it does not name are not written.
        strip: The worst stretch of the run under test.

    Returns:
        Notes about what was not written.

    Raises:
        OutputError: A named file cannot be written.
    """
    notes = []
    if name := environment.get(SUMMARY_VARIABLE):
        used = Path(name).stat().st_size if Path(name).is_file() else 0
        text = fit_summary(build_summary(result, strip), MOST_SUMMARY_BYTES - used)
        if text:
            _append(name, text)
        else:
            notes.append("the step's summary is full: nothing was appended")
    if name := environment.get(OUTPUT_VARIABLE):
        _append(name, f"verdict={result.verdict}\nexit-code={result.exit_code}\n")
    return notes


def _append(name: str, text: str) -> None:
    try:
        with Path(name).open("ab") as stream:
            stream.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise OutputError(f"{name}: cannot be written: {error.strerror or error}") from error
