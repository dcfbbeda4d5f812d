"""Sends the spans of a served engine to an OTLP endpoint while it runs."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags

from pdtrace.simulate.traces import SCOPE, describe_process

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    Span = dict[str, Any]

MAX_HELD_SPANS = 65_536  # an endpoint that is slow or gone must not fill the memory
BATCH_SPANS = 512
PAUSE_S = 0.5  # as the engine's exporter waits for more
FINISH_S = 15.0
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class SpanSender(threading.Thread):
    """Sends in the background; what cannot be sent is dropped and counted.

    Args:
        exporter: Of OpenTelemetry; its retries are used.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        super().__init__(name="span-sender", daemon=True)
        self._exporter = exporter
        self._waiting: queue.SimpleQueue[list[ReadableSpan] | None] = queue.SimpleQueue()
        self._num_waiting = 0
        self._num_sent = self._num_dropped = 0
        self._resources: dict[int, Resource] = {}
        self._lock = threading.Lock()
        # What fails is counted and told in the end, not logged by the library in between.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def put(self, spans: dict[int, list[Span]]) -> None:
        """Take the spans of a request, by process."""
        num = sum(len(own) for own in spans.values())
        with self._lock:
            if self._num_waiting + num > MAX_HELD_SPANS:
                self._num_dropped += num
                return
            self._num_waiting += num
        self._waiting.put(
            [
                build_span(span, self._find_resource(pid))
                for pid, own in spans.items()
                for span in own
            ]
        )

    def run(self) -> None:
        """Send until told to finish."""
        is_finishing = False
        while not is_finishing:
            time.sleep(PAUSE_S)
            batch: list[ReadableSpan] = []
            while not self._waiting.empty():
                spans = self._waiting.get()
                is_finishing = is_finishing or spans is None
                batch += spans or []
                if len(batch) >= BATCH_SPANS:
                    self._send(batch)
                    batch = []
            if batch:
                self._send(batch)

    def finish(self) -> str:
        """Send what is left, and say how many spans were sent."""
        self._waiting.put(None)
        self.join(FINISH_S)
        with self._lock:
            lost = self._num_dropped + self._num_waiting
        self._exporter.shutdown()
        return f"{self._num_sent} spans sent" + (f", {lost} not taken" if lost else "")

    def _find_resource(self, pid: int) -> Resource:
        if pid not in self._resources:
            self._resources[pid] = Resource(describe_process(pid))  # type: ignore[arg-type]
        return self._resources[pid]

    def _send(self, batch: list[ReadableSpan]) -> None:
        try:
            result = self._exporter.export(batch)
        except OSError:  # the HTTP client's errors are
            result = SpanExportResult.FAILURE
        with self._lock:
            self._num_waiting -= len(batch)
            if result is SpanExportResult.SUCCESS:
                self._num_sent += len(batch)
            else:
                self._num_dropped += len(batch)


def build_span(span: Span, resource: Resource) -> ReadableSpan:
    """A span of OTLP/JSON as the library has it."""
    parent = span.get("parentSpanId")
    return ReadableSpan(
        name=span["name"],
        context=_build_context(span["traceId"], span["spanId"]),
        parent=None if parent is None else _build_context(span["traceId"], parent),
        resource=resource,
        instrumentation_scope=InstrumentationScope(SCOPE),
        kind=SpanKind.INTERNAL,
        start_time=int(span["startTimeUnixNano"]),
        end_time=int(span["endTimeUnixNano"]),
        attributes=_read_attributes(span.get("attributes", [])),
        events=[
            Event(
                one["name"],
                timestamp=int(one["timeUnixNano"]),
                attributes=_read_attributes(one["attributes"]),
            )
            for one in span.get("events", [])
        ],
        links=[
            Link(_build_context(one["traceId"], one["spanId"])) for one in span.get("links", [])
        ],
    )


def _build_context(trace: str, span: str) -> SpanContext:
    return SpanContext(int(trace, 16), int(span, 16), is_remote=False, trace_flags=_SAMPLED)


def _read_attributes(listed: list[dict[str, Any]]) -> dict[str, Any]:
    out = {}
    for one in listed:
        ((kind, value),) = one["value"].items()
        out[one["key"]] = int(value) if kind == "intValue" else value
    return out
