"""The spans that a run becomes; see :mod:`pdtrace.exports.otlp` for how they are sent.

::

    iteration                  a trace of its own
    ├── prefill | decode | idle | unknown    one for each rank
    └── delay                  a wait that ended with this iteration; begins before it

Names under ``sglang.`` are what the engine said, those under ``pdtrace.`` what was derived.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import polars as pl
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags

import pdtrace
from pdtrace.exports.delay_episodes import Wait, read_waits
from pdtrace.exports.pass_times import PassTimes
from pdtrace.exports.request_passes import (
    Request,
    RequestPasses,
    key_of,
    read_requests,
)
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pdtrace.run import Part, Run

MAX_RIDS = 64  # request ids on one span; back ends cut long attributes anyway


def build_spans(run: Run) -> Iterator[ReadableSpan]:
    """Build the spans of a run, part by part, each iteration before its ranks."""
    builder = _Builder(run)
    for part in run:
        yield from builder.build_part(part)


class _Builder:
    def __init__(self, run: Run) -> None:
        engine = run.engine
        self.files = [show(f.path) for f in run.files]
        self.waits: dict[int | None, list[Wait]] = {}
        for wait in read_waits(run):
            self.waits.setdefault(wait.iteration, []).append(wait)
        self.finder = RequestPasses(read_requests(run))
        self.times = PassTimes()
        # What tells one engine and start from another, wherever its files lie.
        facts = (engine.engine, engine.role, run.dp_size, sorted(engine.server_args.items()))
        self.key = repr(facts)
        self.resource = Resource(
            _known(
                {
                    "service.name": "pdtrace",
                    "service.version": pdtrace.__version__,
                    "pdtrace.engine": engine.engine,
                    "sglang.role": engine.role,
                    "sglang.dp_size": run.dp_size,
                    "sglang.model_path": _shown(engine.model_path),
                    "sglang.release": engine.release_min
                    if engine.release_min == engine.release_max
                    else None,
                }
            )
        )
        self.scope = InstrumentationScope("pdtrace", pdtrace.__version__)

    def build_part(self, part: Part) -> Iterator[ReadableSpan]:
        """The spans of the next part."""
        iterations = self.times.place(part)
        passes = part.rank_passes
        requests = self.finder.find(iterations, passes)
        enums = ("duration_source", "grouping")
        rows = iterations.with_columns(
            *(pl.col(c).cast(pl.String) for c in enums),
            pl.col("start", "end").dt.epoch("ns"),
            pl.col("confidence").cast(pl.Float64).round(6),
        )
        ranks = passes.with_columns(
            pl.col("role").cast(pl.String), pl.col("confidence").cast(pl.Float64).round(6)
        ).iter_rows(named=True)
        grid = groupby(ranks, key=itemgetter("iteration"))
        for row, (number, mine) in zip(rows.iter_rows(named=True), grid, strict=True):
            assert number == row["iteration"]
            yield from self._build_iteration(row, list(mine), requests)

    def _build_iteration(
        self,
        row: dict[str, Any],
        ranks: list[dict[str, Any]],
        requests: dict[int, list[Request]],
    ) -> Iterator[ReadableSpan]:
        trace = self._trace_id("iteration", row["engine_run"], row["iteration"], row["end"])
        root = _context(trace, "iteration")
        begin, stop = row["begin_ns"], row["stop_ns"]
        ahead = 0 if row["start"] is None else begin - row["start"]
        waits = self.waits.get(row["iteration"], [])
        moments: dict[int | None, list[Event]] = {}
        for e in waits:
            if e.begin_ns == e.end_ns:
                event = Event(f"delay, {e.ended_by}", self._describe_wait(e), e.end_ns)
                moments.setdefault(e.dp_rank, []).append(event)
        yield self._span(
            "iteration",
            root,
            None,
            begin,
            stop,
            {
                "pdtrace.iteration": row["iteration"],
                "pdtrace.engine_run": row["engine_run"],
                "sglang.forward_iter": row["forward_iter"],
                "sglang.dp_size": row["dp_size"],
                "pdtrace.fusion_width": row["fusion_width"],
                "pdtrace.num_idle_ranks": row["num_idle_ranks"],
                "pdtrace.num_unknown_ranks": row["num_unknown_ranks"],
                "sglang.num_new_tokens": row["num_new_tokens"],
                "pdtrace.confidence": row["confidence"],
                "pdtrace.grouping": row["grouping"],
                "pdtrace.duration_source": row["duration_source"],
                # Without it, a span of no length would look like a pass that took no time.
                "pdtrace.is_duration_known": row["duration"] is not None,
                "pdtrace.selected_ahead_s": ahead / 1e9 if ahead > 0 else None,
            },
            events=moments.get(None, ()),
        )
        for rank in ranks:
            number = rank["dp_rank"]
            those = requests.get(key_of(row["iteration"], number), [])
            yield self._span(
                rank["role"],
                _context(trace, "rank", number),
                root,
                begin,
                stop,
                {
                    "pdtrace.iteration": row["iteration"],
                    "sglang.forward_iter": row["forward_iter"],
                    "sglang.dp_rank": number,
                    "pdtrace.role": rank["role"],
                    "pdtrace.is_observed": rank["is_observed"],
                    "sglang.num_new_tokens": rank["num_new_tokens"],
                    "sglang.num_new_seqs": rank["num_new_seqs"],
                    "pdtrace.confidence": rank["confidence"],
                    "pdtrace.cause": _shown(rank["cause"]),
                    "pdtrace.cause_detail": rank.get("cause_detail"),
                    # The engine's own spans bear the id under the same name.
                    "rid": [r.rid for r in those[:MAX_RIDS]] or None,
                    **self._place(rank["source_id"], rank["line"]),
                },
                links=[link for link in map(_link_to, those) if link is not None],
                events=moments.get(number, ()),
            )
        for index, e in enumerate(waits):
            if e.begin_ns < e.end_ns:
                context = _context(trace, "delay", e.dp_rank, index)
                yield self._span(
                    "delay", context, root, e.begin_ns, e.end_ns, self._describe_wait(e)
                )

    def _describe_wait(self, w: Wait) -> dict[str, Any]:
        return _known(
            {
                "sglang.dp_rank": w.dp_rank,
                "pdtrace.delay.episode": w.episode,
                "pdtrace.delay.ended_by": w.ended_by,
                "pdtrace.delay.is_observed": w.is_observed,
                "pdtrace.delay.passes": w.num_delay_passes,
                "pdtrace.delay.passes_source": w.passes_source,
                "pdtrace.delay.num_prefillable": w.num_prefillable,
                "pdtrace.delay.joined_ranks": w.joined_ranks,
                "rid": list(w.rids) or None,
            }
        )

    def _place(self, source_id: int | None, line: int | None) -> dict[str, Any]:
        if source_id is None or source_id >= len(self.files):
            return {}
        return {"pdtrace.source.file": self.files[source_id], "pdtrace.source.line": line}

    def _trace_id(self, *what: object) -> int:
        return _hash(16, self.key, *what)

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        begin_ns: int,
        end_ns: int,
        attributes: dict[str, Any],
        *,
        links: Sequence[Link] = (),
        events: Sequence[Event] = (),
    ) -> ReadableSpan:
        # Built whole, not started and ended: a tracer would let the sampler and the limits of the
        # environment decide which iterations there are.
        return ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self.resource,
            attributes=_known(attributes),
            events=events,
            links=links,
            kind=SpanKind.INTERNAL,
            start_time=begin_ns,
            end_time=end_ns,
            instrumentation_scope=self.scope,
        )


def _hash(size: int, *what: object) -> int:
    digest = blake2b(repr(what).encode("utf-8", "backslashreplace"), digest_size=size).digest()
    return int.from_bytes(digest) or 1


def _context(trace: int, *what: object) -> SpanContext:
    return SpanContext(
        trace, _hash(8, trace, *what), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )


def _link_to(request: Request) -> Link | None:
    if request.context is None:
        return None
    trace, span = (int(text, 16) for text in request.context)
    return Link(SpanContext(trace, span, is_remote=True), {"rid": request.rid})


def _shown(text: str | None) -> str | None:
    return None if text is None else show(text)


def _known(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
