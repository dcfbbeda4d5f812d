"""What the spans of each release say of requests, batches and engines."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from made_spans import MS, ORIGIN, as_lines, message, request, span

from pdtrace.errors import InputError
from pdtrace.sources import read
from pdtrace.sources.otel_spans import collect
from pdtrace.sources.otel_spans.chunks import CutPrompt, solve_chunks

DATA = Path(__file__).parents[2] / "data" / "spans"


def read_spans(tmp_path, messages, **options):
    """Recording of some messages."""
    path = tmp_path / "spans.jsonl"
    path.write_bytes(as_lines(messages))
    return read([str(path)], **options)


def events_of(recording):
    """All events of a recording."""
    return pl.concat(list(recording.events))


def ms(column):
    """Times as milliseconds after ORIGIN."""
    return [None if t is None else (t - ORIGIN) // MS for t in column.dt.timestamp("ns").to_list()]


RELEASES = {
    # release: (batches, whether waiting and selection are told apart)
    "0.5.4.post3": (None, False),
    "0.5.11": (None, True),
    "0.5.23": (None, True),
}


@pytest.mark.parametrize("release", RELEASES)
def test_composed_spans_of_each_release(release):
    """Span names of each release give the stages in order, and a batch for each chunk.

    The files are composed from the span names of the releases, not recorded.
    """
    path = DATA / f"{release}.json"
    told = json.loads(path.read_text())
    bids = {
        (a["value"]["stringValue"], s["parentSpanId"] and e["timeUnixNano"])
        for block in told["resourceSpans"]
        for scope in block["scopeSpans"]
        for s in scope["spans"]
        for e in s.get("events", [])
        for a in e["attributes"]
        if a["key"] == "bid"
    }
    recording = read([str(path)])
    events = events_of(recording)
    assert events.height == len({b for b, _ in bids}) > 0
    assert recording.engine.role == "prefill"
    assert recording.requests.height > 0
    stages = ["tokenized", "dispatched", "received", "bootstrapped", "selected", "forward_end",
              "transferred", "finished"]  # fmt: skip
    for row in recording.requests.iter_rows(named=True):
        times = [row[s] for s in stages]
        assert None not in times
        assert times == sorted(times)
        assert row["status"] == "finished"
        assert len(row["rid"]) == 32
    assert recording.warnings == ()


def test_unified_spans_of_0_5_3():
    """0.5.3 has spans of unified engines only, without batches: requests, no events."""
    recording = read([str(DATA / "0.5.3.post3.json")])
    assert recording.num_events == 0
    assert recording.requests["finished"].null_count() == 0


def test_chunks_of_an_overlapping_engine(tmp_path):
    """The event of the second chunk sits in the first chunk's slice; ends are paired by order."""
    spans = request(1, 0, 100, "b1")
    forward = next(s for s in spans if s["name"] == "prefill_forward")
    forward.pop("events")
    spans += [
        span(1, 20, 8, "chunked_prefill", 99, 130, bids=[("b1", 1, 100), ("b2", 2, 105)]),
        span(1, 21, 8, "chunked_prefill", 130, 150),
    ]
    spans += request(2, 0, 105, "b2", size=2)
    recording = read_spans(tmp_path, [message(spans)])
    events = events_of(recording)
    assert ms(events["ts"]) == [100, 105]
    assert events["duration"].dt.total_milliseconds().to_list() == [30, 50]
    assert events["num_new_tokens"].to_list() == [None, None]


def test_low_trace_level_groups_by_equal_starts(tmp_path):
    """Without schedule events, requests that start their forward together are one batch."""
    spans = request(1, 0, 100, "", level=1) + request(2, 0, 100, "", level=1)
    spans += request(3, 1, 101, "", level=1)
    events = events_of(read_spans(tmp_path, [message(spans)]))
    assert events.select("dp_rank", "num_new_seqs", "num_new_tokens").rows() == [
        (0, 2, 160),
        (1, 1, 80),
    ]
    assert ms(events["ts"]) == [99, 100]


def test_two_engines_are_kept_apart(tmp_path):
    """Processes that share no request are different engines, though their service is the same."""
    spans = [s for n in range(1, 4) for s in request(n, 0, 100 * n, f"a{n}")]
    spans += [
        s for n in range(4, 6) for s in request(n, 0, 100 * n - 250, f"b{n}", host="bbbb2222")
    ]
    recording = read_spans(tmp_path, [message(spans)])
    assert recording.num_events == 3
    assert recording.requests["rid"].to_list() == ["rid-1", "rid-2", "rid-3"]
    assert "2 engines" in recording.warnings[0]
    assert "bbbb2222" in recording.warnings[0]


def test_a_restart_is_the_same_engine(tmp_path):
    """New process ids on the same host after the old ones fell silent: a second engine start."""
    spans = request(1, 0, 100, "a") + request(2, 0, 90_000, "a", pid=700)
    events = events_of(read_spans(tmp_path, [message(spans)]))
    assert events["engine_run"].to_list() == [0, 1]


def test_decode_engine_in_the_same_trace_is_left_out(tmp_path):
    """A router's trace holds the prefill and the decode request of one room."""
    spans = request(1, 0, 100, "a")
    spans += [
        span(1, 50, 0, "decode Req 00000001", 100, 900, said={"rid": "rid-1"}),
        span(1, 51, 50, "Decode Scheduler [TP 0]  [PP 0]  [DP 0] (host:cccc | pid:9)", 100, 900,
             said={"tp_rank": 0, "dp_rank": 0}),
        span(1, 52, 51, "prefill_forward", 100, 900, bids=[("zz", 1, 100)]),
    ]  # fmt: skip
    recording = read_spans(tmp_path, [message(spans)])
    assert (recording.num_events, recording.requests.height) == (1, 1)


def test_tp_ranks_of_one_group_count_once(tmp_path):
    """Before 0.5.11 threads name the TP rank only; two of them report each request."""
    spans = []
    for n, first in ((1, 0), (2, 2)):
        mine = request(n, 0, 100 * n, f"b{n}")
        for s in mine:
            if "Scheduler" in s["name"]:
                s["name"] = f"Prefill Scheduler [TP {first}] (host:aaaa1111 | pid:{200 + first})"
                s["attributes"] = []
        spans += mine
        spans += [
            span(n, 40, 1, f"Prefill Scheduler [TP {first + 1}] (host:a | pid:{first})", 90, 160),
            span(n, 41, 40, "prefill_forward", 100 * n, 100 * n + 50, bids=[("x", 1, 100 * n)]),
        ]  # fmt: skip
    events = events_of(read_spans(tmp_path, [message(spans)]))
    assert events["dp_rank"].to_list() == [0, 1]


def test_solve_chunks_shares_full_batches():
    """Two prompts cut one after the other: every batch but the last is full."""
    prompts = [
        CutPrompt(0, ((0, 1), (0, 2)), 150),  # 100 in batch 1, 50 in batch 2
        CutPrompt(1, ((0, 2), (0, 3)), 80),  # 40 in batch 2, 40 in batch 3
    ]
    whole = {(0, 2): 10, (0, 3): 5}
    assert solve_chunks(prompts, whole, 100) == {(0, 1): 100, (0, 2): 100, (0, 3): 45}


def test_solve_chunks_leaves_out_what_does_not_fit():
    """A prompt of unknown length, or longer than its batches hold, gives nothing for its last."""
    assert solve_chunks([CutPrompt(0, ((0, 1), (0, 2)), -1)], {}, 100) == {}
    assert solve_chunks([CutPrompt(0, ((0, 1), (0, 2)), 900)], {}, 100) == {(0, 1): 100}


def test_missing_extra_is_named(tmp_path, monkeypatch):
    """Without msgspec the message names the extra; beside a log it is only a warning."""
    import sys

    path = tmp_path / "spans.jsonl"
    path.write_bytes(as_lines([message(request(1, 0, 100, "a"))]))
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(InputError, match=r"pdtrace\[otel\]"):
        read([str(path)])
    log = "[2026-05-28 03:00:00.000 DP0 TP0] Prefill batch [1], #new-seq: 1, #new-token: 8, "
    log += "#cached-token: 0, token usage: 0.00, #running-req: 0, #queue-req: 0\n"
    (tmp_path / "server.log").write_text("".join(log.replace("[1]", f"[{n}]") for n in (1, 2, 3)))
    recording = read([str(tmp_path)])
    assert recording.num_events == 3
    assert any("pdtrace[otel]" in w for w in recording.warnings)


@pytest.mark.parametrize("limits", [{"SWEEP_SPANS": 7, "MAX_OPEN": 5}, {"SWEEP_SPANS": 1}])
def test_traces_closed_early_come_out_the_same(tmp_path, monkeypatch, limits):
    """With room for few open traces, what exporters send in order of ends is put together again."""
    spans = [s for n in range(1, 60) for s in request(n, n % 2, 40 * n, f"b{n}")]
    spans.sort(key=lambda s: int(s["endTimeUnixNano"]))
    messages = [message(spans[k : k + 9]) for k in range(0, len(spans), 9)]
    whole = read_spans(tmp_path, messages)
    for name, value in limits.items():
        monkeypatch.setattr(collect, name, value)
    split = read_spans(tmp_path, messages)
    assert split.requests.sort("rid").equals(whole.requests.sort("rid"))
    assert events_of(split)["dp_rank"].equals(events_of(whole)["dp_rank"])
    assert events_of(split)["ts"].equals(events_of(whole)["ts"])


def test_one_file_a_process(tmp_path):
    """Each process may write its own file: traces, engine and ranks are put together by ids."""
    spans = [s for n in range(1, 9) for s in request(n, n % 2, 100 * n, f"b{n}")]
    parts = {"api": [], "rank0": [], "rank1": []}
    for k, s in enumerate(spans):
        is_scheduler = k % 9 >= 4
        parts[f"rank{(k // 9 + 1) % 2}" if is_scheduler else "api"].append(s)
    for name, mine in parts.items():
        (tmp_path / name).write_bytes(as_lines([message(mine)]))
    recording = read([str(tmp_path)])
    assert recording.warnings == ()
    assert events_of(recording)["dp_rank"].to_list() == [1, 0] * 4
    assert recording.requests.height == 8
    assert recording.requests["selected"].null_count() == 0


def test_a_long_line_is_read(tmp_path):
    """A batch of many spans makes a line longer than what is read at once."""
    spans = [s for n in range(1, 1500) for s in request(n, 0, 100 * n, f"b{n}")]
    recording = read_spans(tmp_path, [message(spans)])
    assert recording.num_events == 1499
    assert recording.files[0].num_lines == 1


def test_requests_in_flight_at_a_crash_are_counted(tmp_path):
    """Without its root span a request has no id: counted, not invented."""
    recording = read_spans(
        tmp_path, [message(request(1, 0, 100, "a") + request(2, 0, 200, "b")[1:4])]
    )
    assert recording.requests["rid"].to_list() == ["rid-1"]
    assert recording.files[0].skipped == {"request whose root span was not exported": 1}
