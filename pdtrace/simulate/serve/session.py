"""Serving an engine from its start to its stop."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.simulate.engine import Engine
from pdtrace.simulate.run_directory import open_directory
from pdtrace.simulate.serve.clock import Clock
from pdtrace.simulate.serve.http_server import HttpServer
from pdtrace.simulate.serve.recorder import Recorder
from pdtrace.simulate.serve.scheduler import Scheduler
from pdtrace.simulate.serve.served import ServedEngine
from pdtrace.simulate.server_log import ServerLog

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from pdtrace.simulate.serve.otlp import SpanSender
    from pdtrace.simulate.serve.settings import ServeSettings

SWITCH_S = 0.001  # a thread whose time has come waits no longer for one that computes


@dataclass(frozen=True)
class _Parts:
    """What a session runs besides its HTTP server."""

    engine: ServedEngine
    scheduler: Scheduler
    recorder: Recorder
    sender: SpanSender | None


class Session:
    """One served engine.

    Args:
        settings: What to serve.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._failure: BaseException | None = None
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._broken = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def ask_to_stop(self) -> None:
        """Finish what is under way and stop; asked again, do not wait for it."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> str:
        """Serve until told to stop.

        Returns:
            One line that says what was done.

        Raises:
            UsageError: The port is taken.
            OutputError: A file cannot be written.
        """
        settings = self._settings
        clock = Clock()
        parts: _Parts | None = None
        # The address is part of what the engine says of itself: first of all it is taken.
        server = HttpServer(settings.bounds)
        port = await server.bind(settings.launch.host, settings.launch.port)
        settings = replace(settings, launch=replace(settings.launch, port=port))
        try:
            directory = open_directory(settings.directory, is_forced=settings.is_forced)
            parts = self._start(settings, clock, directory)
            await self._guard(parts.engine.warm_up(), self._hurry)
            await self._write_metrics(parts, "metrics_before.txt")
            about = json.dumps(settings.launch.describe_server(), indent=1)
            parts.recorder.write_file("server_info.json", about + "\n")
            gc.collect()
            gc.freeze()  # what is there by now stays; a collection need not look at it
            await server.start(parts.engine)
            self._announce(settings)
            await self._wait()
            parts.engine.is_closing = True
            await self._drain(parts.engine)
            # What was finished last is still being answered.
            await server.stop(0.05 if self._hurry.is_set() else 1.0)
            num_unfinished = parts.engine.num_open
            parts.scheduler.stop()  # so that the counters end where the truth does
            await self._write_metrics(parts, "metrics_after.txt")
            return await self._finish(parts, num_unfinished)
        finally:
            await server.stop(0.05)
            if parts is not None:
                parts.scheduler.stop()
            if self._failure is not None:
                raise self._failure

    def _start(self, settings: ServeSettings, clock: Clock, directory: Path) -> _Parts:
        launch = settings.launch
        streams = [np.random.default_rng(s) for s in np.random.SeedSequence(launch.seed).spawn(4)]
        began = clock.origin
        log = ServerLog(launch, clock.stamp())
        log.put_start(began)
        sender: SpanSender | None = None
        if settings.exporter is not None:
            from pdtrace.simulate.serve.otlp import SpanSender  # noqa: PLC0415 (extra otel)

            sender = SpanSender(settings.exporter)
        recorder = Recorder(
            launch, settings.timing, clock, directory, log, (streams[1], streams[2]),
            None if sender is None else sender.put, self._fail,
        )  # fmt: skip
        scheduler = Scheduler(
            Engine([], launch.engine, settings.timing, streams[0]), clock, settings.front,
            streams[3], recorder.tell, self._fail,
        )  # fmt: skip
        if sender is not None:
            sender.start()
        recorder.start()
        scheduler.start()
        return _Parts(
            ServedEngine(settings, clock, scheduler, recorder), scheduler, recorder, sender
        )

    async def _finish(self, parts: _Parts, num_unfinished: int) -> str:
        delays = parts.scheduler.delays
        lateness = {
            "answers": delays.answers.describe(),
            "turns": delays.turns.describe(),
            "arrivals": delays.arrivals.describe(),
        }
        facts = {"num_unfinished": num_unfinished, "lateness": lateness}
        num = await asyncio.to_thread(parts.recorder.finish, facts)
        late = delays.answers.find_quantile(0.99)
        held = sum(
            count
            for (_, _, reason, _), count in parts.recorder.tally.outcomes[0].items()
            if reason == "delay"
        )
        engine = parts.engine
        told = [
            f"{self._settings.directory}: simulated {engine.num_sent} requests on "
            f"{engine.launch.engine.dp_size} DP ranks, {num} iterations, {held} delay passes"
        ]
        if num_unfinished:
            told.append(f"{num_unfinished} requests were not finished")
        if late is not None:
            told.append(
                f"this machine answered at most {late * 1e3:.1f} ms late 99 times of 100, "
                f"{delays.answers.max_s * 1e3:.1f} ms at worst"
            )
        if parts.sender is not None:
            told.append(await asyncio.to_thread(parts.sender.finish))
        return "; ".join(told)

    async def _write_metrics(self, parts: _Parts, name: str) -> None:
        async def write() -> None:
            text = await parts.engine.expose()
            parts.recorder.write_file(name, text)

        await self._guard(write(), self._broken)

    async def _guard(self, work: Coroutine[None, None, None], until: asyncio.Event) -> None:
        """Do something that waits for the threads, but no longer than until something is set."""
        task = asyncio.ensure_future(work)
        end = asyncio.create_task(until.wait())
        await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
        end.cancel()
        if task.done():
            task.result()
        else:
            task.cancel()

    async def _wait(self) -> None:
        """Until told to stop, or the time is over."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), self._settings.duration)

    async def _drain(self, engine: ServedEngine) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.bounds.grace_seconds):
                await self._guard(engine.drain(), self._hurry)

    def _fail(self, error: BaseException) -> None:
        """A thread cannot go on; called in it."""

        def note() -> None:
            self._failure = self._failure or error
            self._stop.set()
            self._hurry.set()
            self._broken.set()

        self._loop.call_soon_threadsafe(note)

    def _announce(self, settings: ServeSettings) -> None:
        launch = settings.launch
        limit = launch.engine.max_delay_passes
        if warning := warn_of(launch.host):
            _say(warning)
        _say(
            f"simulated engine of {launch.engine.dp_size} DP ranks, "
            f"{'no delayer' if limit is None else f'delayer of {limit} passes'}, on {launch.url}; "
            f"writing to {settings.directory}; Ctrl-C stops"
        )


def warn_of(host: str) -> str | None:
    """What to know about listening there; None for loopback."""
    try:
        is_loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name, which may be any address
        is_loopback = False
    if is_loopback:
        return None
    return f"{host} can be reached from other machines, and anyone there may send requests"


def _say(line: str) -> None:
    text = "".join(c if c.isprintable() else " " for c in line)
    sys.stderr.write(f"pdtrace: {text}\n")
    sys.stderr.flush()


def serve(settings: ServeSettings) -> str:
    """Serve until SIGINT, SIGTERM or the end of the duration; see :meth:`Session.run`."""

    async def main() -> str:
        session = Session(settings)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, session.ask_to_stop)
        return await session.run()

    sys.setswitchinterval(SWITCH_S)
    return asyncio.run(main())
