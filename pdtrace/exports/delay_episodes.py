"""The delayer's episodes as viewers show them: one wait for each rank that was held."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from pdtrace.delayer.ledger import build_ledger
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from pdtrace.run import Run

MAX_RIDS = 64  # request ids named on one wait; viewers cut long texts anyway


class Wait(NamedTuple):
    """One rank's share of a delay episode.

    Attributes:
        episode, iteration: Of the table ``delay_episodes``; the iteration ended it.
        dp_rank: The rank that was held; null where nobody knows whose requests waited.
        begin_ns, end_ns: The same where only the end is known.
        ended_by: As in the table.
        is_observed: Whether a line says how it ended.
        num_delay_passes, passes_source: As in the table.
        num_prefillable: Ranks with a request at its end.
        rids: Requests of the rank that were held, made safe to show.
        joined_ranks: Ranks of requests that joined, comma between.
    """

    episode: int
    iteration: int | None
    dp_rank: int | None
    begin_ns: int
    end_ns: int
    ended_by: str
    is_observed: bool
    num_delay_passes: int | None
    passes_source: str | None
    num_prefillable: int | None
    rids: tuple[str, ...]
    joined_ranks: str | None


def read_waits(run: Run) -> list[Wait]:
    """The waits of a run in order of their end, as its ledger has them."""
    episodes = build_ledger(run).episodes.filter(pl.col("end").is_not_null())
    out = []
    for row in episodes.with_columns(pl.col("begin", "end").dt.epoch("ns")).iter_rows(named=True):
        told: list[dict[str, Any]] = json.loads(row["held"] or "[]")
        if not told:
            names = (row["held_ranks"] or "").split(",")
            ranks: list[int | None] = [int(r) for r in names if r.isdigit()]
            told = [{"dp_rank": r, "rids": []} for r in ranks or [None]]
        for one in told:
            rank, rids = one["dp_rank"], one["rids"]
            begin = row["end"] if row["begin"] is None else row["begin"]
            out.append(
                Wait(
                    row["episode"],
                    row["iteration"],
                    rank,
                    begin,
                    row["end"],
                    row["ended_by"],
                    row["is_observed"],
                    row["num_delay_passes"],
                    row["passes_source"],
                    row["num_prefillable"],
                    tuple(show(rid) for rid in rids[:MAX_RIDS]),
                    row["joined_ranks"],
                )
            )
    return out
