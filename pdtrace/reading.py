"""What every command that reads a recording shares: its arguments, and how it shows progress."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from types import TracebackType

    from rich.progress import Progress, TaskID

    from pdtrace.run import Run

PATIENCE_S = 1.0


def add_reading_arguments(parser: argparse.ArgumentParser, *, paths: str = "+") -> None:
    """Declare the paths and the options that say how to read them.

    Args:
        parser: The parser of a command.
        paths: How many paths it takes, as argparse says it.
    """
    parser.add_argument("paths", metavar="PATH", nargs=paths, help="log file or run directory")
    add_reading_options(parser, "reading")


def add_reading_options(parser: argparse.ArgumentParser, title: str) -> None:
    """Declare the options that say how to read, under a title."""
    group = parser.add_argument_group(title)
    group.add_argument(
        "--dp-size", metavar="N", type=int, help="DP ranks of the engine, if the input lacks it"
    )
    group.add_argument(
        "--tz", metavar="ZONE", default="UTC", help="time zone of the log's time stamps (UTC)"
    )
    group.add_argument(
        "--source",
        metavar="NAME",
        action="append",
        dest="sources",
        help="use only this source (repeatable): scheduler_log, otel_spans, prometheus, fpm, "
        "client_log",
    )


def read_run(args: argparse.Namespace) -> Run:
    """Load the run that the arguments name, with a progress bar where someone watches."""
    from pdtrace.loading import load  # noqa: PLC0415 (polars: the help does not need it)

    with Bar() as bar:
        return load(
            *args.paths, sources=args.sources, dp_size=args.dp_size, tz=args.tz, progress=bar.show
        )


class Bar:
    """A progress bar on standard error, if that is a terminal and it takes longer than a second."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, done: int, num_bytes: int) -> None:
        """Show how far reading is, in bytes."""
        import sys  # noqa: PLC0415 (sys.stderr may have been replaced since)

        if self._progress is None:
            if time.monotonic() - self._since < PATIENCE_S or not sys.stderr.isatty():
                return
            from rich.console import Console  # noqa: PLC0415 (only where someone watches)
            from rich.progress import (  # noqa: PLC0415
                BarColumn,
                DownloadColumn,
                Progress,
                TimeRemainingColumn,
            )

            self._progress = Progress(
                "reading",
                BarColumn(),
                DownloadColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task("reading", total=num_bytes or None)
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=num_bytes or None)


class Waiting:
    """What is being worked out, and for how long, on standard error: as ``Bar``, without an end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._timer = threading.Timer(PATIENCE_S, self._start)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._is_over = False
        self._progress: Progress | None = None

    def __enter__(self) -> Waiting:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._progress is not None:
                self._progress.stop()

    def _start(self) -> None:
        import sys  # noqa: PLC0415 (as in Bar)

        with self._lock:
            if self._is_over or not sys.stderr.isatty():
                return
            from rich.console import Console  # noqa: PLC0415 (only where someone watches)
            from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn  # noqa: PLC0415

            self._progress = Progress(
                SpinnerColumn(),
                self._what,
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
            self._progress.add_task(self._what, total=None)
