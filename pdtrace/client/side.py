"""One engine under load: its rounds, its files, and what is said while they run."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pdtrace.client.answers import read_answers
from pdtrace.client.departures import Round
from pdtrace.client.flights import Departure
from pdtrace.client.outcomes import RoundOutcome, build_line, read_outcomes
from pdtrace.client.run_directory import AFTER, BEFORE, DESCRIPTION, INFO, write_toml
from pdtrace.client.summary import EngineResult, describe_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    import aiohttp

    from pdtrace.client.arrivals import Request
    from pdtrace.client.bodies import BodyMaker
    from pdtrace.client.engine import Engine, Facts
    from pdtrace.client.outcomes import Outcome
    from pdtrace.client.prompts import PromptMaker
    from pdtrace.client.run_directory import RunDirectory
    from pdtrace.client.settings import LoadSettings

_TICK_S = 0.5


class Side:
    """One engine of a run.

    Args:
        name: ``a`` or ``b`` of two; empty for one alone.
        settings: What is asked for.
        session: What to send with.
        engine: The engine.
        facts: What it said of itself.
        bodies: Makes requests for it.
        prompts: Makes their prompts.
        say: Shows a line.
        warn: Shows a line of what a reader should know.
        begin_sending: Called before the first request of each round is prepared.

    Attributes:
        directory: Where its files go; None until they may be written, or nowhere.
        rounds: The repeats so far.
        num_warm: Warm-up requests that were answered.
    """

    def __init__(
        self,
        name: str,
        settings: LoadSettings,
        session: aiohttp.ClientSession,
        engine: Engine,
        facts: Facts,
        bodies: BodyMaker,
        prompts: PromptMaker,
        say: Callable[[str], None],
        warn: Callable[[str], None],
        begin_sending: Callable[[], None],
    ) -> None:
        self.name = name
        self.engine = engine
        self.facts = facts
        self.directory: RunDirectory | None = None
        self.rounds: list[RoundOutcome] = []
        self.num_warm = 0
        self._settings = settings
        self._session = session
        self._bodies = bodies
        self._prompts = prompts
        self._say = say
        self._warn = warn
        self._begin_sending = begin_sending
        self._num_written = 0
        self._phase = ""

    def begin(self, directory: RunDirectory | None) -> None:
        """Write down what the engine says of itself."""
        self.directory = directory
        if directory is not None and self.facts.info is not None:
            directory.put(INFO, json.dumps(self.facts.info).encode() + b"\n")

    async def scrape(self, *, is_before: bool) -> None:
        """Write down its metrics, before or after the load."""
        if self.directory is None:
            return
        text = await self.engine.scrape()
        if isinstance(text, bytes):
            self.directory.put(BEFORE if is_before else AFTER, text)
        elif is_before:
            self._warn(f"{self._label()}{text}")

    async def finish(self) -> None:
        """Write down what was done."""
        if self.directory is not None:
            await self.scrape(is_before=False)
            self.directory.put(DESCRIPTION, write_toml(describe_run(self.result(), self._settings)))

    def result(self) -> EngineResult:
        """What was done so far."""
        return EngineResult(
            name=self.name,
            url=self.engine.url,
            facts=self.facts,
            rounds=tuple(self.rounds),
            num_warm=self.num_warm,
            directory=None if self.directory is None else self.directory.path,
        )

    async def flush(self) -> None:
        """Have the engine forget its prefix cache."""
        if (why := await self.engine.flush()) is not None:
            self._warn(f"{self._label()}the cache was not flushed: {why}")

    async def run_round(
        self,
        posts: Sequence[Sequence[Request]],
        repeat: int | None,
        stop: asyncio.Event,
        cut: asyncio.Event,
    ) -> RoundOutcome:
        """Send the requests of one round, and write down what becomes of them.

        Args:
            posts: The requests, those of one post together, by time.
            repeat: Its number; None: the warm-up, which is not written down.
            stop: Set when nothing more is to be sent.
            cut: Set when nothing more is to be waited for.
        """
        self._note_phase(posts[0][0].phase)
        bodies = await self._make_bodies(posts, stop)
        url, timeout = f"{self.engine.url}/generate", self._settings.bounds.timeout
        decode = self._bodies.peer.decode

        def depart(k: int) -> Departure:
            companion = None
            if decode is not None:
                companion = Departure(
                    self._session, f"{decode.url}/generate", bodies[k][1], timeout
                )
            return Departure(self._session, url, bodies[k][0], timeout, companion)

        self._begin_sending()
        under_way = Round(depart, stop, cut)
        epoch = time.time() - time.monotonic()
        outcomes: list[Outcome] = []
        seen: set[int] = set()

        async def note_ends() -> None:
            for k, departure in list(under_way.departures.items()):
                # one that failed before it was due is one of this load's only from then on
                is_due = departure.flight.planned is not None
                if k not in seen and is_due and departure.task.done():
                    seen.add(k)
                    ended = read_outcomes(posts[k], departure, k, epoch)
                    outcomes.extend(ended)
                    if repeat is not None and self.directory is not None:
                        is_simulated = self.facts.is_simulated
                        self.directory.append(
                            [build_line(o, repeat, is_simulated=is_simulated) for o in ended]
                        )
                    await asyncio.sleep(0)  # what is due goes first

        async with self._watch(note_ends, len(posts), under_way):
            arrivals = self._settings.arrivals
            if len(bodies) < len(posts):
                pass  # stopped while they were made
            elif repeat is not None and arrivals.kind == "closed":
                await under_way.run_closed(len(posts), arrivals.concurrency, arrivals.think_s)
            else:
                await under_way.run_open([post[0].at for post in posts])
        await note_ends()
        self._note_decode_errors(posts, under_way)
        done = RoundOutcome(repeat, sum(map(len, posts)), tuple(outcomes))
        if repeat is None:
            self.num_warm += done.num_ok
        else:
            self.rounds.append(done)
            if done.outcomes:
                self._note_sum(done)
        return done

    async def _make_bodies(
        self, posts: Sequence[Sequence[Request]], stop: asyncio.Event
    ) -> list[tuple[bytes, bytes]]:
        """The bytes of every post; fewer if told to stop."""
        out = []
        for post in posts:
            if stop.is_set():
                break
            prompts = [self._prompts.make(r.index, r.num_tokens) for r in post]
            out.append(self._bodies.build(post, [prompt for prompt, _ in prompts]))
            await asyncio.sleep(0)  # a signal may have come
        return out

    @asynccontextmanager
    async def _watch(
        self, note_ends: Callable[[], object], num: int, under_way: Round
    ) -> AsyncIterator[None]:
        """Meanwhile, write down what ended, and show how far it is on a terminal."""
        is_shown = sys.stderr.isatty()

        async def tick() -> None:
            while True:
                await asyncio.sleep(_TICK_S)
                await note_ends()  # type: ignore[misc]
                if is_shown:
                    done = sum(d.task.done() for d in under_way.departures.values())
                    sys.stderr.write(f"\r\x1b[K{self._label()}{done} of {num} answered")
                    sys.stderr.flush()

        ticking = asyncio.create_task(tick())
        try:
            yield
        finally:
            ticking.cancel()
            await asyncio.wait([ticking])
            if is_shown:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
            if not ticking.cancelled() and (error := ticking.exception()) is not None:
                raise error

    def _note_decode_errors(self, posts: Sequence[Sequence[Request]], under_way: Round) -> None:
        """Say how often a decode engine did not take part; its answers are not measured."""
        errors = [
            answer.error
            for k, departure in under_way.departures.items()
            if departure.companion is not None
            for answer in read_answers(departure.companion.flight, len(posts[k]))
            if not answer.is_ok and answer.kind != "interrupted"
        ]
        if errors:
            self._warn(f"the decode engine failed {len(errors)} requests; the first: {errors[0]}")

    def _note_phase(self, phase: str) -> None:
        name = phase.rstrip("0123456789")
        if name != self._phase and self.directory is not None:
            self.directory.note(f"phase {name} {time.time()}")
        self._phase = name

    def _note_sum(self, done: RoundOutcome) -> None:
        line = done.describe()
        self._say(f"{line}  ({self.name})" if self.name else line)
        if self.directory is not None:
            self.directory.note(line)

    def _label(self) -> str:
        return f"{self.name}: " if self.name else ""
