"""Write a run directory as an engine would, together with its truth.

A lock-step engine with DP attention serves a made load in simulated time and writes the log, spans,
metrics and client log that a real one of that release writes; truth.json says which lines are one
iteration. Every file says that it is simulated. Equal options and seed give equal bytes.

Unless --like gives a recording to fit, the timing is assumed, near that of two H100: a pass takes
the larger of what the host needs (90 ms and an exponential 36 ms) and 24 ms + max over ranks(3.2 us
a token + 2 ms a million squares, attention) + 11.3 us / ranks for each token of all ranks, with 2 %
of scatter; launches with tokens return when the device is done, idle ones after about 75 ms; a turn
without work takes 1.6 ms.

  pdtrace simulate -o run/ --dp-size 4 --requests 800 --max-delay-passes 30
  pdtrace simulate -o run/ --like recorded/ --replay-arrivals --max-delay-passes 30
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def _passes(text: str) -> int:
    """Bound of the delayer; 0 stands for off."""
    number = 0 if text == "off" else int(text)
    if number < 0 or (number == 0 and text != "off"):
        raise ValueError
    return number


def _lengths(text: str) -> tuple[int, int]:
    shortest, _, longest = text.partition("-")
    return int(shortest), int(longest or shortest)


# argparse names them in its message: "invalid number of passes value: 'x'"
_passes.__name__, _lengths.__name__ = "number of passes", "length"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``simulate``."""
    parser.add_argument(
        "-o", "--output", metavar="DIR", required=True, help="the run directory, new or empty"
    )
    parser.add_argument(
        "--force", action="store_true", help="take a DIR that holds files, and replace its own"
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="%(default)s")
    engine = parser.add_argument_group("engine")
    engine.add_argument("--dp-size", metavar="N", type=int, help="DP ranks (2)")
    engine.add_argument(
        "--max-delay-passes",
        metavar="N|off",
        type=_passes,
        help="bound of the PrefillDelayer (off; with --like: as recorded)",
    )
    engine.add_argument(
        "--token-usage-low-watermark",
        metavar="X",
        type=float,
        help="share of the KV pool (0-1) below which prefill is let through",
    )
    engine.add_argument(
        "--chunked-prefill-size",
        metavar="N",
        type=int,
        help="tokens of a rank's batch, as the engine prints it (8192)",
    )
    engine.add_argument(
        "--asynchronous-launches",
        action="store_true",
        help="launches return at once, as with emulated devices; assumed timing only",
    )
    engine.add_argument(
        "--engine-version", metavar="V", default="0.5.13", help="0.5.12 to 0.5.23 (%(default)s)"
    )
    engine.add_argument(
        "--like", metavar="RUN", help="a recording whose fitted timing is used, and its settings"
    )
    load = parser.add_argument_group("load")
    load.add_argument("--requests", metavar="N", type=int, help="in all (200 a rank)")
    load.add_argument(
        "--pattern",
        choices=("seed", "stagger", "burst", "poisson", "mixed"),
        help="one kind of arrivals; by default a phase of each",
    )
    load.add_argument(
        "--rate",
        metavar="R",
        type=float,
        help="requests a second of poisson, twice that in mixed (2.2 a rank)",
    )
    load.add_argument(
        "--input-len", metavar="N[-M]", type=_lengths, help="tokens of a prompt (by pattern)"
    )
    load.add_argument(
        "--replay-arrivals",
        action="store_true",
        help="the arrivals, ranks and lengths of the recording named by --like",
    )
    logging = parser.add_argument_group("what the engine writes down")
    logging.add_argument(
        "--no-labels", action="store_true", help="without SGLANG_LOG_FORWARD_ITERS"
    )
    logging.add_argument("--whole-seconds", action="store_true", help="without SGLANG_LOG_MS")
    logging.add_argument(
        "--no-time-stats",
        action="store_true",
        help="without --enable-request-time-stats-logging",
    )
    logging.add_argument(
        "--no-debug-lines",
        action="store_true",
        help="without SGLANG_PREFILL_DELAYER_DEBUG_LOG",
    )


def run(args: argparse.Namespace) -> int:
    """Simulate, write, and say what was made.

    Raises:
        UsageError: Options do not fit together.
        InputError: The recording cannot be fitted.
        OutputError: The directory cannot be used.
    """
    import numpy as np

    from pdtrace.delayer.rules import rules_for
    from pdtrace.errors import UsageError
    from pdtrace.exports.writing import STDOUT, write_text
    from pdtrace.simulate.records import EngineSettings
    from pdtrace.simulate.run_directory import open_directory, simulate
    from pdtrace.simulate.settings import MAX_DP_SIZE, Launch, Logging, parse_release
    from pdtrace.simulate.timing import assume_timing, fit_timing
    from pdtrace.simulate.workload import LoadSettings, make_requests, replay_arrivals

    parse_release(args.engine_version)
    if args.seed < 0:
        raise UsageError("--seed must not be negative")
    if args.replay_arrivals and not args.like:
        raise UsageError("--replay-arrivals needs --like")
    if args.like and args.asynchronous_launches:
        raise UsageError("--asynchronous-launches: a recording named by --like tells that itself")
    watermark = args.token_usage_low_watermark
    if watermark is not None and not 0 <= watermark <= 1:
        raise UsageError("--token-usage-low-watermark must lie between 0 and 1")
    passes, chunk, pool, dp_size = args.max_delay_passes, 8192, 312_560.0, 2
    model = None
    if args.like:
        from pdtrace.delayer.replay import fit_engine
        from pdtrace.loading import load
        from pdtrace.sources.joining import join_requests

        recorded = load(args.like)
        model = fit_engine(recorded, join_requests(recorded.requests))
        chunk, pool, dp_size = int(model.chunk), model.pool, model.num_ranks
        if passes is None:
            passes = model.recorded.max_delay_passes
        if watermark is None and passes == model.recorded.max_delay_passes:
            watermark = model.recorded.token_usage_low_watermark
    if args.dp_size is not None:
        dp_size = args.dp_size
    if not 1 <= dp_size <= MAX_DP_SIZE:
        raise UsageError(f"--dp-size must be from 1 to {MAX_DP_SIZE}")
    if args.replay_arrivals and model is not None and dp_size < model.num_ranks:
        raise UsageError("--replay-arrivals: the recorded requests need all recorded ranks")
    if args.chunked_prefill_size is not None:
        chunk = args.chunked_prefill_size
    if chunk < 1:
        raise UsageError("--chunked-prefill-size must be positive")
    launch = Launch(
        EngineSettings(
            dp_size=dp_size,
            chunk=chunk,
            pool=pool,
            rules=rules_for(args.engine_version),
            max_delay_passes=passes or None,
            token_usage_low_watermark=watermark,
        ),
        args.engine_version,
        Logging(
            has_labels=not args.no_labels,
            has_milliseconds=not args.whole_seconds,
            has_debug_lines=not args.no_debug_lines,
            has_time_stats=not args.no_time_stats,
        ),
        args.seed,
    )
    if model is not None:
        timing = fit_timing(model)
    else:
        timing = assume_timing(dp_size, is_blocking=not args.asynchronous_launches)
    if model is not None and args.replay_arrivals:
        requests = replay_arrivals(model.load, args.requests)
    else:
        settings = LoadSettings(
            num_requests=200 * dp_size if args.requests is None else args.requests,
            dp_size=dp_size,
            pattern=args.pattern,
            rate=args.rate,
            lengths=args.input_len,
        )
        requests = make_requests(settings, np.random.default_rng([args.seed, 1]))
    directory = open_directory(args.output, is_forced=args.force)
    timeline = simulate(launch, requests, timing, directory)
    held = sum(timeline.outcome.delay_passes)
    write_text(
        STDOUT,
        f"{args.output}: simulated {len(requests)} requests on {dp_size} DP ranks, "
        f"{len(timeline.outcome.passes)} iterations, {held} delay passes\n",
    )
    return 0
