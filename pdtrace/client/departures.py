"""Releases prepared requests at their times: at given offsets, or one after another's answer."""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from typing import Any

    from pdtrace.client.flights import Departure

# asyncio's sleep ends up to 1 ms late (epoll counts whole ones); the rest is waited busily.
SPIN_S = 0.0015
LEAD_S = 0.2  # a request is prepared that long before its time
SPACING_S = 0.002  # and so long after the one before it: preparing takes a core about half of that
START_S = 0.05
GRACE_S = 5.0  # that requests under way have when the run is stopped


async def wait_until(when: float) -> None:
    """Wait for a time of the monotonic clock, exactly: asleep, then for about 1 ms busily."""
    while (left := when - time.monotonic()) > 0:
        if left > SPIN_S:
            await asyncio.sleep(left - SPIN_S)
        else:
            while time.monotonic() < when:
                pass


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector, whose full rounds take tens of milliseconds, from running."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def plan_preparations(offsets: Sequence[float]) -> list[float]:
    """When to begin preparing each request, seconds from the start of the round; may be negative.

    Args:
        offsets: When each is to be released, ascending.
    """
    out: list[float] = []
    after = float("inf")
    for at in reversed(offsets):
        after = min(at - LEAD_S, after - SPACING_S)
        out.append(after)
    return out[::-1]


class Round:
    """The departures of one round.

    Args:
        depart: Begins to prepare the request of that index.
        stop: Set when nothing more is to be sent.
        cut: Set when nothing more is to be waited for either.

    Attributes:
        departures: Index of the request → its departure, of those that were begun.
    """

    def __init__(
        self, depart: Callable[[int], Departure], stop: asyncio.Event, cut: asyncio.Event
    ) -> None:
        self._depart = depart
        self._stop = stop
        self._cut = cut
        self.departures: dict[int, Departure] = {}

    async def run_open(self, offsets: Sequence[float]) -> None:
        """Release each request at its offset, whatever becomes of the others.

        Args:
            offsets: Seconds from the start of the round, ascending.
        """
        begins = plan_preparations(offsets)
        start = time.monotonic() + START_S - min(0.0, begins[0])

        async def prepare() -> None:
            for k, begin in enumerate(begins):
                if (left := start + begin - time.monotonic()) > 0:
                    await asyncio.sleep(left)
                self._begin(k)

        async def release() -> None:
            for k, offset in enumerate(offsets):
                await wait_until(start + offset)
                while k not in self.departures:  # preparing has fallen behind
                    await asyncio.sleep(0)
                self.departures[k].release(start + offset)

        await self._run(prepare(), release())

    async def run_closed(self, num: int, concurrency: int, think_s: float) -> None:
        """Keep so many requests under way; each answer is followed by the next request.

        The next one of each client is prepared while its last is under way.

        Args:
            num: Requests in all.
            concurrency: Clients.
            think_s: Seconds from an answer to the same client's next request.
        """
        waiting = iter(range(num))
        start = time.monotonic() + START_S + LEAD_S + SPACING_S * concurrency

        async def act(place: int) -> None:
            mine = next(waiting)
            self._begin(mine)
            await wait_until(start)
            self.departures[mine].release(start)
            while True:
                current = self.departures[mine]
                following = next(waiting, None)
                if following is not None:
                    # Not all clients at once, as others may be due; but at the latest when it is.
                    await asyncio.wait([current.task], timeout=SPACING_S * (1 + place))
                    self._begin(following)
                    if not think_s:
                        current.call_at_end(self.departures[following].release)
                await asyncio.wait([current.task])
                if following is None:
                    return
                if think_s:
                    planned = (current.flight.ended or time.monotonic()) + think_s
                    await wait_until(planned)
                    self.departures[following].release(planned)
                mine = following

        await self._run(*(act(place) for place in range(min(concurrency, num))))

    def _begin(self, k: int) -> None:
        self.departures[k] = self._depart(k)

    async def _run(self, *acts: Coroutine[Any, Any, None]) -> None:
        with undisturbed():
            sending = asyncio.create_task(_act(acts))
            stopping = asyncio.create_task(self._stop.wait())
            both: list[asyncio.Future[Any]] = [sending, stopping]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    sending.result()  # an error of this module's own must not pass for a stop
                    await self._wait_for_all(stopping)
            finally:
                sending.cancel()
                stopping.cancel()
                await asyncio.wait(both)
                await self._close()

    async def _wait_for_all(self, stopping: asyncio.Task[Any]) -> None:
        under_way = [d.task for d in self.departures.values() if not d.task.done()]
        if under_way:
            everything = asyncio.create_task(_wait_for(under_way))
            await asyncio.wait([everything, stopping], return_when=asyncio.FIRST_COMPLETED)
            everything.cancel()

    async def _close(self) -> None:
        """After a stop: forget what was not released, and give the rest a little time."""
        for departure in self.departures.values():
            if departure.flight.planned is None:
                departure.give_up()
        rest = [d for d in self.departures.values() if not d.task.done()]
        under_way = [d.task for d in rest]
        if under_way:
            cutting = asyncio.create_task(self._cut.wait())
            everything = asyncio.create_task(_wait_for(under_way, GRACE_S))
            await asyncio.wait([everything, cutting], return_when=asyncio.FIRST_COMPLETED)
            cutting.cancel()
            everything.cancel()
            for departure in rest:
                departure.give_up()
            await asyncio.wait(under_way)


async def _act(acts: Sequence[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*acts)


async def _wait_for(tasks: Sequence[asyncio.Task[None]], timeout: float | None = None) -> None:
    await asyncio.wait(tasks, timeout=timeout)
