"""Receivers of OTLP spans on 127.0.0.1, over HTTP and gRPC."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


@dataclass
class Received:
    """What a receiver was sent.

    Attributes:
        url: Where it listens.
        refusals: What it answers to the next requests instead of taking them: HTTP status codes or
            gRPC ones.
    """

    url: str = ""
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    refusals: list[Any] = field(default_factory=list)

    def spans(self) -> list[Any]:
        """All spans, in order of arrival."""
        return [
            s
            for q in self.requests for r in q.resource_spans for c in r.scope_spans for s in c.spans
        ]  # fmt: skip


@contextmanager
def receive_http() -> Iterator[Received]:
    """Receive OTLP over HTTP."""
    got = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.paths.append(self.path)
            status = got.refusals.pop(0) if got.refusals else 200
            if status == 200:
                assert self.headers["Content-Type"] == "application/x-protobuf"
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                got.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(status)
            if status == 307:
                self.send_header("Location", got.url + "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    got.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def receive_grpc() -> Iterator[Received]:
    """Receive OTLP over gRPC."""
    got = Received()

    class Servicer(TraceServiceServicer):
        def Export(  # noqa: N802
            self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
        ) -> ExportTraceServiceResponse:
            if got.refusals:
                context.abort(got.refusals.pop(0), "come back later")
            got.requests.append(request)
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(Servicer(), server)
    got.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield got
    finally:
        server.stop(None).wait()
