"""OTLP protobuf as the Collector's file exporter writes it → spans.

Each ExportTraceServiceRequest stands behind its length as four bytes, big-endian.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pdtrace.sources.otel_spans.spans import (
    SCOPE,
    SLICE,
    Attributes,
    Schedule,
    Span,
    Value,
    classify,
    read_schedule,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan


def decode_message(body: bytes) -> ExportTraceServiceRequest:
    """Decode one message.

    Raises:
        ValueError: It is no such message.
    """
    message = ExportTraceServiceRequest()
    try:
        message.ParseFromString(body)
    except (DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ValueError("is no ExportTraceServiceRequest") from e
    return message


def _values(attributes: Iterable[KeyValue]) -> Attributes:
    said: Attributes = {}
    for a in attributes:
        which = a.value.WhichOneof("value")
        if which in ("string_value", "int_value", "double_value", "bool_value"):
            value: Value = getattr(a.value, which)
            said[a.key] = value
    return said


def read_message(message: ExportTraceServiceRequest) -> Iterator[Span]:
    """The engine's spans of one message."""
    for block in message.resource_spans:
        service = ""
        for a in block.resource.attributes:
            if a.key == "service.name":
                service = a.value.string_value
        for scoped in block.scope_spans:
            if scoped.scope.name not in ("", SCOPE):
                continue
            for s in scoped.spans:
                name = s.name
                kind = classify(name)
                if not kind:
                    continue
                yield Span(
                    s.trace_id.hex(), s.span_id.hex(), s.parent_span_id.hex(), kind, name,
                    s.start_time_unix_nano, s.end_time_unix_nano, service,
                    {} if kind == SLICE else _values(s.attributes),
                    _schedules(s) if s.events else (),
                )  # fmt: skip


def _schedules(span: ProtoSpan) -> tuple[Schedule, ...]:
    found = (
        read_schedule(e.time_unix_nano, _values(e.attributes))
        for e in span.events
        if e.name == "schedule"
    )
    return tuple(s for s in found if s is not None)
