"""A recorded run's requests again: same ids, lengths and ranks, the same time apart."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from pdtrace.client.arrivals import Request, choose_rank
from pdtrace.client.settings import MAX_INPUT_LEN
from pdtrace.errors import InputError
from pdtrace.sources import read
from pdtrace.sources.joining import join_requests

if TYPE_CHECKING:
    from pdtrace.client.settings import Route

# When a request came, the best evidence first: as its client sent it, or as the engine got it.
TIMES = ("sent", "arrived", "received")
_MOST_ID = 200
_INTERNAL = "HEALTH_CHECK"


def read_arrivals(path: str) -> tuple[list[Request], list[str]]:
    """Read what to send from a recording.

    Args:
        path: A run directory, or a file that tells requests: a client's log, spans, or a log with
            request time stats.

    Returns:
        The requests by time, the first at 0, each with the rank that served it (if that is known,
        otherwise the rank that was asked for, or none); and what a reader should know.

    Raises:
        InputError: No request is known with its time and length.
    """
    rows = join_requests(read([path]).requests)
    rows = rows.filter(~pl.col("rid").str.starts_with(_INTERNAL))
    # Where a client's log says what was sent, the rest (warm-up, probes) was not part of the load.
    column = next((c for c in TIMES if rows[c].count()), None)
    known = rows.filter(
        pl.col(column).is_not_null() if column else False,
        pl.col("num_prompt_tokens").is_between(1, MAX_INPUT_LEN),
    )
    if column is None or known.is_empty():
        raise InputError(
            "nothing to replay: no request with its time and its length; a client's log"
            " (client.jsonl) or spans give them",
            path=path,
        )
    notes = []
    lost = rows[column].count() - known.height
    if lost:
        notes.append(f"{path}: {lost} requests without a length are left out")
    if column != "sent":
        notes.append(
            f"{path}: no client's log: replayed as the engine received the requests"
            + (", at pickup, up to a pass late" if column == "received" else "")
        )
    known = known.sort(column, maintain_order=True)
    at = (known[column] - known[column][0]).dt.total_nanoseconds().to_numpy() / 1e9
    seen: set[str] = set()
    out = []
    for k, (rid, rank, tokens) in enumerate(
        known.select("rid", "dp_rank", "num_prompt_tokens").iter_rows()
    ):
        name = rid[:_MOST_ID]
        if name in seen:
            name = f"{name}-again{k}"
        seen.add(name)
        out.append(Request(name, name_phase(name), tokens, rank, float(at[k]), k))
    return out, notes


def name_phase(rid: str) -> str:
    """The phase in a request id: what comes before the first ``-``, as load clients write it."""
    phase, mark, _ = rid.partition("-")
    return phase if mark else "replay"


def plan_replay(
    recorded: list[Request], route: Route, repeat: int, num_ranks: int | None, first_index: int
) -> list[Request]:
    """The requests of one repeat of a replay.

    Args:
        recorded: See :func:`read_arrivals`.
        route: ``recorded``, or another choice of ranks.
        repeat: Counts from 0; ids of later ones end in ``-repeat1`` and so on.
        num_ranks: DP ranks of the engine; None: not known.
        first_index: Index of the first prompt.

    Raises:
        InputError: A recorded rank is not there.
    """
    out = []
    for k, one in enumerate(recorded):
        rank = one.rank if route.kind == "recorded" else choose_rank(route, k, num_ranks)
        if rank is not None and num_ranks is not None and rank >= num_ranks:
            raise InputError(
                f"request {one.rid!r} ran on DP rank {rank}, and the engine has {num_ranks} ranks;"
                " say --route round-robin or balancer"
            )
        rid = f"{one.rid}-repeat{repeat}" if repeat else one.rid
        out.append(replace(one, rid=rid, rank=rank, index=first_index + k))
    return out
