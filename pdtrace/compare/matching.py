"""Which request of one run is which of the other, and which requests belong together in time."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pdtrace.sources.joining import join_requests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.run import Run

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_SERIAL = re.compile(r"[-_.]\d+$")
# A valley between the gaps inside groups and those between them is sought in this range, seconds.
_VALLEY_S = (0.003, 0.1)
_VALLEY_RATIO = 2.5
GROUP_GAP_S = 0.015
MIN_BLOCK_GROUPS = 3


@dataclass(frozen=True)
class Requests:
    """The requests of one run that a comparison may use, in order of sending.

    Times are seconds since the run's first request, nan where unknown. ``begin`` and ``end`` bound
    the time in which a request could be touched by anything: by the client's clock where it has a
    log.
    """

    rid: list[str]
    tokens: F64
    rank: F64
    sent: F64
    answered: F64
    arrived: F64
    received: F64
    selected: F64
    forward_end: F64
    finished: F64
    begin: F64
    end: F64
    is_finished: NDArray[np.bool_]
    num_internal: int

    def __len__(self) -> int:
        return len(self.rid)

    def take(self, index: I64) -> Requests:
        """These rows, in this order."""
        arrays = {
            name: getattr(self, name)[index]
            for name in self.__dataclass_fields__
            if name not in ("rid", "num_internal")
        }
        return Requests(rid=[self.rid[i] for i in index], num_internal=self.num_internal, **arrays)


def find_origin(run: Run) -> int:
    """Where a comparison's seconds count from, in nanoseconds since the epoch.

    Seconds since the epoch would lose what is under a quarter of a microsecond.
    """
    told = run.requests.select(pl.min_horizontal(pl.col("received", "arrived", "sent").min()))
    first = told.select(pl.all().dt.epoch("ns")).item()
    return 0 if first is None else int(first)


def read_requests(run: Run, *, pattern: re.Pattern[str] | None = None) -> Requests:
    """The requests of a run that someone sent.

    Where the run has a client's log, what it does not name is warm-up or the engine's own; those
    requests are left out and counted.

    Args:
        run: The run.
        pattern: Only requests in whose id it is found.
    """
    frame = join_requests(run.requests)
    stages = ("sent", "answered", "arrived", "received", "selected", "forward_end", "transferred",
              "finished")  # fmt: skip
    origin = find_origin(run)
    frame = frame.with_columns(
        (pl.col(stage).dt.epoch("ns") - origin).cast(pl.Float64) / 1e9 for stage in stages
    ).with_columns(
        pl.coalesce("sent", "arrived", "received").alias("begin"),
        pl.coalesce("answered", "finished").alias("end"),
        pl.coalesce("forward_end", "transferred", "finished").alias("forward_end"),
    )
    # What only a client saw has no times of the engine: its table repeats the client's own there.
    is_foreign = pl.col("source") == "client_log"
    frame = frame.with_columns(
        pl.when(is_foreign).then(None).otherwise(pl.col(name)).alias(name)
        for name in ("received", "finished", "forward_end")
    )
    has_client = pl.col("sources").list.contains(pl.lit("client_log")).alias("is_sent")
    is_sent = frame.select(has_client)["is_sent"]
    num_internal = 0
    if is_sent.any():
        num_internal = int((~is_sent).sum())
        frame = frame.filter(is_sent)
    if pattern is not None:
        wanted = [pattern.search(rid) is not None for rid in frame["rid"]]
        frame = frame.filter(pl.Series(wanted, dtype=pl.Boolean))
    frame = frame.sort("begin", nulls_last=True, maintain_order=True)

    def column(name: str) -> F64:
        return frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()

    return Requests(
        rid=frame["rid"].to_list(),
        tokens=column("num_prompt_tokens"),
        rank=column("dp_rank"),
        **{name: column(name) for name in stages if name != "transferred"},
        begin=column("begin"),
        end=column("end"),
        is_finished=(frame["status"].cast(pl.String) == "finished").to_numpy(),
        num_internal=num_internal,
    )


def match_requests(a: Requests, b: Requests) -> tuple[I64, I64]:
    """Pair the requests of two runs.

    First by the same id; then, because load clients number requests in the order they happened to
    send them, by the id without its trailing number, in order of sending. Prompts of different
    lengths are never the same request.

    Returns:
        Rows of ``a`` and of ``b``, pair by pair, in order of ``a``.
    """
    left: list[int] = []
    right: list[int] = []
    open_a, open_b = list(range(len(a))), list(range(len(b)))
    for name in (lambda rid: rid, lambda rid: _SERIAL.sub("", rid)):
        shelf: dict[tuple[str, float], list[int]] = defaultdict(list)
        for j in open_b:
            shelf[name(b.rid[j]), _size(b.tokens[j])].append(j)
        for queue in shelf.values():
            queue.reverse()
        rest = []
        for i in open_a:
            queue = shelf[name(a.rid[i]), _size(a.tokens[i])]
            if queue:
                left.append(i)
                right.append(queue.pop())
            else:
                rest.append(i)
        open_a = rest
        used = set(right)
        open_b = [j for j in open_b if j not in used]
    order = np.argsort(np.array(left, np.int64), kind="stable")
    return np.array(left, np.int64)[order], np.array(right, np.int64)[order]


def _size(tokens: float) -> float:
    return -1.0 if np.isnan(tokens) else float(tokens)


def find_group_gap(runs: Sequence[F64]) -> float:
    """How far apart two requests may be sent and still count as sent together, in seconds.

    Gaps within a group and gaps between groups are apart by a valley; its middle is taken where
    the sorted gaps show one between 3 and 100 ms (a ratio of 2.5 at least between neighbours),
    and 15 ms where they do not, as in arrivals at random.

    Args:
        runs: Sending times of each run, in any order.
    """
    gaps = np.sort(np.concatenate([np.diff(np.sort(t[np.isfinite(t)])) for t in runs]))
    gaps = np.maximum(gaps, 1e-4)
    if len(gaps) < 3:
        return GROUP_GAP_S
    ratio = gaps[1:] / gaps[:-1]
    middle = np.sqrt(gaps[1:] * gaps[:-1])
    ratio = np.where((middle >= _VALLEY_S[0]) & (middle <= _VALLEY_S[1]), ratio, 0.0)
    k = int(np.argmax(ratio))
    return float(middle[k]) if ratio[k] >= _VALLEY_RATIO else GROUP_GAP_S


def widest_gap(runs: Sequence[Requests], limit: float) -> float:
    """The widest gap between neighbours that counts as one group, in seconds."""
    gaps = np.concatenate([np.diff(np.sort(run.begin)) for run in runs])
    return float(gaps[gaps <= limit].max(initial=0.0))


def build_groups(runs: Sequence[Requests], gap: float) -> I64:
    """Number of the group of each pair: linked if any of the runs sent them within the gap.

    Args:
        runs: The runs' requests, pair by pair.
        gap: Seconds, from :func:`find_group_gap`.
    """
    num = len(runs[0])
    parent = list(range(num))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for run in runs:
        order = np.argsort(run.begin, kind="stable")
        for i, j in pairwise(order):
            if run.begin[j] - run.begin[i] <= gap:
                parent[find(int(i))] = find(int(j))
    roots = [find(i) for i in range(num)]
    place = _place(runs)
    first: dict[int, float] = {}
    for i, root in enumerate(roots):
        first[root] = min(first.get(root, np.inf), place[i])
    number = {root: k for k, root in enumerate(sorted(first, key=lambda r: first[r]))}
    return np.array([number[root] for root in roots], np.int64)


def _place(runs: Sequence[Requests]) -> F64:
    """Mean position of each pair in the order of sending, the same whichever run comes first."""
    ranks = [np.argsort(np.argsort(run.begin, kind="stable"), kind="stable") for run in runs]
    return np.asarray(np.mean(ranks, axis=0), np.float64)


def build_blocks(runs: Sequence[Requests], groups: I64) -> I64:
    """Number of the block of each pair: what a bootstrap draws as one.

    Requests that are in flight together are not independent. A block ends where both runs had
    answered everything before the next group was sent; a longer stretch without such a pause is
    cut every n groups, n = the cube root of the number of groups (at least 3), which grows slowly
    enough that the number of blocks grows too.
    """
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    size = max(MIN_BLOCK_GROUPS, int(np.ceil(num_groups ** (1 / 3))))
    begins = [np.full(num_groups, np.inf) for _ in runs]
    ends = [np.full(num_groups, -np.inf) for _ in runs]
    for run, begin, end in zip(runs, begins, ends, strict=True):
        np.fmin.at(begin, groups, run.begin)
        np.fmax.at(end, groups, run.end)
    block_of = np.zeros(num_groups, np.int64)
    block, length = 0, 0
    busy_until = [-np.inf for _ in runs]
    for g in range(num_groups):
        is_quiet = all(begin[g] > until for begin, until in zip(begins, busy_until, strict=True))
        if g and (is_quiet or length >= size):
            block, length = block + 1, 0
        block_of[g] = block
        length += 1
        busy_until = [max(u, float(end[g])) for u, end in zip(busy_until, ends, strict=True)]
    return block_of[groups]
