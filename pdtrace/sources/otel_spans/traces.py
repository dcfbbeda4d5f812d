"""The spans of one trace → its requests, with the times of their stages and their batches.

Through 0.5.9 slices are back to back and none says when the request waited; from 0.5.10 each slice
has its own start, and ``prefill_forward`` starts at the selection into a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pdtrace.sources.otel_spans.spans import (
    ROOT,
    SLICE,
    SLICES,
    THREAD,
    Span,
    Thread,
    read_thread,
    role_of_root,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_DEPTH = 4
_MAX_THREADS = 10_000
_threads: dict[tuple[str, str], Thread] = {}


class Batch(NamedTuple):
    """What one request tells of a batch that it was in.

    Attributes:
        ts: When it was scheduled, nanoseconds since the epoch.
        bid: Names it within the process.
        size: Requests in it; 0 where nothing says so (trace level below 3).
        end: When its result was processed; 0 where not recorded.
        tokens: Prompt tokens that this request computed in it; −1 where a prompt was cut.
    """

    ts: int
    bid: str
    size: int
    end: int
    tokens: int


class Request(NamedTuple):
    """What one trace says of one request; times are nanoseconds, 0 where not recorded."""

    trace: str
    root: str
    rid: str
    scheduler: Thread | None
    others: tuple[Thread, ...]
    num_tp_ranks: int
    prompt_tokens: int
    cached_tokens: int
    uncached_tokens: int
    arrived: int
    tokenized: int
    dispatched: int
    routed: int
    received: int
    bootstrapped: int
    queued: int
    selected: int
    forward_end: int
    transferred: int
    finished: int
    status: str
    batches: tuple[Batch, ...]


def _describe(span: Span) -> Thread:
    key = (span.service, span.name)
    found = _threads.get(key)
    if found is None:
        if len(_threads) >= _MAX_THREADS:
            _threads.clear()
        found = _threads[key] = read_thread(span)
    return found


def read_requests(spans: Iterable[Span]) -> list[Request]:
    """Requests of one trace; those of decode engines are left out.

    A trace may hold several: a client that sent a ``traceparent``, or a router that sent the same
    room to a prefill and a decode engine.
    """
    by_id = {s.id: s for s in spans}
    roots = {s.id: s for s in by_id.values() if s.kind == ROOT}
    only = next(iter(roots)) if len(roots) == 1 else ""
    # root → thread span ('' where it was not recorded) → slices
    found: dict[str, dict[str, list[Span]]] = {r: {} for r in roots}
    for s in by_id.values():
        if s.kind == ROOT:
            continue
        at: Span | None = s
        for _ in range(_MAX_DEPTH):
            if at is None or at.kind != SLICE:
                break
            at = by_id.get(at.parent)
        has_thread = at is not None and at.kind == THREAD
        thread = at.id if at is not None and has_thread else ""
        root = at.parent if at is not None and has_thread and at.parent else only
        slices = found.setdefault(root, {}).setdefault(thread, [])
        if s.kind == SLICE:
            slices.append(s)
    out = []
    for root, threads in found.items():
        request = _read_request(root, roots.get(root), threads, by_id)
        if request is not None:
            out.append(request)
    return out


def _read_request(
    root_id: str, root: Span | None, threads: dict[str, list[Span]], by_id: dict[str, Span]
) -> Request | None:
    if root is not None and role_of_root(root.name) == "decode":
        return None
    scheduler: Thread | None = None
    mine: list[Span] = threads.get("", [])
    others: list[Thread] = []
    elsewhere: list[Span] = list(mine)
    tp_ranks = set()
    for key, slices in threads.items():
        if not key:
            continue
        thread = _describe(by_id[key])
        if not thread.is_scheduler:
            others.append(thread)
            elsewhere += slices
            continue
        if thread.role == "decode":
            continue
        tp_ranks.add(thread.tp_rank)
        # All TP ranks of an attention group report the same; the first is read.
        if scheduler is None or _place(thread) < _place(scheduler):
            if scheduler is not None:
                others.append(scheduler)
            scheduler, mine = thread, slices
        else:
            others.append(thread)
    if scheduler is None and not others and root is None and not mine:
        return None
    t = _times(mine, elsewhere)
    said = root.attributes if root is not None else {}
    prompt, cached = (_count(said.get(f"gen_ai.usage.{n}_tokens")) for n in ("prompt", "cached"))
    finished = root.end if root is not None else 0
    reasons = str(said.get("gen_ai.response.finish_reasons", ""))
    status = "finished" if finished or t["transferred"] else "unfinished"
    if "abort" in reasons:
        status = "failed"
    first = root or next(iter(by_id.values()))
    rid = said.get("rid") or said.get("gen_ai.request.id") or ""
    uncached = prompt - max(cached, 0) if prompt >= 0 else -1
    return Request(
        trace=first.trace,
        root=root_id,
        rid=str(rid),
        scheduler=scheduler,
        others=tuple(others),
        num_tp_ranks=len(tp_ranks),
        prompt_tokens=prompt,
        cached_tokens=cached,
        uncached_tokens=uncached,
        arrived=t["arrived"],
        tokenized=t["tokenized"],
        dispatched=t["dispatched"],
        routed=t["routed"],
        received=t["received"],
        bootstrapped=t["bootstrapped"],
        queued=t["queued"],
        selected=t["selected"],
        forward_end=t["forward_end"],
        transferred=t["transferred"],
        finished=finished or t["transferred"],
        status=status,
        batches=_batches(mine, uncached) if scheduler is not None else (),
    )


def _place(thread: Thread) -> tuple[int, int]:
    return thread.pp_rank or 0, thread.tp_rank or 0


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**32 else -1


def _times(mine: list[Span], elsewhere: list[Span]) -> dict[str, int]:
    """Times of the stages, from the scheduler's slices and those of the other processes."""
    t = dict.fromkeys(
        ("arrived", "tokenized", "dispatched", "routed", "received", "bootstrapped", "queued",
         "selected", "forward_end", "transferred"), 0,
    )  # fmt: skip
    for s in elsewhere:
        what = SLICES[s.name]
        if what == "tokenize":
            t["arrived"], t["tokenized"] = s.start, s.end
        elif what == "dispatch":
            t["dispatched"] = s.end
        elif what == "route":
            t["routed"] = s.end
    scheduled = 0
    waited = False
    for s in mine:
        what = SLICES[s.name]
        if what == "bootstrap":
            t["received"], t["bootstrapped"] = s.start, s.end
            t["queued"] = t["queued"] or s.end
        elif what == "process":  # of a unified engine, which has no bootstrap
            t["received"] = t["received"] or s.start
            t["queued"] = t["queued"] or s.end
        elif what == "waiting":
            t["queued"], t["selected"] = s.start, s.end
            waited = True
        elif what == "forward":
            t["forward_end"] = s.end
        elif what == "transfer":
            t["transferred"] = s.end
        for e in s.schedules:
            scheduled = min(scheduled, e.ts) if scheduled else e.ts
    if not waited:
        # Through 0.5.9 the first schedule event is the nearest thing to the selection: stamped
        # while the batch is built (0.5.4), or after the ranks agreed on it, about 1 ms later.
        t["selected"] = scheduled
    return t


def _batches(mine: list[Span], uncached: int) -> tuple[Batch, ...]:
    """The batches that a request was in, in order, each with the end of its result.

    From 0.5.10 ``chunked_prefill`` slices lie inside ``prefill_forward`` and the last ends with it;
    before, ``prefill_forward`` is the last chunk itself. Either way the distinct ends of both are
    the ends of the batches. An event of the next chunk may sit in the slice before (the overlap
    loop schedules early), so both are put in order of time and paired.
    """
    ends = sorted({s.end for s in mine if SLICES[s.name] in ("chunk", "forward")})
    schedules = {e.bid: e for s in mine for e in s.schedules if e.is_prefill}
    if schedules:
        events = sorted(schedules.values())
        whole = uncached if len(events) == 1 and len(ends) < 2 else -1
        return tuple(
            Batch(e.ts, e.bid, e.batch_size, ends[k] if k < len(ends) else 0, whole)
            for k, e in enumerate(events)
        )
    waited = any(SLICES[s.name] == "waiting" for s in mine)
    forward = [s for s in mine if SLICES[s.name] == "forward"]
    if not waited or not forward:
        return ()
    # Trace level below 3 has no events; requests of one batch share the start to the nanosecond.
    first = forward[0]
    return (Batch(first.start, f"@{first.start}", 0, first.end, uncached),)
