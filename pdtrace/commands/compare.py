"""Compare two runs: what changed, by how much, and how sure that is.

BASELINE and CANDIDATE are what analyze takes: a log, a run directory, or a saved run. First it is
checked whether they can be compared: same engine settings but for the delayer, same requests.

  pdtrace compare off/ on/
  pdtrace compare off/ on/ --request-filter '^seed' --json -
  pdtrace compare off/ on/ --second-baseline off-again/ --html comparison.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

MOST_REASONS = 3  # in the one line on standard error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``compare``."""
    from pdtrace.reading import add_reading_options

    parser.add_argument("baseline", metavar="BASELINE", help="the run to compare against")
    parser.add_argument("candidate", metavar="CANDIDATE", help="the run that is compared")
    parser.add_argument(
        "--request-filter",
        metavar="REGEX",
        help="only requests in whose id it is found, and the iterations that prefilled them",
    )
    parser.add_argument(
        "--second-baseline",
        metavar="PATH",
        help="a repeat of the baseline: what differs between the two widens every interval",
    )
    out = parser.add_argument_group("outputs, - is standard output in place of the report")
    out.add_argument("--json", metavar="FILE", help="write the comparison as JSON")
    out.add_argument("--html", metavar="FILE", help="write the page as one HTML file")
    out.add_argument("--markdown", metavar="FILE", help="write the report as Markdown")
    add_reading_options(parser, "reading, the same for all runs")


def run(args: argparse.Namespace) -> int:
    """Compare the runs, write what was asked for, and say why if they cannot be compared.

    Raises:
        NothingMeasuredError: They are not comparable, or share no metric; the outputs are written
            all the same.
    """
    from pdtrace.compare import compare_runs
    from pdtrace.errors import NothingMeasuredError, UsageError
    from pdtrace.exports.comparison import build_comparison_report, write_comparison_json
    from pdtrace.exports.overwriting import check_outputs
    from pdtrace.exports.writing import STDOUT, find_width, write_text
    from pdtrace.loading import load
    from pdtrace.reading import Waiting
    from pdtrace.untrusted import compile_pattern

    outputs = {"--json": args.json, "--html": args.html, "--markdown": args.markdown}
    paths = [p for p in (args.baseline, args.candidate, args.second_baseline) if p is not None]
    if paths.count(STDOUT) > 1:
        raise UsageError("only one run can be read from standard input")
    check_outputs(outputs, paths)
    if args.request_filter is not None:
        compile_pattern("--request-filter", args.request_filter)  # before a long read
    with Waiting("reading the runs"):
        runs = [load(p, sources=args.sources, dp_size=args.dp_size, tz=args.tz) for p in paths]
    with Waiting("comparing them"):
        result = compare_runs(
            runs[0],
            runs[1],
            request_filter=args.request_filter,
            second_baseline=runs[2] if len(runs) > 2 else None,
        )
    report = build_comparison_report(result, (runs[0], runs[1]))
    if args.json:
        write_text(args.json, write_comparison_json(result))
    if args.html:
        from pdtrace.pages import render_comparison

        both = (runs[0], runs[1])
        write_text(args.html, render_comparison(result, both, request_filter=args.request_filter))
    if args.markdown:
        from pdtrace.exports.markdown import render_markdown

        write_text(args.markdown, render_markdown(report))
    if STDOUT not in outputs.values():
        from pdtrace.exports.terminal import render_terminal

        write_text(STDOUT, render_terminal(report, width=find_width()))
    if not result.is_comparable:
        rest = len(result.reasons) - MOST_REASONS
        more = f"; and {rest} more" if rest > 0 else ""
        reasons = "; ".join(result.reasons[:MOST_REASONS])
        raise NothingMeasuredError(f"not comparable: {reasons}{more}")
    if all(row.verdict == "unmeasured" for row in result.rows):
        raise NothingMeasuredError("nothing was measured in both runs")
    return 0
