"""Write one table of a recording as CSV, JSON or Parquet.

TABLE is events, iterations, rank-passes, requests, decisions or metrics. PATH is what analyze
takes. Durations are seconds (columns named _s), times ISO 8601 in UTC.

  pdtrace export rank-passes server.log -o passes.csv
  pdtrace export iterations run/ --format parquet -o iterations.parquet
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

TABLES = ("events", "iterations", "rank-passes", "requests", "decisions", "metrics")
FORMATS = ("csv", "json", "parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``export``."""
    from pdtrace.reading import add_reading_arguments

    parser.add_argument("table", metavar="TABLE", choices=TABLES, help=", ".join(TABLES))
    add_reading_arguments(parser)
    parser.add_argument(
        "--format", choices=FORMATS, help="the format; by default that of FILE's name, or csv"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-", help="write to FILE (standard output if -)"
    )


def run(args: argparse.Namespace) -> int:
    """Export the table.

    Raises:
        UsageError: Parquet would be written to a terminal.
        NothingMeasuredError: No prefill iteration was found; the table is written all the same.
    """
    import sys
    from pathlib import Path

    from pdtrace.errors import UsageError
    from pdtrace.exports.tables import write_table
    from pdtrace.exports.writing import STDOUT, open_output
    from pdtrace.loading import reason_for_nothing
    from pdtrace.reading import read_run

    suffix = Path(args.output).suffix.removeprefix(".").lower()
    kind = args.format or (suffix if suffix in FORMATS else "csv")
    if kind == "parquet" and args.output == STDOUT and sys.stdout.isatty():
        raise UsageError("Parquet is not text: name a file with -o")
    recorded = read_run(args)
    with open_output(args.output) as stream:
        write_table(recorded, args.table, kind, stream)
    needs_iterations = args.table in ("iterations", "rank-passes", "metrics")
    reason = reason_for_nothing(recorded) if needs_iterations else None
    if reason is not None:
        raise reason
    return 0
