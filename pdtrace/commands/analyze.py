"""Summarise a recording: how often ranks ran alone, what idled, and what it cost.

PATH is a log file (plain, .gz, .zst, or - for standard input), several of them, a run directory
in which every recognised file is used, or a directory that --save wrote.

  pdtrace analyze server.log
  pdtrace analyze run/ --json summary.json --gpu-hour-cost 2.50
  zcat server.log.gz | pdtrace analyze - --json -
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``analyze``."""
    from pdtrace.reading import add_reading_arguments

    add_reading_arguments(parser)
    out = parser.add_argument_group("outputs, - is standard output in place of the report")
    out.add_argument("--json", metavar="FILE", help="write the summary as JSON")
    out.add_argument("--html", metavar="FILE", help="write the page as one HTML file")
    out.add_argument("--markdown", metavar="FILE", help="write the report as Markdown")
    out.add_argument("--save", metavar="DIR", help="save the run; every command takes DIR as PATH")
    parser.add_argument(
        "--gpu-hour-cost",
        metavar="USD",
        type=float,
        help="price of one GPU for one hour, to price the idle time",
    )


def run(args: argparse.Namespace) -> int:
    """Analyze what was named, write what was asked for, and say why if there was nothing.

    Raises:
        NothingMeasuredError: No prefill iteration was found; the outputs are written all the same.
    """
    from pdtrace.exports.explained import explain
    from pdtrace.exports.overwriting import check_directory, check_outputs
    from pdtrace.exports.report import STRIP_LENGTH, build_report
    from pdtrace.exports.summary import write_summary
    from pdtrace.exports.writing import STDOUT, find_width, write_text
    from pdtrace.loading import compare_sources, reason_for_nothing
    from pdtrace.metrics import measure
    from pdtrace.reading import read_run
    from pdtrace.saved_run import save_run

    outputs = {"--json": args.json, "--html": args.html, "--markdown": args.markdown}
    check_outputs(outputs, args.paths)
    check_directory("--save", args.save, args.paths)
    recorded = compare_sources(read_run(args))
    metrics = measure(recorded, gpu_hour_cost=args.gpu_hour_cost)
    explained = explain(recorded)
    if args.save:
        save_run(recorded, args.save)
    if args.json:
        write_text(args.json, write_summary(recorded, metrics, explained))
    reason = reason_for_nothing(recorded)
    width = find_width()
    # The strip must not be cut: beside its marks a line names the rank.
    length = STRIP_LENGTH if width is None else min(STRIP_LENGTH, width - 16)
    report = build_report(recorded, metrics, strip_length=length, explained=explained)
    if args.html:
        from pdtrace.pages import render_page

        page = render_page(recorded, metrics=metrics, verdict=report.verdict, worst=report.strip)
        write_text(args.html, page)
    if args.markdown:
        from pdtrace.exports.markdown import render_markdown

        write_text(args.markdown, render_markdown(report))
    if STDOUT not in outputs.values() and reason is None:
        from pdtrace.exports.terminal import render_terminal

        write_text(STDOUT, render_terminal(report, width=width))
    if reason is not None:
        raise reason
    return 0
