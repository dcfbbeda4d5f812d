"""Why ranks idled: for every idle rank pass, how far that rank's next request had come.

An iteration is settled at its last selection: what a rank had not selected by then could not run in
it. So a request that had reached the rank before and was selected later says what it was kept by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.joined.passes import NEVER, Passes
from pdtrace.run import Part
from pdtrace.schema import RANK_PASSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from pdtrace.run import Run

    I64 = NDArray[np.int64]

# How far the next request of the rank had come when the iteration was settled.
NONE, ARRIVED, RECEIVED, QUEUED, UNTOLD = range(5)
CAUSE_OF = ("nothing_arrived", *("not_yet_eligible",) * 3, "unknown")
COLUMNS = ("iteration", "dp_rank", "cause", "cause_detail")
DETAIL_OF = (None, "arrived_after_selection", "in_bootstrap", "not_selected", None)


@dataclass(frozen=True)
class ExplainedParts:
    """The parts of a run, each with the causes of its idle passes."""

    parts: Iterable[Part]
    causes: pl.DataFrame

    def __iter__(self) -> Iterator[Part]:
        for part in self.parts:
            mine = self.causes.join(part.iterations.select("iteration"), on="iteration", how="semi")
            yield Part(part.events, part.iterations, mine)


def find_causes(
    joined: pl.DataFrame, passes: Passes, links: pl.DataFrame, settled: I64, run: Run
) -> pl.DataFrame:
    """Find the cause of every idle rank pass.

    Of the requests of the rank that were selected later, the one that had come furthest counts:

    * ``nothing_arrived``: the server had received none (``arrived_while_running``: it received one
      before the iteration ended, which a longer wait would have caught);
    * ``not_yet_eligible``: it had received one, which the scheduler had not taken
      (``arrived_after_selection``), which was in the bootstrap queue (``in_bootstrap``), or which
      stood in the waiting queue and was not selected, for want of KV slots or otherwise
      (``not_selected``);
    * ``held_by_delayer``: the same as ``not_selected``, with a delayer on;
    * ``other_rank_mid_chunk``: before any of these, if every rank that ran in the iteration only
      continued a prompt; the detail says whether this rank had a request (``withheld`` with a
      delayer on);
    * ``unknown``: the requests of the rank's next batch are not all known, or a client's request of
      which the engine left no trace was on its way to the rank.

    Args:
        joined: Table ``requests``, one row a request.
        passes: The prefill passes of the run.
        links: As :func:`pdtrace.joined.passes.link_requests` gives them for ``joined``.
        settled: As :func:`pdtrace.joined.passes.settle_iterations` gives it.
        run: The run.

    Returns:
        ``iteration``, ``dp_rank``, ``cause``, ``cause_detail`` of every idle rank pass.
    """
    requests = _requests(joined, links)
    known_new = np.bincount(
        requests["first"].filter(requests["first"] >= 0).to_numpy(), minlength=len(passes.rank)
    )
    is_new = (known_new > 0) | ~passes.is_continuing
    middle = _mid_chunk(passes, is_new, known_new)
    numbers = passes.iterations["iteration"].cast(pl.Int64).to_numpy()
    ends = passes.iterations["report"].to_numpy()
    of_rank = {key[0]: mine for key, mine in requests.partition_by("rank", as_dict=True).items()}
    none = requests.clear()
    found: list[tuple[I64, I64, I64, NDArray[np.bool_]]] = []
    for rank in range(run.dp_size):
        at = passes.of_rank(rank)
        idle = np.flatnonzero(~np.isin(numbers, passes.iteration[at]))
        mine = of_rank.get(rank, none)
        how = _how_far(mine, settled[idle])
        seen = np.sort(mine.filter(~pl.col("is_blind"))["arrived"].to_numpy())
        soon = np.searchsorted(seen, ends[idle]) > np.searchsorted(seen, settled[idle])
        # What is said of a rank rests on knowing the requests of its next batch.
        following = np.searchsorted(passes.iteration[at], numbers[idle])
        told = np.r_[
            known_new[at] >= passes.num_seqs[at] - passes.is_continuing[at], mine.height > 0
        ]
        how = np.where(told[following], how, UNTOLD)
        found.append((idle, np.full(len(idle), rank), how, soon))
    idle, ranks, how, soon = (np.concatenate(column) for column in zip(*found, strict=True))
    # All ranks at once: a table for each of thousands of ranks would take longer than all else.
    return _name(numbers[idle], ranks, how, soon, middle[idle], run).sort("iteration", "dp_rank")


_SCHEMA = pl.Schema({name: RANK_PASSES.schema[name] for name in COLUMNS})


def _requests(joined: pl.DataFrame, links: pl.DataFrame) -> pl.DataFrame:
    """Times of each request in ns, ``NEVER`` where it did not come so far, by rank."""
    client = pl.col("source").cast(pl.String) == "client_log"
    is_blind = client & pl.col("arrived").is_null()
    received = pl.when(~is_blind).then(pl.col("received"))
    frame = joined.with_columns(links).select(
        pl.col("dp_rank").cast(pl.Int64).fill_null(-1).alias("rank"),
        pl.col("first").fill_null(-1),
        is_blind.alias("is_blind"),
        pl.coalesce("arrived", "dispatched", received, "queued", "sent").alias("arrived"),
        received.alias("received"),
        pl.coalesce("queued", "bootstrapped").alias("queued"),
        pl.col("selected"),
        pl.coalesce("answered", "finished").alias("gone"),
    )
    stamps = ("arrived", "received", "queued", "selected", "gone")
    return frame.with_columns(
        pl.col(name).dt.epoch("ns").fill_null(NEVER).alias(name) for name in stamps
    )


def _mid_chunk(passes: Passes, is_new: NDArray[np.bool_], known_new: I64) -> NDArray[np.bool_]:
    """Whether all ranks that ran in an iteration did nothing but continue a prompt.

    By its requests a batch holds one sequence and none that was newly selected; where its requests
    are not known, its tokens must say so.
    """
    only = (passes.num_seqs == 1) & (known_new == 0) & passes.is_continuing
    numbers = passes.iterations["iteration"].cast(pl.Int64).to_numpy()
    row = np.searchsorted(numbers, passes.iteration)
    num = np.bincount(row, minlength=len(numbers))
    going = np.bincount(row, weights=only & ~is_new, minlength=len(numbers))
    out: NDArray[np.bool_] = (num > 0) & (num == going)
    return out


def _how_far(mine: pl.DataFrame, settled: I64) -> I64:
    """How far the request had come, of those selected later, that had come furthest.

    For each stage the requests that have passed it and not been selected are counted: those that
    passed it before a moment, less those that were also selected before.
    """
    out = np.zeros(len(settled), np.int64)
    if mine.is_empty():
        return out
    seen = mine.filter(~pl.col("is_blind"))
    for level, name in ((ARRIVED, "arrived"), (RECEIVED, "received"), (QUEUED, "queued")):
        # One that failed on the way is gone with its answer.
        left = seen.select(
            pl.when(pl.col("selected") < NEVER).then("selected").otherwise("gone")
        ).to_series()
        come, left_at = seen[name].to_numpy(), left.to_numpy()
        inside = come < left_at
        come, left_at = np.sort(come[inside]), np.sort(left_at[inside])
        waiting = np.searchsorted(come, settled, side="right") - np.searchsorted(
            left_at, settled, side="right"
        )
        out[waiting > 0] = level
    blind = mine.filter(pl.col("is_blind"))
    come, gone = np.sort(blind["arrived"].to_numpy()), np.sort(blind["gone"].to_numpy())
    maybe = np.searchsorted(come, settled, side="right") > np.searchsorted(gone, settled)
    out[maybe & (out == NONE)] = UNTOLD
    return out


def _name(
    numbers: I64,
    ranks: I64,
    how: I64,
    soon: NDArray[np.bool_],
    middle: NDArray[np.bool_],
    run: Run,
) -> pl.DataFrame:
    delayer = run.engine.delayer.enabled is True
    cause = np.array(CAUSE_OF, dtype=object)[how]
    detail = np.array(DETAIL_OF, dtype=object)[how]
    if delayer:
        cause[how == QUEUED] = "held_by_delayer"
        detail[how == QUEUED] = None
    detail[middle & (how == NONE)] = "nothing_arrived"
    detail[~middle & (how == NONE) & soon] = "arrived_while_running"
    if delayer:
        detail[middle & (how == QUEUED)] = "withheld"
    cause[middle] = "other_rank_mid_chunk"
    return pl.DataFrame(
        {
            "iteration": numbers,
            "dp_rank": ranks,
            "cause": pl.Series(cause.tolist(), dtype=pl.String),
            "cause_detail": pl.Series(detail.tolist(), dtype=pl.String),
        }
    ).cast(_SCHEMA)
