"""Write a recording as a table (CSV, JSON, Parquet), a Perfetto trace, or OTLP spans.

WHAT is a table (events, iterations, rank-passes, requests, request-stages, delay-episodes,
decisions, metrics), perfetto or otlp. PATH is what analyze takes. In tables durations are seconds
(columns named _s), times ISO 8601 in UTC. The table requests has a row for each request and
source that knows it; --source NAME gives those of one. A Perfetto trace opens on
ui.perfetto.dev, which reads it in the browser and uploads nothing. Spans go to ENDPOINT and nowhere
else.

  pdtrace export rank-passes server.log -o passes.csv
  pdtrace export iterations run/ --format parquet -o iterations.parquet
  pdtrace export perfetto run/ -o run.pftrace
  pdtrace export otlp run/ --endpoint http://localhost:4317
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from pdtrace.run import Run

TABLES = (
    "events", "iterations", "rank-passes", "requests", "request-stages", "delay-episodes",
    "decisions", "metrics",
)  # fmt: skip
TRACES = ("perfetto", "otlp")
FORMATS = ("csv", "json", "parquet")
PROTOCOLS = ("grpc", "http/protobuf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``export``."""
    from pdtrace.reading import add_reading_arguments

    what = (*TABLES, *TRACES)
    parser.add_argument("what", metavar="WHAT", choices=what, help=", ".join(what))
    add_reading_arguments(parser)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="of a table: the format; by default that of FILE's name, or csv",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write to FILE (standard output if - or not given)"
    )
    group = parser.add_argument_group("otlp")
    group.add_argument(
        "--endpoint", metavar="URL", help="receiver of the spans, for instance http://host:4317"
    )
    group.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="by default grpc where the port is 4317, http/protobuf otherwise",
    )
    group.add_argument(
        "--insecure", action="store_true", help="no TLS where URL says neither http nor https"
    )


def run(args: argparse.Namespace) -> int:
    """Export what was asked for.

    Raises:
        UsageError: An option does not go with what is exported, or bytes would go to a terminal.
        OutputError: The endpoint did not take the spans.
        NothingMeasuredError: No prefill iteration was found; the output is written all the same.
    """
    from pdtrace.errors import UsageError
    from pdtrace.loading import reason_for_nothing

    is_table = args.what in TABLES
    if args.format and not is_table:
        raise UsageError(f"--format is for tables, not for {args.what}")
    if args.what == "otlp":
        if args.endpoint is None:
            raise UsageError("otlp needs --endpoint URL")
        if args.output is not None:
            raise UsageError("otlp sends to --endpoint and writes no file: leave -o out")
    elif args.endpoint or args.protocol or args.insecure:
        raise UsageError("--endpoint, --protocol and --insecure are for otlp")
    exported = _send(args) if args.what == "otlp" else _write(args)
    if is_table and args.what not in ("iterations", "rank-passes", "metrics"):
        return 0
    reason = reason_for_nothing(exported)
    if reason is not None:
        raise reason
    return 0


def _write(args: argparse.Namespace) -> Run:
    import sys
    from pathlib import Path

    from pdtrace.errors import UsageError
    from pdtrace.exports.overwriting import check_outputs
    from pdtrace.exports.perfetto import write_perfetto
    from pdtrace.exports.tables import write_table
    from pdtrace.exports.writing import STDOUT, open_output
    from pdtrace.reading import read_run

    check_outputs({"-o": args.output}, args.paths)
    output = STDOUT if args.output is None else args.output
    suffix = Path(output).suffix.removeprefix(".").lower()
    kind = args.format or (suffix if suffix in FORMATS else "csv")
    is_binary = args.what == "perfetto" or kind == "parquet"
    if is_binary and output == STDOUT and sys.stdout.isatty():
        name = "A Perfetto trace" if args.what == "perfetto" else "Parquet"
        raise UsageError(f"{name} is not text: name a file with -o")
    recorded = read_run(args)
    with open_output(output) as stream:
        if args.what == "perfetto":
            write_perfetto(recorded, stream)
        else:
            write_table(recorded, args.what, kind, stream)
    return recorded


def _send(args: argparse.Namespace) -> Run:
    import sys

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

    from pdtrace.exports.otlp import open_exporter, send_spans
    from pdtrace.reading import read_run

    # Before the recording is read: a missing package or a bad URL should not take minutes to tell.
    exporter = open_exporter(args.endpoint, protocol=args.protocol, insecure=args.insecure)
    recorded = read_run(args)
    with Progress(
        SpinnerColumn(),
        "sending {task.completed:,.0f} spans",
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task("", total=None)
        send_spans(recorded, exporter, progress=lambda n: bar.update(task, completed=n))
    return recorded
