"""Which passes prefilled a request: from its selection to the result of its last chunk.

The tables do not say it row by row. A request is selected into the pass of its rank that begins
next, and from then on the rank computes its chunks pass after pass, until its last result.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from pdtrace.sources.joining import join_requests
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pdtrace.run import Run

SLACK_NS = 2_000_000  # a log prints times to a millisecond; spans have nanoseconds
STAGES = (
    ("received", "receive"),
    ("bootstrapped", "bootstrap"),
    ("queued", "enqueue"),
    ("selected", "queued"),
    ("forward_end", "forward"),
    ("transferred", "transfer"),
    ("finished", "finish"),
)


class Request(NamedTuple):
    """One request.

    Attributes:
        number: Of the request within the run, in order of its first time.
        rid: Its id, safe to show.
        dp_rank: The rank that prefilled it, if known.
        status: How it ended.
        num_prompt_tokens, num_cached_tokens: Null where unknown.
        stages: Name and end of each stage, in order of time; the first is where the request begins,
            and a stage whose neighbours are unknown bears all their names.
        selected_ns: Null where unknown.
        forward_end_ns: Result of its last chunk, or a bound: when its KV cache had gone.
        line: Of its row in the file ``source_id``.
        context: Trace and span id of the engine's own span of it, in hexadecimal.
    """

    number: int
    rid: str
    dp_rank: int | None
    status: str
    num_prompt_tokens: int | None
    num_cached_tokens: int | None
    stages: tuple[tuple[str, int], ...]
    selected_ns: int | None
    forward_end_ns: int | None
    source_id: int
    line: int | None
    context: tuple[str, str] | None

    @property
    def begin_ns(self) -> int:
        """Its first time."""
        return self.stages[0][1]


def read_requests(run: Run) -> list[Request]:
    """The requests of a run that have a time, each once, in order of their first time."""
    # The engine's ids of its spans are no column of the table yet; they are used once they are.
    has_context = {"trace_id", "span_id"} <= set(run.requests.columns)
    contexts: dict[str, tuple[str, str]] = {}
    if has_context:
        told = run.requests.drop_nulls(["trace_id", "span_id"])
        rows = told.select("rid", "trace_id", "span_id").iter_rows()
        contexts = {rid: (trace, span) for rid, trace, span in rows}
    frame = join_requests(run.requests).with_columns(
        pl.col(name).dt.epoch("ns") for name, _ in STAGES
    )
    found = []
    for row in frame.iter_rows(named=True):
        stages = _order_stages(row)
        if not stages:
            continue
        ends = dict(stages)
        last = row["forward_end"]
        if last is None:
            last = row["transferred"] if row["transferred"] is not None else row["finished"]
        found.append(
            Request(
                number=0,
                rid=show(row["rid"]),
                dp_rank=row["dp_rank"],
                status=row["status"],
                num_prompt_tokens=row["num_prompt_tokens"],
                num_cached_tokens=row["num_cached_tokens"],
                stages=tuple(ends.items()),
                selected_ns=row["selected"],
                forward_end_ns=last,
                source_id=row["source_id"],
                line=row["line"],
                context=contexts.get(row["rid"]),
            )
        )
    found.sort(key=lambda r: r.begin_ns)
    return [r._replace(number=i) for i, r in enumerate(found)]


def _order_stages(row: Mapping[str, int | None]) -> list[tuple[str, int]]:
    stages: list[tuple[str, int]] = []
    names: list[str] = []
    for column, name in STAGES:
        names.append(name)
        at = row[column]
        if at is None:
            continue
        # Stages of two clocks may differ by a rounding; a slice cannot end before it begins.
        at = max(at, stages[-1][1]) if stages else at
        stages.append((" + ".join(names) if stages else column, at))
        names = []
    return stages


class PassOfRank(NamedTuple):
    """A prefill pass of one rank, as far as finding its requests needs it.

    A result is processed some milliseconds before or after the line that reports its pass, or
    much later with overlapped scheduling. So a request that ends after the middle of a pass's share
    of time *may* have been in it; the number of requests that the line prints decides.
    """

    iteration: int
    start_ns: int
    end_ns: int
    middle_ns: int
    num_new_seqs: int | None


class RequestPasses:
    """Finds the passes of each request, part by part, in order.

    Args:
        requests: As :func:`read_requests` gives them.
    """

    def __init__(self, requests: list[Request]) -> None:
        self._waiting: dict[int, list[Request]] = {}
        for r in requests:
            if r.dp_rank is not None and r.selected_ns is not None:
                self._waiting.setdefault(r.dp_rank, []).append(r)
        for rows in self._waiting.values():
            rows.sort(key=_selected)
        self._next: dict[int, int] = dict.fromkeys(self._waiting, 0)
        self._before: dict[int, list[Request]] = {}  # those of the rank's pass before

    def find(self, iterations: pl.DataFrame, passes: pl.DataFrame) -> dict[int, list[Request]]:
        """Find the requests that the passes of the next part prefilled.

        Args:
            iterations: Table ``iterations`` of the part, with its shares, ``begin_ns`` and
                ``stop_ns``.
            passes: Table ``rank_passes`` of the part.

        Returns:
            :func:`key_of` a pass → its requests.
        """
        out: dict[int, list[Request]] = {}
        if not self._waiting:
            return out
        frame = (
            passes.filter(pl.col("role") == "prefill")
            .join(iterations.select("iteration", "end", "begin_ns", "stop_ns"), on="iteration")
            .select(
                "dp_rank",
                "iteration",
                pl.coalesce(pl.col("start").dt.epoch("ns"), "begin_ns").alias("start_ns"),
                pl.max_horizontal(pl.col("end").dt.epoch("ns"), "stop_ns").alias("end_ns"),
                (pl.col("begin_ns") // 2 + pl.col("stop_ns") // 2).alias("middle_ns"),
                "num_new_seqs",
            )
            .sort("dp_rank", "start_ns", "end_ns")
        )
        for rows in frame.partition_by("dp_rank", maintain_order=True):
            mine = [PassOfRank(*row) for row in rows.drop("dp_rank").iter_rows()]
            self._find_of_rank(int(rows["dp_rank"][0]), mine, out)
        return out

    def _find_of_rank(
        self, rank: int, passes: list[PassOfRank], out: dict[int, list[Request]]
    ) -> None:
        new = self._admit(rank, passes)
        before = self._before.get(rank, [])
        for index, p in enumerate(passes):
            mine = new.get(index, [])
            room = 1 if p.num_new_seqs is None else p.num_new_seqs - len(mine)
            # A rank cuts one prompt at a time, and goes on with it in its next batch.
            may = [r for r in before if r.forward_end_ns is None or r.forward_end_ns > p.middle_ns]
            if room > 0 and may:
                mine = [max(may, key=_forward_end), *mine]
            if mine:
                out[key_of(p.iteration, rank)] = mine
            before = mine
        self._before[rank] = before

    def _admit(self, rank: int, passes: list[PassOfRank]) -> dict[int, list[Request]]:
        """Index of a pass → the requests that were selected into it."""
        starts = [p.start_ns for p in passes]
        waiting, at = self._waiting.get(rank, []), self._next.get(rank, 0)
        new: dict[int, list[Request]] = {}
        while at < len(waiting):
            selected = _selected(waiting[at])
            index = max(bisect_right(starts, selected + SLACK_NS) - 1, 0)
            if passes[index].end_ns < selected:
                index += 1
            if index == len(passes):
                break
            new.setdefault(index, []).append(waiting[at])
            at += 1
        self._next[rank] = at
        return new


def key_of(iteration: int, rank: int) -> int:
    """One number for a pass of a rank."""
    return iteration << 16 | rank


def _selected(request: Request) -> int:
    assert request.selected_ns is not None
    return request.selected_ns


def _forward_end(request: Request) -> int:
    return request.forward_end_ns or 0
