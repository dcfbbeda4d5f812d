"""Record a running engine: receive its spans, scrape its metrics, subscribe to its forward passes.

Writes a run directory that analyze takes. Spans come by OTLP, over gRPC or HTTP, so start the
engine with --enable-trace --otlp-traces-endpoint HOST:4317. Every span that a sender got a yes for
is in the directory, whenever the collection ends: by Ctrl-C, SIGTERM or --duration.

  pdtrace collect -o run/
  pdtrace collect -o run/ --metrics-url http://127.0.0.1:30000/metrics --metrics-interval 5
  pdtrace collect -o run/ --fpm ipc:///tmp/fpm.0 ipc:///tmp/fpm.1 --duration 600
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 1 << 16:
        raise ValueError
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e9:
        raise ValueError
    return number


def _mebibytes(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1 << 20:
        raise ValueError
    return number


# argparse names them in its message: "invalid port value: 'x'"
_port.__name__, _seconds.__name__, _mebibytes.__name__ = "port", "seconds", "MiB"


def _is_http(url: str) -> bool:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # half an address, a port beyond 65535
        return False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``collect``."""
    parser.add_argument(
        "-o", "--output", metavar="DIR", required=True, help="the run directory, new or empty"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="take a DIR that holds files: replace those of an earlier collection, keep the rest",
    )
    parser.add_argument(
        "--duration", metavar="S", type=_seconds, help="stop after S seconds (by default: Ctrl-C)"
    )
    spans = parser.add_argument_group("spans")
    spans.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1", help="listen there (%(default)s)"
    )
    spans.add_argument(
        "--grpc-port", metavar="N", type=_port, default=4317, help="%(default)s; 0: any free one"
    )
    spans.add_argument(
        "--http-port", metavar="N", type=_port, default=4318, help="%(default)s; 0: any free one"
    )
    spans.add_argument(
        "--max-message-mib",
        metavar="N",
        type=_mebibytes,
        default=16,
        help="refuse larger messages, decompressed (%(default)s)",
    )
    spans.add_argument(
        "--max-queue-mib",
        metavar="N",
        type=_mebibytes,
        default=128,
        help="hold no more than that unwritten; senders are asked to come again (%(default)s)",
    )
    metrics = parser.add_argument_group("metrics")
    metrics.add_argument(
        "--metrics-url",
        metavar="URL",
        action="append",
        default=[],
        help="scrape it before and after; repeat it for an engine with several servers",
    )
    metrics.add_argument(
        "--metrics-interval", metavar="S", type=_seconds, help="and every S seconds in between"
    )
    frames = parser.add_argument_group("forward-pass metrics")
    frames.add_argument(
        "--fpm",
        metavar="ENDPOINT",
        action="extend",
        nargs="+",
        default=[],
        help="ZeroMQ endpoints, one a rank, as the engine's log names them (ipc://BASE.RANK)",
    )


def run(args: argparse.Namespace) -> int:
    """Collect until told to stop, then say what came.

    Raises:
        UsageError: Options do not fit together, a port is taken, or the extra is missing.
        OutputError: The directory cannot be used, or did not keep what it was given.
    """
    from pdtrace.collect.settings import MAX_MESSAGE_MIB, MIB, Limits, Settings
    from pdtrace.errors import UsageError
    from pdtrace.exports.writing import STDOUT, write_text
    from pdtrace.untrusted import shorten, show

    if args.max_message_mib > min(MAX_MESSAGE_MIB, args.max_queue_mib):
        raise UsageError(
            f"--max-message-mib {args.max_message_mib}: at most {MAX_MESSAGE_MIB}, and no more than"
            f" --max-queue-mib ({args.max_queue_mib})"
        )
    for url in args.metrics_url:
        if not _is_http(url):
            raise UsageError(
                f"--metrics-url {show(shorten(url))}: expected http://HOST:PORT/metrics"
            )
    for endpoint in args.fpm:
        if not endpoint.startswith(("ipc://", "tcp://")):
            raise UsageError(f"--fpm {endpoint}: expected ipc://BASE.RANK or tcp://HOST:PORT")
    if args.metrics_interval is not None and not args.metrics_url:
        raise UsageError("--metrics-interval needs a --metrics-url")
    settings = Settings(
        directory=args.output,
        host=args.host,
        grpc_port=args.grpc_port,
        http_port=args.http_port,
        metrics_urls=tuple(args.metrics_url),
        metrics_interval=args.metrics_interval,
        fpm_endpoints=tuple(args.fpm),
        duration=args.duration,
        is_forced=args.force,
        limits=Limits(
            max_message_bytes=args.max_message_mib * MIB,
            max_queue_bytes=args.max_queue_mib * MIB,
        ),
    )
    try:
        from pdtrace.collect.session import collect
    except ImportError as error:
        raise UsageError(
            f"collect needs the extra pdtrace[collect] ({error.name} is missing):"
            " pip install 'pdtrace[collect]'"
        ) from error
    write_text(STDOUT, collect(settings) + "\n")
    return 0
