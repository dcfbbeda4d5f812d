"""Speed of reading spans, against ``json.loads`` of the same lines, in one run.

``python benchmarks/spans.py [NUM_REQUESTS]`` writes OTLP/JSON lines and the Collector's protobuf of
that many requests (12 spans each, as a prefill engine of 0.5.13 sends them) and reads both with
pdtrace, to requests and batches. It prints spans per second and the ratio to a loop that parses the
lines with ``json.loads`` and copies the spans into rows, and the peak memory.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pdtrace.sources.formats import ReadOptions
from pdtrace.sources.inputs import Input
from pdtrace.sources.otel_spans.read import read_spans

HOST = "3d1219c7a1b2c3d4"
ORIGIN_NS = 1_795_400_000_000_000_000
RANKS = 8
REQUESTS_A_MESSAGE = 5


def attributes(**said: str | int) -> list[dict[str, Any]]:
    """Attributes in OTLP/JSON."""
    return [
        {"key": k, "value": {"intValue": str(v)} if isinstance(v, int) else {"stringValue": v}}
        for k, v in said.items()
    ]


def make_request(n: int) -> list[dict[str, Any]]:
    """The 12 spans of one request."""
    trace, rank = f"{n:032x}", n % RANKS
    at = ORIGIN_NS + n * 2_000_000
    out: list[dict[str, Any]] = []

    def span(k: int, parent: int, name: str, start: int, end: int, **more: object) -> None:
        out.append(
            {
                "traceId": trace, "spanId": f"{n * 16 + k:016x}", "name": name, "kind": 1,
                "startTimeUnixNano": str(at + start), "endTimeUnixNano": str(at + end),
                "status": {}, "flags": 256,
                **({"parentSpanId": f"{n * 16 + parent:016x}"} if parent else {}), **more,
            }
        )  # fmt: skip

    ms = 1_000_000
    link = {"links": [{"traceId": trace, "spanId": f"{n * 16 + 3:016x}", "flags": 256}]}
    event = {
        "timeUnixNano": str(at + 12 * ms), "name": "schedule",
        "attributes": attributes(bid=f"{n:08x}", batch_size=1, forward_mode="prefill"),
    }  # fmt: skip
    span(3, 2, "tokenize", 0, 1 * ms)
    span(4, 2, "api_server_dispatch", 1 * ms, 2 * ms, **link)
    span(2, 1, f"PrefillTokenizer(host:{HOST[:8]} | pid:179)", 0, 2 * ms,
         attributes=attributes(host_id=HOST, pid=179, thread_label="PrefillTokenizer"))  # fmt: skip
    span(6, 5, "dpc_dispatch", 2 * ms, 3 * ms, **link)
    span(5, 1, f"Prefill DP Controller(host:{HOST[:8]} | pid:180)", 2 * ms, 3 * ms,
         attributes=attributes(host_id=HOST, pid=180, thread_label="DP"))  # fmt: skip
    span(8, 7, "prefill_prepare", 4 * ms, 5 * ms, **link)
    span(9, 7, "prefill_bootstrap", 5 * ms, 7 * ms, **link)
    span(10, 7, "prefill_waiting", 7 * ms, 11 * ms, **link)
    span(11, 7, "prefill_forward", 11 * ms, 90 * ms, events=[event], **link)
    span(12, 7, "prefill_transfer_kv_cache", 91 * ms, 95 * ms, **link)
    label = f"Prefill Scheduler [TP {rank}]  [PP 0]  [DP {rank}]"
    said = attributes(tp_rank=rank, pp_rank=0, dp_rank=rank, host_id=HOST, pid=200 + rank)
    span(7, 1, f"{label} (host:{HOST[:8]} | pid:{200 + rank})", 4 * ms, 95 * ms, attributes=said)
    usage = {"gen_ai.usage.prompt_tokens": 4096, "gen_ai.usage.cached_tokens": 0}
    span(1, 0, f"prefill Req {n:08x}", 0, 96 * ms,
         attributes=attributes(rid=f"{n:032x}", module="sglang::request", **usage))  # fmt: skip
    return out


def write_files(folder: Path, num_requests: int) -> tuple[Path, Path, int]:
    """Write both encodings of the same messages; how many spans they hold."""
    as_json, as_proto = folder / "spans.jsonl", folder / "spans.pb"
    num = 0
    resource_block = {"attributes": attributes(**{"service.name": "sglang"})}
    with as_json.open("wb") as text, as_proto.open("wb") as binary:
        for first in range(0, num_requests, REQUESTS_A_MESSAGE):
            last = min(first + REQUESTS_A_MESSAGE, num_requests)
            spans = [s for n in range(first, last) for s in make_request(n)]
            num += len(spans)
            scope = {"scope": {"name": "sglang server"}, "spans": spans}
            message = {"resourceSpans": [{"resource": resource_block, "scopeSpans": [scope]}]}
            text.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
            # JSON of protobuf wants bytes in base64; only here are the ids hexadecimal
            for s in spans:
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in s:
                        s[key] = _base64(s[key])
                for other in s.get("links", []):
                    other |= {
                        k: _base64(other[k])
                        for k in ("traceId", "spanId")
                        if len(other[k]) in (16, 32)
                    }
            body = json_format.ParseDict(message, ExportTraceServiceRequest()).SerializeToString()
            binary.write(len(body).to_bytes(4, "big") + body)
    return as_json, as_proto, num


def _base64(text: str) -> str:
    return base64.b64encode(bytes.fromhex(text)).decode()


def read_by_loop(path: Path) -> list[tuple[object, ...]]:
    """What a user writes: every span as a row of plain values."""
    rows: list[tuple[object, ...]] = []
    with path.open("rb") as lines:
        for line in lines:
            for block in json.loads(line)["resourceSpans"]:
                for scope in block["scopeSpans"]:
                    for s in scope["spans"]:
                        said = {a["key"]: a["value"] for a in s.get("attributes", ())}
                        events = [
                            (int(e["timeUnixNano"]), e["name"],
                             {a["key"]: a["value"] for a in e["attributes"]})
                            for e in s.get("events", ())
                        ]  # fmt: skip
                        rows.append(
                            (s["traceId"], s["spanId"], s.get("parentSpanId"), s["name"],
                             int(s["startTimeUnixNano"]), int(s["endTimeUnixNano"]), said, events)
                        )  # fmt: skip
    return rows


def main() -> None:
    """Write, read, print."""
    num_requests = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as name:
        as_json, as_proto, num = write_files(Path(name), num_requests)
        start = time.perf_counter()
        with as_json.open("rb") as lines:
            for line in lines:
                json.loads(line)
        alone = num / (time.perf_counter() - start)
        start = time.perf_counter()
        rows = read_by_loop(as_json)
        plain = len(rows) / (time.perf_counter() - start)
        print(f"{num} spans")
        print(f"json.loads and a loop  {plain:10,.0f} spans/s   1.00")
        print(f"json.loads alone       {alone:10,.0f} spans/s   {alone / plain:.2f}")
        for path in (as_json, as_proto):
            # a process of its own, so that its memory is that of this reader
            command = [sys.executable, __file__, "--read", str(path), str(num_requests)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            took, used, peak_mb = map(float, done.stdout.split())
            print(
                f"pdtrace {path.name:14} {num / took:10,.0f} spans/s   {num / took / plain:.2f}"
                f"   ({num / used:,.0f} a CPU-second, peak {peak_mb:.0f} MB,"
                f" file {path.stat().st_size / 1e6:.0f} MB)"
            )


def read_once(path: str, num_requests: int) -> None:
    """Read a file; print seconds, CPU seconds and peak MB of this process."""
    source = Input(path)
    start, cpu = time.perf_counter(), time.process_time()
    recording = read_spans([source], ReadOptions())
    took, used = time.perf_counter() - start, time.process_time() - cpu
    if recording.num_events != num_requests or recording.requests.height != num_requests:
        raise SystemExit(f"{path}: {recording.num_events} batches, not {num_requests}")
    # not getrusage: that counts what the parent held when it forked
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(took, used, int(status["VmHWM"].split()[0]) / 1024)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        read_once(sys.argv[2], int(sys.argv[3]))
    else:
        main()
