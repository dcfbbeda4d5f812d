"""Write a run directory as an engine would, with its truth; or serve as one over HTTP.

A lock-step engine with DP attention serves a made load in simulated time and writes the log, spans,
metrics and client log that a real one of that release writes; truth.json says which lines are one
iteration. Every file says that it is simulated. Equal options and seed give equal bytes.

With --serve it runs in real time behind HTTP (/generate, /flush_cache, /server_info, /metrics,
/health) and writes the same files, but for the client's, while it runs; Ctrl-C or SIGTERM ends it.

Unless --like gives a recording to fit, the timing is assumed, near that of two H100: a pass takes
the larger of what the host needs (90 ms and an exponential 36 ms) and 24 ms + max over ranks(3.2 us
a token + 2 ms a million squares, attention) + 11.3 us / ranks for each token of all ranks, with 2 %
of scatter; launches with tokens return when the device is done, idle ones after about 75 ms; a turn
without work takes 1.6 ms. --cost sets any of them.

  pdtrace simulate -o run/ --dp-size 4 --requests 800 --max-delay-passes 30
  pdtrace simulate -o run/ --like recorded/ --replay-arrivals --max-delay-passes 30
  pdtrace simulate -o run/ --like recorded/ --dp-size 4 --enable-prefill-delayer --serve 30000
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from pdtrace.delayer.replay import EngineModel
    from pdtrace.simulate.serve.frontend import FrontTiming
    from pdtrace.simulate.settings import Launch
    from pdtrace.simulate.timing import Timing

OFF = -1  # as a bound of the delayer: it is not started


def _passes(text: str) -> int:
    """Bound of the delayer."""
    number = OFF if text == "off" else int(text)
    if number < 0 and text != "off":
        raise ValueError
    return number


def _lengths(text: str) -> tuple[int, int]:
    shortest, _, longest = text.partition("-")
    return int(shortest), int(longest or shortest)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    number = int(port)
    if not 0 <= number < 1 << 16 or (host.startswith("[") != host.endswith("]")):
        raise ValueError
    return host.strip("[]") or "127.0.0.1", number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e9:
        raise ValueError
    return number


# argparse names them in its message: "invalid number of passes value: 'x'"
_passes.__name__, _lengths.__name__ = "number of passes", "length"
_address.__name__, _seconds.__name__ = "[HOST:]PORT", "seconds"


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
        "--enable-prefill-delayer", action="store_true", help="--max-delay-passes 30, if not given"
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
    engine.add_argument(
        "--cost",
        metavar="NAME=SECONDS",
        action="extend",
        nargs="+",
        default=[],
        help="set a duration: floor, base, per_ktoken, per_msquare, shared_per_ktoken, idle_launch,"
        " taking, launching, processing, delayed_turn, empty_turn, asynchronous",
    )
    engine.add_argument(
        "--time-scale",
        metavar="X",
        type=_seconds,
        default=1.0,
        help="everything takes X times as long (%(default)s)",
    )
    serving = parser.add_argument_group("serving")
    serving.add_argument(
        "--serve",
        metavar="[HOST:]PORT",
        type=_address,
        help="answer requests there in real time; on loopback if no HOST, 0: any free port",
    )
    serving.add_argument(
        "--duration", metavar="S", type=_seconds, help="stop after S seconds (by default: Ctrl-C)"
    )
    serving.add_argument(
        "--context-length", metavar="N", type=int, help="longest prompt, tokens (40960)"
    )
    serving.add_argument(
        "--otlp-endpoint", metavar="URL", help="send the spans there too, while it runs"
    )
    serving.add_argument(
        "--otlp-protocol",
        choices=("grpc", "http/protobuf"),
        help="grpc if the port is 4317, otherwise http/protobuf",
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
        UsageError: Options do not fit together, a port is taken, or an extra is missing.
        InputError: The recording cannot be fitted.
        OutputError: The directory cannot be used.
    """
    from pdtrace.exports.overwriting import check_directory
    from pdtrace.exports.writing import STDOUT, write_text
    from pdtrace.simulate.settings import parse_release

    parse_release(args.engine_version)
    _check(args)
    check_directory("-o", args.output, [args.like])
    said = _simulate(args) if args.serve is None else _serve(args)
    write_text(STDOUT, said + "\n")
    return 0


def _check(args: argparse.Namespace) -> None:
    from pdtrace.errors import UsageError

    if args.seed < 0:
        raise UsageError("--seed must not be negative")
    if args.replay_arrivals and not args.like:
        raise UsageError("--replay-arrivals needs --like")
    if args.like and args.asynchronous_launches:
        raise UsageError("--asynchronous-launches: a recording named by --like tells that itself")
    watermark = args.token_usage_low_watermark
    if watermark is not None and not 0 <= watermark <= 1:
        raise UsageError("--token-usage-low-watermark must lie between 0 and 1")
    if args.enable_prefill_delayer and args.max_delay_passes == OFF:
        raise UsageError("--enable-prefill-delayer contradicts --max-delay-passes off")
    if args.chunked_prefill_size is not None and args.chunked_prefill_size < 1:
        raise UsageError("--chunked-prefill-size must be positive")
    if args.context_length is not None and not 2 <= args.context_length <= 10**8:
        raise UsageError("--context-length must be from 2 to 100000000")
    given = {
        "--requests": args.requests,
        "--pattern": args.pattern,
        "--rate": args.rate,
        "--input-len": args.input_len,
        "--replay-arrivals": args.replay_arrivals or None,
    }
    if args.serve is not None:
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name}: with --serve the load comes from its clients")
        return
    needs = {
        "--duration": args.duration,
        "--context-length": args.context_length,
        "--otlp-endpoint": args.otlp_endpoint,
        "--otlp-protocol": args.otlp_protocol,
    }
    for name, value in needs.items():
        if value is not None:
            raise UsageError(f"{name} needs --serve")


def _build_launch(
    args: argparse.Namespace, model: EngineModel | None, server_args: dict[str, str]
) -> Launch:
    """The engine start that the options, and the recording, ask for."""
    from pdtrace.delayer.rules import rules_for
    from pdtrace.errors import UsageError
    from pdtrace.simulate.records import EngineSettings
    from pdtrace.simulate.settings import MAX_DP_SIZE, Launch, Logging

    passes, watermark = args.max_delay_passes, args.token_usage_low_watermark
    if passes is None and args.enable_prefill_delayer:
        passes = 30
    chunk, pool, dp_size = 8192, 312_560.0, 2
    if model is not None:
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
    method = server_args.get("load_balance_method", "").strip("'\"")
    endpoint = {} if args.otlp_endpoint is None else {"otlp_endpoint": args.otlp_endpoint}
    host, port = args.serve or ("127.0.0.1", 30000)
    return Launch(
        EngineSettings(
            dp_size=dp_size,
            chunk=chunk if args.chunked_prefill_size is None else args.chunked_prefill_size,
            pool=pool,
            rules=rules_for(args.engine_version),
            max_delay_passes=None if passes == OFF else passes,
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
        host=host,
        port=port,
        load_balance_method="round_robin" if method == "round_robin" else "follow_bootstrap_room",
        context_len=args.context_length or 40960,
        **endpoint,
    )


def _prepare(args: argparse.Namespace) -> tuple[Launch, Timing, EngineModel | None, FrontTiming]:
    """The start, how long things take, and the recording that says so."""
    from pdtrace.simulate.serve.frontend import FrontTiming, fit_front
    from pdtrace.simulate.timing import assume_timing, fit_timing

    model, front, server_args = None, FrontTiming(), {}
    if args.like:
        from pdtrace.delayer.replay import fit_engine
        from pdtrace.loading import load
        from pdtrace.sources.joining import join_requests

        recorded = load(args.like)
        requests = join_requests(recorded.requests)
        model = fit_engine(recorded, requests)
        front, server_args = fit_front(requests), recorded.engine.server_args
    launch = _build_launch(args, model, server_args)
    if model is not None:
        timing = fit_timing(model, launch.engine.dp_size)
    else:
        timing = assume_timing(launch.engine.dp_size, is_blocking=not args.asynchronous_launches)
    scale = args.time_scale
    return launch, timing.override(args.cost).scale(scale), model, front.scale(scale)


def _simulate(args: argparse.Namespace) -> str:
    """Run a made load in simulated time."""
    import numpy as np

    from pdtrace.simulate.run_directory import open_directory, simulate
    from pdtrace.simulate.workload import LoadSettings, make_requests, replay_arrivals

    launch, timing, model, _ = _prepare(args)
    dp_size = launch.engine.dp_size
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
    return (
        f"{args.output}: simulated {len(requests)} requests on {dp_size} DP ranks, "
        f"{len(timeline.outcome.passes)} iterations, {held} delay passes"
    )


def _serve(args: argparse.Namespace) -> str:
    """Serve in real time until told to stop."""
    from pdtrace.errors import UsageError

    try:
        from pdtrace.simulate.serve.session import serve
        from pdtrace.simulate.serve.settings import ServeSettings
    except ImportError as error:
        raise UsageError(
            f"--serve needs the extra pdtrace[serve] ({error.name} is missing):"
            " pip install 'pdtrace[serve]'"
        ) from error
    exporter = None
    if args.otlp_endpoint is not None:
        from pdtrace.exports.otlp import open_exporter

        endpoint = open_exporter(
            args.otlp_endpoint, protocol=args.otlp_protocol, option="--otlp-endpoint"
        )
        exporter = endpoint.exporter
    launch, timing, _, front = _prepare(args)
    return serve(
        ServeSettings(
            launch=launch,
            timing=timing,
            front=front,
            directory=args.output,
            is_forced=args.force,
            duration=args.duration,
            exporter=exporter,
        )
    )
