"""Answers over gRPC."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
import tracemalloc
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from pdtrace.collect.grpc_receiver import SERVICE
from pdtrace.collect.session import collect
from pdtrace.collect.settings import Settings
from pdtrace.errors import UsageError
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


def export(running: Running, body: bytes, **options: object) -> ExportTraceServiceResponse:
    """Send bytes as they are."""
    with grpc.insecure_channel(running.grpc, [("grpc.max_send_message_length", -1)]) as channel:
        answer = channel.unary_unary(f"/{SERVICE}/Export")(body, timeout=20, **options)
    return ExportTraceServiceResponse.FromString(answer)


def details_of(error: grpc.RpcError) -> Status:
    """The google.rpc.Status that came with an error."""
    said = dict(error.trailing_metadata() or ())
    return Status.FromString(said["grpc-status-details-bin"])


def test_taken_spans_are_on_disk_when_the_answer_comes(tmp_path: Path) -> None:
    """A sender forgets what was acknowledged."""
    with collecting(tmp_path / "run") as running:
        body = one_request(num_spans=3).SerializeToString()
        for num_sent in (1, 2, 3):
            answer = export(running, body)
            assert not answer.HasField("partial_success")
            assert (tmp_path / "run" / "spans.pb").stat().st_size == num_sent * (4 + len(body))
    assert "9 spans in 3 messages" in running.summary


def test_the_real_exporter_with_gzip(tmp_path: Path) -> None:
    """What the SDK sends compressed is stored plain."""
    spans = make_spans(300)
    with collecting(tmp_path / "run") as running:
        exporter = exporter_of(
            "grpc", running.session.grpc_port, 0, compression=grpc.Compression.Gzip
        )
        assert exporter.export(spans).name == "SUCCESS"
        exporter.shutdown()
    assert span_ids(tmp_path / "run" / "spans.pb") == [
        s.context.span_id.to_bytes(8, "big") for s in spans
    ]


def test_spans_with_invalid_ids_are_a_partial_success(tmp_path: Path) -> None:
    """The sender is told how many were not taken, and that they need not be sent again."""
    request = one_request(num_spans=2)
    request.resource_spans[0].scope_spans[0].spans[1].span_id = b""
    with collecting(tmp_path / "run") as running:
        answer = export(running, request.SerializeToString())
    assert answer.partial_success.rejected_spans == 1
    assert "span_id" in answer.partial_success.error_message
    assert "1 spans rejected" in running.summary
    assert len(span_ids(tmp_path / "run" / "spans.pb")) == 1


def test_a_malformed_message_is_refused_for_good(tmp_path: Path) -> None:
    """INVALID_ARGUMENT is not retried; the collector goes on."""
    with collecting(tmp_path / "run") as running:
        with pytest.raises(grpc.RpcError) as caught:
            export(running, b"\xff\xff not protobuf")
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert not details_of(caught.value).details
        export(running, one_request().SerializeToString())
    assert "1 spans in 1 messages" in running.summary
    assert "1 requests refused" in running.summary


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_too_large_a_message_is_refused_for_good(
    tmp_path: Path, compression: grpc.Compression
) -> None:
    """Without RetryInfo, RESOURCE_EXHAUSTED is final; compression hides no size."""
    request = one_request(name="x" * (2 << 20))
    with collecting(tmp_path / "run", max_message_bytes=1 << 20) as running:
        with pytest.raises(grpc.RpcError) as caught:
            export(running, request.SerializeToString(), compression=compression)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "grpc-status-details-bin" not in dict(caught.value.trailing_metadata() or ())
        export(running, one_request().SerializeToString())
    assert len(read_messages(tmp_path / "run" / "spans.pb")) == 1


def test_a_full_queue_asks_to_come_again(tmp_path: Path) -> None:
    """Back-pressure is UNAVAILABLE with a RetryInfo; memory does not grow instead."""
    body = one_request().SerializeToString()
    with collecting(tmp_path / "run") as running:
        intake = running.session.intake
        intake.num_held = intake.limits.max_queue_bytes
        with pytest.raises(grpc.RpcError) as caught:
            export(running, body)
        intake.num_held = 0
        export(running, body)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    info = RetryInfo()
    assert details_of(caught.value).details[0].Unpack(info)
    assert info.retry_delay.seconds == 1
    assert "1 requests deferred" in running.summary


def test_messages_are_forgotten_when_answered(tmp_path: Path) -> None:
    """A body that waited for the garbage collector would let memory grow past every bound."""
    size = 4 << 20
    body = one_request(name="x" * size).SerializeToString()
    with collecting(tmp_path / "run") as running:
        intake = running.session.intake
        gc.disable()
        tracemalloc.start()
        try:
            for num_held in (0, intake.limits.max_queue_bytes):  # taken, deferred
                for _ in range(8):
                    intake.num_held = num_held
                    with contextlib.suppress(grpc.RpcError):
                        export(running, body)
                intake.num_held = 0
            assert tracemalloc.get_traced_memory()[0] < 3 * size
        finally:
            tracemalloc.stop()
            gc.enable()
    assert "8 requests deferred" in running.summary


def test_other_signals_are_unimplemented(tmp_path: Path) -> None:
    """A sender of metrics learns that this is the wrong place."""
    service = "opentelemetry.proto.collector.metrics.v1.MetricsService"
    with (
        collecting(tmp_path / "run") as running,
        grpc.insecure_channel(running.grpc) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary(f"/{service}/Export")(b"", timeout=20)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_message_that_never_comes_is_given_up(tmp_path: Path) -> None:
    """A sender that opens calls and stays silent must not hold the slots of the others."""
    release = threading.Event()

    def silence() -> object:
        release.wait(20)
        yield from ()

    with (
        collecting(tmp_path / "run", body_seconds=0.5) as running,
        grpc.insecure_channel(running.grpc) as channel,
    ):
        calls = [
            channel.stream_unary(f"/{SERVICE}/Export").future(silence(), timeout=20)
            for _ in range(12)
        ]
        begun = time.monotonic()
        wait_until(lambda: all(c.done() for c in calls), 10)
        assert time.monotonic() - begun < 8
        release.set()
        codes = {c.code() for c in calls}
        assert codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
        export(running, one_request().SerializeToString())


def test_connections_are_bounded(tmp_path: Path) -> None:
    """Each connection costs memory, whoever opens it; those there are go on."""
    with collecting(tmp_path / "run", max_connections=4) as running:
        address = ("127.0.0.1", running.session.grpc_port)
        held = [socket.create_connection(address, timeout=5) for _ in range(12)]
        closed = 0
        for one in held:
            one.settimeout(0.3)
            try:
                while (data := one.recv(4096)) != b"":
                    assert data
                closed += 1
            except TimeoutError:
                continue
            except ConnectionError:
                closed += 1
            if closed == 8:
                break
        for one in held:
            one.close()
        assert closed >= 8
        wait_until(lambda: _is_answered(running))


def _is_answered(running: Running) -> bool:
    try:
        export(running, one_request().SerializeToString())
    except grpc.RpcError:
        return False
    return True


def test_a_taken_port_leaves_the_directory_alone(tmp_path: Path) -> None:
    """Two collectors on one port would each get a part of the spans."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "spans.pb").write_bytes(b"precious")
    with collecting(tmp_path / "first") as running:
        port = running.session.grpc_port
        with pytest.raises(UsageError, match="--grpc-port"):
            collect(Settings(str(run), grpc_port=port, is_forced=True))
    assert (run / "spans.pb").read_bytes() == b"precious"
