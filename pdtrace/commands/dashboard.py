"""Draw a page about one run, two runs or many, as one HTML file that needs nothing else.

PATH is what analyze takes. What several paths are depends on what the page is about:

  one run (overview, whatif)  all paths together are one run, as in analyze
  two runs (comparison)       BASELINE and CANDIDATE
  many runs (fleet)           each path is a run; one that cannot be read is a row that says so

Without --page, several run directories are a fleet, and several files are one run.

  pdtrace dashboard run/ -o page.html
  pdtrace dashboard off/ on/ --page comparison -o page.html
  pdtrace dashboard runs/* --page fleet -o page.html
  pdtrace dashboard run/ --page whatif -o page.html
  pdtrace dashboard run/ -o page.html --page mine.toml
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from pdtrace.figures.fleet import FleetRow
    from pdtrace.run import Run


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
        help="overview, comparison, whatif, fleet, or a .toml file that says its tiles",
    )
    parser.add_argument(
        "--request-filter",
        metavar="REGEX",
        help="comparison and whatif: only requests in whose id it is found",
    )


def run(args: argparse.Namespace) -> int:
    """Load, draw and write.

    Raises:
        NothingMeasuredError: Nothing was found to show, or the two runs cannot be compared; the
            page is written all the same.
    """
    from pdtrace.errors import UsageError
    from pdtrace.exports.writing import STDOUT, write_text
    from pdtrace.pages import load_page

    name = args.page or choose_page(args.paths)
    # A mistake in the page is told before a long read.
    subject = load_page(name).subject
    if args.request_filter is not None and subject not in ("comparison", "whatif"):
        raise UsageError("--request-filter is for pages about a comparison or a what-if")
    if subject in ("comparison", "fleet") and args.paths.count(STDOUT) > 1:
        raise UsageError("only one run can be read from standard input")
    draw = {
        "run": _draw_run,
        "comparison": _draw_comparison,
        "whatif": _draw_whatif,
        "fleet": _draw_fleet,
    }
    page, error = draw[subject](args, name)
    write_text(args.output, page)
    if error is not None:
        raise error
    return 0


def choose_page(paths: Sequence[str]) -> str:
    """The page for what was named, where none was asked for.

    Raises:
        UsageError: Files and directories stand side by side, which can mean either.
    """
    from pathlib import Path

    from pdtrace.errors import UsageError

    is_directory = [Path(p).is_dir() for p in paths]
    if len(paths) == 1 or not any(is_directory):
        return "overview"
    if all(is_directory):
        return "fleet"
    raise UsageError(
        "files and directories side by side: say --page overview if they are one run, or "
        "--page fleet if each is its own"
    )


def _draw_run(args: argparse.Namespace, page: str) -> tuple[str, Exception | None]:
    from pdtrace.exports.explained import explain
    from pdtrace.exports.report import build_report
    from pdtrace.loading import compare_sources, reason_for_nothing
    from pdtrace.metrics import measure
    from pdtrace.pages import render_page
    from pdtrace.reading import read_run

    recorded = compare_sources(read_run(args))
    metrics = measure(recorded)
    report = build_report(recorded, metrics, explained=explain(recorded))
    text = render_page(recorded, page=page, metrics=metrics, verdict=report.verdict)
    return text, reason_for_nothing(recorded)


def _draw_comparison(args: argparse.Namespace, page: str) -> tuple[str, Exception | None]:
    from pdtrace.compare import compare_runs
    from pdtrace.errors import NothingMeasuredError, UsageError
    from pdtrace.pages import render_comparison

    if len(args.paths) != 2:
        raise UsageError(
            f"a page about a comparison takes two PATHs, BASELINE and CANDIDATE, not "
            f"{len(args.paths)}"
        )
    runs = (_load(args, args.paths[0]), _load(args, args.paths[1]))
    result = compare_runs(*runs, request_filter=args.request_filter)
    text = render_comparison(result, runs, page=page, request_filter=args.request_filter)
    error = None
    if not result.is_comparable:
        error = NothingMeasuredError(f"not comparable: {'; '.join(result.reasons[:3])}")
    return text, error


def _draw_whatif(args: argparse.Namespace, page: str) -> tuple[str, Exception | None]:
    from pdtrace.delayer.replay import choose_requests, fit_engine
    from pdtrace.delayer.tuning import tune
    from pdtrace.figures.outlook import Outlook
    from pdtrace.pages import render_whatif
    from pdtrace.reading import read_run
    from pdtrace.sources.joining import join_requests

    recorded = read_run(args)
    model = fit_engine(recorded, join_requests(recorded.requests))
    outlook = Outlook(model, tune(model, choose_requests(model, args.request_filter)))
    text = render_whatif(recorded, outlook, page=page, request_filter=args.request_filter)
    return text, None


def _draw_fleet(args: argparse.Namespace, page: str) -> tuple[str, Exception | None]:
    from pdtrace.errors import NothingMeasuredError
    from pdtrace.pages import render_fleet

    rows = list(_read_rows(args))
    text = render_fleet(rows, page=page)
    error = None
    if all(row.reason for row in rows):
        error = NothingMeasuredError(f"nothing was measured in any of {len(rows)} inputs")
    return text, error


def _read_rows(args: argparse.Namespace) -> Iterator[FleetRow]:
    """Each run by itself, one after the other; of each only its row is kept."""
    from pdtrace.errors import PdtraceError
    from pdtrace.figures.fleet import FleetRow
    from pdtrace.loading import reason_for_nothing
    from pdtrace.pages import build_row

    for path in args.paths:
        try:
            recorded = _load(args, path)
            reason = reason_for_nothing(recorded)
            yield build_row(path, recorded, str(reason or "").removeprefix(f"{path}: "))
        except (PdtraceError, OSError) as error:
            yield FleetRow(path, str(error).removeprefix(f"{path}: "))


def _load(args: argparse.Namespace, path: str) -> Run:
    from pdtrace.loading import load
    from pdtrace.reading import Bar

    with Bar() as bar:
        return load(path, sources=args.sources, dp_size=args.dp_size, tz=args.tz, progress=bar.show)
