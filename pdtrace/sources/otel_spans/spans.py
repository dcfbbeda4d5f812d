"""One span of the engine, whatever file it came from, and which spans matter.

Names of releases 0.5.3 to 0.5.23 (SGLang ``tracing/trace.py`` and the request stages).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pdtrace.sources.formats import MAX_RANKS

SCOPE = "sglang server"
"""Scope of the engine's own spans; those of a web framework have another."""

ROOT, THREAD, SLICE = 1, 2, 3
PLAUSIBLE_NS = range(10**18, 4 * 10**18)
"""Times between 2001 and 2096; others are no times."""

# Name → what the slice is. Only prefill engines' and unified engines' slices are of use here.
SLICES = {
    "tokenize": "tokenize",
    "dispatch": "dispatch",  # to 0.5.10
    "api_server_dispatch": "dispatch",  # from 0.5.11
    "dc_dispatch": "route",  # to 0.5.10
    "dpc_dispatch": "route",  # from 0.5.11
    "request_process": "process",
    "process req": "process",  # 0.5.3
    "prefill_prepare": "prepare",
    "prefill_bootstrap": "bootstrap",
    "prefill_waiting": "waiting",  # from 0.5.10
    "chunked_prefill": "chunk",
    "prefill_forward": "forward",
    "prefill": "forward",  # 0.5.3, unified
    "prefill_transfer_kv_cache": "transfer",
}

_PREFILL_MODES = ("prefill", "extend", "mixed", "split_prefill")
_ROOT = re.compile(r"(?:(prefill|decode)? )?Req ")
_SCHEDULER = re.compile(
    r"(\w*) ?Scheduler((?:\s+\[(?:TP|PP|DP) \d+\])*)\s*\(host:(\w*) \| pid:(\d+)\)"
)
_RANK = re.compile(r"\[(TP|PP|DP) (\d+)\]")
_THREAD = re.compile(r"(.*)\(host:(\w*) \| pid:(\d+)\)")

Value = str | int | float | bool | None
Attributes = dict[str, Value]


class Schedule(NamedTuple):
    """A ``schedule`` event: the request was put into a batch.

    Attributes:
        ts: Nanoseconds since the epoch.
        bid: Names the batch; unique within one process.
        batch_size: Requests of the batch.
        is_prefill: False where the event says another forward mode.
    """

    ts: int
    bid: str
    batch_size: int
    is_prefill: bool


class Span(NamedTuple):
    """One span that matters.

    Attributes:
        trace, id, parent: Ids as text; ``parent`` is empty for a root.
        kind: ROOT (of a request), THREAD or SLICE.
        name: As recorded.
        start, end: Nanoseconds since the epoch.
        service: ``service.name`` of its resource.
        attributes: Of roots and threads; empty for slices.
        schedules: Its ``schedule`` events.
    """

    trace: str
    id: str
    parent: str
    kind: int
    name: str
    start: int
    end: int
    service: str
    attributes: Attributes
    schedules: tuple[Schedule, ...]


def classify(name: str) -> int:
    """ROOT, THREAD or SLICE; 0 for a span that is not of use."""
    if name in SLICES:
        return SLICE
    if "(host:" in name:
        return THREAD
    return ROOT if _ROOT.match(name) else 0


def role_of_root(name: str) -> str:
    """``prefill``, ``decode`` or ``null`` (unified) by the name of a request's root span."""
    found = _ROOT.match(name)
    return (found.group(1) if found else None) or "null"


class Thread(NamedTuple):
    """A process of the engine, as a thread span describes it.

    Attributes:
        process: Service, host and pid: together they tell processes of all engines apart.
        is_scheduler: Whether it is a scheduler.
        role: ``prefill``, ``decode`` or ``null`` by its label.
        tp_rank, pp_rank, dp_rank: Of a scheduler, None where not said (``dp_rank`` from 0.5.11).
    """

    process: tuple[str, str, int]
    is_scheduler: bool
    role: str
    tp_rank: int | None
    pp_rank: int | None
    dp_rank: int | None


def read_thread(span: Span) -> Thread:
    """Describe the process of a thread span; attributes go before its name."""
    said = span.attributes
    ranks: dict[str, int] = {}
    host, pid, label = "", 0, span.name
    found = _SCHEDULER.match(span.name)
    if found:
        ranks = {f"{kind.lower()}_rank": int(n) for kind, n in _RANK.findall(found.group(2)[:200])}
        host, pid = found.group(3), int(found.group(4)[:18])
    elif plain := _THREAD.match(span.name):
        label, host, pid = plain.group(1), plain.group(2), int(plain.group(3)[:18])
    for name in ("tp_rank", "pp_rank", "dp_rank"):
        value = _as_int(said.get(name))
        if value is not None:
            ranks[name] = value
    ranks = {name: rank for name, rank in ranks.items() if rank < MAX_RANKS}
    pid_said = _as_int(said.get("pid"))
    # the name holds the first 8 characters of the host, so they are what all releases share
    host = str(said.get("host_id") or host)[:8]
    lower = label.lower()
    role = "prefill" if lower.startswith("prefill") else "null"
    if lower.startswith("decode"):
        role = "decode"
    return Thread(
        process=(span.service, host, pid if pid_said is None else pid_said),
        is_scheduler=found is not None,
        role=role,
        tp_rank=ranks.get("tp_rank"),
        pp_rank=ranks.get("pp_rank"),
        dp_rank=ranks.get("dp_rank"),
    )


def _as_int(value: Value) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < 2**31 else None


def read_schedule(ts: int, said: Attributes) -> Schedule | None:
    """A ``schedule`` event (0.5.4 on); None if it names no batch or has no time."""
    bid = said.get("bid")
    if not isinstance(bid, str) or not bid or ts not in PLAUSIBLE_NS:
        return None
    mode = said.get("forward_mode")
    is_prefill = mode is None or str(mode).lower() in _PREFILL_MODES
    return Schedule(ts, bid[:64], _as_int(said.get("batch_size")) or 1, is_prefill)
