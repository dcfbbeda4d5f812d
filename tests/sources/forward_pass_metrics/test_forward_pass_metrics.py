"""Forward-pass metrics: idle passes and heartbeats apart, lost messages, broken files."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdtrace.errors import InputError
from pdtrace.sources import read
from pdtrace.sources.forward_pass_metrics.frames import decode_frames

ROOT = Path(__file__).parents[3]
DATA = Path(__file__).parents[2] / "data" / "fpm"
ORIGIN = 1_795_400_000_000_000_000


def payload(counter, *, rank=0, seqs=0, tokens=0, seconds=0.0, decode=0):
    """A message as the engine sends it."""
    return {
        "version": 1, "worker_id": "", "dp_rank": rank, "counter_id": counter,
        "wall_time": seconds,
        "scheduled_requests": {"num_prefill_requests": seqs, "sum_prefill_tokens": tokens,
                               "num_decode_requests": decode, "var_prefill_length": 0.0},
        "queued_requests": {"num_prefill_requests": 0},
    }  # fmt: skip


def record(messages):
    """fpm.bin of messages, a millisecond apart."""
    out = b""
    for k, m in enumerate(messages):
        body = msgspec.msgpack.encode(m)
        out += (ORIGIN + k * 1_000_000).to_bytes(8, "big") + len(body).to_bytes(4, "big") + body
    return out


def write(folder, data):
    """A file with these bytes, as a path."""
    path = folder / "fpm.bin"
    path.write_bytes(data)
    return str(path)


def events_of(recording):
    """All events of a recording."""
    return pl.concat(list(recording.events))


@pytest.mark.parametrize("name", ["cpu-dp4-off", "cpu-dp4-on", "cpu-dp8-off"])
def test_idle_passes_of_real_runs(name):
    """Idle messages of a rank are the iterations that its labels leave out.

    A message without elapsed GPU time is folded into a later one in this release, so a rank may
    show one pass less.
    """
    truth = json.loads((ROOT / "sample_logs" / name / "truth.json").read_text())["iterations"]
    prefills = Counter(int(rank) for one in truth for rank in one["ranks"])
    recording = read([str(ROOT / "sample_logs" / name)], sources=["fpm"])
    kinds = events_of(recording).group_by("dp_rank", "kind").len()
    for rank, kind, num in kinds.iter_rows():
        want = prefills[rank] if kind == "prefill" else len(truth) - prefills[rank]
        assert want - 1 <= num <= want
    assert recording.files[0].skipped["heartbeat"] > 0
    assert recording.warnings == ()


def test_kinds_and_durations(tmp_path):
    """Nothing scheduled: an idle pass if it took GPU time, otherwise a heartbeat."""
    messages = [
        payload(0), payload(1, seqs=2, tokens=300, seconds=0.1), payload(2, seconds=0.05),
        payload(3), payload(4, decode=3, seconds=0.01),
    ]  # fmt: skip
    recording = read([write(tmp_path, record(messages))])
    events = events_of(recording)
    assert events["kind"].to_list() == ["prefill", "idle", "decode"]
    assert events["duration"].dt.total_milliseconds().to_list() == [100, 50, 10]
    assert events.select("num_new_seqs", "num_new_tokens").row(0) == (2, 300)
    assert recording.files[0].skipped == {"heartbeat": 2}


def test_lost_messages_and_restarts(tmp_path):
    """Holes in a publisher's numbers are lost messages; numbers that start again, a restart."""
    messages = [payload(n, seqs=1, seconds=0.1) for n in (0, 1, 5, 6, 0, 1)]
    messages += [payload(n, rank=1, seqs=1, seconds=0.1) for n in (10, 12)]
    recording = read([write(tmp_path, record(messages))])
    assert recording.files[0].skipped == {"lost message": 4}
    assert "rank 0: 3, rank 1: 1" in recording.warnings[0]
    assert events_of(recording)["engine_run"].to_list() == [0, 0, 0, 0, 1, 1, 0, 0]


def test_live_frames_share_the_decoder():
    """A live message has a topic and a number before its payload."""
    body = msgspec.msgpack.encode(payload(7, rank=3, seqs=1, tokens=9, seconds=0.5))
    found = decode_frames([b"", (7).to_bytes(8, "big"), body], ORIGIN)
    assert (found.dp_rank, found.counter, found.kind, found.num_tokens) == (3, 7, "prefill", 9)
    with pytest.raises(ValueError, match="1 frames"):
        decode_frames([body], ORIGIN)


def test_router_trace(tmp_path):
    """JSON lines of a router's trace, with its envelope; a bare payload has no time."""
    lines = [
        {"timestamp": 1, "event": {"schema": "dynamo.fpm.trace.v1", "capture_mode": "full",
                                   "observed_at_unix_ms": ORIGIN // 1_000_000,
                                   "fpm": payload(1, seqs=1, tokens=5, seconds=0.2)}},
        payload(2, seqs=1, seconds=0.1),
        {"unrelated": True},
    ]  # fmt: skip
    text = "".join(json.dumps(x) + "\n" for x in lines) + "half a li"
    recording = read([write(tmp_path, text.encode())])
    events = events_of(recording)
    assert events.select("line", "num_new_tokens").rows() == [(1, 5)]
    assert events["ts"].dt.timestamp("ns").item() == ORIGIN
    assert recording.files[0].skipped == {"damaged message": 2, "message without a time": 1}
    assert "line 3" in recording.warnings[0]


def test_broken_files(tmp_path):
    """Cut off, huge lengths and damaged messages: counted with their offset."""
    good = record([payload(n, seqs=1, seconds=0.1) for n in range(3)])
    size = len(good) // 3
    recording = read([write(tmp_path, good[:-5])])
    assert recording.num_events == 2
    assert f"offset {2 * size}: cut off" in recording.warnings[0]
    huge = ORIGIN.to_bytes(8, "big") + b"\xff\xff\xff\xff"
    assert "a length of 4294967295" in read([write(tmp_path, good + huge)]).warnings[0]
    junk = ORIGIN.to_bytes(8, "big") + (3).to_bytes(4, "big") + b"\x80\x80\x80"
    recording = read([write(tmp_path, good + junk + good)])
    assert recording.files[0].skipped["damaged message"] == 1
    with pytest.raises(InputError, match="no forward-pass message"):
        read([write(tmp_path, junk)])


@given(st.data())
def test_any_mutation_is_survived(tmp_path_factory, data):
    """Bytes changed anywhere in a recorded stream end in a recording or an InputError."""
    text = bytearray((DATA / "cpu-dp4-off.bin").read_bytes()[:20_000])
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(13, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=20))
        if len(text) < 100:
            break
    with contextlib.suppress(InputError):
        recording = read([write(tmp_path_factory.mktemp("f"), bytes(text))])
        assert all("\n" not in w for w in recording.warnings)
