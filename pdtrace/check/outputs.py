"""Every place that a check's result goes to: options that name them, and writing them."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pdtrace.errors import UsageError
from pdtrace.exports.writing import STDOUT

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from pdtrace.check.verdicts import CheckResult
    from pdtrace.run import Run

# Option, and what it writes.
FILES = {
    "junit": "JUnit XML, one test case a finding",
    "json": "the result as JSON",
    "html": "the page: every finding drawn at its limit, the worst stretch",
    "markdown": "the summary as Markdown",
    "sarif": "SARIF 2.1.0, for code-scanning views",
    "code-quality": "a GitLab code quality report",
}
STRIP_LENGTH = 80


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Declare the outputs of ``check``."""
    out = parser.add_argument_group("outputs, - is standard output in place of the report")
    for name, what in FILES.items():
        out.add_argument(f"--{name}", metavar="FILE", help=f"write {what}")
    out.add_argument(
        "--github",
        action="store_true",
        help="annotate the GitHub run, append to its step's summary and outputs",
    )


def check_output_options(args: argparse.Namespace) -> None:
    """Refuse two outputs to standard output, before anything is read.

    Raises:
        UsageError: More than one of them is ``-``, or one is beside ``--github``.
    """
    num = sum(value == STDOUT for value in _named(args).values())
    if num > 1:
        raise UsageError("only one output can be written to standard output")
    if num and args.github:
        raise UsageError("--github writes to standard output: name a file for the other output")


def _named(args: argparse.Namespace) -> dict[str, str]:
    found = {name: getattr(args, name.replace("-", "_")) for name in FILES}
    return {name: value for name, value in found.items() if value is not None}


def write_outputs(
    args: argparse.Namespace, result: CheckResult, run: Run | None, *, elapsed_s: float = 0.0
) -> None:
    """Write the result wherever the arguments say; the report on the terminal if not elsewhere.

    Args:
        args: As :func:`add_output_options` declared them.
        result: The check.
        run: The run under test, whose worst stretch is shown; None: it is not shown.
        elapsed_s: How long the check took.

    Raises:
        OutputError: One of them cannot be written.
    """
    from pdtrace.check.github import (  # noqa: PLC0415 (the help does not need the writers)
        WORKSPACE_VARIABLE,
        append_to_step,
        build_annotations,
        fence_text,
    )
    from pdtrace.check.text import build_check_report  # noqa: PLC0415
    from pdtrace.exports.strip import find_worst_stretch  # noqa: PLC0415
    from pdtrace.exports.terminal import render_terminal  # noqa: PLC0415
    from pdtrace.exports.writing import find_width, write_text  # noqa: PLC0415

    width = find_width()
    length = STRIP_LENGTH if width is None else min(STRIP_LENGTH, width - 16)
    strip = None if run is None else find_worst_stretch(run, length)
    root = os.environ.get(WORKSPACE_VARIABLE)
    named = _named(args)
    for name, target in named.items():
        writer = _writer_of(name)
        write_text(target, writer(result, strip, root, elapsed_s))
    notes = append_to_step(result, os.environ, strip) if args.github else []
    if STDOUT in named.values():
        return
    text = render_terminal(build_check_report(result, strip), width=width)
    if args.github:
        lines = [*notes, *build_annotations(result, root)]
        text = fence_text(text) + "\n".join(lines) + "\n"
    write_text(STDOUT, text)


def _writer_of(name: str) -> Callable[..., str]:
    from pdtrace.check.code_quality import write_code_quality  # noqa: PLC0415 (see above)
    from pdtrace.check.document import write_check_json  # noqa: PLC0415
    from pdtrace.check.junit import write_junit  # noqa: PLC0415
    from pdtrace.check.markdown import build_summary, render_summary  # noqa: PLC0415
    from pdtrace.check.page import render_check_page  # noqa: PLC0415
    from pdtrace.check.sarif import write_sarif  # noqa: PLC0415

    return {
        "junit": lambda r, strip, root, s: write_junit(r, datetime.now(UTC), elapsed_s=s),
        "json": lambda r, strip, root, s: write_check_json(r),
        "html": lambda r, strip, root, s: render_check_page(r, strip),
        "markdown": lambda r, strip, root, s: render_summary(build_summary(r, strip)),
        "sarif": lambda r, strip, root, s: write_sarif(r, root),
        "code-quality": lambda r, strip, root, s: write_code_quality(r, root),
    }[name]
