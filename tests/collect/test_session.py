"""A collection as a whole: throughput, signals, a full disk, the command line."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.rpc.status_pb2 import Status

from pdtrace.__main__ import main
from pdtrace.collect.session import warning_about
from tests.collect.running import (
    ROOT,
    Running,
    collecting,
    collecting_process,
    exporter_of,
    make_spans,
    one_request,
    read_messages,
    span_ids,
    wait_until,
)
from tests.collect.test_grpc import export
from tests.collect.test_http import post

PROTOCOLS = ("grpc", "http")


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_hundred_thousand_spans(
    tmp_path: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No span of the real exporters is lost, doubled or changed in number."""
    spans = make_spans(5_000)
    with collecting_process(tmp_path / "run") as (process, grpc_port, http_port):
        exporter = exporter_of(protocol, grpc_port, http_port)
        begun = time.monotonic()
        for _ in range(20):
            for at in range(0, len(spans), 500):
                assert exporter.export(spans[at : at + 500]).name == "SUCCESS"
        seconds = time.monotonic() - begun
        exporter.shutdown()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
    with capsys.disabled():
        print(f"\n{protocol}: {100_000 / seconds:,.0f} spans/s, the SDK's encoding included")
    assert "100,000 spans in 200 messages" in out
    stored = span_ids(tmp_path / "run" / "spans.pb")
    assert stored == [s.context.span_id.to_bytes(8, "big") for s in spans] * 20


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_acknowledged_spans_survive_the_end(tmp_path: Path, end: signal.Signals) -> None:
    """Whatever ends the process in the middle of a stream, what was acknowledged is on disk."""
    batches = [make_spans(50) for _ in range(40)]
    acknowledged: list[bytes] = []
    is_over = threading.Event()
    with collecting_process(tmp_path / "run") as (process, grpc_port, http_port):

        def send(worker: int) -> int:
            exporter = exporter_of(PROTOCOLS[worker % 2], grpc_port, http_port, timeout=1)
            num_failed = 0
            for k in range(worker, 100_000, 4):
                spans = batches[k % len(batches)]
                if exporter.export(spans).name == "SUCCESS":
                    acknowledged.extend(s.context.span_id for s in spans)
                else:
                    num_failed += 1
                if is_over.is_set():
                    break
            exporter.shutdown()
            return num_failed

        with ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(send, k) for k in range(4)]
            wait_until(lambda: len(acknowledged) > 2_000)
            process.send_signal(end)
            out, err = process.communicate(timeout=30)
            is_over.set()
            num_failed = sum(w.result(timeout=30) for w in workers)
        assert process.returncode == (-9 if end == signal.SIGKILL else 0), err
    path = tmp_path / "run" / "spans.pb"
    if end == signal.SIGKILL:
        cut_at_last_whole(path)
    stored = [int.from_bytes(i, "big") for i in span_ids(path)]
    assert num_failed, "the stream went on over the end"
    counts = dict.fromkeys(acknowledged, 0)
    for i in acknowledged:
        counts[i] += 1
    for i in stored:
        counts[i] = counts.get(i, 0) - 1
    assert not [i for i, n in counts.items() if n > 0]
    if end != signal.SIGKILL:
        assert f"{len(stored):,} spans" in out


def cut_at_last_whole(path: Path) -> None:
    """After SIGKILL half a message may be last, as no one was there to take it back."""
    data, at = path.read_bytes(), 0
    while at + 4 <= len(data):
        following = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if following > len(data):
            break
        at = following
    path.write_bytes(data[:at])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "pdtrace-test", str(place)],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("may not mount; the injected disk of test_run_directory covers the writing")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def fill(running: Running, body: bytes) -> tuple[int, grpc.RpcError]:
    """Send until it is refused."""
    for num_taken in range(20):
        try:
            export(running, body)
        except grpc.RpcError as error:
            return num_taken, error
    pytest.fail("the disk never became full")


def test_a_full_disk_asks_to_come_again(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The collector stays up, the file readable, and goes on when there is space."""
    body = one_request(name="x" * 100_000).SerializeToString()
    with collecting(small_disk / "run") as running:
        num_taken, error = fill(running, body)
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert b"RetryInfo" in dict(error.trailing_metadata())["grpc-status-details-bin"]
        answer, text = post(running, body)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert "No space left" in Status.FromString(text).message
        assert 5 <= num_taken == len(read_messages(small_disk / "run" / "spans.pb"))

        subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
        export(running, body)
        assert post(running, body)[0].status == 200
    assert len(read_messages(small_disk / "run" / "spans.pb")) == num_taken + 2
    said = capsys.readouterr().err
    assert said.count("No space left") == 1
    assert said.count("written to again") == 1


def test_a_disk_still_full_at_the_end(small_disk: Path) -> None:
    """The collection ends in order; what was acknowledged is readable."""
    body = one_request(name="x" * 50_000).SerializeToString()
    with collecting(small_disk / "run") as running:
        num_taken = 0
        while post(running, body)[0].status == 200:
            num_taken += 1
    assert len(read_messages(small_disk / "run" / "spans.pb")) == num_taken
    assert "requests deferred" in running.summary


def test_a_terminal_shows_how_it_goes(tmp_path: Path) -> None:
    """Whoever waits sees that spans arrive; a pipe gets none of it."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "pdtrace", "collect", "-o", str(tmp_path / "run"),
         "--grpc-port", "0", "--http-port", "0", "--duration", "1.2"],
        stdout=subprocess.PIPE, stderr=theirs, text=True, cwd=ROOT,
    ) as process:  # fmt: skip
        os.close(theirs)
        out, _ = process.communicate(timeout=30)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "0 spans/s" in said
    assert said.endswith("\r\x1b[K")
    assert "\x1b" not in out


def test_concurrent_senders_are_written_in_whole_messages(tmp_path: Path) -> None:
    """Messages of many senders are written together, and never into one another."""
    bodies = [one_request(num_spans=k + 1).SerializeToString() for k in range(40)]
    with collecting(tmp_path / "run") as running, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda b: (export(running, b), post(running, b)), bodies))
    sizes = [
        len(m.resource_spans[0].scope_spans[0].spans)
        for m in read_messages(tmp_path / "run" / "spans.pb")
    ]
    assert sorted(sizes) == sorted([*range(1, 41)] * 2)


def test_duration_ends_the_collection(tmp_path: Path) -> None:
    """An unattended collection ends by itself, with one line and exit code 0."""
    done = subprocess.run(
        [sys.executable, "-m", "pdtrace", "collect", "-o", str(tmp_path / "run"),
         "--grpc-port", "0", "--http-port", "0", "--duration", "0.5"],
        capture_output=True, text=True, timeout=30, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert "0 spans in 0 messages, 0 scrapes, 0 frames (0 lost)" in done.stdout


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_is_not_warned_of(host: str) -> None:
    """A warning that always comes is not read."""
    assert warning_about(host) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "localhost.example", "127.x.org"])
def test_other_addresses_are_warned_of(host: str) -> None:
    """Spans are taken without authentication, so an open port must be known to be one."""
    assert "without authentication" in (warning_about(host) or "")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--grpc-port", "65536"], "port"),
        (["--duration", "0"], "seconds"),
        (["--duration", "nan"], "seconds"),
        (["--max-queue-mib", "8"], "--max-queue-mib"),
        (["--max-message-mib", "256", "--max-queue-mib", "999"], "255"),
        (["--metrics-url", "localhost:30000"], "http://"),
        (["--metrics-interval", "5"], "--metrics-url"),
        (["--fpm", "/tmp/fpm.0"], "ipc://"),
        (["--host", "192.0.2.1"], "192.0.2.1"),
    ],
    ids=" ".join,
)
def test_bad_options_are_one_line(
    tmp_path: Path, args: list[str], word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, a line that names the option, and no directory left behind."""
    ports = [] if "--grpc-port" in args else ["--grpc-port", "0"]
    assert main(["collect", "-o", str(tmp_path / "run"), "--http-port", "0", *ports, *args]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert word in said
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the packages, the remedy is one line."""
    import pdtrace.collect

    # what is imported anew in here must not stay the package's attribute
    monkeypatch.setattr(pdtrace, "collect", pdtrace.collect)
    for name in [m for m in sys.modules if m.startswith("pdtrace.collect")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert main(["collect", "-o", str(tmp_path / "run")]) == 2
    assert "pip install 'pdtrace[collect]'" in capsys.readouterr().err
