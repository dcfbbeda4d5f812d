"""Answers over HTTP."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import time
import zlib
from pathlib import Path

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tests.collect.running import (
    Running,
    collecting,
    exporter_of,
    make_spans,
    one_request,
    read_messages,
    span_ids,
    wait_until,
)
from tests.collect.test_messages import as_json

PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}
BODY = one_request().SerializeToString()


def post(
    running: Running,
    body: bytes,
    headers: dict[str, str] = PROTOBUF,
    *,
    path: str = "/v1/traces",
    method: str = "POST",
) -> tuple[http.client.HTTPResponse, bytes]:
    """Send bytes as they are."""
    connection = http.client.HTTPConnection("127.0.0.1", running.session.http_port, timeout=20)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer, text


def test_taken_spans_are_on_disk_when_the_answer_comes(tmp_path: Path) -> None:
    """A sender forgets what was acknowledged."""
    with collecting(tmp_path / "run") as running:
        answer, text = post(running, BODY)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == PROTOBUF["Content-Type"]
        assert ExportTraceServiceResponse.FromString(text) == ExportTraceServiceResponse()
        assert (tmp_path / "run" / "spans.pb").read_bytes() == len(BODY).to_bytes(4, "big") + BODY


def test_json_is_stored_as_the_same_protobuf(tmp_path: Path) -> None:
    """Whoever reads the file need not know how the spans came."""
    with collecting(tmp_path / "run") as running:
        answer, text = post(running, as_json(one_request()), JSON | {"Content-Encoding": "gzip"})
        assert answer.status == 400
        answer, text = post(running, as_json(one_request()), JSON)
        assert (answer.status, text) == (200, b"{}")
        assert answer.headers["Content-Type"].startswith("application/json")
        post(running, BODY)
    stored = (tmp_path / "run" / "spans.pb").read_bytes()
    assert stored[: len(stored) // 2] == stored[len(stored) // 2 :]


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
@pytest.mark.parametrize("headers", [PROTOBUF, JSON])
def test_compressed_bodies(tmp_path: Path, encoding: str, pack, headers: dict[str, str]) -> None:
    """Both encodings that exporters offer, of both formats."""
    body = BODY if headers is PROTOBUF else as_json(one_request())
    with collecting(tmp_path / "run") as running:
        answer, _ = post(running, pack(body), headers | {"Content-Encoding": encoding})
    assert answer.status == 200
    assert read_messages(tmp_path / "run" / "spans.pb") == [one_request()]


def test_gzip_of_several_parts_is_read_to_its_end(tmp_path: Path) -> None:
    """Parts after the first are legal, and would otherwise be acknowledged and lost."""
    packed = gzip.compress(BODY[:10]) + gzip.compress(BODY[10:]) + gzip.compress(BODY)
    with collecting(tmp_path / "run") as running:
        headers = PROTOBUF | {"Content-Encoding": "gzip"}
        assert post(running, packed, headers)[0].status == 200
        assert post(running, packed[:-1], headers)[0].status == 400
    assert len(span_ids(tmp_path / "run" / "spans.pb")) == 2


def test_a_sender_that_asks_first_is_told_to_go_on(tmp_path: Path) -> None:
    """Curl asks before it sends a large body, and is told at once if it is too large."""
    head = (
        "POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
        "Expect: 100-continue\r\nContent-Length: {}\r\n\r\n"
    )
    with collecting(tmp_path / "run") as running:
        with connect(running) as one:
            one.sendall(head.format(len(BODY)).encode())
            assert one.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
            one.sendall(BODY)
            assert one.recv(4096).startswith(b"HTTP/1.1 200 ")
        with connect(running) as one:
            one.sendall(head.format(1 << 30).encode())
            assert one.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_the_real_exporter_with_gzip(tmp_path: Path) -> None:
    """What the SDK sends compressed is stored plain."""
    spans = make_spans(300)
    with collecting(tmp_path / "run") as running:
        exporter = exporter_of("http", 0, running.session.http_port, compression=Compression.Gzip)
        assert exporter.export(spans).name == "SUCCESS"
        exporter.shutdown()
    assert span_ids(tmp_path / "run" / "spans.pb") == [
        s.context.span_id.to_bytes(8, "big") for s in spans
    ]


@pytest.mark.parametrize(
    ("body", "headers", "path", "method", "status"),
    [
        (b"\xff\xff not protobuf", PROTOBUF, "/v1/traces", "POST", 400),
        (b"{", JSON, "/v1/traces", "POST", 400),
        (b"not gzip", PROTOBUF | {"Content-Encoding": "gzip"}, "/v1/traces", "POST", 400),
        (gzip.compress(BODY)[:-9], PROTOBUF | {"Content-Encoding": "gzip"}, "/v1/traces", "POST",
         400),
        (b"x" * (2 << 20), PROTOBUF, "/v1/traces", "POST", 413),
        (gzip.compress(b"\0" * (64 << 20)), PROTOBUF | {"Content-Encoding": "gzip"}, "/v1/traces",
         "POST", 413),
        (BODY, {"Content-Type": "text/plain"}, "/v1/traces", "POST", 415),
        (BODY, {}, "/v1/traces", "POST", 415),
        (BODY, PROTOBUF | {"Content-Encoding": "br"}, "/v1/traces", "POST", 415),
        (BODY, PROTOBUF, "/v1/metrics", "POST", 404),
        (b"", {}, "/v1/traces", "GET", 405),
    ],
    ids=["malformed", "bad json", "bad gzip", "cut gzip", "too large", "gzip bomb", "text",
         "no type", "brotli", "metrics", "GET"],
)  # fmt: skip
def test_refusals_carry_a_status(
    tmp_path: Path, body: bytes, headers: dict[str, str], path: str, method: str, status: int
) -> None:
    """Every refusal says why in a google.rpc.Status, in the request's format, and is final."""
    with collecting(tmp_path / "run", max_message_bytes=1 << 20) as running:
        answer, text = post(running, body, headers, path=path, method=method)
        assert answer.status == status
        assert "Retry-After" not in answer.headers
        message = (
            json.loads(text)["message"] if headers is JSON else Status.FromString(text).message
        )
        assert message
        assert (answer.headers.get("Allow") == "POST") == (status == 405)
        assert post(running, BODY)[0].status == 200
    assert len(read_messages(tmp_path / "run" / "spans.pb")) == 1


def test_a_partial_success_in_json(tmp_path: Path) -> None:
    """OTLP/JSON writes 64-bit numbers as text."""
    request = one_request(num_spans=2, trace_id=b"")
    with collecting(tmp_path / "run") as running:
        answer, text = post(running, as_json(request), JSON)
    assert answer.status == 200
    assert json.loads(text)["partialSuccess"]["rejectedSpans"] == "2"
    assert (tmp_path / "run" / "spans.pb").read_bytes() == b""


def test_a_full_queue_asks_to_come_again(tmp_path: Path) -> None:
    """Back-pressure is 503 with Retry-After; memory does not grow instead."""
    with collecting(tmp_path / "run") as running:
        intake = running.session.intake
        intake.num_held = intake.limits.max_queue_bytes
        answer, text = post(running, BODY)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert Status.FromString(text).code == 14
        intake.num_held = 0
        assert post(running, BODY)[0].status == 200
        assert intake.num_held == 0


def connect(running: Running) -> socket.socket:
    """A bare connection."""
    return socket.create_connection(("127.0.0.1", running.session.http_port), timeout=10)


@pytest.mark.parametrize(
    "begin",
    [
        b"", b"POST /v1/tra", b"POST /v1/traces HTTP/1.1\r\nHost: x\r\n",
        b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
        b"Content-Length: 100\r\n\r\nabc",
    ],
    ids=["silent", "in the request line", "in the headers", "in the body"],
)  # fmt: skip
def test_a_slow_sender_is_given_up(tmp_path: Path, begin: bytes) -> None:
    """Connections that stay half-way would use up the bound for everyone."""
    with collecting(tmp_path / "run", head_seconds=0.5, body_seconds=0.5) as running:
        with connect(running) as slow:
            begun = time.monotonic()
            slow.sendall(begin)
            said = b""
            while data := slow.recv(4096):
                said += data
            assert time.monotonic() - begun < 5
        assert said == b"" or b" 408 " in said.split(b"\r\n")[0]
        assert post(running, BODY)[0].status == 200


def test_connections_are_bounded(tmp_path: Path) -> None:
    """One too many is told to come again, and those there are go on."""
    with collecting(tmp_path / "run", max_connections=3) as running:
        held = [connect(running) for _ in range(3)]
        time.sleep(0.2)
        answer, _ = post(running, BODY)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        for one in held:
            one.close()
        wait_until(lambda: post(running, BODY)[0].status == 200)


def test_noise_on_the_port_is_survived(tmp_path: Path) -> None:
    """What is no HTTP at all gets an answer or is cut; the collector goes on."""
    with collecting(tmp_path / "run", head_seconds=1.0) as running:
        for noise in (
            b"\x16\x03\x01\x00\xa5",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\0" * 100_000,
        ):
            with connect(running) as one:
                try:
                    one.sendall(noise)
                    while one.recv(4096):
                        pass
                except ConnectionError:
                    pass
        assert post(running, BODY)[0].status == 200


def test_a_sender_that_hangs_up_is_forgotten(tmp_path: Path) -> None:
    """Its part of the queue is free again."""
    with collecting(tmp_path / "run") as running:
        with connect(running) as one:
            one.sendall(
                b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
                b"Content-Length: 100000\r\n\r\n" + b"x" * 50_000
            )
            wait_until(lambda: running.session.intake.num_held == 50_000)
        wait_until(lambda: running.session.intake.num_held == 0)
        assert post(running, BODY)[0].status == 200
    assert len(read_messages(tmp_path / "run" / "spans.pb")) == 1
