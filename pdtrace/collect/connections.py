"""Bounds what aiohttp leaves open: how many connections, and how long a first request may take."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pdtrace.collect.settings import RETRY_SECONDS

if TYPE_CHECKING:
    from aiohttp import web

    from pdtrace.collect.settings import Limits

REFUSE_S = 1.0
_FULL = (
    f"HTTP/1.1 503 Service Unavailable\r\nRetry-After: {RETRY_SECONDS}\r\n"
    "Content-Length: 0\r\nConnection: close\r\n\r\n"
).encode()


class BoundedServer:
    """Makes a protocol for each connection, as an asyncio server wants it."""

    def __init__(self, server: web.Server, limits: Limits) -> None:
        self.server = server
        self.limits = limits
        self.open: dict[asyncio.BaseTransport, BoundedConnection] = {}
        self.num_refused = 0

    def __call__(self) -> BoundedConnection:
        """The protocol of a new connection."""
        return BoundedConnection(self)

    def note_head(self, transport: asyncio.BaseTransport | None) -> None:
        """A request's head has arrived whole; aiohttp itself times what follows."""
        if transport is not None and transport in self.open:
            self.open[transport].stop_clock()

    def close(self) -> None:
        """Cut what is still open."""
        for transport in list(self.open):
            transport.close()


class BoundedConnection(asyncio.Protocol):
    """Hands a connection to aiohttp, unless there are too many, and cuts it if nothing comes."""

    def __init__(self, owner: BoundedServer) -> None:
        self._owner = owner
        self._inner: asyncio.Protocol | None = None
        self._clock: asyncio.TimerHandle | None = None
        self._accepted: asyncio.Transport | None = None
        self._refused: asyncio.Transport | None = None
        self._is_answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, or say that there are too many."""
        owner = self._owner
        loop = asyncio.get_running_loop()
        assert isinstance(transport, asyncio.Transport)
        if len(owner.open) < owner.limits.max_connections:
            owner.open[transport] = self
            self._accepted = transport
            self._clock = loop.call_later(owner.limits.head_seconds, transport.close)
            self._inner = owner.server()
            self._inner.connection_made(transport)
        elif owner.num_refused < owner.limits.max_connections:
            # Closed before the client has sent its request, the answer would not reach it.
            owner.num_refused += 1
            self._refused = transport
            self._clock = loop.call_later(REFUSE_S, transport.abort)
        else:
            transport.abort()

    def stop_clock(self) -> None:
        """The first request is there."""
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def data_received(self, data: bytes) -> None:
        """Hand on, or answer that there are too many connections."""
        if self._inner is not None:
            self._inner.data_received(data)
        elif self._refused is not None:
            if not self._is_answered:
                self._refused.write(_FULL)
                self._refused.write_eof()
            self._is_answered = True

    def eof_received(self) -> bool | None:
        """Hand on."""
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        """Hand on."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Hand on."""
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand on, and make room."""
        self.stop_clock()
        if self._accepted is not None:
            del self._owner.open[self._accepted]
        if self._refused is not None:
            self._owner.num_refused -= 1
        if self._inner is not None:
            self._inner.connection_lost(exc)
