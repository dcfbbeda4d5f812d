"""OTLP over gRPC."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from pdtrace.collect.answers import (
    DEADLINE_EXCEEDED,
    RefusedError,
    build_response,
    defer,
    refuse_malformed,
)
from pdtrace.collect.messages import MalformedError, check_protobuf
from pdtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pdtrace.collect.intake import Intake

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_IDLE_MS = 600_000


class GrpcReceiver:
    """Serves ``TraceService.Export``.

    The method is declared to take a stream, which on the wire is the same as one message: so a slot
    can be waited for before a message is read, and a message that does not arrive be given up. It
    is read from the context, because the iterator would keep it until a garbage collection. Bytes
    stay bytes up to the check, so that a malformed message gets the answer that OTLP wants.
    """

    def __init__(self, intake: Intake) -> None:
        limits = intake.limits
        self._intake = intake
        self._limits = limits
        # What is being read is not in the queue yet; its bound is that of the queue again.
        num_slots = limits.max_queue_bytes // limits.max_message_bytes
        self._slots = asyncio.Semaphore(min(max(num_slots, 4), 64))
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", limits.max_message_bytes),
                ("grpc.max_allowed_incoming_connections", limits.max_connections),
                ("grpc.max_concurrent_streams", 64),
                # Its wide windows would fill with messages that nobody has asked for yet.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.max_metadata_size", 16 << 10),
                ("grpc.server_handshake_timeout_ms", int(limits.head_seconds * 1000)),
                ("grpc.max_connection_idle_ms", _IDLE_MS),
                # Two collectors on one port would each get a part of the spans.
                ("grpc.so_reuseport", 0),
            )
        )
        handler = grpc.stream_unary_rpc_method_handler(self._export)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"Export": handler}),)
        )

    def bind(self, host: str, port: int) -> int:
        """Take the port, and return it (of use where 0 was asked for).

        Raises:
            UsageError: It is taken, or the address is not this machine's.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            # Asked of the system first: gRPC says why only in a log line of its own.
            family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
            bound: int = self._server.add_insecure_port(address)
        except (OSError, RuntimeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"cannot listen on {address} for gRPC: {why}; --host and --grpc-port name another"
            ) from error
        return bound

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()

    async def stop(self) -> None:
        """Finish what is under way, then close every connection."""
        await self._server.stop(self._limits.grace_seconds)

    async def _export(
        self,
        _: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext[bytes, bytes],
    ) -> bytes:
        try:
            return await self._take(context)
        except RefusedError as error:
            refusal = error.forget()
        self._intake.tally.note_refused(is_retryable=refusal.is_retryable)
        details = refusal.build_status().SerializeToString()
        await context.abort(
            _CODES[refusal.code], refusal.message, (("grpc-status-details-bin", details),)
        )
        raise AssertionError  # abort raises

    async def _take(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        body_seconds = self._limits.body_seconds
        with self._intake.admit() as ticket:
            try:
                await asyncio.wait_for(self._slots.acquire(), body_seconds)
            except TimeoutError:
                raise defer("the collector is busy") from None
            try:
                body = await asyncio.wait_for(context.read(), body_seconds)
            except TimeoutError:
                why = f"no message within {body_seconds:g} s"
                raise RefusedError(408, DEADLINE_EXCEEDED, why) from None
            finally:
                self._slots.release()
            if body is grpc.aio.EOF:
                raise refuse_malformed("the request has no message")
            ticket.grow(len(body))
            try:
                message = check_protobuf(body)
            except MalformedError as error:
                raise refuse_malformed(str(error)) from error
            await self._intake.store(message)
        return bytes(build_response(message).SerializeToString())
