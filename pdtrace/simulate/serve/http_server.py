"""The engine's HTTP server: ``/generate`` and what else a client of it asks for."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

from aiohttp import web

from pdtrace.collect.connections import BoundedServer
from pdtrace.collect.settings import Limits
from pdtrace.errors import UsageError
from pdtrace.simulate.serve.answers import (
    describe_error,
    describe_refusal,
    describe_result,
    encode,
    encode_event,
)
from pdtrace.simulate.serve.prompts import BadRequestError, Post, Router, decode_body
from pdtrace.simulate.serve.recorder import Line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pdtrace.simulate.serve.scheduler import Ticket
    from pdtrace.simulate.serve.served import ServedEngine
    from pdtrace.simulate.serve.settings import Bounds

    Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

JSON = "application/json"
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
SERVER = "pdtrace-simulate"
_PATH_CHARACTERS = "/%?=&:,+~@!$'()*;-._"


class HttpServer:
    """Answers for an engine, once there is one.

    Args:
        bounds: What no client can exceed.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._engine: ServedEngine
        self._router: Router
        self._held_bytes = 0
        self._listener: asyncio.Server | None = None
        # What a client gets wrong is answered, not logged.
        logger = logging.Logger("pdtrace.simulate.http", level=logging.CRITICAL + 1)
        self._server = web.Server(
            self._answer, logger=logger, access_log=None, auto_decompress=False,
            keepalive_timeout=75.0, lingering_time=2.0,
        )  # fmt: skip
        limits = Limits(
            max_connections=self._bounds.max_connections, head_seconds=self._bounds.head_seconds
        )
        self._bounded = BoundedServer(self._server, limits)
        self._routes: dict[str, tuple[tuple[str, ...], Handler]] = {
            "/generate": (("POST", "PUT"), self._generate),
            "/flush_cache": (("GET", "POST"), self._flush),
            "/metrics": (("GET",), self._expose),
            "/health": (("GET",), self._check_health),
            "/health_generate": (("GET",), self._check_health),
            "/server_info": (("GET",), self._describe_server),
            "/get_server_info": (("GET",), self._describe_server),
            "/model_info": (("GET",), self._describe_model),
            "/get_model_info": (("GET",), self._describe_model),
        }

    async def bind(self, host: str, port: int) -> int:
        """Take the port, and return it (of use where 0 was asked for).

        Raises:
            UsageError: It is taken, or the address is not this machine's.
        """
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                self._bounded, host, port, start_serving=False, backlog=1024
            )
        except OSError as error:
            why = error.strerror or str(error)
            raise UsageError(f"--serve: cannot listen on {host}:{port}: {why}") from error
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    async def start(self, engine: ServedEngine) -> None:
        """Begin to answer for an engine."""
        assert self._listener is not None
        self._engine, self._router = engine, Router(engine.launch)
        await self._listener.start_serving()

    async def stop(self, patience: float) -> None:
        """Take no connection any more, and close those that are open.

        Args:
            patience: Seconds that answers under way have.
        """
        if self._listener is not None:
            self._listener.close()
        self._server.pre_shutdown()
        await self._server.shutdown(patience)
        self._bounded.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._bounded.note_head(request.transport)
        methods, handler = self._routes.get(request.path, ((), None))
        if handler is None:
            answer: web.StreamResponse = _respond({"detail": "Not Found"}, 404)
        elif request.method not in methods:
            answer = _respond({"detail": "Method Not Allowed"}, 405)
            answer.headers["Allow"] = ", ".join(methods)
        else:
            try:
                answer = await handler(request)
            except BadRequestError as error:
                answer = _respond(describe_refusal(error), 400)
            except _RefusedError as error:
                answer = _respond(
                    describe_error(str(error), error.status, error.kind), error.status
                )
                if error.status in (408, 413):
                    answer.force_close()  # the rest of the body is not wanted
        answer.headers.setdefault("Server", SERVER)
        self._note(request, answer.status)
        return answer

    def _note(self, request: web.BaseRequest, status: int) -> None:
        """A line in the log, as the engine's HTTP server writes it."""
        peer = request.transport.get_extra_info("peername") if request.transport else None
        who = f"{peer[0]}:{peer[1]}" if peer else "unknown:0"
        path = quote(request.raw_path[:2000], safe=_PATH_CHARACTERS, errors="replace")
        method = quote(request.method[:20], safe="", errors="replace")
        phrase = HTTPStatus(status).phrase
        text = f'{who} - "{method} {path} HTTP/1.1" {status} {phrase}'
        self._engine.recorder.put(Line(self._engine.clock.stamp(), text, is_access=True))

    async def _generate(self, request: web.BaseRequest) -> web.StreamResponse:
        engine = self._engine
        data = await self._read(request)
        came = engine.clock.now()
        post = self._router.read(decode_body(data))
        if engine.is_closing:
            raise _RefusedError(503, "The server is shutting down.")
        if engine.num_open + len(post.prompts) > self._bounds.max_requests:
            raise _RefusedError(503, "The request queue is full.")
        for prompt in post.prompts:
            if prompt.rid in engine.open_rids:
                raise BadRequestError(f"Duplicate request ID detected: {prompt.rid[:200]}")
        peer = request.transport.get_extra_info("peername") if request.transport else None
        tickets = engine.send(post.prompts, came, port=peer[1] if peer else 0)
        if post.is_streamed:
            return await self._stream(request, post, tickets)
        await asyncio.wait(tickets.values())
        results = [describe_result(ticket, engine.clock) for ticket in tickets]
        return _respond(results[0] if post.is_single else results, 200)

    async def _stream(
        self, request: web.BaseRequest, post: Post, tickets: dict[Ticket, asyncio.Future[None]]
    ) -> web.StreamResponse:
        """The one token that a prefill engine generates, as events."""
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        answer.headers["Server"] = SERVER
        await answer.prepare(request)
        by_future = {future: ticket for ticket, future in tickets.items()}
        left = set(by_future)
        order = {ticket: k for k, ticket in enumerate(tickets)}
        try:
            while left:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    ticket = by_future[future]
                    result = describe_result(ticket, self._engine.clock)
                    if not post.is_single:
                        result["index"] = order[ticket]
                    await answer.write(encode_event(result))
            await answer.write(b"data: [DONE]\n\n")
            await answer.write_eof()
        except ConnectionError:
            pass  # the client is gone; its prompts are prefilled all the same
        return answer

    async def _flush(self, request: web.BaseRequest) -> web.Response:
        answer = await self._engine.flush()
        status = 200 if answer.is_done else 400
        return web.Response(status=status, text=answer.text)

    async def _expose(self, request: web.BaseRequest) -> web.Response:
        text = await self._engine.expose()
        return web.Response(body=text.encode(), headers={"Content-Type": EXPOSITION})

    async def _check_health(self, request: web.BaseRequest) -> web.Response:
        """A token is generated on rank 0, unless the engine is busy and so evidently well."""
        if self._engine.is_closing:
            return web.Response(status=503)
        await self._engine.probe()
        return web.Response(status=200)

    async def _describe_server(self, request: web.BaseRequest) -> web.Response:
        if request.path == "/get_server_info":
            self._engine.warn_deprecated("/get_server_info", "/server_info")
        return _respond(self._engine.launch.describe_server(), 200)

    async def _describe_model(self, request: web.BaseRequest) -> web.Response:
        if request.path == "/get_model_info":
            self._engine.warn_deprecated("/get_model_info", "/model_info")
        args = self._engine.launch.list_server_args()
        about = {name: args[name] for name in ("model_path", "tokenizer_path")}
        return _respond(about | {"is_generation": True, "simulated": True}, 200)

    async def _read(self, request: web.BaseRequest) -> bytes:
        """The body; never more than it may have."""
        most = self._bounds.max_body_bytes
        too_large = _RefusedError(413, f"the body is larger than {most} bytes")
        if (request.content_length or 0) > most:
            raise too_large
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        body = bytearray()
        try:
            async with asyncio.timeout(self._bounds.body_seconds):
                async for chunk in request.content.iter_any():
                    self._held_bytes += len(chunk)
                    body += chunk
                    if len(body) > most:
                        raise too_large
                    if self._held_bytes > self._bounds.max_held_bytes:
                        raise _RefusedError(503, "too many bodies at once")
        except TimeoutError:
            raise _RefusedError(408, "the body did not arrive in time") from None
        except web.RequestPayloadError as error:
            raise BadRequestError("the body is cut off", is_schema=True) from error
        finally:
            self._held_bytes -= len(body)
        return bytes(body)


class _RefusedError(Exception):
    """A request that is answered with an error of the server."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = HTTPStatus(status).phrase


def _respond(content: object, status: int) -> web.Response:
    return web.Response(status=status, body=encode(content), content_type=JSON)
