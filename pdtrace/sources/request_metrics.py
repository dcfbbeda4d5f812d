"""The engine's exported request metrics (``--export-metrics-to-file``, 0.5.5 on) → ``requests``.

Files ``sglang-request-metrics-YYYYMMDD_HH.log``, one JSON object a finished request:
``request_parameters`` (JSON as text) and the keys of ``meta_info``; times need
``--enable-metrics``. They are written by the API server, so they count as a client's evidence.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pdtrace.sources.client_log import read_requests
from pdtrace.sources.formats import FORMATS, MAX_RANKS, ReadOptions, SourceFormat
from pdtrace.sources.json_lines import as_count, as_text, as_time_ns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.run import Recording
    from pdtrace.sources.inputs import Input


def _is_request_metrics(head: bytes) -> bool:
    first = head.lstrip().partition(b"\n")[0]
    if first[:1] != b"{" or b'"request_parameters"' not in first:
        return False
    try:
        found = json.loads(first)
    except (ValueError, RecursionError):
        return len(first) == len(head)  # a line longer than what is looked at
    return isinstance(found, dict)


def _read_row(said: dict[str, Any]) -> dict[str, object] | None:
    rid = as_text(said.get("id")) or as_text(_parameters(said).get("rid"))
    if rid is None:
        return None
    received = as_time_ns(said.get("request_received_ts"))
    selected = as_time_ns(said.get("forward_entry_time"))
    waited = said.get("queue_time")
    queued = None
    if selected is not None and isinstance(waited, int | float) and 0 <= waited < 1e6:
        queued = selected - round(waited * 1e9)
    sent_on = said.get("api_server_dispatch_finish_ts", said.get("request_sent_to_scheduler_ts"))
    finished = as_time_ns(said.get("response_sent_to_client_ts", said.get("request_finished_ts")))
    took = said.get("e2e_latency")
    if finished is None and received is not None and isinstance(took, int | float):
        finished = received + round(took * 1e9) if 0 <= took < 1e6 else None
    reason = said.get("finish_reason")
    kind = reason.get("type") if isinstance(reason, dict) else reason
    return {
        "rid": rid,
        "dp_rank": as_count(said.get("dp_rank"), MAX_RANKS - 1),
        "num_prompt_tokens": as_count(said.get("prompt_tokens")),
        "num_cached_tokens": as_count(said.get("cached_tokens")),
        "arrived": received,
        "dispatched": as_time_ns(sent_on),
        "received": received,
        "queued": queued,
        "selected": selected,
        "forward_end": as_time_ns(
            said.get("prefill_finished_time", said.get("prefill_finished_ts"))
        ),
        "finished": finished,
        "status": "failed" if kind == "abort" else "finished",
    }


def _parameters(said: dict[str, Any]) -> dict[str, Any]:
    text = said.get("request_parameters")
    try:
        found = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(inputs: Sequence[Input], options: ReadOptions) -> Recording:
    return read_requests(
        inputs, options, _read_row, '\'{"request_parameters": "...", "id": "...", ...}\''
    )


FORMATS.register(
    "request_metrics",
    SourceFormat(
        "client_log", "the engine's request metrics", _is_request_metrics, _read, order=62
    ),
)
