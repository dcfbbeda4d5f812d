"""The encodings that spans come in: each gives the same spans."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import polars as pl
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from made_spans import MS, ORIGIN, as_lines, as_protobuf, attributes, message, request, span
from polars.testing import assert_frame_equal

from pdtrace.sources import read

DATA = Path(__file__).parents[2] / "data" / "spans"


def tables(path):
    """Events and requests without what names the file."""
    recording = read([str(path)])
    events = pl.concat(list(recording.events))
    return events.drop("source_id"), recording.requests.drop("source_id").sort("rid")


def test_json_and_protobuf_of_a_real_engine_agree():
    """The first 30 messages of a recorded run, in both encodings, give the same tables."""
    for mine, other in zip(
        tables(DATA / "cpu-dp4-off.jsonl.gz"), tables(DATA / "cpu-dp4-off.pb"), strict=True
    ):
        assert mine.height > 10
        assert_frame_equal(mine, other)


RIDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(10, 10**6), RIDS, st.booleans()), min_size=1,
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_json_reader_equals_protobuf_reader(tmp_path_factory, made, random):
    """Any requests, in any order of spans and split over any messages, read the same."""
    spans = []
    for n, (rank, at, rid, whole) in enumerate(made, 1):
        spans += request(n, rank, at, f"b{n}", rid=rid)[0 if whole else 1 :]
    random.shuffle(spans)
    cut = random.randint(0, len(spans))
    messages = [message(part) for part in (spans[:cut], spans[cut:]) if part]
    folder = tmp_path_factory.mktemp("twins")
    (folder / "a.jsonl").write_bytes(as_lines(messages))
    (folder / "b.pb").write_bytes(as_protobuf(messages))
    for mine, other in zip(tables(folder / "a.jsonl"), tables(folder / "b.pb"), strict=True):
        assert_frame_equal(mine, other)


def test_real_exporter_encoder(tmp_path):
    """What OpenTelemetry's own SDK and exporter encode is read."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    encoder = pytest.importorskip("opentelemetry.exporter.otlp.proto.common.trace_encoder")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.trace import set_span_in_context

    kept = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("sglang server")

    def start(name, parent, at, **said):
        context = set_span_in_context(parent) if parent else None
        return tracer.start_span(name, context, attributes=said, start_time=ORIGIN + at * MS)

    root = start("prefill Req 00000001", None, 0, rid="the-rid")
    thread = start("Prefill Scheduler [TP 1]  [PP 0]  [DP 1] (host:h | pid:7)", root, 1,
                   tp_rank=1, pp_rank=0, dp_rank=1, pid=7, host_id="h")  # fmt: skip
    waiting = start("prefill_waiting", thread, 2)
    waiting.end(ORIGIN + 4 * MS)
    forward = start("prefill_forward", thread, 4)
    forward.add_event("schedule", {"bid": "ab", "batch_size": 1, "forward_mode": "prefill"},
                      timestamp=ORIGIN + 5 * MS)  # fmt: skip
    forward.end(ORIGIN + 50 * MS)
    thread.end(ORIGIN + 55 * MS)
    root.end(ORIGIN + 60 * MS)
    body = encoder.encode_spans(kept.get_finished_spans()).SerializeToString()
    path = tmp_path / "spans.pb"
    path.write_bytes(len(body).to_bytes(4, "big") + body)
    events, requests = tables(path)
    assert events.select("dp_rank", "num_new_seqs", "engine_run").row(0) == (1, 1, 0)
    assert events["duration"].dt.total_milliseconds().item() == 45
    assert requests["rid"].to_list() == ["the-rid"]
    assert requests["selected"].dt.timestamp("ns").item() == ORIGIN + 4 * MS


@pytest.fixture(scope="module")
def four():
    """Four requests in two iterations, on two ranks."""
    return [
        s
        for n, (rank, at) in enumerate([(0, 100), (1, 100), (0, 300), (1, 301)], 1)
        for s in request(n, rank, at, f"b{n}")
    ]


@pytest.mark.parametrize("shape", ["line", "pretty", "gz", "zst", "tempo", "tempo2", "no-scope"])
def test_shapes_of_otlp_json(tmp_path, four, shape):
    """Documents, pretty-printed or not, compressed or not, OTLP or Tempo, read the same."""
    plain = message(four)
    blocks = plain["resourceSpans"]
    text = as_lines([plain])
    if shape == "pretty":
        text = json.dumps(plain, indent=1).encode()
    elif shape == "gz":
        text = gzip.compress(text)
    elif shape == "zst":
        text = zstandard.compress(text)
    elif shape == "tempo":
        scope = blocks[0]["scopeSpans"][0]
        old = {"instrumentationLibrary": scope["scope"], "spans": scope["spans"]}
        text = json.dumps(
            {"batches": [{"resource": blocks[0]["resource"], "instrumentationLibrarySpans": [old]}]}
        ).encode()
    elif shape == "tempo2":
        text = json.dumps({"trace": plain}).encode()
    elif shape == "no-scope":
        text = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": four}]}]}).encode()
    path = tmp_path / "export"
    path.write_bytes(text)
    events, requests = tables(path)
    assert events["dp_rank"].to_list() == [0, 1, 0, 1]
    assert events["num_new_tokens"].to_list() == [80] * 4
    assert requests["rid"].to_list() == ["rid-1", "rid-2", "rid-3", "rid-4"]


def test_jaeger_export(tmp_path, four):
    """Jaeger's JSON: microseconds, logs for events, references for parents."""

    def tags(found):
        return [
            {"key": a["key"], "type": "string", "value": next(iter(a["value"].values()))}
            for a in found
        ]

    scope = attributes({"otel.scope.name": "sglang server"})
    spans = []
    for s in four:
        start, end = int(s["startTimeUnixNano"]) // 1000, int(s["endTimeUnixNano"]) // 1000
        spans.append({
            "traceID": s["traceId"], "spanID": s["spanId"], "operationName": s["name"],
            "references": [{"refType": "CHILD_OF", "traceID": s["traceId"],
                            "spanID": s["parentSpanId"]}] if "parentSpanId" in s else [],
            "startTime": start, "duration": end - start, "processID": "p1",
            "tags": tags(s.get("attributes", []) + scope),
            "logs": [{"timestamp": int(e["timeUnixNano"]) // 1000,
                      "fields": tags(e["attributes"] + attributes({"event": e["name"]}))}
                     for e in s.get("events", [])],
        })  # fmt: skip
    path = tmp_path / "traces.json"
    processes = {"p1": {"serviceName": "sglang", "tags": []}}
    path.write_text(
        json.dumps({"data": [{"traceID": "x", "spans": spans, "processes": processes}]})
    )
    events, requests = tables(path)
    assert events["dp_rank"].to_list() == [0, 1, 0, 1]
    assert events["num_new_seqs"].to_list() == [1] * 4
    assert requests.height == 4


def test_foreign_spans_are_passed_over(tmp_path, four):
    """Spans of a web framework, with names of their own, do not disturb."""
    plain = message(four)
    plain["resourceSpans"][0]["scopeSpans"].insert(
        0, {"scope": {"name": "fastapi"}, "spans": [span(77, 1, 0, "prefill_forward", 1, 2)]}
    )
    plain["resourceSpans"][0]["scopeSpans"][1]["spans"].append(span(78, 1, 0, "GET /prefill", 1, 2))
    path = tmp_path / "spans.jsonl"
    path.write_bytes(as_lines([plain]))
    events, requests = tables(path)
    assert (events.height, requests.height) == (4, 4)


def test_the_same_spans_in_two_files_count_once(tmp_path, four):
    """A run directory may hold the same messages in two encodings."""
    (tmp_path / "spans.jsonl").write_bytes(as_lines([message(four)]))
    (tmp_path / "spans.pb").write_bytes(as_protobuf([message(four)]))
    recording = read([str(tmp_path)])
    assert recording.num_events == 4
    assert [f.num_events for f in recording.files] == [4, 0]
    assert "the same spans as" in next(iter(recording.files[1].skipped))
