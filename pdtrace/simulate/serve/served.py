"""A served engine as its HTTP server sees it: send prompts, flush, expose, probe."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pdtrace.simulate.exposition import Gauges
from pdtrace.simulate.serve.answers import FLUSHED
from pdtrace.simulate.serve.frontend import Frontend
from pdtrace.simulate.serve.prompts import Prompt
from pdtrace.simulate.serve.recorder import Line
from pdtrace.simulate.serve.scheduler import Ticket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.simulate.serve.clock import Clock
    from pdtrace.simulate.serve.recorder import Recorder
    from pdtrace.simulate.serve.scheduler import Scheduler
    from pdtrace.simulate.serve.settings import ServeSettings


@dataclass(frozen=True)
class FlushAnswer:
    """Whether a cache was flushed, and what is said."""

    is_done: bool
    text: str


class ServedEngine:
    """Everything behind the HTTP server; used in its event loop only.

    Args:
        settings: What is served.
        clock, scheduler, recorder: Its parts.

    Attributes:
        launch: Its start.
        open_rids: Requests that are not answered yet.
        num_sent: Requests taken in all, the warm-up not counted.
        is_closing: Set to take no request any more.
    """

    def __init__(
        self, settings: ServeSettings, clock: Clock, scheduler: Scheduler, recorder: Recorder
    ) -> None:
        self.launch = settings.launch
        self.clock, self.scheduler, self.recorder = clock, scheduler, recorder
        self.open_rids: set[str] = set()
        self.num_sent = 0
        self.is_closing = False
        self._frontend = Frontend(settings.front)
        self._loop = asyncio.get_running_loop()
        self._futures: dict[Ticket, asyncio.Future[None]] = {}

    @property
    def num_open(self) -> int:
        """Requests that are not answered yet."""
        return len(self._futures)

    def send(
        self, prompts: Sequence[Prompt], came: float, *, port: int
    ) -> dict[Ticket, asyncio.Future[None]]:
        """Send the prompts of a post to their ranks.

        Args:
            prompts: They.
            came: When all of it was there, seconds since the origin.
            port: The client's.

        Returns:
            Each with what is done once it is to be answered.
        """
        passages = self._frontend.admit(came, [prompt.tokens for prompt in prompts])
        sent = {
            Ticket(prompt, passage, self._release, port): self._loop.create_future()
            for prompt, passage in zip(prompts, passages, strict=True)
        }
        self._futures.update(sent)
        self.open_rids.update(prompt.rid for prompt in prompts)
        self.num_sent += len(prompts)
        self.scheduler.submit(list(sent))
        return sent

    async def warm_up(self) -> None:
        """The engine's own first request on every rank."""
        num = self.launch.engine.dp_size
        began = self.clock.stamp()
        prompts = [
            Prompt(uuid.uuid4().hex, 4, rank, (1 << 63) // num * rank + rank) for rank in range(num)
        ]
        await asyncio.wait(self.send(prompts, self.clock.now(), port=0).values())
        self.num_sent -= num
        self.recorder.put_warm_up(began, self.clock.stamp())

    async def drain(self) -> None:
        """Wait until every request is answered."""
        while self._futures:
            await asyncio.wait(list(self._futures.values()))

    async def flush(self) -> FlushAnswer:
        """Flush the cache, which holds nothing; refused unless the engine is idle."""
        is_idle, queues = await asyncio.wrap_future(
            self.scheduler.ask(lambda engine: (engine.is_idle, engine.queues))
        )
        refusal = "Cache not flushed because there are pending requests."
        for rank, num in enumerate(queues):
            text = f"{refusal} #queue-req: {num}, #running-req: 0"
            if is_idle:
                text = "Cache flushed successfully!"
            self.recorder.put(Line(self.clock.stamp(), text, rank=rank))
        return FlushAnswer(is_idle, FLUSHED if is_idle else f"{refusal}\n")

    async def expose(self) -> str:
        """The exposition of its metrics."""
        gauges = await asyncio.wrap_future(
            self.scheduler.ask(lambda engine: Gauges(engine.queues, engine.usages))
        )
        return await asyncio.wrap_future(self.recorder.expose(gauges))

    async def probe(self) -> None:
        """Generate a token on rank 0, unless the engine is busy."""
        if self._futures:
            return
        rid = f"HEALTH_CHECK_{self.clock.stamp() / 1e9:.6f}"
        await asyncio.wait(self.send([Prompt(rid, 1, 0, 0)], self.clock.now(), port=0).values())

    def warn_deprecated(self, old: str, new: str) -> None:
        """The line that asking by an old name leaves."""
        text = (
            f"Endpoint '{old}' is deprecated and will be removed in a future version. "
            f"Please use '{new}' instead."
        )
        self.recorder.put(Line(self.clock.stamp(), text))

    def _release(self, ticket: Ticket) -> None:
        """A request is to be answered; called in the scheduler's thread."""
        self._loop.call_soon_threadsafe(self._settle, ticket)

    def _settle(self, ticket: Ticket) -> None:
        future = self._futures.pop(ticket)
        self.open_rids.discard(ticket.prompt.rid)
        if not future.done():
            future.set_result(None)
