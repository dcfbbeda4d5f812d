"""Every place that a check's result goes to: options that name them, and writing them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pdtrace.check.verdicts import CheckResult, JudgedRun, Verdict
from pdtrace.errors import OutputError, PdtraceError, UsageError
from pdtrace.exports.writing import STDOUT, find_width, write_text
from pdtrace.untrusted import show

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from pdtrace.exports.strip import Strip
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
CHECKOUT_VARIABLES = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR")  # of GitHub, of GitLab


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
    """Refuse outputs that cannot all be written, or would replace an input, before any is read.

    Raises:
        UsageError: Two of them are one file or standard output, one is beside ``--github`` or is
            also read, or a baseline is written, which gives no result.
    """
    from pdtrace.exports.overwriting import check_outputs  # noqa: PLC0415 (the help does not need it)

    named = _named(args)
    if args.update_baseline and (named or args.github or args.baseline == STDOUT):
        odd = "--baseline -" if args.baseline == STDOUT else f"--{next(iter(named), 'github')}"
        raise UsageError(f"--update-baseline writes the baseline file alone: leave out {odd}")
    inputs = (*args.paths, args.rules)
    check_outputs({f"--{name}": text for name, text in named.items()}, (*inputs, args.baseline))
    if STDOUT in named.values() and args.github:
        raise UsageError("--github writes to standard output: name a file for the other output")
    if args.update_baseline:
        check_outputs({"--baseline": args.baseline}, inputs)


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
    from pdtrace.check.text import build_check_report  # noqa: PLC0415 (the help does not need them)
    from pdtrace.exports.strip import find_worst_stretch  # noqa: PLC0415
    from pdtrace.exports.terminal import render_terminal  # noqa: PLC0415

    width = find_width()
    length = STRIP_LENGTH if width is None else min(STRIP_LENGTH, width - 16)
    strip = None if run is None else find_worst_stretch(run, length)
    root = _find_checkout()
    named = _named(args)
    # Standard output last: its reader may have gone.
    for name, target in sorted(named.items(), key=lambda item: item[1] == STDOUT):
        write_text(target, _writer_of(name)(result, strip, root, elapsed_s))
    if STDOUT in named.values():
        return
    text = render_terminal(build_check_report(result, strip), width=width, is_wrapped=False)
    if args.github:
        write_github(result, strip, text)
    else:
        write_text(STDOUT, text)


def write_github(result: CheckResult, strip: Strip | None, text: str = "") -> None:
    """Annotate, and append to what the runner shows of the step.

    Args:
        result: The check.
        strip: The worst stretch of the run under test.
        text: The report, printed so that the runner obeys nothing in it.
    """
    from pdtrace.check.github import (  # noqa: PLC0415 (see above)
        append_to_step,
        build_annotations,
        fence_text,
    )

    notes = append_to_step(result, os.environ, strip)
    lines = [*notes, *build_annotations(result, _find_checkout())]
    write_text(STDOUT, (fence_text(text) if text else "") + "\n".join(lines) + "\n")


@contextmanager
def writing_errors(args: argparse.Namespace, names: Sequence[str]) -> Iterator[None]:
    """Within it, an error is also written wherever a result would have been.

    So a CI system never finds the green document of an earlier run beside a check that could not
    be made, and GitHub shows the reason where it shows findings.

    Args:
        args: As :func:`add_output_options` declared them.
        names: Of the runs under test, as the user named them; at least one.
    """
    try:
        yield
    except (OutputError, BrokenPipeError):
        raise
    except Exception as error:
        # The first is where readers of one place look: the run that could not be read.
        blamed = getattr(error, "path", None) or ""
        ordered = sorted(names, key=lambda name: not blamed.startswith(show(name)))
        runs = tuple(JudgedRun(name, None, None, 0, 0, 0) for name in ordered)
        is_ours = isinstance(error, PdtraceError | OSError)
        why = str(error) if is_ours else f"internal error, {type(error).__name__}: {error}"
        result = CheckResult(Verdict.UNMEASURED, (), (why,), runs, None, summary=why)
        for key, target in _named(args).items():
            write_text(target, _writer_of(key)(result, None, None, 0.0))
        if args.github:
            write_github(result, None)
        raise


def _find_checkout() -> str | None:
    return next((os.environ[name] for name in CHECKOUT_VARIABLES if os.environ.get(name)), None)


def _writer_of(name: str) -> Callable[..., str]:
    from pdtrace.check.code_quality import write_code_quality  # noqa: PLC0415 (see above)
    from pdtrace.check.document import write_check_json  # noqa: PLC0415
    from pdtrace.check.junit import write_junit  # noqa: PLC0415
    from pdtrace.check.markdown import build_summary  # noqa: PLC0415
    from pdtrace.check.page import render_check_page  # noqa: PLC0415
    from pdtrace.check.sarif import write_sarif  # noqa: PLC0415

    return {
        "junit": lambda r, strip, root, s: write_junit(r, datetime.now(UTC), elapsed_s=s),
        "json": lambda r, strip, root, s: write_check_json(r),
        "html": lambda r, strip, root, s: render_check_page(r, strip),
        "markdown": lambda r, strip, root, s: "".join(build_summary(r, strip)),
        "sarif": lambda r, strip, root, s: write_sarif(r, root),
        "code-quality": lambda r, strip, root, s: write_code_quality(r, root),
    }[name]
