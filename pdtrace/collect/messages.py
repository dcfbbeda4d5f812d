"""Checks messages of spans as they come, OTLP protobuf or OTLP/JSON, for the file of protobuf."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from google.protobuf.json_format import Error as JsonError
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_TRACE = bytes(16)
_NO_SPAN = bytes(8)
_FIRST_TAG = b"\x0a"


class MalformedError(Exception):
    """A body is no ExportTraceServiceRequest."""


@dataclass(frozen=True)
class Message:
    """One checked message.

    Attributes:
        payload: Protobuf with the spans that are accepted.
        num_spans: How many those are.
        num_rejected: Spans left out because their ids are invalid.
    """

    payload: bytes
    num_spans: int
    num_rejected: int

    @property
    def record(self) -> bytes:
        """The message behind its length, as files hold it."""
        return len(self.payload).to_bytes(4, "big") + self.payload


def check_protobuf(body: bytes) -> Message:
    """Check a protobuf message; what is valid is kept byte for byte.

    Raises:
        MalformedError: It is none.
    """
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError("the body is no protobuf ExportTraceServiceRequest") from error
    return _check(request, body)


def check_json(body: bytes) -> Message:
    """Check an OTLP/JSON message, and turn it into protobuf.

    Raises:
        MalformedError: It is none.
    """
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
        if not isinstance(document, dict):
            raise MalformedError("the body is no JSON object")
        for thing in _things_with_ids(document):
            _read_ids(thing)
        request = ParseDict(document, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except (JsonError, ValueError, TypeError, AttributeError, RecursionError) as error:
        text = " ".join(str(error).split())[:200]
        raise MalformedError(f"the body is no OTLP/JSON: {text}") from error
    return _check(request, None)


def _check(request: ExportTraceServiceRequest, body: bytes | None) -> Message:
    num_spans, num_rejected = 0, 0
    for block in request.resource_spans:
        for scope in block.scope_spans:
            spans = scope.spans
            bad = [
                k
                for k, span in enumerate(spans)
                if len(span.trace_id) != 16
                or len(span.span_id) != 8
                or span.trace_id == _NO_TRACE
                or span.span_id == _NO_SPAN
            ]
            for k in reversed(bad):
                del spans[k]
            num_spans += len(spans)
            num_rejected += len(bad)
    # Readers tell the file by its first tag, and an unknown field may stand before it.
    if body is None or num_rejected or body[:1] != _FIRST_TAG:
        body = request.SerializeToString()
    return Message(body, num_spans, num_rejected)


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedError(f"{name} is no JSON number")


def _things_with_ids(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Spans and links; odd shapes are left for the parser to refuse."""
    for block in _dicts(document, "resourceSpans"):
        for scope in _dicts(block, "scopeSpans"):
            for span in _dicts(scope, "spans"):
                yield span
                yield from _dicts(span, "links")


def _dicts(parent: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    children = parent.get(key)
    if isinstance(children, list):
        yield from (child for child in children if isinstance(child, dict))


def _read_ids(thing: dict[str, Any]) -> None:
    """OTLP/JSON writes ids in hexadecimal, where protobuf's JSON mapping has base64."""
    for key in ("traceId", "spanId", "parentSpanId"):
        text = thing.get(key)
        if text is None:
            continue
        try:
            thing[key] = base64.b64encode(binascii.unhexlify(text)).decode("ascii")
        except (ValueError, TypeError) as error:
            raise MalformedError(f"{key} is not hexadecimal") from error
