"""Files of a run directory that are recognised, but read elsewhere or not at all."""

from __future__ import annotations

import json
import re
import tomllib

from pdtrace.sources.formats import FORMATS, SourceFormat

_NANOSECONDS = range(10**18, 4 * 10**18)  # receive times between 2001 and 2096


def _is_otlp_protobuf(head: bytes) -> bool:
    # length as four bytes, then field 1 (resource_spans) of ExportTraceServiceRequest
    return len(head) > 16 and head[4] == 0x0A and 2 < int.from_bytes(head[:4], "big") < 1 << 28


def _is_otlp_json(head: bytes) -> bool:
    return head.lstrip()[:1] == b"{" and b'"resourceSpans"' in head[:400]


def _is_prometheus(head: bytes) -> bool:
    return re.match(rb"\s*# (HELP|TYPE) [A-Za-z_:]", head) is not None


def _is_fpm(head: bytes) -> bool:
    return (
        len(head) > 13
        and int.from_bytes(head[:8], "big") in _NANOSECONDS
        and int.from_bytes(head[8:12], "big") < 1 << 24
        and (head[12] & 0xF0 == 0x80 or head[12] in (0xDE, 0xDF))
    )


def _is_client_log(head: bytes) -> bool:
    try:
        first = json.loads(head.lstrip().partition(b"\n")[0])
    except ValueError:
        return False
    return isinstance(first, dict) and "rid" in first and ("t0" in first or "phase" in first)


def _is_server_info(head: bytes) -> bool:
    text = head.lstrip()
    return text[:1] == b"{" and b'"model_path"' in text[:4000] and b'{"log"' not in text[:7]


def _is_truth(head: bytes) -> bool:
    text = head.lstrip()
    return text[:1] == b"{" and b'"num_iterations"' in text[:2000]


def _is_toml(head: bytes) -> bool:
    try:
        text = head.rpartition(b"\n")[0].decode()
        return bool(tomllib.loads(text))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False


for _order, (_name, _title, _sniff) in enumerate(
    (
        ("otel_spans_protobuf", "OTLP spans (protobuf)", _is_otlp_protobuf),
        ("fpm_frames", "forward-pass metrics", _is_fpm),
        ("otel_spans_json", "OTLP spans (JSON)", _is_otlp_json),
        ("prometheus_text", "Prometheus metrics", _is_prometheus),
        ("client_lines", "a load client's log", _is_client_log),
        ("truth", "the truth of a run", _is_truth),
        ("server_info", "the engine's server_info", _is_server_info),
        ("run_toml", "a description of a run", _is_toml),
    )
):
    FORMATS.register(_name, SourceFormat(_name, _title, _sniff, order=60 + _order))
