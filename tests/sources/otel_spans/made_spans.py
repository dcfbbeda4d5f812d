"""Spans made for tests, with OpenTelemetry's own exporter encoder or by hand."""

from __future__ import annotations

import base64
import json
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

ORIGIN = 1_795_400_000_000_000_000
MS = 1_000_000


def attributes(said: dict[str, Any]) -> list[dict[str, Any]]:
    """Attributes as OTLP/JSON prints them."""
    out = []
    for key, value in said.items():
        if isinstance(value, bool):
            kind = {"boolValue": value}
        elif isinstance(value, int):
            kind = {"intValue": str(value)}
        elif isinstance(value, float):
            kind = {"doubleValue": value}
        else:
            kind = {"stringValue": value}
        out.append({"key": key, "value": kind})
    return out


def span(trace: int, n: int, parent: int, name: str, start: int, end: int, *,
         said: dict[str, Any] | None = None, bids: list[tuple[str, int, int]] = ()):  # fmt: skip
    """One span; times in milliseconds after ORIGIN; ``bids`` are (bid, size, ms)."""
    out = {
        "traceId": f"{trace:032x}", "spanId": f"{trace * 100 + n:016x}", "name": name, "kind": 1,
        "startTimeUnixNano": str(ORIGIN + start * MS), "endTimeUnixNano": str(ORIGIN + end * MS),
    }  # fmt: skip
    if parent:
        out["parentSpanId"] = f"{trace * 100 + parent:016x}"
    if said:
        out["attributes"] = attributes(said)
    if bids:
        out["events"] = [
            {"timeUnixNano": str(ORIGIN + at * MS), "name": "schedule",
             "attributes": attributes({"bid": b, "batch_size": size, "forward_mode": "prefill"})}
            for b, size, at in bids
        ]  # fmt: skip
    return out


def request(trace: int, rank: int, at: int, bid: str, *, size: int = 1, host: str = "aaaa1111",
            pid: int = 200, rid: str | None = None, level: int = 3):  # fmt: skip
    """Spans of one request of 0.5.13; ``at`` is when its batch was scheduled."""
    thread = f"Prefill Scheduler [TP {rank}]  [PP 0]  [DP {rank}] (host:{host} | pid:{pid + rank})"
    place = {"tp_rank": rank, "pp_rank": 0, "dp_rank": rank, "host_id": host, "pid": pid + rank}
    return [
        span(trace, 1, 0, f"prefill Req {trace:08x}", at - 10, at + 60,
             said={"rid": rid or f"rid-{trace}", "gen_ai.usage.prompt_tokens": 100,
                   "gen_ai.usage.cached_tokens": 20}),
        span(trace, 2, 1, f"PrefillTokenizer(host:{host} | pid:{pid - 1})", at - 10, at - 8,
             said={"host_id": host, "pid": pid - 1}),
        span(trace, 3, 2, "tokenize", at - 10, at - 9),
        span(trace, 4, 2, "api_server_dispatch", at - 9, at - 8),
        span(trace, 5, 1, thread, at - 7, at + 58, said=place),
        span(trace, 6, 5, "prefill_bootstrap", at - 6, at - 4),
        span(trace, 7, 5, "prefill_waiting", at - 4, at - 1),
        span(trace, 8, 5, "prefill_forward", at - 1, at + 50,
             bids=[(bid, size, at)] if level >= 3 else []),
        span(trace, 9, 5, "prefill_transfer_kv_cache", at + 51, at + 55),
    ]  # fmt: skip


def message(spans: list[dict[str, Any]], service: str = "sglang") -> dict[str, Any]:
    """An ExportTraceServiceRequest in JSON."""
    resource = {"attributes": attributes({"service.name": service})}
    scope = {"scope": {"name": "sglang server"}, "spans": spans}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}


def as_lines(messages: list[dict[str, Any]]) -> bytes:
    """OTLP/JSON, one message a line."""
    return b"".join(json.dumps(m).encode() + b"\n" for m in messages)


def as_protobuf(messages: list[dict[str, Any]]) -> bytes:
    """The same messages as the Collector's file exporter writes them in proto format."""
    out = b""
    for m in messages:
        body = json_format.ParseDict(_with_base64(m), ExportTraceServiceRequest())
        text = body.SerializeToString()
        out += len(text).to_bytes(4, "big") + text
    return out


def _with_base64(found: Any) -> Any:
    if isinstance(found, list):
        return [_with_base64(x) for x in found]
    if not isinstance(found, dict):
        return found
    ids = ("traceId", "spanId", "parentSpanId")
    return {
        k: base64.b64encode(bytes.fromhex(v)).decode() if k in ids else _with_base64(v)
        for k, v in found.items()
    }
