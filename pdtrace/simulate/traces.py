"""The engine's spans as OTLP/JSON: threads, slices and schedule events of every request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pdtrace.simulate.settings import MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from pdtrace.simulate.timeline import Moments, RankPass, Timeline

    Span = dict[str, Any]

SCOPE = "sglang server"
HOST = "51ab0000"
API_SERVER, CONTROLLER, FIRST_SCHEDULER = 4000, 4001, 4002
SPANS_A_MESSAGE = 64  # as the engine's exporter sends them


def write_traces(timeline: Timeline, rng: np.random.Generator) -> Iterator[str]:
    """One OTLP/JSON message a line, each of one process, in the order of time."""
    passes = {(p.number, p.rank): p for p in timeline.rank_passes}
    bundles = Bundles()
    for one in sorted(timeline.requests, key=lambda m: m.finished):
        if one.chunk_passes:
            shown = [passes[number, one.request.rank] for number in one.chunk_passes]
            yield from bundles.put(trace_request(one, shown, rng))
    yield from bundles.empty()


class Bundles:
    """Collects the spans of every process, as the exporter in each would, into messages."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[Span]] = {}

    def put(self, spans: dict[int, list[Span]]) -> Iterator[str]:
        """Add spans, by process; gives the messages that are full."""
        for pid, new in spans.items():
            held = self._waiting.setdefault(pid, [])
            held += new
            if len(held) >= SPANS_A_MESSAGE:
                yield _wrap(pid, held)
                held.clear()

    def empty(self) -> Iterator[str]:
        """Messages of all that is left."""
        for pid, held in sorted(self._waiting.items()):
            if held:
                yield _wrap(pid, held)
        self._waiting.clear()


def describe_process(pid: int) -> dict[str, object]:
    """Attributes of a process, which all its spans carry."""
    return {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "service.name": "sglang",
        "service.instance.id": f"simulated-{pid}",
        "pdtrace.simulated": True,
    }


def _wrap(pid: int, spans: list[Span]) -> str:
    resource = _attributes(describe_process(pid))
    scope = {"scope": {"name": SCOPE}, "spans": spans}
    message = {"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [scope]}]}
    return json.dumps(message, separators=(",", ":"))


def _attributes(values: dict[str, object]) -> list[dict[str, Any]]:
    out = []
    for key, value in values.items():
        kind = {bool: "boolValue", int: "intValue", float: "doubleValue"}.get(type(value))
        shown = str(value) if kind == "intValue" else value
        out.append({"key": key, "value": {kind or "stringValue": shown}})
    return out


class _Trace:
    """The spans of one request, by process; slices link to the one before them."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._id = f"{'0' * 16}{rng.bytes(8).hex()}"
        self._last: str | None = None
        self.by_process: dict[int, list[Span]] = {}

    def new_id(self) -> str:
        return self._rng.bytes(8).hex()

    def add(
        self,
        pid: int,
        name: str,
        start: int,
        end: int,
        *,
        span_id: str,
        parent: str | None = None,
        attributes: dict[str, object] | None = None,
        is_slice: bool = False,
        events: list[dict[str, Any]] | None = None,
    ) -> None:
        span: Span = {"traceId": self._id, "spanId": span_id}
        if parent is not None:
            span["parentSpanId"] = parent
        span |= {
            "name": name,
            "kind": 1,
            "startTimeUnixNano": str(start),
            "endTimeUnixNano": str(end),
        }
        if attributes:
            span["attributes"] = _attributes(attributes)
        if events:
            span["events"] = events
        if is_slice and self._last is not None:
            span["links"] = [{"traceId": self._id, "spanId": self._last, "flags": 256}]
        if is_slice:
            self._last = span_id
        self.by_process.setdefault(pid, []).append(span | {"status": {}, "flags": 256})

    def add_thread(
        self,
        pid: int,
        title: str,
        label: str,
        parent: str,
        slices: list[tuple[str, int, int, list[dict[str, Any]]]],
        places: dict[str, object],
    ) -> dict[str, str]:
        """A process's share and its slices, which come first as the engine ends them first."""
        thread, ids = self.new_id(), {}
        for name, start, end, events in slices:
            ids[name] = self.new_id()
            self.add(
                pid, name, start, end,
                span_id=ids[name], parent=thread, is_slice=True, events=events,
            )  # fmt: skip
        attributes = places | {"host_id": HOST, "pid": pid, "thread_label": label}
        self.add(
            pid, f"{title} (host:{HOST} | pid:{pid})", slices[0][1], slices[-1][2],
            span_id=thread, parent=parent, attributes=attributes,
        )  # fmt: skip
        return ids


def trace_request(
    one: Moments, shown: Sequence[RankPass], rng: np.random.Generator
) -> dict[int, list[Span]]:
    """The spans of a finished request, by process.

    Args:
        one: It.
        shown: What its rank shows of each of its chunks.
        rng: Of the ids.
    """
    trace, rank, rid = _Trace(rng), one.request.rank, one.request.rid
    root = trace.new_id()
    trace.add_thread(
        API_SERVER, "PrefillTokenizer", "PrefillTokenizer", root,
        [
            ("tokenize", one.received, one.tokenized, []),
            ("api_server_dispatch", one.tokenized, one.dispatched, []),
        ],
        {},
    )  # fmt: skip
    trace.add_thread(
        CONTROLLER, "Prefill DP Controller", "Prefill DP Controller", root,
        [("dpc_dispatch", one.routing, one.routed, [])], {},
    )  # fmt: skip
    chunks, events = _place_events(one, shown)
    is_cut = len(chunks) > 1
    pid = FIRST_SCHEDULER + rank
    ids = trace.add_thread(
        pid, f"Prefill Scheduler [TP {rank}]  [PP 0]  [DP {rank}]", "Prefill Scheduler", root,
        [
            ("prefill_prepare", one.entered, one.prepared, []),
            ("prefill_bootstrap", one.prepared, one.queued, []),
            ("prefill_waiting", one.queued, one.selected, []),
            ("prefill_forward", one.selected, one.chunk_ends[-1], [] if is_cut else events[0]),
            ("prefill_transfer_kv_cache", one.transferring, one.transferred, []),
        ],
        {"tp_rank": rank, "pp_rank": 0, "dp_rank": rank},
    )  # fmt: skip
    if is_cut:
        for (start, end), held in zip(chunks, events, strict=True):
            trace.add(
                pid, "chunked_prefill", start, end,
                span_id=trace.new_id(), parent=ids["prefill_forward"], events=held,
            )  # fmt: skip
    seconds = (one.finished - one.received) / 1e9
    trace.add(
        API_SERVER, f"prefill Req {rid.rpartition('_')[2][:8]}", one.received, one.finished,
        span_id=root,
        attributes={
            "rid": rid,
            "module": "sglang::request",
            "bootstrap_room": hex(one.room),
            "gen_ai.usage.completion_tokens": 1,
            "gen_ai.usage.prompt_tokens": one.request.tokens,
            "gen_ai.usage.cached_tokens": 0,
            "gen_ai.request.id": rid,
            "gen_ai.request.max_tokens": 1,
            "gen_ai.response.model": MODEL,
            "gen_ai.response.finish_reasons": '["length"]',
            "gen_ai.latency.time_to_first_token": seconds,
        },
    )  # fmt: skip
    return trace.by_process


def _place_events(
    one: Moments, shown: Sequence[RankPass]
) -> tuple[list[tuple[int, int]], list[list[dict[str, Any]]]]:
    """Intervals of the chunks, and the schedule events of each.

    An event goes to the chunk that is open when it happens: launches run ahead of results, so that
    may be the chunk before its own.
    """
    starts = [one.selected, *one.chunk_ends[:-1]]
    chunks = list(zip(starts, one.chunk_ends, strict=True))
    events: list[list[dict[str, Any]]] = [[] for _ in chunks]
    for seen in shown:
        holder = max(k for k, start in enumerate(starts) if k == 0 or start <= seen.scheduled)
        values: dict[str, object] = {
            "bid": seen.bid,
            "batch_size": len(seen.batch.members),
            "forward_mode": "prefill",
        }
        events[holder].append(
            {
                "timeUnixNano": str(seen.scheduled),
                "name": "schedule",
                "attributes": _attributes(values),
            }
        )
    return chunks, events
