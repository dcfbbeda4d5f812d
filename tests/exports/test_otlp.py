"""OTLP spans, as a receiver on this machine gets them."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import polars as pl
import pytest

import pdtrace
from pdtrace.__main__ import main
from pdtrace.delayer.ledger import build_ledger
from pdtrace.errors import OutputError, UsageError
from pdtrace.exports import otlp_spans
from pdtrace.exports.otlp import BATCH_SPANS, open_exporter, send_spans
from pdtrace.exports.otlp_spans import build_spans
from pdtrace.run import DelayerInfo, Run
from pdtrace.schema import REQUESTS
from tests.exports.receivers import Received, receive_grpc, receive_http
from tests.figures.made_run import make_run
from tests.metrics import hand_counted as hand

ROOT = Path(__file__).parent.parent.parent
SAMPLES = ROOT / "sample_logs"
ROLES = {"prefill", "decode", "idle", "unknown"}


def attributes(span: Any) -> dict[str, Any]:
    """Attributes of a received span, or of a resource, as Python values."""
    out: dict[str, Any] = {}
    for a in span.attributes:
        kind = a.value.WhichOneof("value")
        value = getattr(a.value, kind)
        if kind == "array_value":
            value = [v.string_value for v in value.values]
        out[a.key] = value
    return out


def send(run: Run, got: Received, protocol: str) -> list[Any]:
    """Send a run and give what was received."""
    counts: list[int] = []
    endpoint = open_exporter(got.url, protocol=protocol, timeout_s=20)
    num_sent = send_spans(run, endpoint, progress=counts.append)
    spans = got.spans()
    assert num_sent == counts[-1] == len(spans)
    return spans


def compare_with_tables(run: Run, spans: list[Any]) -> None:
    """Compare received spans with the tables of the run, row by row."""
    by_id = {s.span_id: s for s in spans}
    assert len(by_id) == len(spans)
    roots = [s for s in spans if s.name == "iteration"]
    passes = [s for s in spans if s.name in ROLES]
    iterations = run.iterations.with_columns(pl.col("duration").dt.total_nanoseconds())
    for s, row in zip(roots, iterations.iter_rows(named=True), strict=True):
        said = attributes(s)
        assert not s.parent_span_id
        assert s.kind == 1  # internal
        assert said["pdtrace.iteration"] == row["iteration"]
        assert said["pdtrace.fusion_width"] == row["fusion_width"]
        assert said["pdtrace.num_idle_ranks"] == row["num_idle_ranks"]
        assert said["sglang.num_new_tokens"] == row["num_new_tokens"]
        assert said["pdtrace.grouping"] == row["grouping"]
        assert said.get("sglang.forward_iter") == row["forward_iter"]
        assert s.end_time_unix_nano - s.start_time_unix_nano == row["duration"]
    rows = run.rank_passes.with_columns(
        pl.col("start").dt.epoch("ns"), pl.col("duration").dt.total_nanoseconds()
    )
    for s, row in zip(passes, rows.iter_rows(named=True), strict=True):
        said, parent = attributes(s), by_id[s.parent_span_id]
        assert parent.trace_id == s.trace_id
        assert attributes(parent)["pdtrace.iteration"] == row["iteration"]
        assert s.name == said["pdtrace.role"] == row["role"]
        assert said["sglang.dp_rank"] == row["dp_rank"]
        assert said["pdtrace.is_observed"] == row["is_observed"]
        assert said.get("sglang.num_new_tokens") == row["num_new_tokens"]
        assert said.get("pdtrace.source.line") == row["line"]
        assert said["pdtrace.confidence"] == pytest.approx(row["confidence"], abs=1e-6)
        assert s.end_time_unix_nano - s.start_time_unix_nano == row["duration"]
        ahead = round(attributes(parent).get("pdtrace.selected_ahead_s", 0) * 1e9)
        assert s.start_time_unix_nano == pytest.approx(row["start"] + ahead, abs=4)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("name", ["h100x2-on", "cpu-dp8-off"])
def test_spans_are_the_tables(name: str, protocol: str) -> None:
    """Over either protocol every iteration and every rank pass arrives, idle ones included."""
    run = pdtrace.load(SAMPLES / name)
    with (receive_grpc if protocol == "grpc" else receive_http)() as got:
        compare_with_tables(run, send(run, got, protocol))
    assert len(got.requests) > 1
    resource = attributes(got.requests[0].resource_spans[0].resource)
    assert resource["service.name"] == "pdtrace"
    assert resource["sglang.dp_size"] == run.dp_size
    assert set(got.paths) <= {"/v1/traces"}


def test_sending_twice_gives_the_same() -> None:
    """Ids depend on what a span stands for, so a run that is sent again is not there twice."""
    run = pdtrace.load(SAMPLES / "h100x2-on")
    with receive_http() as first, receive_http() as second:
        one, two = send(run, first, "http/protobuf"), send(run, second, "http/protobuf")
        assert [s.SerializeToString() for s in one] == [s.SerializeToString() for s in two]
    other = build_spans(pdtrace.load(SAMPLES / "h100x2-off"))
    assert not {s.context.span_id for s in other} & {int.from_bytes(s.span_id, "big") for s in one}


def test_prefill_spans_name_their_requests() -> None:
    """A prefill span bears the ids of its requests, under the name that the engine's spans use."""
    run = pdtrace.load(SAMPLES / "h100x2-off")
    num_seqs = num_rids = 0
    for s in build_spans(run):
        rids = (s.attributes or {}).get("rid", ())
        assert isinstance(rids, list | tuple)
        assert not rids or s.name == "prefill"
        num_rids += len(rids)
        if s.name == "prefill":
            num_seqs += int(str((s.attributes or {})["sglang.num_new_seqs"]))
    assert num_rids == num_seqs > 0


def test_spans_link_to_the_engines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the input knows the engine's span of a request, the prefill span links to it."""
    rows = [hand.request("a", 0, 100, dp_rank=0, selected=hand.START)]
    run = hand.build([(100, {0: 9})], requests=rows)
    assert run.requests.schema == REQUESTS.schema
    known = run.requests.with_columns(
        pl.lit("0123456789abcdef0123456789abcdef").alias("trace_id"),
        pl.lit("fedcba9876543210").alias("span_id"),
    )
    (prefill,) = (s for s in build_spans(replace(run, requests=known)) if s.name == "prefill")
    (link,) = prefill.links
    assert link.context.trace_id == 0x0123456789ABCDEF0123456789ABCDEF
    assert link.context.span_id == 0xFEDCBA9876543210
    (plain,) = (s for s in build_spans(run) if s.name == "prefill")
    assert not plain.links
    assert dict(plain.attributes or {})["rid"] == ["a"]
    monkeypatch.setattr(otlp_spans, "MAX_RIDS", 0)
    (cut,) = (s for s in build_spans(run) if s.name == "prefill")
    assert "rid" not in (cut.attributes or {})


def test_waits_belong_to_the_iteration_that_ended_them() -> None:
    """A wait is a child of its iteration and names who waited; one of unknown begin is an event."""
    run = pdtrace.load(SAMPLES / "h100x2-on")
    spans = list(build_spans(run))
    roots = {
        s.context.span_id: dict(s.attributes or {})
        for s in spans
        if s.name == "iteration" and s.context
    }
    episodes = {r["episode"]: r for r in build_ledger(run).episodes.iter_rows(named=True)}
    waits = [s for s in spans if s.name == "delay"]
    assert {dict(s.attributes or {})["pdtrace.delay.episode"] for s in waits} == set(episodes)
    for span in waits:
        said = dict(span.attributes or {})
        row = episodes[said["pdtrace.delay.episode"]]
        assert roots[span.parent.span_id]["pdtrace.iteration"] == row["iteration"]
        assert said["pdtrace.delay.ended_by"] == row["ended_by"]
        length = row["wait"].total_seconds()
        assert (span.end_time - span.start_time) / 1e9 == pytest.approx(length, abs=2e-6)
        assert all(rid in row["held"] for rid in said["rid"])
    delayer = DelayerInfo(enabled=True, max_delay_passes=30)
    bare = hand.build([(100, {0: 9, 1: 9}), (100, {1: 9})])
    bare = replace(bare, engine=replace(bare.engine, delayer=delayer, role="prefill"))
    spans = list(build_spans(bare))
    (event,) = (e for s in spans for e in s.events)
    assert event.name == "delay, timeout"
    assert not [s for s in spans if s.name == "delay"]


def test_a_pass_of_unknown_duration_says_so() -> None:
    """A span cannot lack an end; one that has no length says that its duration is not known."""
    root, *_ = build_spans(hand.build([(None, {0: 9})]))
    assert root.start_time == root.end_time
    assert dict(root.attributes or {})["pdtrace.is_duration_known"] is False


def test_the_environment_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samplers, limits, proxies and endpoints of the environment change neither spans nor goal."""
    for name, value in {
        "OTEL_SDK_DISABLED": "true",
        "OTEL_TRACES_SAMPLER": "always_off",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "grpc_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "",
        "no_proxy": "",
    }.items():
        monkeypatch.setenv(name, value)
    run = hand.build([(100, {0: 9})] * 3)
    with receive_http() as http, receive_grpc() as rpc:
        assert len(send(run, http, "http/protobuf")) == 9
        assert len(send(run, rpc, "grpc")) == 9


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_busy_endpoint_is_asked_again(protocol: str) -> None:
    """An endpoint that refuses for a moment gets every batch in the end, once."""
    run = make_run(400)
    with (receive_grpc if protocol == "grpc" else receive_http)() as got:
        got.refusals = [grpc.StatusCode.UNAVAILABLE if protocol == "grpc" else 503]
        spans = send(run, got, protocol)
    assert len(spans) == len({s.span_id for s in spans}) > 2 * BATCH_SPANS


@pytest.mark.parametrize(
    ("protocol", "refusal"),
    [("grpc", grpc.StatusCode.PERMISSION_DENIED), ("http/protobuf", 403), ("http/protobuf", 307)],
)
def test_refusals_are_told(protocol: str, refusal: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal ends with one line that names the endpoint, exit code 2, and nothing else said."""
    path = str(SAMPLES / "h100x2-on" / "server.log")
    with (receive_grpc if protocol == "grpc" else receive_http)() as got:
        got.refusals = [refusal]
        url = got.url.replace("//", "//user:secret@")
        code = main(["export", "otlp", path, "--endpoint", url, "--protocol", protocol])
        assert not got.requests
        assert "/elsewhere" not in got.paths
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith(f"pdtrace: {got.url}: did not take the spans (0 sent before): ")
    assert error.count("\n") == 1
    assert "secret" not in error


def test_nobody_listening() -> None:
    """A closed port is an error that names it, after the retries."""
    with receive_http() as got:
        url = got.url
    for protocol in ("grpc", "http/protobuf"):
        endpoint = open_exporter(url, protocol=protocol, timeout_s=1)
        with pytest.raises(OutputError, match=url):
            send_spans(hand.build([(100, {0: 9})]), endpoint)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("ftp://host:1", {}), ("http://", {}), ("http://host:port", {}), ("http://[::1", {}),
        ("https://host", {"insecure": True}), ("", {}),
    ],
)  # fmt: skip
def test_bad_urls(url: str, options: dict[str, Any]) -> None:
    """A URL that cannot be meant is refused before anything is read."""
    with pytest.raises(UsageError, match="--endpoint"):
        open_exporter(url, **options)


@pytest.mark.parametrize(
    ("url", "options", "kind", "goal"),
    [
        ("http://host:4317", {}, "grpc", "host:4317"),
        ("host:4317", {"insecure": True}, "grpc", "host:4317"),
        ("http://host", {"protocol": "grpc"}, "grpc", "host:4317"),
        ("http://host:4318", {}, "http", "http://host:4318/v1/traces"),
        ("host:4318", {}, "http", "https://host:4318/v1/traces"),
        ("https://host/otlp/", {}, "http", "https://host/otlp/v1/traces"),
        ("https://host/v1/traces", {}, "http", "https://host/v1/traces"),
        ("http://[::1]:4318", {}, "http", "http://[::1]:4318/v1/traces"),
    ],
)
def test_urls_and_protocols(url: str, options: dict[str, Any], kind: str, goal: str) -> None:
    """The port chooses the protocol, and HTTP gets the path that OTLP prescribes."""
    exporter = open_exporter(url, **options).exporter
    assert f".proto.{kind}." in type(exporter).__module__
    assert exporter._endpoint == goal  # type: ignore[attr-defined]
    exporter.shutdown()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command sends all spans silently, and refuses options that do not go with it."""
    path = str(SAMPLES / "h100x2-on" / "server.log")
    with receive_grpc() as got:
        args = ["export", "otlp", path, "--endpoint", got.url, "--protocol", "grpc"]
        assert main(args) == 0
    assert len([s for s in got.spans() if s.name in ROLES]) == 554
    assert capsys.readouterr() == ("", "")
    for extra in ([], ["--endpoint", "x", "-o", "y"], ["--endpoint", "x", "--format", "csv"]):
        assert main(["export", "otlp", str(tmp_path / "none.log"), *extra]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "none.log" not in error


def test_the_extra_is_named_where_it_is_missing() -> None:
    """Without OpenTelemetry one line names the extra, and the other exports still work."""
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from pdtrace.__main__ import main\n"
        "path = 'sample_logs/h100x2-on/server.log'\n"
        "assert main(['export', 'perfetto', path, '-o', '/dev/null']) == 0\n"
        "sys.exit(main(['export', 'otlp', path, '--endpoint', 'http://127.0.0.1:4317']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pdtrace[otel]" in done.stderr


def test_times_are_nanoseconds_since_1970() -> None:
    """A span stands at its time of day, to the nanosecond."""
    root, *_ = build_spans(hand.build([(100, {0: 9})]))
    moment = dt.datetime(2026, 11, 23, 1, 28, 32, tzinfo=dt.UTC)
    assert root.start_time == int(moment.timestamp()) * 10**9
