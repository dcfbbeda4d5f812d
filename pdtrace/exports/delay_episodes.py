"""When the delayer withheld prefill on a rank, as far as the decisions carry times."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import polars as pl

if TYPE_CHECKING:
    from pdtrace.run import Run

NO_DELAY = ("", "no_wait")


class Episode(NamedTuple):
    """A wait and the decision that ended it.

    Attributes:
        dp_rank: Null where the source does not say it.
        begin_ns, end_ns: The same where only the end is known.
        reason: Why prefill was allowed in the end; ``delay`` if the recording ends before that.
        wait_passes: Delay passes in it, if known.
        num_prefillable: Ranks that could prefill at its end, if known.
        actual_execution: Whether the rank then ran a batch, if known.
        source_id, line: Where the decision stands.
    """

    dp_rank: int | None
    begin_ns: int
    end_ns: int
    reason: str
    wait_passes: int | None
    num_prefillable: int | None
    actual_execution: bool | None
    source_id: int
    line: int | None


def read_episodes(run: Run) -> list[Episode]:
    """The episodes of a run in order of their end; decisions without a time give none.

    An episode lasts the wait that the decision states, or else from the first decision to delay to
    the one that allows. Where neither is known, it is the moment of its end.
    """
    told = (
        run.decisions.filter(pl.col("ts").is_not_null())
        .sort("ts", maintain_order=True)
        .with_columns(
            pl.col("ts").dt.epoch("ns"),
            pl.col("wait").dt.total_nanoseconds(),
            pl.col("output_reason").cast(pl.String),
        )
    )
    out: list[Episode] = []
    waiting: dict[tuple[int, int | None], Episode] = {}
    for row in told.iter_rows(named=True):
        key = (row["engine_run"], row["dp_rank"])
        at, before = row["ts"], waiting.pop(key, None)
        begin = at if before is None else before.begin_ns
        passes = None if before is None else before.wait_passes
        if row["output_allow"]:
            if row["wait"] is not None and row["count"] == 1:
                begin = at - row["wait"]
            if row["count"] == 1 and row["wait_passes"] is not None:
                passes = row["wait_passes"]
        else:
            passes = (passes or 0) + row["count"]
        episode = Episode(
            row["dp_rank"], begin, at, row["output_reason"], passes, row["num_prefillable"],
            row["actual_execution"], row["source_id"], row["line"],
        )  # fmt: skip
        if not row["output_allow"]:
            waiting[key] = episode
        elif begin < at or episode.reason not in NO_DELAY:
            out.append(episode)
    return sorted([*out, *waiting.values()], key=lambda e: e.end_ns)
