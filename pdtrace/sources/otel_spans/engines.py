"""Tells engines in one set of spans apart, and puts their batches on DP ranks.

Processes belong to one engine when they served one request: every request passes the API server,
the DP controller and a scheduler. So the engines are the connected groups of processes, each named
by service, host and pid. Resource attributes are no help: they may differ between the processes of
an engine (``service.instance.id``) and be the same for two engines (``service.name``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pdtrace.sources.otel_spans.spans import Thread


@dataclass(frozen=True)
class Engine:
    """One engine start.

    Attributes:
        processes: Numbers of its processes.
        num_batches: Batches of its schedulers.
        first, last: First and last batch, nanoseconds since the epoch.
        places: Host and TP, PP, DP rank of its schedulers.
        service: ``service.name``.
    """

    processes: frozenset[int]
    num_batches: int
    first: int
    last: int
    places: frozenset[tuple[str, int, int, int]]
    service: str

    @property
    def title(self) -> str:
        """Service and hosts, for messages."""
        hosts = ", ".join(sorted({p[0] for p in self.places}))
        return f"{self.service or 'unnamed service'} on {hosts or 'unknown host'}"


def find_engines(
    threads: Sequence[Thread], links: Iterable[tuple[int, int]], batches: pl.DataFrame
) -> list[Engine]:
    """Group processes into engine starts; those without batches are left out.

    Args:
        threads: Processes, by number.
        links: Pairs that served one request.
        batches: As ``Collector.finish`` gives them, in order of time.

    Returns:
        The biggest first.
    """
    parent = list(range(len(threads)))

    def top(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in links:
        parent[top(a)] = top(b)
    linked = {i for pair in links for i in pair}
    # Schedulers that nothing links (their API server's spans are missing) are put together by
    # service and host.
    alone: dict[tuple[str, str], int] = {}
    for i, thread in enumerate(threads):
        if i not in linked:
            parent[top(i)] = top(alone.setdefault(thread.process[:2], i))
    groups: dict[int, set[int]] = {}
    for i in range(len(threads)):
        groups.setdefault(top(i), set()).add(i)
    found = []
    for group in groups.values():
        mine = batches.filter(pl.col("process").is_in(list(group)))
        schedulers = [threads[i] for i in group if threads[i].is_scheduler]
        if not mine.height or not schedulers:
            continue
        found.append(
            Engine(
                processes=frozenset(group),
                num_batches=mine.height,
                first=mine["ts"].to_list()[0],
                last=mine["ts"].to_list()[-1],
                places=frozenset(
                    (t.process[1], t.tp_rank or 0, t.pp_rank or 0, t.dp_rank or 0)
                    for t in schedulers
                ),
                service=schedulers[0].process[0],
            )
        )
    return sorted(found, key=lambda e: -e.num_batches)


def choose_engine(engines: Sequence[Engine]) -> tuple[list[Engine], list[Engine]]:
    """The starts of the engine with most batches, in order of time, and all other engines.

    Starts of one engine are groups on the same hosts and service that follow one another; groups
    that run at the same time are different engines.
    """
    if not engines:
        return [], []
    chosen, others = [engines[0]], list[Engine]()
    for engine in engines[1:]:
        same = engine.service == chosen[0].service and {p[0] for p in engine.places} == {
            p[0] for p in chosen[0].places
        }
        apart = all(engine.last < c.first or engine.first > c.last for c in chosen)
        (chosen if same and apart else others).append(engine)
    return sorted(chosen, key=lambda e: e.first), others


def map_dp_ranks(threads: Sequence[Thread], engine: Engine, *, attn_tp_size: int) -> dict[int, int]:
    """DP rank of each scheduler process of an engine.

    From 0.5.11 the thread says it. Before, TP ranks are counted off in groups of the attention-TP
    size, which is how SGLang lays DP ranks out.

    Args:
        threads: Processes, by number.
        engine: The engine.
        attn_tp_size: TP ranks of one DP rank.
    """
    out = {}
    for i in engine.processes:
        thread = threads[i]
        if thread.is_scheduler:
            known = thread.dp_rank
            out[i] = (thread.tp_rank or 0) // max(attn_tp_size, 1) if known is None else known
    return out
