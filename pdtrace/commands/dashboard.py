"""Draw a page of dashboards/, or one of your own, into one HTML file that needs nothing else.

PATH is what analyze takes; several paths are one run, as there.

  pdtrace dashboard run/ -o page.html
  pdtrace dashboard run/ -o page.html --page mine.toml
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``dashboard``."""
    from pdtrace.reading import add_reading_arguments

    add_reading_arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="the page to write; - is standard output",
    )
    parser.add_argument(
        "--page",
        metavar="NAME",
        default="overview",
        help="a page by name, or a .toml file that says its tiles (overview)",
    )


def run(args: argparse.Namespace) -> int:
    """Load, draw and write.

    Raises:
        NothingMeasuredError: No prefill iteration was found; the page is written all the same.
    """
    from pdtrace.exports.explained import explain
    from pdtrace.exports.report import build_report
    from pdtrace.exports.writing import write_text
    from pdtrace.loading import compare_sources, reason_for_nothing
    from pdtrace.metrics import measure
    from pdtrace.pages import load_page, render_page
    from pdtrace.reading import read_run

    load_page(args.page)  # a mistake in the page is told before a long read
    recorded = compare_sources(read_run(args))
    metrics = measure(recorded)
    report = build_report(recorded, metrics, explained=explain(recorded))
    page = render_page(recorded, page=args.page, metrics=metrics, verdict=report.verdict)
    write_text(args.output, page)
    reason = reason_for_nothing(recorded)
    if reason is not None:
        raise reason
    return 0
