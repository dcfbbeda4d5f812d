"""Say which delayer settings to use, from a recording of the engine without it.

Sweeps the bound on delay passes over a replay of the recorded load, and prints the launch flags to
use with their predicted gain and cost, or that the delayer is better left off.

  pdtrace tune run/
  pdtrace tune run/ --json advice.json --html advice.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tune``."""
    from pdtrace.commands.whatif import add_replay_arguments
    from pdtrace.reading import add_reading_arguments

    add_reading_arguments(parser)
    add_replay_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Fit, sweep, and print."""
    from pdtrace.commands.whatif import check_replay_arguments, print_report
    from pdtrace.delayer.replay import choose_requests, fit_engine
    from pdtrace.delayer.tuning import tune
    from pdtrace.exports.advice import build_advice_report, write_advice
    from pdtrace.loading import reason_against_replay
    from pdtrace.reading import Waiting, read_run
    from pdtrace.sources.joining import join_requests

    check_replay_arguments(args)
    recorded = read_run(args)
    if (why := reason_against_replay(recorded)) is not None:
        raise why
    with Waiting("fitting the engine"):
        model = fit_engine(
            recorded, join_requests(recorded.requests), engine_version=args.engine_version
        )
    chosen = choose_requests(model, args.request_filter)
    with Waiting("replaying the load at other settings"):
        advice = tune(model, chosen)
    if args.json:
        from pdtrace.exports.writing import write_text

        write_text(args.json, write_advice(model, advice))
    if args.html:
        from pdtrace.exports.writing import write_text
        from pdtrace.figures.outlook import Outlook
        from pdtrace.pages import render_whatif

        outlook = Outlook(model, advice)
        page = render_whatif(recorded, outlook, request_filter=args.request_filter)
        write_text(args.html, page)
    if "-" not in (args.json, args.html):
        print_report(build_advice_report(model, advice))
    return 0
