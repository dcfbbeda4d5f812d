"""Predict what the PrefillDelayer would do, by replaying a recorded load.

The engine's timing is fitted to the recording, which needs request arrivals: OpenTelemetry spans
(--enable-trace), or at least request time stats. Nothing is restarted and no engine is needed.

  pdtrace whatif run/ --max-delay-passes 30
  pdtrace whatif run/ --max-delay-passes 8 30 100 --request-filter '^seed' --json -
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from pdtrace.exports.report import Report
    from pdtrace.run import Run

MOST_PASSES = 1_000_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``whatif``."""
    from pdtrace.reading import add_reading_arguments

    add_reading_arguments(parser)
    parser.add_argument(
        "--max-delay-passes",
        metavar="N",
        type=int,
        nargs="+",
        required=True,
        help="bounds to try; 0 or 1: the delayer never holds back",
    )
    parser.add_argument(
        "--token-usage-low-watermark",
        metavar="X",
        type=float,
        help="share of the KV pool (0-1) below which prefill is let through",
    )
    add_replay_arguments(parser)


def add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every command that replays takes."""
    parser.add_argument(
        "--engine-version", metavar="V", help="release whose negotiation is used (the recording's)"
    )
    parser.add_argument(
        "--request-filter",
        metavar="REGEX",
        help="figures of the requests whose id matches; the whole load is replayed all the same",
    )
    parser.add_argument("--json", metavar="FILE", help="write JSON; - is standard output")
    parser.add_argument("--html", metavar="FILE", help="write the page as one HTML file")


def run(args: argparse.Namespace) -> int:
    """Fit, replay, and print."""
    from pdtrace.delayer.replay import (
        Setting,
        choose_requests,
        fit_engine,
        measure_recording,
        predict,
    )
    from pdtrace.errors import UsageError
    from pdtrace.exports.forecast import build_forecast_report, write_forecast
    from pdtrace.loading import reason_against_replay
    from pdtrace.reading import Waiting, read_run
    from pdtrace.sources.joining import join_requests

    check_replay_arguments(args)
    if not 0 <= min(args.max_delay_passes) <= max(args.max_delay_passes) <= MOST_PASSES:
        raise UsageError(f"--max-delay-passes must lie between 0 and {MOST_PASSES:,}")
    watermark = args.token_usage_low_watermark
    if watermark is not None and not 0 <= watermark <= 1:
        raise UsageError("--token-usage-low-watermark must lie between 0 and 1")
    recorded = read_run(args)
    if (why := reason_against_replay(recorded)) is not None:
        raise why
    with Waiting("fitting the engine"):
        model = fit_engine(
            recorded, join_requests(recorded.requests), engine_version=args.engine_version
        )
    chosen = choose_requests(model, args.request_filter)
    measured = measure_recording(model, chosen, count_delay_passes(recorded))
    with Waiting("replaying the load at these settings"):
        asked = [Setting(n, watermark) for n in args.max_delay_passes]
        reproduced, *predictions = predict(model, [model.recorded, *asked], chosen, measured)
    if args.json:
        from pdtrace.exports.writing import write_text

        write_text(args.json, write_forecast(model, measured, predictions, reproduced))
    report = build_forecast_report(model, measured, predictions, reproduced)
    if args.html:
        from pdtrace.delayer.tuning import SWEPT_PASSES, tune
        from pdtrace.exports.writing import write_text
        from pdtrace.figures.outlook import Outlook
        from pdtrace.pages import render_whatif

        advice = tune(
            model,
            chosen,
            passes=tuple(sorted({*SWEPT_PASSES, *(n for n in args.max_delay_passes if n > 1)})),
            watermarks=None if watermark is None else (watermark,),
        )
        page = render_whatif(
            recorded,
            Outlook(model, advice, tuple(s for s in asked if (s.max_delay_passes or 0) > 1)),
            request_filter=args.request_filter,
            verdict=report.verdict,
        )
        write_text(args.html, page)
    if "-" not in (args.json, args.html):
        print_report(report)
    return 0


def check_replay_arguments(args: argparse.Namespace) -> None:
    """Raise UsageError before a long read: for outputs that cannot be written, or a bad filter."""
    from pdtrace.exports.overwriting import check_outputs
    from pdtrace.untrusted import compile_pattern

    if args.request_filter is not None:
        compile_pattern("--request-filter", args.request_filter)
    check_outputs({"--json": args.json, "--html": args.html}, args.paths)


def count_delay_passes(recorded: Run) -> float | None:
    """Delay passes as the engine counted them; None where nothing says it."""
    from pdtrace.metrics import measure

    metrics = measure(recorded)
    value = metrics.filter((metrics["metric"] == "num_delay_passes") & metrics["dp_rank"].is_null())
    return None if value["value"][0] is None else float(value["value"][0])


def print_report(report: Report) -> None:
    """Print a report to standard output, in colours on a terminal."""
    from pdtrace.exports.terminal import render_terminal
    from pdtrace.exports.writing import STDOUT, find_width, write_text

    write_text(STDOUT, render_terminal(report, width=find_width()))
