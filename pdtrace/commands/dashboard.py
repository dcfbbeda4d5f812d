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

With --figure, one figure is drawn as a picture, for a pull request or a paper:

  pdtrace dashboard run/ --figure timeline --svg timeline.svg
  pdtrace dashboard off/ on/ --figure gain --png gain.png
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from pdtrace.compare import Comparison
    from pdtrace.figures.fleet import FleetRow
    from pdtrace.figures.outlook import Outlook
    from pdtrace.run import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``dashboard``."""
    from pdtrace.reading import add_reading_arguments

    add_reading_arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
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
    pictures = parser.add_argument_group("pictures, drawn by Chromium (pdtrace[pictures])")
    pictures.add_argument("--figure", metavar="NAME", help="draw this figure, and no page")
    pictures.add_argument("--png", metavar="FILE", help="write it as PNG")
    pictures.add_argument("--svg", metavar="FILE", help="write it as SVG")
    pictures.add_argument("--width", metavar="PX", type=int, help="of the picture (1200)")


def run(args: argparse.Namespace) -> int:
    """Load, draw and write.

    Raises:
        NothingMeasuredError: Nothing was found to show, or the two runs cannot be compared; the
            page is written all the same.
    """
    from pdtrace.errors import UsageError
    from pdtrace.exports.overwriting import check_outputs
    from pdtrace.exports.writing import STDOUT, write_text
    from pdtrace.pages import load_page
    from pdtrace.untrusted import compile_pattern

    if args.request_filter is not None:
        compile_pattern("--request-filter", args.request_filter)  # before a long read
    if args.figure is not None:
        return _write_pictures(args)
    if args.png or args.svg or args.width is not None:
        raise UsageError("--png, --svg and --width are of a picture: name its figure by --figure")
    if args.output is None:
        raise UsageError("name the page to write by -o, or a figure by --figure")
    name = args.page or choose_page(args.paths)
    # A mistake in the page is told before a long read.
    subject = load_page(name).subject
    if args.request_filter is not None and subject not in ("comparison", "whatif"):
        raise UsageError("--request-filter is for pages about a comparison or a what-if")
    if subject in ("comparison", "fleet") and args.paths.count(STDOUT) > 1:
        raise UsageError("only one run can be read from standard input")
    check_outputs({"-o": args.output}, (*args.paths, args.page))
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


def _write_pictures(args: argparse.Namespace) -> int:
    """Draw one figure of what was named, as PNG, SVG or both."""
    from pdtrace.errors import UsageError
    from pdtrace.exports.overwriting import check_outputs
    from pdtrace.exports.writing import open_output
    from pdtrace.figures import find_subject
    from pdtrace.pages.pictures import NARROWEST, WIDEST, WIDTH, draw_picture, render_picture

    # A mistake is told before a long read.
    subject = find_subject(args.figure)
    outputs = [(kind, name) for kind in ("png", "svg") if (name := getattr(args, kind))]
    if not outputs:
        raise UsageError("--figure needs --png FILE or --svg FILE")
    if args.output is not None or args.page is not None:
        raise UsageError("--figure draws a picture and no page: leave -o and --page out")
    check_outputs({f"--{kind}": name for kind, name in outputs}, args.paths)
    if args.request_filter is not None and subject not in ("comparison", "whatif"):
        raise UsageError("--request-filter is for figures about a comparison or a what-if")
    width = WIDTH if args.width is None else args.width
    if not NARROWEST <= width <= WIDEST:
        raise UsageError(f"--width must be from {NARROWEST} to {WIDEST}")
    read = {
        "run": _read_survey,
        "comparison": _read_pair,
        "whatif": _read_outlook,
        "fleet": _read_fleet,
    }
    drawn, name = read[subject](args)
    figure = draw_picture(args.figure, drawn, width)
    for kind, output in outputs:
        picture = render_picture(figure, name, kind, width)
        with open_output(output) as stream:
            stream.write(picture)
    return 0


def _read_survey(args: argparse.Namespace) -> tuple[object, str]:
    from pdtrace.figures.survey import survey_run
    from pdtrace.loading import compare_sources, reason_for_nothing
    from pdtrace.pages.head import name_run
    from pdtrace.reading import read_run

    recorded = compare_sources(read_run(args))
    reason = reason_for_nothing(recorded)
    if reason is not None:
        raise reason
    return survey_run(recorded), name_run(recorded)


def _read_pair(args: argparse.Namespace) -> tuple[object, str]:
    from pdtrace.errors import NothingMeasuredError
    from pdtrace.figures.pair import survey_pair
    from pdtrace.pages.head import name_run

    result, runs = _compare(args)
    if not result.is_comparable:
        raise NothingMeasuredError(f"not comparable: {'; '.join(result.reasons[:3])}")
    name = " against ".join(name_run(run) for run in reversed(runs))
    return survey_pair(result, runs, args.request_filter), name


def _read_outlook(args: argparse.Namespace) -> tuple[object, str]:
    from pdtrace.pages.head import name_run

    recorded, outlook = _tune(args)
    return outlook, name_run(recorded)


def _read_fleet(args: argparse.Namespace) -> tuple[object, str]:
    from pdtrace.figures.fleet import Fleet

    rows = tuple(_read_rows(args))
    return Fleet(rows), "1 run" if len(rows) == 1 else f"{len(rows):,} runs"


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
    text = render_page(
        recorded, page=page, metrics=metrics, verdict=report.verdict, worst=report.strip
    )
    return text, reason_for_nothing(recorded)


def _compare(args: argparse.Namespace) -> tuple[Comparison, tuple[Run, Run]]:
    from pdtrace.compare import compare_runs
    from pdtrace.errors import UsageError

    if len(args.paths) != 2:
        raise UsageError(
            f"what is about a comparison takes two PATHs, BASELINE and CANDIDATE, not "
            f"{len(args.paths)}"
        )
    runs = (_load(args, args.paths[0]), _load(args, args.paths[1]))
    return compare_runs(*runs, request_filter=args.request_filter), runs


def _tune(args: argparse.Namespace) -> tuple[Run, Outlook]:
    from pdtrace.delayer.replay import choose_requests, fit_engine
    from pdtrace.delayer.tuning import tune
    from pdtrace.figures.outlook import Outlook
    from pdtrace.reading import read_run
    from pdtrace.sources.joining import join_requests

    recorded = read_run(args)
    model = fit_engine(recorded, join_requests(recorded.requests))
    return recorded, Outlook(model, tune(model, choose_requests(model, args.request_filter)))


def _draw_comparison(args: argparse.Namespace, page: str) -> tuple[str, Exception | None]:
    from pdtrace.errors import NothingMeasuredError
    from pdtrace.pages import render_comparison

    result, runs = _compare(args)
    text = render_comparison(result, runs, page=page, request_filter=args.request_filter)
    error = None
    if not result.is_comparable:
        error = NothingMeasuredError(f"not comparable: {'; '.join(result.reasons[:3])}")
    return text, error


def _draw_whatif(args: argparse.Namespace, page: str) -> tuple[str, Exception | None]:
    from pdtrace.pages import render_whatif

    recorded, outlook = _tune(args)
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
