"""What is accepted as spans, and in which form it is kept."""

from __future__ import annotations

import contextlib
import json

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pdtrace.collect.messages import MalformedError, check_json, check_protobuf
from tests.collect.running import one_request


def as_json(request: ExportTraceServiceRequest) -> bytes:
    """OTLP/JSON of a message: ids in hexadecimal, enums as numbers."""
    document = MessageToDict(request, use_integers_for_enums=True)
    for block, said in zip(request.resource_spans, document["resourceSpans"], strict=True):
        for scope, sent in zip(block.scope_spans, said["scopeSpans"], strict=True):
            for span, out in zip(scope.spans, sent["spans"], strict=True):
                out["traceId"], out["spanId"] = span.trace_id.hex(), span.span_id.hex()
                for link, made in zip(span.links, out.get("links", []), strict=True):
                    made["traceId"], made["spanId"] = link.trace_id.hex(), link.span_id.hex()
    return json.dumps(document).encode()


def test_valid_protobuf_is_kept_byte_for_byte() -> None:
    """A recorder that encoded anew would lose fields that it does not know."""
    body = one_request(num_spans=3).SerializeToString() + b"\xba\x06\x03new"
    message = check_protobuf(body)
    assert (message.payload, message.num_spans, message.num_rejected) == (body, 3, 0)
    assert message.record == len(body).to_bytes(4, "big") + body


def test_an_unknown_field_in_front_is_moved_behind() -> None:
    """Readers tell spans.pb by the tag of its first message."""
    body = b"\xba\x06\x03new" + one_request().SerializeToString()
    assert check_protobuf(body).payload == one_request().SerializeToString() + b"\xba\x06\x03new"


def test_json_gives_the_same_bytes_as_protobuf() -> None:
    """OTLP/JSON has ids in hexadecimal, links and large integers as text."""
    request = one_request(num_spans=2)
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.start_time_unix_nano = 1_795_000_000_123_456_789
    span.kind = 1
    span.links.add(trace_id=b"o" * 16, span_id=b"p" * 8)
    attribute = span.attributes.add(key="rid")
    attribute.value.string_value = "burst_1"
    span.attributes.add(key="raw").value.bytes_value = b"\x00\xff"
    assert check_json(as_json(request)).payload == request.SerializeToString()


def test_unknown_json_keys_are_ignored() -> None:
    """OTLP/JSON receivers must ignore fields that they do not know."""
    document = json.loads(as_json(one_request()))
    document["resourceSpans"][0]["novelty"] = {"a": [1]}
    assert check_json(json.dumps(document).encode()).num_spans == 1


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b"\xff", b"null", b'{"resourceSpans": 1}', b'{"resourceSpans": [1]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": 7}]}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": {}}]}]}]}',
        b'{"a": NaN}', b'{"a":' * 100_000, b"1" * 10_000,
    ],
)  # fmt: skip
def test_bad_json_is_malformed(body: bytes) -> None:
    """Whatever is sent, the answer is a refusal and not an internal error."""
    with pytest.raises(MalformedError):
        check_json(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(body: bytes) -> None:
    """No body raises anything else."""
    for check in (check_protobuf, check_json):
        with contextlib.suppress(MalformedError):
            check(body)


@pytest.mark.parametrize("bad", [b"", b"t" * 15, b"t" * 17, bytes(16)])
def test_spans_with_invalid_ids_are_left_out(bad: bytes) -> None:
    """The specification calls such spans invalid; the valid ones beside them are kept."""
    request = one_request(num_spans=2)
    request.resource_spans[0].scope_spans[0].spans[0].trace_id = bad
    message = check_protobuf(request.SerializeToString())
    assert (message.num_spans, message.num_rejected) == (1, 1)
    kept = ExportTraceServiceRequest.FromString(message.payload)
    assert [s.span_id for s in kept.resource_spans[0].scope_spans[0].spans] == [
        (2).to_bytes(8, "big")
    ]
