"""A run of the load client from start to stop: one engine, or two that take turns."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from pdtrace.client.arrivals import group_posts, plan_round, plan_warm_up
from pdtrace.client.bodies import BodyMaker, Rooms, parse_release
from pdtrace.client.engine import Engine
from pdtrace.client.intervals import is_enough
from pdtrace.client.prompts import IdMaker, TextMaker, open_tokenizer
from pdtrace.client.replaying import plan_replay, read_arrivals
from pdtrace.client.run_directory import RunDirectory
from pdtrace.client.settings import Peer
from pdtrace.client.side import Side
from pdtrace.client.summary import LoadResult, find_notes
from pdtrace.errors import OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pdtrace.client.arrivals import Request
    from pdtrace.client.engine import Facts
    from pdtrace.client.prompts import PromptMaker
    from pdtrace.client.settings import LoadSettings

API_KEY = "PDTRACE_API_KEY"
MAX_PROMPT_TOKENS = 150_000_000
"""Of one round: their bodies, made before it starts, then take about 1 GiB."""


class Session:
    """Everything of one run.

    Args:
        settings: What to do.
        say: Shows a line of the result.
        warn: Shows a line of what a reader should know.

    Attributes:
        stop: Set it to send nothing more.
        cut: Set it to wait for nothing more.
        is_sending: Whether the first request may have gone out.
        stopped: Why it ended; see :class:`pdtrace.client.summary.LoadResult`.
    """

    def __init__(
        self, settings: LoadSettings, say: Callable[[str], None], warn: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self.stop = asyncio.Event()
        self.cut = asyncio.Event()
        self.stopped = "done"
        self._say = say
        self._warn = warn
        self._notes: list[str] = []
        self._recorded: list[Request] = []
        self._num_sent = 0
        self.is_sending = False
        self._ending: asyncio.TimerHandle | None = None

    def interrupt(self, reason: str = "interrupted") -> None:
        """Send nothing more; called again, wait for nothing more either."""
        if self.stop.is_set():
            self.cut.set()
        else:
            self.stopped = reason
            self.stop.set()

    async def run(self) -> LoadResult:
        """Send the load.

        Raises:
            UsageError: Options do not fit the engine.
            InputError: There is no engine, or nothing to replay.
            OutputError: The directory cannot be used, or the disk is full.
        """
        settings = self.settings
        if settings.replay is not None:
            self._recorded, notes = await asyncio.to_thread(read_arrivals, settings.replay)
            for note in notes:
                self._note(note)
        prompts = _make_prompt_maker(settings)
        _allow_many_files()
        async with AsyncExitStack() as stack:
            sides = []
            for name, target in zip(("a", "b"), settings.targets, strict=False):
                session = await stack.enter_async_context(_open_session(settings))
                engine = Engine(session, target.url)
                facts = await engine.ask_facts(settings.bounds.wait)
                self._note_facts(facts, target.url, is_local=target.is_local)
                sides.append(
                    Side(
                        name if len(settings.targets) > 1 else "",
                        settings,
                        session,
                        engine,
                        facts,
                        _make_body_maker(settings, facts),
                        prompts,
                        self._say,
                        self._note,
                        self._begin_sending,
                    )
                )
            num_ranks = _agree_on_ranks(settings, [s.facts for s in sides])
            first = self._plan(0, num_ranks, self._count_warm(num_ranks))
            self._check_size(first, self._count_warm(num_ranks))
            self._open(stack, sides)
            try:
                await self._run_sides(sides, num_ranks)
            finally:
                for side in sides:
                    await side.finish()
        results = tuple(side.result() for side in sides)
        for result in results:
            for note in find_notes(result):
                self._note(f"{result.name}: {note}" if result.name else note)
        return LoadResult(settings, results, self.stopped, tuple(self._notes))

    async def _run_sides(self, sides: list[Side], num_ranks: int | None) -> None:
        """Warm-up, then repeats until there are enough."""
        bounds = self.settings.bounds
        num_warm = self._count_warm(num_ranks)
        self.is_sending = True
        try:
            for side in sides if num_warm else ():
                warm = plan_warm_up(self.settings, num_ranks, self._warm_length())
                await side.run_round(group_posts(warm, 1), None, self.stop, self.cut)
            self._num_sent += num_warm
            for side in sides:
                await side.scrape(is_before=True)
            repeat = 0
            while not self.stop.is_set():
                index = num_warm + repeat * self._round_size()
                requests = self._plan(repeat, num_ranks, index)
                if self._num_sent + len(requests) > bounds.max_requests:
                    self.interrupt("max_requests")
                    break
                if repeat:
                    await self._pause(bounds.pause)
                await self._repeat(sides, requests, repeat)
                self._num_sent += len(requests)
                repeat += 1
                if self.stop.is_set() or self._has_enough(sides, repeat):
                    break
        finally:
            if self._ending is not None:
                self._ending.cancel()

    def _begin_sending(self) -> None:
        if self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(
                self.settings.bounds.max_duration, self.interrupt, "max_duration"
            )

    async def _repeat(self, sides: list[Side], requests: list[Request], repeat: int) -> None:
        """One round with each engine; which goes first alternates, so that drifts cancel out."""
        posts = group_posts(requests, self.settings.prompts.per_post)
        for side in sides if repeat % 2 == 0 else sides[::-1]:
            if self.settings.is_flushed and not self.stop.is_set():
                await side.flush()
            if self.stop.is_set():
                return
            done = await side.run_round(posts, repeat, self.stop, self.cut)
            if not done.num_ok and not self.stop.is_set():
                self.interrupt("nothing_answered")

    def _has_enough(self, sides: list[Side], num_done: int) -> bool:
        complete = [
            [r.makespan_s for r in rounds]
            for rounds in zip(*(s.rounds for s in sides), strict=True)
            if all(r.is_complete for r in rounds)
        ]
        makespans = [[m for m in column if m is not None] for column in zip(*complete, strict=True)]
        return is_enough(makespans or [[]], num_done, self.settings.bounds)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)

    def _plan(self, repeat: int, num_ranks: int | None, index: int) -> list[Request]:
        if self.settings.replay is not None:
            return plan_replay(self._recorded, self.settings.route, repeat, num_ranks, index)
        return plan_round(self.settings, repeat, num_ranks, index)

    def _round_size(self) -> int:
        if self.settings.replay is not None:
            return len(self._recorded)
        return self.settings.arrivals.num_requests

    def _count_warm(self, num_ranks: int | None) -> int:
        return self.settings.num_warm * (num_ranks or 1)

    def _warm_length(self) -> int:
        if self._recorded:
            lengths = sorted(r.num_tokens for r in self._recorded)
            return lengths[len(lengths) // 2]
        return max(self.settings.prompts.lengths.values)

    def _check_size(self, requests: list[Request], num_warm: int) -> None:
        bounds = self.settings.bounds
        if len(requests) + num_warm > bounds.max_requests:
            more = f", and the warm-up {num_warm:,}" if num_warm else ""
            raise UsageError(
                f"one repeat has {len(requests):,} requests{more}; --max-requests allows"
                f" {bounds.max_requests:,} in all"
            )
        tokens = sum(r.num_tokens for r in requests)
        if tokens > MAX_PROMPT_TOKENS:
            raise UsageError(
                f"the prompts of one repeat have {tokens:,} tokens, and are made before it starts:"
                f" at most {MAX_PROMPT_TOKENS:,} fit; send fewer a repeat, and more repeats"
            )

    def _open(self, stack: AsyncExitStack, sides: list[Side]) -> None:
        """The run directories; only now, so that a mistake leaves an earlier load as it is."""
        if self.settings.directory is None:
            for side in sides:
                side.begin(None)
            return
        top = Path(self.settings.directory)
        if len(sides) > 1 and not self.settings.is_forced and top.is_dir() and any(top.iterdir()):
            raise OutputError(f"{top}: is not empty; name a new directory, or give --force")
        for side in sides:
            directory = RunDirectory(top / side.name, is_forced=self.settings.is_forced)
            stack.callback(directory.close)
            side.begin(directory)

    def _note_facts(self, facts: Facts, url: str, *, is_local: bool) -> None:
        if facts.info is None:
            self._note(f"{url} does not say what it is: rank fields of all releases are sent")
        if facts.is_simulated:
            self._note(f"{url} is a simulated engine: its times are a model's")
        if not is_local:
            self._note(
                f"{url} is another machine, with another clock: the client's times match those of"
                " the engine's log only as well as the two clocks do"
            )

    def _note(self, line: str) -> None:
        if line not in self._notes:
            self._notes.append(line)
            self._warn(line)


def _open_session(settings: LoadSettings) -> aiohttp.ClientSession:
    key = os.environ.get(API_KEY)
    return aiohttp.ClientSession(
        # A connection for each request: one that was kept open may be closed by the engine at the
        # moment it is used again, and opening it is over before the request is due.
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.bounds.connect_timeout),
        headers={"Authorization": f"Bearer {key}"} if key else None,
        trust_env=False,
    )


def _make_prompt_maker(settings: LoadSettings) -> PromptMaker:
    prompts = settings.prompts
    if prompts.tokenizer is None:
        return IdMaker(prompts.vocab_size, prompts.seed)
    return TextMaker(open_tokenizer(prompts.tokenizer), prompts.tokenizer, prompts.seed)


def _make_body_maker(settings: LoadSettings, facts: Facts) -> BodyMaker:
    release = facts.release
    if settings.engine_version is not None:
        release = parse_release(settings.engine_version)
        if release is None:
            raise UsageError(
                f"--engine-version {settings.engine_version!r}: expected one like 0.5.13"
            )
    peer = settings.peer
    if peer is None:
        peer = Peer(None) if facts.mode == "null" else Peer()
    elif peer.decode is not None and peer.port is None:
        peer = replace(peer, port=facts.bootstrap_port)
    rooms = Rooms(facts.num_ranks or settings.dp_size or 1)
    return BodyMaker(release, peer, rooms, settings.prompts.output_len)


def _agree_on_ranks(settings: LoadSettings, facts: list[Facts]) -> int | None:
    """DP ranks to spread requests over; None: not known, and not needed.

    Raises:
        UsageError: It is needed, or what was asked for is not there.
    """
    sizes = {f.num_ranks for f in facts if f.num_ranks is not None}
    wanted, least = settings.dp_size, min(sizes, default=None)
    if wanted is None and len(sizes) > 1:
        raise UsageError(
            f"the engines have {min(sizes)} and {max(sizes)} DP ranks; say with --dp-size how many"
            " to spread the requests over"
        )
    if wanted is not None and least is not None and wanted > least:
        raise UsageError(f"--dp-size {wanted}: the engine has {least} DP ranks")
    route = settings.route
    num = wanted if wanted is not None else least
    if num is None and route.kind == "round-robin":
        raise UsageError("the engine does not say how many DP ranks it has: give --dp-size")
    if route.rank is not None and least is not None and route.rank >= least:
        raise UsageError(f"--route rank {route.rank}: the engine has {least} DP ranks")
    return num


def _allow_many_files() -> None:
    """Each request under way is a connection; the usual limit of 1024 is only a default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_load(
    settings: LoadSettings, say: Callable[[str], None], warn: Callable[[str], None]
) -> tuple[LoadResult, int | None]:
    """Send a load until it is done, or SIGINT or SIGTERM.

    Returns:
        What was done, and the number of the signal that ended it.

    Raises:
        PdtraceError: See :meth:`Session.run`.
    """
    caught: list[int] = []

    async def main() -> LoadResult:
        session = Session(settings, say, warn)
        loop = asyncio.get_running_loop()

        running = asyncio.create_task(session.run())

        def on_signal(number: int) -> None:
            caught.append(number)
            if session.is_sending:
                session.interrupt()
            else:
                running.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal, number)
        return await running

    try:
        result = asyncio.run(main())
    except asyncio.CancelledError:  # before anything was sent
        if caught and caught[0] != signal.SIGINT:
            raise SystemExit(128 + caught[0]) from None
        raise KeyboardInterrupt from None
    return result, caught[0] if caught else None
