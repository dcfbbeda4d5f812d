"""Gathers requests and batches of all traces, in bounded memory → tables.

Traces are kept open while spans of theirs may still come: exporters send in batches, so the spans
of a request arrive over seconds, in any order. A trace that is split nevertheless (too many open,
or one file a process) is put together again by its ids at the end.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.schema import TIME
from pdtrace.sources.otel_spans.chunks import CutPrompt, solve_chunks
from pdtrace.sources.otel_spans.spans import PLAUSIBLE_NS, ROOT, Span, Thread
from pdtrace.sources.otel_spans.traces import Batch, Request, read_requests

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_OPEN = 20_000
SWEEP_SPANS = 16_384
SETTLED_NS = 5 * 10**9  # a finished trace gets no more spans this long after its end
STALE_NS = 600 * 10**9
MAX_SPANS = 20_000  # a client may put all it ever asks into one trace
_CHUNK_ROWS = 20_000
_STAGES = (
    "arrived", "tokenized", "dispatched", "routed", "received", "bootstrapped", "queued",
    "selected", "forward_end", "transferred", "finished",
)  # fmt: skip


class _Open:
    __slots__ = ("has_root", "newest", "source_id", "spans")

    def __init__(self, source_id: int) -> None:
        self.spans: list[Span] = []
        self.newest = 0
        self.has_root = False
        self.source_id = source_id


class Processes:
    """The processes met, numbered."""

    def __init__(self) -> None:
        self.threads: list[Thread] = []
        self._number: dict[tuple[str, str, int], int] = {}

    def number(self, thread: Thread) -> int:
        """Number of the process that a thread span describes."""
        known = self._number.get(thread.process)
        if known is None:
            known = self._number[thread.process] = len(self.threads)
            self.threads.append(thread)
        elif thread.is_scheduler and not self.threads[known].is_scheduler:
            self.threads[known] = thread
        return known


class Collector:
    """Takes spans in and gives tables out.

    Attributes:
        processes: Processes met.
        links: Pairs of processes that served one request.
        num_spans: Spans of the engine taken in.
        skipped: Reason → spans left out.
        num_tp_ranks: TP ranks that reported one request, at most: the attention-TP size.
    """

    def __init__(self) -> None:
        self.processes = Processes()
        self.links: set[tuple[int, int]] = set()
        self.num_spans = 0
        self.skipped: Counter[str] = Counter()
        self.num_tp_ranks = 1
        self._open: dict[str, _Open] = {}
        self._since_sweep = 0
        self._ends = array("q")
        self._watermark = 0
        self._requests: list[tuple[Request, int, int, int]] = []
        self._frames: list[pl.DataFrame] = []
        self._pending: dict[tuple[int, str], list[int]] = {}
        self._batches = array("q")
        self._cuts: list[CutPrompt] = []

    def add(self, spans: Iterable[Span], source_id: int) -> None:
        """Take in the spans of a message."""
        opened = self._open
        ends = self._ends
        num = 0
        for span in spans:
            end = span.end
            if end not in PLAUSIBLE_NS or span.start not in PLAUSIBLE_NS or not span.id:
                self.skipped["span without plausible times or ids"] += 1
                continue
            trace = opened.get(span.trace)
            if trace is None:
                trace = opened[span.trace] = _Open(source_id)
            trace.spans.append(span)
            trace.newest = max(trace.newest, end)
            if span.kind == ROOT:
                trace.has_root = True
            ends.append(end)
            num += 1
        self.num_spans += num
        self._since_sweep += num
        if self._since_sweep >= SWEEP_SPANS:
            self._sweep()

    def _sweep(self) -> None:
        # A single wrong clock must not close everybody's traces, so the bulk sets the time.
        recent = sorted(self._ends)
        self._watermark = max(self._watermark, recent[len(recent) * 9 // 10])
        self._ends = array("q")
        self._since_sweep = 0
        settled, stale = self._watermark - SETTLED_NS, self._watermark - STALE_NS
        done = [
            key
            for key, trace in self._open.items()
            if trace.newest < (settled if trace.has_root else stale) or len(trace.spans) > MAX_SPANS
        ]
        for key in done:
            self._close(self._open.pop(key))
        while len(self._open) > MAX_OPEN:
            self._close(self._open.pop(next(iter(self._open))))

    def _close(self, trace: _Open) -> None:
        for request in read_requests(trace.spans):
            self._take(request, trace.source_id)

    def _take(self, request: Request, source_id: int) -> None:
        number = self.processes.number
        scheduler = -1 if request.scheduler is None else number(request.scheduler)
        helpers = [number(t) for t in request.others]
        helper = min(helpers, default=-1)
        for other in helpers:
            self.links.add((helper, other))
        if scheduler >= 0 and helper >= 0:
            self.links.add((helper, scheduler))
        self.num_tp_ranks = max(self.num_tp_ranks, request.num_tp_ranks)
        self._requests.append((request, scheduler, helper, source_id))
        if len(self._requests) >= _CHUNK_ROWS:
            self._pack()
        for batch in request.batches:
            self._take_batch(scheduler, batch, source_id)
        if len(request.batches) > 1:
            keys = tuple((scheduler, hash(b.bid)) for b in request.batches)
            self._cuts.append(CutPrompt(request.batches[0].ts, keys, request.uncached_tokens))

    def _take_batch(self, process: int, batch: Batch, source_id: int) -> None:
        key = (process, batch.bid)
        row = self._pending.get(key)
        if row is None:
            row = self._pending[key] = [batch.ts, batch.size, 0, 0, 0, 0, source_id]
        row[2] += 1
        row[3] = max(row[3], batch.end)
        if batch.tokens < 0:
            row[5] += 1
        else:
            row[4] += batch.tokens
        if row[2] == row[1]:
            self._write_batch(key)

    def _write_batch(self, key: tuple[int, str]) -> None:
        process, bid = key
        self._batches.extend((process, hash(bid), *self._pending.pop(key)))

    def _pack(self) -> None:
        if not self._requests:
            return
        rows = [r for r, *_ in self._requests]
        data: dict[str, object] = {
            "trace": [r.trace for r in rows],
            "root": [r.root for r in rows],
            "rid": [r.rid or None for r in rows],
            "status": [r.status for r in rows],
            "scheduler": [s for _, s, _, _ in self._requests],
            "helper": [h for _, _, h, _ in self._requests],
            "source_id": [i for _, _, _, i in self._requests],
        }
        for name in ("prompt_tokens", "cached_tokens", *_STAGES):
            data[name] = [getattr(r, name) for r in rows]
        frame = pl.DataFrame(
            data,
            schema_overrides={
                "rid": pl.String, "prompt_tokens": pl.Int64, "cached_tokens": pl.Int64,
                **dict.fromkeys(_STAGES, pl.Int64),
            },
        )  # fmt: skip
        self._frames.append(
            frame.with_columns(
                pl.when(pl.col("prompt_tokens") >= 0).then("prompt_tokens"),
                pl.when(pl.col("cached_tokens") >= 0).then("cached_tokens"),
                pl.when(pl.col("scheduler") >= 0).then("scheduler"),
                pl.when(pl.col("helper") >= 0).then("helper"),
                *(
                    pl.when(pl.col(c) > 0).then(c).cast(pl.Datetime("ns"))
                    .dt.replace_time_zone("UTC").cast(TIME)
                    for c in _STAGES
                ),
            )
        )  # fmt: skip
        self._requests.clear()

    def finish(self, chunk_size: int | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Close what is open.

        Args:
            chunk_size: Tokens of a full batch on one rank, where known: it gives the tokens of
                batches with cut prompts.

        Returns:
            Requests (columns as ``Request``, times or null; ``scheduler`` and ``helper`` are
            numbers of processes), one row for each trace and root; and batches (``process``,
            ``ts``, ``end`` in ns, ``size``, ``seen``, ``tokens`` or null, ``source_id``).
        """
        for trace in self._open.values():
            self._close(trace)
        self._open.clear()
        for key in list(self._pending):
            self._write_batch(key)
        self._pack()
        return self._join_requests(), self._join_batches(chunk_size)

    def _join_requests(self) -> pl.DataFrame:
        if not self._frames:
            return pl.DataFrame()
        frame = pl.concat(self._frames)
        self._frames.clear()
        if frame.select(pl.struct("trace", "root").is_duplicated().any()).item():
            order = pl.Enum(("finished", "failed", "unfinished"))
            frame = (
                frame.with_columns(pl.col("status").cast(order))
                .group_by("trace", "root", maintain_order=True)
                .agg(
                    pl.col("status").min(),
                    pl.exclude("trace", "root", "status").drop_nulls().first(),
                )
                .with_columns(pl.col("status").cast(pl.String))
            )
            pairs = frame.select("helper", "scheduler").drop_nulls().unique()
            self.links.update(pairs.iter_rows())
        return frame

    def _join_batches(self, chunk_size: int | None) -> pl.DataFrame:
        names = ("process", "bid", "ts", "size", "seen", "end", "tokens", "num_cut", "source_id")
        table = np.frombuffer(self._batches, np.int64).reshape(-1, len(names))
        frame = (
            pl.DataFrame({n: table[:, k] for k, n in enumerate(names)})
            # The same spans in two files, or a batch closed in two steps, give the key twice.
            .sort("seen", descending=True, maintain_order=True)
            .unique(["process", "bid"], keep="first", maintain_order=True)
            .with_columns(
                pl.when((pl.col("num_cut") == 0) & (pl.col("seen") >= pl.col("size"))).then(
                    "tokens"
                ),
                pl.col("tokens").alias("whole"),
                pl.when(pl.col("end") > 0).then("end"),
            )
            .sort("ts")
        )
        if chunk_size is None or not self._cuts:
            return frame
        rows = frame.select("process", "bid", "whole").iter_rows()
        solved = solve_chunks(
            self._cuts, {(process, bid): whole for process, bid, whole in rows}, chunk_size
        )
        more = pl.DataFrame(
            {
                "process": [key[0] for key in solved],
                "bid": [key[1] for key in solved],
                "solved": list(solved.values()),
            },
            schema={"process": pl.Int64, "bid": pl.Int64, "solved": pl.Int64},
        )
        joined = frame.join(more, on=["process", "bid"], how="left", maintain_order="left")
        return joined.with_columns(pl.coalesce("tokens", "solved").alias("tokens"))
