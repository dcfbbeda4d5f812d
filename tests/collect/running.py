"""Collections to test: in a thread or a process, on free ports; and what they wrote."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pdtrace.collect.session import Session
from pdtrace.collect.settings import Limits, Settings

ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 20.0


@dataclass
class Running:
    """A collection in a thread of this process."""

    session: Session
    directory: Path
    summary: str = ""

    @property
    def grpc(self) -> str:
        """Where gRPC is answered."""
        return f"127.0.0.1:{self.session.grpc_port}"

    @property
    def url(self) -> str:
        """Where HTTP is answered."""
        return f"http://127.0.0.1:{self.session.http_port}/v1/traces"


def wait_until(is_so: Callable[[], Any], seconds: float = DEADLINE_S) -> None:
    """Wait for something that will be so soon."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never became so"
        time.sleep(0.02)


@contextmanager
def collecting(directory: Path, **options: Any) -> Iterator[Running]:
    """Run a collection in a thread until the block ends; its errors are raised here."""
    limits = {k: options.pop(k) for k in list(options) if k in Limits.__dataclass_fields__}
    settings = Settings(
        str(directory), grpc_port=0, http_port=0, limits=Limits(**limits), **options
    )
    running = Running(Session(settings), directory)
    ready, errors = threading.Event(), []
    handles: list[Any] = []

    async def main() -> None:
        stop = asyncio.Event()
        handles[:] = [asyncio.get_running_loop(), stop]
        task = asyncio.create_task(running.session.run(stop))
        while not task.done() and not running.session.is_listening:
            await asyncio.sleep(0.01)
        ready.set()
        running.summary = await task

    def work() -> None:
        try:
            asyncio.run(main())
        except Exception as error:
            errors.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(DEADLINE_S)
    try:
        if not errors:
            yield running
    finally:
        if handles and not handles[0].is_closed():
            handles[0].call_soon_threadsafe(handles[1].set)
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@contextmanager
def collecting_process(
    directory: Path, *args: str
) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """Run ``pdtrace collect`` as a user does; yields the process, its gRPC and HTTP port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pdtrace", "collect", "-o", str(directory),
         "--grpc-port", "0", "--http-port", "0", *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"gRPC port (\d+), HTTP port (\d+)", line)
        assert found, line
        yield process, int(found[1]), int(found[2])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=DEADLINE_S)


def read_messages(path: Path) -> list[ExportTraceServiceRequest]:
    """The messages of a spans.pb, which must end with a whole one."""
    data, at, messages = path.read_bytes(), 0, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        assert at + 4 + size <= len(data), "the last message is cut off"
        messages.append(ExportTraceServiceRequest.FromString(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return messages


def span_ids(path: Path) -> list[bytes]:
    """Ids of all spans of a spans.pb, in its order."""
    return [
        span.span_id
        for message in read_messages(path)
        for block in message.resource_spans
        for scope in block.scope_spans
        for span in scope.spans
    ]


def make_spans(count: int) -> list[ReadableSpan]:
    """Finished spans of the real SDK, as an engine makes them."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource.create({"service.name": "sglang"}))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("sglang server")
    for k in range(count):
        span = tracer.start_span("prefill_forward", attributes={"rid": f"r{k}", "dp_rank": k % 4})
        span.add_event("schedule", {"bid": "00c0ffee", "batch_size": 2})
        span.end()
    provider.shutdown()
    return list(memory.get_finished_spans())


def exporter_of(
    protocol: str, grpc_port: int, http_port: int, **options: Any
) -> GrpcExporter | HttpExporter:
    """A real exporter of one protocol."""
    if protocol == "grpc":
        return GrpcExporter(endpoint=f"127.0.0.1:{grpc_port}", insecure=True, **options)
    return HttpExporter(endpoint=f"http://127.0.0.1:{http_port}/v1/traces", **options)


def one_request(
    *, num_spans: int = 1, trace_id: bytes = b"t" * 16, name: str = "tokenize"
) -> ExportTraceServiceRequest:
    """A small message made by hand."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for k in range(num_spans):
        scope.spans.add(trace_id=trace_id, span_id=(k + 1).to_bytes(8, "big"), name=name)
    return request
