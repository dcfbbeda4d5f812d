"""One collection from start to stop."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from pdtrace.collect.grpc_receiver import GrpcReceiver
from pdtrace.collect.http_receiver import HttpReceiver
from pdtrace.collect.intake import Intake
from pdtrace.collect.run_directory import FRAMES, RunDirectory, StorageError
from pdtrace.collect.scraper import Scraper
from pdtrace.collect.subscriber import Subscriber
from pdtrace.collect.tally import Tally
from pdtrace.errors import OutputError

if TYPE_CHECKING:
    from pdtrace.collect.settings import Settings

_STATUS_S = 0.5


class Session:
    """Everything of one collection.

    Args:
        settings: What to collect.

    Attributes:
        tally: Counts of what came.
        intake: The queue between receivers and file.
        grpc_port: Port that gRPC is answered on, once started.
        http_port: Port that HTTP is answered on, once started.
        is_listening: Whether both are answered.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tally = Tally()
        self.intake = Intake(self.tally, settings.limits, self._warn)
        self.grpc_port = 0
        self.http_port = 0
        self.is_listening = False
        self._started = datetime.now(UTC)
        self._has_status = False

    async def run(self, stop: asyncio.Event) -> str:
        """Collect until told to stop.

        Args:
            stop: Set from outside, by a signal for instance.

        Returns:
            One line that says what was collected.

        Raises:
            UsageError: A port is taken, or an endpoint is none.
            OutputError: The directory cannot be used, or did not keep what it was given.
        """
        settings, tally, intake = self.settings, self.tally, self.intake
        directory: RunDirectory | None = None
        try:
            # Undone in reverse, and whatever of it was done if starting fails half-way.
            async with AsyncExitStack() as stack:
                grpc_receiver, http_receiver = GrpcReceiver(intake), HttpReceiver(intake)
                stack.push_async_callback(intake.drain)
                stack.push_async_callback(grpc_receiver.stop)
                stack.push_async_callback(http_receiver.stop)
                self.grpc_port = grpc_receiver.bind(settings.host, settings.grpc_port)
                self.http_port = await http_receiver.bind(settings.host, settings.http_port)
                # Only now: a taken port must leave an earlier collection as it is.
                directory = RunDirectory(settings.directory, is_forced=settings.is_forced)
                intake.open(directory.spans)
                stack.callback(intake.close)
                if settings.fpm_endpoints:
                    subscriber = Subscriber(
                        settings.fpm_endpoints, directory.open(FRAMES), tally, self._warn
                    )
                    stack.push_async_callback(asyncio.to_thread, subscriber.stop)
                    subscriber.start()
                if settings.metrics_urls:
                    self._scrape(stack, directory)
                self._describe_in(directory)
                await grpc_receiver.start()
                await http_receiver.start()
                self.is_listening = True
                self._announce()
                await self._wait(stop)
            self._describe_in(directory, stopped=datetime.now(UTC))
        except StorageError as error:
            raise OutputError(f"{settings.directory}: {error}") from error
        finally:
            if directory is not None:
                directory.close()
        return f"{settings.directory}: {tally.describe()}"

    def _scrape(self, stack: AsyncExitStack, directory: RunDirectory) -> None:
        settings = self.settings
        scraper = Scraper(
            settings.metrics_urls, settings.metrics_interval, directory, self.tally, self._warn
        )
        scraping = asyncio.create_task(scraper.run())

        async def end() -> None:
            scraping.cancel()
            await asyncio.wait([scraping])
            await scraper.finish()

        stack.push_async_callback(end)

    async def _wait(self, stop: asyncio.Event) -> None:
        """Until told to stop, or the time is over; meanwhile a terminal shows how it goes."""
        begun = time.monotonic()
        end = None if self.settings.duration is None else begun + self.settings.duration
        self._has_status = sys.stderr.isatty()
        before, spans = begun, 0
        while not stop.is_set():
            pause = _STATUS_S if end is None else min(_STATUS_S, end - time.monotonic())
            if pause <= 0:
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)
            now = time.monotonic()
            if self._has_status:
                rate = (self.tally.num_spans - spans) / max(now - before, 1e-9)
                sys.stderr.write(f"\r\x1b[K{self.tally.describe()}, {rate:,.0f} spans/s")
                sys.stderr.flush()
            before, spans = now, self.tally.num_spans
        if self._has_status:
            sys.stderr.write("\r\x1b[K")
        self._has_status = False

    def _announce(self) -> None:
        host = self.settings.host
        if warning := warning_about(host):
            self._warn(warning)
        self._warn(
            f"listening on {host}, gRPC port {self.grpc_port}, HTTP port {self.http_port};"
            f" writing to {self.settings.directory}; Ctrl-C stops"
        )

    def _warn(self, line: str) -> None:
        clear = "\r\x1b[K" if self._has_status else ""
        text = "".join(c if c.isprintable() else " " for c in line)
        sys.stderr.write(f"{clear}pdtrace: {text}\n")
        sys.stderr.flush()

    def _describe_in(self, directory: RunDirectory, stopped: datetime | None = None) -> None:
        settings, tally = self.settings, self.tally
        manifest: dict[str, Any] = {
            "pdtrace_collect": 1,
            "started": self._started.isoformat(),
            "stopped": None if stopped is None else stopped.isoformat(),
            "metrics_urls": list(settings.metrics_urls),
            "metrics_interval_s": settings.metrics_interval,
            "num_spans": tally.num_spans,
            "num_messages": tally.num_messages,
            "num_rejected_spans": tally.num_rejected_spans,
            "num_refused_requests": tally.num_malformed,
            "num_deferred_requests": tally.num_deferred,
            "num_scrapes": tally.num_scrapes,
            "num_failed_scrapes": tally.num_failed_scrapes,
            "num_damaged_frames": tally.num_damaged_frames,
            "num_unwritten_frames": tally.num_unwritten_frames,
            "fpm": {
                endpoint: {
                    "num_frames": f.num_frames,
                    "num_lost_frames": f.num_lost,
                    "num_restarts": f.num_restarts,
                    "first": f.first,
                    "last": f.last,
                }
                for endpoint, f in tally.frames.items()
            },
        }
        try:
            directory.put_manifest(manifest)
        except StorageError as error:
            if stopped is None:
                raise
            # What was collected is there all the same, and the summary says how much.
            self._warn(f"{settings.directory}: collect.json not written: {error}")


def warning_about(host: str) -> str | None:
    """What to know about listening there; None for loopback."""
    try:
        is_loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name, which may be any address
        is_loopback = False
    if is_loopback:
        return None
    return (
        f"{host} can be reached from other machines, and anyone there may send spans: OTLP is taken"
        " without authentication or encryption"
    )


def collect(settings: Settings) -> str:
    """Collect until SIGINT, SIGTERM or the end of the duration; see :meth:`Session.run`."""

    async def main() -> str:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        return await Session(settings).run(stop)

    return asyncio.run(main())
