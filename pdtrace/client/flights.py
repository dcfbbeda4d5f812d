"""One request on its way: prepared up to its last byte, released when due, answered or failed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http import StreamWriter

MAX_ANSWER_BYTES = 16 << 20


@dataclass
class Flight:
    """What became of one post; times by the monotonic clock, seconds.

    Attributes:
        planned: When its last byte was to be sent; None until that is known.
        sent: When the operating system had taken its last byte; None if it never had.
        ended: When the answer was complete, or the attempt had failed.
        status: HTTP status of the answer.
        text: Its body.
        kind: Why there is no answer: ``refused``, ``disconnected``, ``timeout``, ``answer`` (too
            large) or ``interrupted``; None if there is one.
        error: The same in words.
    """

    planned: float | None = None
    sent: float | None = None
    ended: float | None = None
    status: int | None = None
    text: bytes = b""
    kind: str | None = None
    error: str | None = None

    @property
    def late_s(self) -> float | None:
        """Seconds from the planned to the real sending."""
        if self.planned is None or self.sent is None:
            return None
        return self.sent - self.planned


class HeldBody(aiohttp.Payload):
    """A request body that goes out at once but for its last byte, which waits to be released.

    An engine begins to work on a request when its body is complete, so the last byte's time is the
    request's. What takes time (connecting, headers, tens of kilobytes through the socket's buffer)
    is over by then, and many requests can be released within a fraction of a millisecond.

    Args:
        body: At least one byte.
        on_sent: Called with the time at which the operating system had taken the last byte.
    """

    def __init__(self, body: bytes, on_sent: Callable[[float], None]) -> None:
        super().__init__(body, content_type="application/json")
        self._size = len(body)
        self._on_sent = on_sent
        self._transport: asyncio.Transport | None = None
        self._is_released = False
        self._is_handed_over = False
        self._released = asyncio.get_running_loop().create_future()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send all but the last byte, wait for the release, and see the last one off."""
        transport = cast("StreamWriter", writer).transport
        assert transport is not None
        # drain() then waits for the operating system to have taken everything
        transport.set_write_buffer_limits(high=0)
        await writer.write(memoryview(self._value)[:-1])
        await writer.drain()
        self._transport = transport
        if self._is_released:
            self._hand_over()
        await self._released
        if not self._is_handed_over:
            await writer.drain()
            self._on_sent(time.monotonic())

    def release(self) -> None:
        """Send the last byte now, or as soon as the others are sent."""
        self._is_released = True
        if self._transport is not None:
            self._hand_over()

    def _hand_over(self) -> None:
        # Past the writer, whose write() is a coroutine: a task switch for each of many requests
        # that are due at the same moment would take longer than the writing.
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(self._value[-1:])
            if self._transport.get_write_buffer_size() == 0:
                self._is_handed_over = True
                self._on_sent(time.monotonic())
        if not self._released.done():
            self._released.set_result(None)


class Departure:
    """A post that is being prepared, can be released, and can be waited for.

    Args:
        session: Of its engine.
        url: Where to.
        body: What; its bytes are made already.
        timeout: Seconds from the release to the end of the answer.
        companion: Another post that is released with this one and belongs to it.

    Attributes:
        flight: What became of it.
        companion: As given.
        task: Ends with the answer, and the companion's, and never raises.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        body: bytes,
        timeout: float,
        companion: Departure | None = None,
    ) -> None:
        self.flight = Flight()
        self.companion = companion
        self._timeout = timeout
        self._limit: asyncio.Timeout | None = None
        self._is_given_up = False
        self._at_end: Callable[[float], None] | None = None
        self._body = HeldBody(body, self._note_sent)
        self.task = asyncio.create_task(self._go_both(session, url))

    def release(self, planned: float) -> None:
        """Let it go, unless it was given up; ``planned`` is when that should have been."""
        if self._is_given_up:
            return
        self.flight.planned = planned
        if self.flight.ended is None:
            self._body.release()
            if self._limit is not None:
                self._limit.reschedule(asyncio.get_running_loop().time() + self._timeout)
        if self.companion is not None:
            self.companion.release(planned)

    def give_up(self) -> None:
        """Do not send it, or wait for its answer, any more."""
        self._is_given_up = True
        self.task.cancel()

    def call_at_end(self, at_end: Callable[[float], None]) -> None:
        """Have the time of the end told at that very moment: before other tasks get their turn."""
        if self.flight.ended is not None:
            at_end(self.flight.ended)
        else:
            self._at_end = at_end

    def _end(self) -> None:
        self.flight.ended = time.monotonic()
        if self._at_end is not None:
            self._at_end(self.flight.ended)

    def _note_sent(self, when: float) -> None:
        self.flight.sent = when

    async def _go_both(self, session: aiohttp.ClientSession, url: str) -> None:
        await self._go(session, url)
        if self.companion is not None:
            try:
                if self.flight.status != 200:
                    self.companion.task.cancel()  # it would wait for what will not come
                await asyncio.wait([self.companion.task])
            except asyncio.CancelledError:
                self.companion.task.cancel()

    async def _go(self, session: aiohttp.ClientSession, url: str) -> None:
        flight = self.flight
        try:
            async with asyncio.timeout(None) as self._limit:
                if flight.planned is not None:  # released before this task first ran
                    self._limit.reschedule(asyncio.get_running_loop().time() + self._timeout)
                async with session.post(url, data=self._body, allow_redirects=False) as response:
                    flight.text = await read_bounded(response)
                    flight.status = response.status
                    self._end()
        except TimeoutError as error:
            what = str(error) or f"no answer within {self._timeout:g} s"
            self._fail("timeout", what)
        except aiohttp.ClientConnectorError as error:
            self._fail("refused", repr(error.os_error))
        except AnswerError as error:
            self._fail("answer", str(error))
        except (aiohttp.ClientError, OSError) as error:
            # Not its repr: that holds the request's headers, and so the API key.
            self._fail("disconnected", f"{type(error).__name__}: {error}")
        except asyncio.CancelledError:
            if flight.ended is None:
                flight.kind, flight.error = "interrupted", "interrupted: the client stopped waiting"

    def _fail(self, kind: str, error: str) -> None:
        self.flight.kind, self.flight.error = kind, error
        self._end()


class AnswerError(Exception):
    """An answer that is not taken."""


async def read_bounded(response: aiohttp.ClientResponse, most: int = MAX_ANSWER_BYTES) -> bytes:
    """The body of an answer.

    Raises:
        AnswerError: It is larger than ``most`` bytes.
    """
    text = bytearray()
    async for part in response.content.iter_any():
        text += part
        if len(text) > most:
            raise AnswerError(f"an answer of more than {most >> 20} MiB")
    return bytes(text)
