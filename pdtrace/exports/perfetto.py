"""A run as a Perfetto trace: what each rank ran, the requests, and arrows between them.

Written part by part: a long run needs no more memory than its requests.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO

import polars as pl

from pdtrace.exports.delay_episodes import read_waits
from pdtrace.exports.pass_times import PassTimes
from pdtrace.exports.perfetto_wire import TraceWriter
from pdtrace.exports.request_passes import RequestPasses, key_of, read_requests
from pdtrace.schema import ROLES
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pdtrace.exports.request_passes import Request
    from pdtrace.run import Part, Run

CATEGORIES = (*ROLES, "delay", "request", "incident")
ARGUMENTS = (
    "iteration", "forward_iter", "dp_rank", "num_new_tokens", "num_new_seqs", "confidence",
    "is_observed", "duration_source", "grouping", "cause", "cause_detail", "selected_ahead_s",
    "file", "line", "episode", "delay_passes", "passes_source", "num_prefillable", "joined_ranks",
    "rids", "status", "num_prompt_tokens", "num_cached_tokens", "text",
)  # fmt: skip
REPEATED = ("selection", "gap", "bounded", "label", "span", "time")
GAUGES = (  # column of events, name, unit
    ("token_usage", "token usage", "ratio"),
    ("num_queue_reqs", "waiting queue", "requests"),
)
TALLIES = (  # column of iterations, name, unit
    ("num_idle_ranks", "idle ranks", "ranks"),
    ("fusion_width", "fusion width", "ranks"),
    ("num_new_tokens", "new tokens", "tokens"),
    ("num_unknown_ranks", "unknown ranks", "ranks"),
)
MAX_TEXT = 300  # characters of a log line


def write_perfetto(run: Run, stream: BinaryIO) -> int:
    """Write a run as a Perfetto trace.

    Args:
        run: The run.
        stream: Where to.

    Returns:
        The number of packets written.
    """
    requests = read_requests(run)
    parts = iter(run)
    first = next(parts, None)
    trace = _Trace(run, stream, start_ns=_first_time(run, first, requests))
    finder, times = RequestPasses(requests), PassTimes()
    for part in chain(() if first is None else (first,), parts):
        trace.write_part(part, times.place(part), finder)
    trace.write_pause()
    trace.write_waits()
    trace.write_incidents()
    trace.write_requests(requests)
    trace.writer.flush()
    return trace.writer.num_packets


def _first_time(run: Run, part: Part | None, requests: list[Request]) -> int:
    times = [i.ts_ns for i in run.incidents if i.ts_ns is not None]
    if part is not None and part.iterations.height:
        head = part.iterations.head(1).select(pl.coalesce("start", "end").dt.epoch("ns"))
        times.append(int(head.item()))
    if requests:
        times.append(requests[0].begin_ns)
    return min(times, default=0)


class _Trace:
    """The tracks of one trace, and what is put on them."""

    def __init__(self, run: Run, stream: BinaryIO, *, start_ns: int) -> None:
        self.run = run
        self.files = [show(f.path) for f in run.files]
        self.writer = TraceWriter(
            stream,
            start_ns=start_ns,
            categories=CATEGORIES,
            arguments=ARGUMENTS,
            strings=(*REPEATED, *self.files),
        )
        role = f" {run.engine.role}" if run.engine.role else ""
        labels = [f"dp_size {run.dp_size}", f"iterations by {run.grouping}"]
        name = show(f"{run.engine.engine}{role} engine")
        self.engine = self.writer.add_process(name, labels=labels)
        self._counters: dict[tuple[int, str], int] = {}
        self._tallies: dict[str, int] = {}
        self._ranks: dict[int, int] = {}
        for rank in range(run.dp_size):
            self._rank(rank)
        self._busy_until: int | None = None
        self._reached: dict[int, int] = {}  # request number → where its first arrow ends

    def _rank(self, rank: int) -> int:
        if rank not in self._ranks:
            track = self.writer.add_track(f"rank {rank}", self.engine, order=10 + rank)
            self._ranks[rank] = track
        return self._ranks[rank]

    def _place(self, source_id: int | None, line: int | None) -> dict[str, int | str | None]:
        if source_id is None or source_id >= len(self.files):
            return {}
        return {"file": self.files[source_id], "line": line}

    def write_part(self, part: Part, iterations: pl.DataFrame, finder: RequestPasses) -> None:
        """Write the passes and the counters of a part."""
        passes = part.rank_passes
        found = finder.find(iterations, passes)
        columns = ("role", "duration_source", "grouping")
        frame = passes.join(
            iterations.select(
                "iteration", "forward_iter", "duration_source", "grouping", "begin_ns", "stop_ns"
            ),
            on="iteration",
            maintain_order="left",
        ).with_columns(
            *(pl.col(c).cast(pl.String) for c in columns),
            pl.col("start").dt.epoch("ns"),
            pl.col("confidence").cast(pl.Float64).round(6),
        )
        for row in frame.iter_rows(named=True):
            rank, begin, stop = row["dp_rank"], row["begin_ns"], row["stop_ns"]
            requests = found.get(key_of(row["iteration"], rank), ())
            ahead = 0 if row["start"] is None else begin - row["start"]
            arguments = self.writer.encode_arguments(
                {
                    "iteration": row["iteration"],
                    "forward_iter": row["forward_iter"],
                    "dp_rank": rank,
                    "num_new_tokens": row["num_new_tokens"],
                    "num_new_seqs": row["num_new_seqs"],
                    "confidence": row["confidence"],
                    "is_observed": row["is_observed"],
                    "duration_source": row["duration_source"],
                    "grouping": row["grouping"],
                    "cause": None if row["cause"] is None else show(row["cause"]),
                    "cause_detail": row.get("cause_detail"),
                    "selected_ahead_s": ahead / 1e9 if ahead > 0 else None,
                    **self._place(row["source_id"], row["line"]),
                }
            )
            track, role = self._rank(rank), row["role"]
            if row["duration"] is None:
                self.writer.mark(track, stop, role, role, arguments=arguments)
                continue
            # A pass begins with the first of its ranks; arrows run forward in time, so one from a
            # request that came a moment later ends at its selection.
            late = [r for r in requests if r.number not in self._reached and r.begin_ns >= begin]
            flows = [r.number + 1 for r in requests if r not in late]
            self.writer.begin(track, begin, role, role, arguments=arguments, flows=flows)
            for r in late:
                at = min(max(r.selected_ns or 0, r.begin_ns + 1), stop - 1)
                arguments = self.writer.encode_arguments(
                    {"iteration": row["iteration"], "dp_rank": rank}
                )
                self.writer.mark(
                    track, at, "selected", "request", arguments=arguments, flows=[r.number + 1]
                )
                self._reached[r.number] = at
            self.writer.end(track, stop)
            for r in requests:
                self._reached.setdefault(r.number, begin)
        self._write_tallies(iterations)
        self._write_gauges(part.events)

    def _write_tallies(self, iterations: pl.DataFrame) -> None:
        names = [column for column, _, _ in TALLIES]
        for begin, stop, took, *values in iterations.select(
            "begin_ns", "stop_ns", pl.col("duration").is_not_null(), *names
        ).iter_rows():
            if self._busy_until is not None and begin > self._busy_until:
                self.write_pause()
            for order, ((column, name, unit), value) in enumerate(
                zip(TALLIES, values, strict=True)
            ):
                if column not in self._tallies:
                    if column == "num_unknown_ranks" and not value:
                        continue
                    self._tallies[column] = self.writer.add_counter(
                        name, self.engine, unit=unit, order=order
                    )
                self.writer.count(self._tallies[column], begin, value)
            # A pass of unknown duration: what followed it, and when, is unknown too.
            self._busy_until = stop if took else None

    def write_pause(self) -> None:
        """No pass runs after the last one written: its counters return to zero."""
        if self._busy_until is not None:
            for track in self._tallies.values():
                self.writer.count(track, self._busy_until, 0)
        self._busy_until = None

    def _write_gauges(self, events: pl.DataFrame) -> None:
        for order, (column, name, unit) in enumerate(GAUGES, 1):
            told = events.filter(pl.col(column).is_not_null())
            for rank, at, value in told.select(
                "dp_rank", pl.col("ts").dt.epoch("ns"), column
            ).iter_rows():
                key = (rank, column)
                if key not in self._counters:
                    self._counters[key] = self.writer.add_counter(
                        f"{name}, rank {rank}", self._rank(rank), unit=unit, order=order
                    )
                self.writer.count(self._counters[key], at, value)

    def write_waits(self) -> None:
        """Write the delayer's episodes on a track of each rank that they held."""
        tracks: dict[int | None, int] = {}
        until: dict[int | None, int] = {}
        for w in read_waits(self.run):
            if w.dp_rank not in tracks:
                parent = self.engine if w.dp_rank is None else self._rank(w.dp_rank)
                tracks[w.dp_rank] = self.writer.add_track("delayer", parent)
            track = tracks[w.dp_rank]
            arguments = self.writer.encode_arguments(
                {
                    "episode": w.episode,
                    "iteration": w.iteration,
                    "delay_passes": w.num_delay_passes,
                    "passes_source": w.passes_source,
                    "is_observed": w.is_observed,
                    "num_prefillable": w.num_prefillable,
                    "joined_ranks": w.joined_ranks,
                    "rids": " ".join(w.rids) or None,
                }
            )
            name = f"delay, {w.ended_by}"
            if w.begin_ns == w.end_ns:
                self.writer.mark(track, w.end_ns, name, "delay", arguments=arguments)
                continue
            begin = max(w.begin_ns, until.get(w.dp_rank, w.begin_ns))
            self.writer.begin(track, min(begin, w.end_ns), name, "delay", arguments=arguments)
            self.writer.end(track, w.end_ns)
            until[w.dp_rank] = w.end_ns

    def write_incidents(self) -> None:
        """Write what the engine reported as instants."""
        timed = [(i.ts_ns, i) for i in self.run.incidents if i.ts_ns is not None]
        if not timed:
            return
        track = self.writer.add_track("incidents", self.engine, order=len(TALLIES))
        for at, i in timed:
            arguments = self.writer.encode_arguments(
                {
                    "dp_rank": i.dp_rank,
                    "text": show(i.text[:MAX_TEXT]),
                    **self._place(i.source_id, i.line),
                }
            )
            self.writer.mark(track, at, show(i.kind), "incident", arguments=arguments)

    def write_requests(self, requests: list[Request]) -> None:
        """Write each request and its stages; those at the same time on lanes of their own."""
        for request, track in self._lay_out(requests):
            (_, begin), *stages = request.stages
            finish = stages[-1][1] if stages else begin
            flow = self._reached.get(request.number)
            slices = [(request.rid, begin, finish)]
            mark = begin
            for name, end in stages:
                if end > mark:
                    slices.append((name, mark, end))
                mark = end
            # Likewise an arrow leaves the last slice that begins before it ends.
            source = 0
            if flow is not None:
                for k, (_, since, _) in enumerate(slices):
                    source = k if since < flow else source
            arguments = self.writer.encode_arguments(
                {
                    "status": request.status,
                    "dp_rank": request.dp_rank,
                    "num_prompt_tokens": request.num_prompt_tokens,
                    "num_cached_tokens": request.num_cached_tokens,
                    **self._place(request.source_id, request.line),
                }
            )
            for k, (name, since, until) in enumerate(slices):
                self.writer.begin(
                    track,
                    since,
                    name,
                    "request",
                    arguments=b"" if k else arguments,
                    flows=[request.number + 1] if flow is not None and k == source else [],
                    is_repeated=k > 0,
                )
                if k:
                    self.writer.end(track, until)
            self.writer.end(track, finish)

    def _lay_out(self, requests: list[Request]) -> Iterator[tuple[Request, int]]:
        # Tracks of one name and parent are drawn as one, with as many lanes as it needs.
        free: dict[int | None, list[tuple[int, int]]] = {}
        if not requests:
            return
        order = 10 + self.run.dp_size
        parent = self.writer.add_track("requests", self.engine, order=order)
        for request in requests:
            rank = request.dp_rank
            lanes = free.setdefault(rank, [])
            if lanes and lanes[0][0] <= request.begin_ns:
                track = heappop(lanes)[1]
            else:
                name = "requests of no known rank" if rank is None else f"requests of rank {rank}"
                place = self.run.dp_size if rank is None else rank
                track = self.writer.add_track(name, parent, order=place)
            yield request, track
            heappush(lanes, (request.stages[-1][1], track))
