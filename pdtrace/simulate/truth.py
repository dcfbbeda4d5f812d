"""What is known of a simulated engine, and no analysis has to find out: ``truth.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdtrace.simulate.exposition import Tally
    from pdtrace.simulate.records import Pass
    from pdtrace.simulate.server_log import Place

SOURCE = "pdtrace simulate: the engine that wrote these files is known"


def describe_iteration(one: Pass, lines: dict[Place, tuple[int, str]]) -> dict[str, Any]:
    """A pass: its number, and what each rank that ran tokens printed where."""
    ranks = {}
    for rank, batch in sorted(one.batches.items()):
        line, stamp = lines[one.number, rank]
        ranks[str(rank)] = {
            "line": line,
            "ts": stamp,
            "new_seq": len(batch.members),
            "new_token": batch.tokens,
        }
    return {"forward_iter": one.number, "ranks": ranks}


def list_outcomes(tally: Tally) -> list[dict[str, Any]]:
    """The outcomes of every rank's delayer."""
    return [
        {
            "dp_rank": rank,
            "input_estimation": estimation,
            "output_reason": reason,
            "actual_execution": ran,
            "count": count,
        }
        for rank, counts in enumerate(tally.outcomes)
        for (estimation, _, reason, ran), count in sorted(counts.items())
    ]
