"""OTLP/JSON, and Tempo's JSON that is built alike → spans.

One message a line is what the Collector's file exporter writes; a single document is what a user
downloads. Tempo calls ``resourceSpans`` ``batches``, and older versions call ``scopeSpans``
``instrumentationLibrarySpans``. Ids are opaque text here (Tempo prints them in base64).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pdtrace.sources.otel_spans.spans import (
    SCOPE,
    SLICE,
    Attributes,
    Schedule,
    Span,
    classify,
    read_schedule,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Value(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    int_value: str | int | None = None
    double_value: float | str | None = None
    bool_value: bool | None = None


class _Attribute(msgspec.Struct):
    key: str
    value: _Value | None = None


class _Event(msgspec.Struct, rename="camel"):
    name: str = ""
    time_unix_nano: str | int = 0
    attributes: list[_Attribute] | None = None


class _Span(msgspec.Struct, rename="camel"):
    span_id: str
    trace_id: str
    name: str = ""
    parent_span_id: str | None = None
    start_time_unix_nano: str | int = 0
    end_time_unix_nano: str | int = 0
    # of most spans nobody asks for the attributes, so they stay text until someone does
    attributes: msgspec.Raw = msgspec.Raw()
    events: list[_Event] | None = None


class _Scope(msgspec.Struct):
    name: str | None = None


class _ScopeSpans(msgspec.Struct, rename="camel"):
    scope: _Scope | None = None
    instrumentation_library: _Scope | None = None
    spans: list[_Span] | None = None


class _Resource(msgspec.Struct):
    attributes: list[_Attribute] | None = None


class _ResourceSpans(msgspec.Struct, rename="camel"):
    resource: _Resource | None = None
    scope_spans: list[_ScopeSpans] | None = None
    instrumentation_library_spans: list[_ScopeSpans] | None = None


class Message(msgspec.Struct, rename="camel"):
    """An ExportTraceServiceRequest, or a trace as Tempo answers with it."""

    resource_spans: list[_ResourceSpans] | None = None
    batches: list[_ResourceSpans] | None = None
    trace: Message | None = None
    data: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(Message).decode
_decode_attributes = msgspec.json.Decoder(list[_Attribute] | None).decode


def decode_message(text: bytes) -> Message:
    """Decode one line or document.

    Raises:
        ValueError: It is not JSON, or not of this shape (msgspec's errors are ValueErrors).
    """
    try:
        return _decode(text)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e


def _values(attributes: list[_Attribute] | None) -> Attributes:
    said: Attributes = {}
    for a in attributes or ():
        v = a.value
        if v is None:
            continue
        if v.string_value is not None:
            said[a.key] = v.string_value
        elif v.int_value is not None:
            said[a.key] = _nanoseconds(v.int_value)
        elif v.double_value is not None:
            said[a.key] = _float(v.double_value)
        elif v.bool_value is not None:
            said[a.key] = v.bool_value
    return said


def _float(value: float | str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _nanoseconds(value: str | int) -> int:
    """An integer that JSON may carry as text; 0 if it is none."""
    if isinstance(value, int):
        return value
    try:
        return int(value) if len(value) < 24 else 0
    except ValueError:
        return 0


def read_message(message: Message) -> Iterator[Span]:
    """The engine's spans of one message.

    Raises:
        ValueError: Attributes are not of the shape that OTLP gives them.
    """
    if message.trace is not None:
        yield from read_message(message.trace)
    for block in (*(message.resource_spans or ()), *(message.batches or ())):
        service = ""
        if block.resource is not None:
            service = str(_values(block.resource.attributes).get("service.name", ""))
        for scoped in (*(block.scope_spans or ()), *(block.instrumentation_library_spans or ())):
            scope = scoped.scope or scoped.instrumentation_library
            if scope is not None and scope.name not in (None, "", SCOPE):
                continue
            for s in scoped.spans or ():
                name = s.name
                kind = classify(name)
                if not kind:
                    continue
                said: Attributes = {}
                if kind != SLICE and len(s.attributes):
                    said = _values(_decode_attributes(s.attributes))
                start, end = s.start_time_unix_nano, s.end_time_unix_nano
                yield Span(
                    s.trace_id, s.span_id, s.parent_span_id or "", kind, name,
                    int(start) if start.__class__ is int else _nanoseconds(start),
                    int(end) if end.__class__ is int else _nanoseconds(end),
                    service, said, _schedules(s.events) if s.events else (),
                )  # fmt: skip


def _schedules(events: list[_Event]) -> tuple[Schedule, ...]:
    found = (
        read_schedule(_nanoseconds(e.time_unix_nano), _values(e.attributes))
        for e in events
        if e.name == "schedule"
    )
    return tuple(s for s in found if s is not None)


# --- Jaeger


class _JaegerTag(msgspec.Struct):
    key: str
    value: Any = None


class _JaegerReference(msgspec.Struct, rename={"ref_type": "refType", "span_id": "spanID"}):
    ref_type: str = ""
    span_id: str = ""


class _JaegerLog(msgspec.Struct):
    timestamp: int = 0
    fields: list[_JaegerTag] | None = None


class _JaegerProcess(msgspec.Struct, rename="camel"):
    service_name: str = ""


class _JaegerSpan(
    msgspec.Struct,
    rename={
        "trace_id": "traceID",
        "span_id": "spanID",
        "operation_name": "operationName",
        "start_time": "startTime",
        "process_id": "processID",
    },
):
    trace_id: str
    span_id: str
    operation_name: str = ""
    start_time: int = 0
    duration: int = 0
    process_id: str = ""
    references: list[_JaegerReference] | None = None
    tags: list[_JaegerTag] | None = None
    logs: list[_JaegerLog] | None = None


class _JaegerTrace(msgspec.Struct):
    spans: list[_JaegerSpan] | None = None
    processes: dict[str, _JaegerProcess] | None = None


_decode_jaeger = msgspec.json.Decoder(list[_JaegerTrace]).decode


def read_jaeger(data: msgspec.Raw) -> Iterator[Span]:
    """The engine's spans of a Jaeger export (``{"data": [...]}``); times are whole microseconds.

    Raises:
        ValueError: It is not of this shape.
    """
    for trace in _decode_jaeger(data):
        processes = trace.processes or {}
        for s in trace.spans or ():
            kind = classify(s.operation_name)
            if not kind:
                continue
            said = _tags(s.tags)
            if said.get("otel.scope.name", said.get("otel.library.name", SCOPE)) != SCOPE:
                continue
            parent = next((r.span_id for r in s.references or () if r.ref_type == "CHILD_OF"), "")
            service = processes[s.process_id].service_name if s.process_id in processes else ""
            schedules = []
            for log in s.logs or ():
                about = _tags(log.fields)
                if about.get("event", about.get("name")) == "schedule":
                    schedules.append(read_schedule(log.timestamp * 1000, about))
            yield Span(
                s.trace_id, s.span_id, parent, kind, s.operation_name, s.start_time * 1000,
                (s.start_time + s.duration) * 1000, service, said if kind != SLICE else {},
                tuple(x for x in schedules if x is not None),
            )  # fmt: skip


def _tags(tags: list[_JaegerTag] | None) -> Attributes:
    return {t.key: t.value for t in tags or () if isinstance(t.value, str | int | float | bool)}
