"""Files that hold the same stretch of one log: pieces that overlap, or the same log twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pdtrace.sources.scheduler_log.frames import CONTENT
from pdtrace.sources.spill import Spill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.sources.scheduler_log.state import LogState

_MIN_SHARE = 0.9  # of the rows of the common time; two engines share next to none


def drop_overlaps(states: Sequence[LogState]) -> dict[tuple[int, int], int]:
    """Drop the lines of a file that an earlier one holds too, stamp and figures alike.

    Args:
        states: The files as read; changed in place.

    Returns:
        Lines dropped, for each pair of files: the one that keeps them, and the one that lost them.
    """
    dropped: dict[tuple[int, int], int] = {}
    timed = [k for k, s in enumerate(states) if s.time_range is not None]
    timed.sort(key=lambda k: (states[k].time_range, k))
    for n, j in enumerate(timed):
        for i in timed[:n]:
            a, b = states[i], states[j]
            if a.rank_state.dp_ranks & b.rank_state.dp_ranks and a.overlap_ns(b) >= 0:
                num = _drop_rows(a, b)
                if num:
                    dropped[i, j] = num
                    _drop_notes(a, b)
    return dropped


def _drop_rows(a: LogState, b: LogState) -> int:
    """Drop the rows of ``b`` that ``a`` holds, if nearly all of their common time are such."""
    held, own = _name_rows(a.spill), _name_rows(b.spill)
    low, high = held["ts"].min(), held["ts"].max()
    # the last stamp may be shared by lines after the cut
    common = own.filter((pl.col("ts") > low) & (pl.col("ts") < high))
    is_copy = own.join(held, on=["key", "nth"], how="semi")
    if not is_copy.height or is_copy.height < _MIN_SHARE * common.height:
        return 0
    kept = Spill(b.spill.source, b.spill.source_id)
    lost = own.select("row").with_columns(
        pl.col("row").is_in(is_copy["row"].implode()).alias("is_lost")
    )["is_lost"]
    first = 0
    for chunk in b.spill:
        kept.append(chunk.filter(~lost.slice(first, chunk.height)))
        first += chunk.height
    kept.close()
    b.spill = kept
    rest = own.filter(~lost)["ts"].dt.timestamp("ns").to_numpy()
    b.time_range = (int(rest.min()), int(rest.max())) if rest.size else None
    return is_copy.height


def _name_rows(spill: Spill) -> pl.DataFrame:
    """Stamp, digest of all that was printed, and how often that came before, of each row."""
    parts = []
    for chunk in spill:
        printed = chunk.select(
            "ts", "dp_rank", pl.col("kind").to_physical(),
            *(
                pl.col(name) if name in chunk.columns else pl.lit(None, dtype=dtype).alias(name)
                for name, dtype in CONTENT
            ),
        )  # fmt: skip
        parts.append(chunk.select("ts").with_columns(printed.hash_rows().alias("key")))
    return (
        pl.concat(parts)
        .with_row_index("row")
        .with_columns(pl.int_range(pl.len()).over("key").alias("nth"))
    )


def _drop_notes(a: LogState, b: LogState) -> None:
    """Drop the requests, decisions and incidents of ``b`` that ``a`` holds."""
    requests = b.read_requests()
    told = [c for c in requests.columns if c not in ("source_id", "line", "engine_run")]
    held = a.read_requests().select(told)
    b.requests = [requests.join(held, on=told, how="anti", nulls_equal=True, maintain_order="left")]
    where = {"source_id", "line", "engine_run"}
    known = {tuple(v for k, v in d.items() if k not in where) for d in a.decisions}
    b.decisions = [
        d for d in b.decisions if tuple(v for k, v in d.items() if k not in where) not in known
    ]
    seen = {(i.kind, i.ts_ns, i.dp_rank, i.text) for i in a.incidents}
    b.incidents = [i for i in b.incidents if (i.kind, i.ts_ns, i.dp_rank, i.text) not in seen]
