"""OTLP over HTTP: protobuf and JSON on /v1/traces."""

from __future__ import annotations

import asyncio
import logging
import zlib
from typing import TYPE_CHECKING

from aiohttp import web

from pdtrace.collect.answers import (
    DEADLINE_EXCEEDED,
    INVALID_ARGUMENT,
    NOT_FOUND,
    UNIMPLEMENTED,
    RefusedError,
    build_response,
    encode,
    refuse_malformed,
    refuse_too_large,
)
from pdtrace.collect.connections import BoundedServer
from pdtrace.collect.messages import MalformedError, check_json, check_protobuf
from pdtrace.collect.settings import RETRY_SECONDS
from pdtrace.errors import UsageError

if TYPE_CHECKING:
    from google.rpc.status_pb2 import Status
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    from pdtrace.collect.intake import Intake, Ticket

PATH = "/v1/traces"
PROTOBUF = "application/x-protobuf"
JSON = "application/json"
_AUTOMATIC = zlib.MAX_WBITS | 32  # gzip and zlib ("deflate"), told by their headers
_ENCODINGS = {"": False, "identity": False, "gzip": True, "deflate": True}


class HttpReceiver:
    """Serves ``POST /v1/traces``."""

    def __init__(self, intake: Intake) -> None:
        limits = intake.limits
        self._intake = intake
        self._limits = limits
        # What a client gets wrong is answered, not logged.
        logger = logging.Logger("pdtrace.collect.http", level=logging.CRITICAL + 1)
        self._server = web.Server(
            self._answer,
            logger=logger,
            access_log=None,
            # Decompressed here, where the bound can be kept.
            auto_decompress=False,
            keepalive_timeout=75.0,
            lingering_time=2.0,
        )
        self._bounded = BoundedServer(self._server, limits)
        self._listener: asyncio.Server | None = None

    async def bind(self, host: str, port: int) -> int:
        """Take the port, and return it (of use where 0 was asked for).

        Raises:
            UsageError: It is taken, or the address is not this machine's.
        """
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                self._bounded, host, port, start_serving=False, backlog=128
            )
        except OSError as error:
            why = error.strerror or str(error)
            raise UsageError(
                f"cannot listen on {host}:{port} for HTTP: {why};"
                " --host and --http-port name another"
            ) from error
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    async def start(self) -> None:
        """Begin to answer."""
        assert self._listener is not None
        await self._listener.start_serving()

    async def stop(self) -> None:
        """Finish what is under way, then close every connection."""
        if self._listener is not None:
            self._listener.close()
        self._server.pre_shutdown()  # those that wait for a next request
        await self._server.shutdown(self._limits.grace_seconds)
        self._bounded.close()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        self._bounded.note_head(request.transport)
        is_json = request.content_type == JSON
        try:
            body = await self._take(request, is_json=is_json)
        except RefusedError as error:
            refusal = error.forget()
            self._intake.tally.note_refused(is_retryable=refusal.is_retryable)
            answer = _respond(refusal.build_status(), status=refusal.http, is_json=is_json)
            if refusal.is_retryable:
                answer.headers["Retry-After"] = str(RETRY_SECONDS)
            if refusal.http == web.HTTPMethodNotAllowed.status_code:
                answer.headers["Allow"] = "POST"
            if refusal.http in (408, 413) or not self._intake.is_open:
                answer.force_close()  # the rest of the body is not wanted
            return answer
        answer = _respond(body, status=200, is_json=is_json)
        if not self._intake.is_open:
            answer.force_close()
        return answer

    async def _take(self, request: web.BaseRequest, *, is_json: bool) -> ExportTraceServiceResponse:
        if request.path != PATH:
            raise RefusedError(404, NOT_FOUND, f"spans go to {PATH}; nothing else is collected")
        if request.method != "POST":
            raise RefusedError(405, UNIMPLEMENTED, f"spans are sent by POST, not {request.method}")
        if not is_json and request.content_type != PROTOBUF:
            raise RefusedError(
                415, INVALID_ARGUMENT, f"the Content-Type must be {PROTOBUF} or {JSON}"
            )
        encoding = request.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in _ENCODINGS:
            raise RefusedError(
                415, INVALID_ARGUMENT, "the Content-Encoding must be gzip or deflate"
            )
        if (request.content_length or 0) > self._limits.max_message_bytes:
            raise refuse_too_large(self._limits.max_message_bytes)
        with self._intake.admit() as ticket:
            seconds = self._limits.body_seconds
            try:
                async with asyncio.timeout(seconds):
                    body = await self._read(request, ticket, is_packed=_ENCODINGS[encoding])
            except TimeoutError:
                why = f"the body did not arrive within {seconds:g} s"
                raise RefusedError(408, DEADLINE_EXCEEDED, why) from None
            try:
                message = check_json(body) if is_json else check_protobuf(body)
            except MalformedError as error:
                raise refuse_malformed(str(error)) from error
            await self._intake.store(message)
        return build_response(message)

    async def _read(self, request: web.BaseRequest, ticket: Ticket, *, is_packed: bool) -> bytes:
        """The body, decompressed; never more than a message may have."""
        unpacker = Unpacker() if is_packed else None
        max_bytes = self._limits.max_message_bytes
        body = bytearray()
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        try:
            async for chunk in request.content.iter_any():
                # One byte more than allowed is enough to know.
                room = max_bytes + 1 - len(body)
                part = chunk if unpacker is None else unpacker.unpack(chunk, room)
                if len(body) + len(part) > max_bytes:
                    raise refuse_too_large(max_bytes)
                ticket.grow(len(part))
                body += part
        except zlib.error as error:
            raise refuse_malformed(f"the compressed body is damaged: {error}") from error
        except web.RequestPayloadError as error:
            raise refuse_malformed("the body is cut off") from error
        if unpacker is not None and not unpacker.is_whole:
            raise refuse_malformed("the compressed body is cut off")
        return bytes(body)


class Unpacker:
    """Decompresses gzip, of one part or several, and zlib."""

    def __init__(self) -> None:
        self._part = zlib.decompressobj(_AUTOMATIC)

    def unpack(self, data: bytes, room: int) -> bytes:
        """What the next bytes stand for, and no more than ``room`` of it.

        Raises:
            zlib.error: They are damaged.
        """
        out = self._part.decompress(data, room)
        while self._part.eof and self._part.unused_data and len(out) < room:
            rest = self._part.unused_data
            self._part = zlib.decompressobj(_AUTOMATIC)
            out += self._part.decompress(rest, room - len(out))
        return out

    @property
    def is_whole(self) -> bool:
        """Whether the last part came to its end."""
        return self._part.eof


def _respond(
    body: Status | ExportTraceServiceResponse, *, status: int, is_json: bool
) -> web.Response:
    return web.Response(
        status=status,
        body=encode(body, is_json=is_json),
        content_type=JSON if is_json else PROTOBUF,
    )
