"""Where to look first: the worst iteration of a run, as a line of its log."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.check.verdicts import Where
from pdtrace.compare.passes import read_passes

if TYPE_CHECKING:
    from pdtrace.run import Run

SURVIVED = timedelta(seconds=10)


def find_worst(run: Run) -> Where | None:
    """The iteration in which idle ranks waited longest, stalls left out; else the longest.

    Without durations, the first with most idle ranks. None where no iteration prefilled.
    """
    passes = read_passes(run)
    ran = (passes.width > 0) & ~passes.is_stall
    if not ran.any():
        return None
    took = np.where(np.isfinite(passes.duration), passes.duration, 0.0)
    cost = passes.idle * (took if took[ran].any() else 1.0)
    if not cost[ran].any():
        cost = took
    row = int(np.argmax(np.where(ran, cost, -1.0)))
    number = int(run.iterations["iteration"][row])
    seen = run.rank_passes.filter(
        (pl.col("iteration") == number) & (pl.col("role").cast(pl.String) == "prefill")
    )
    if seen.is_empty():
        return None
    # of several lines that of the rank with most tokens: it made the others wait
    first = seen.sort("num_new_tokens", descending=True, nulls_last=True).row(0, named=True)
    width, size, idle = (int(x[row]) for x in (passes.width, passes.dp_size, passes.idle))
    label = run.iterations["forward_iter"][row]
    text = f"{width} of {size} ranks prefilled"
    if label is not None and label != number:
        text = f"[{label}] in the log, {text}"  # the engine's own count, which the line shows
    if idle:
        text += f", {idle} idle"
    if np.isfinite(passes.duration[row]):
        text += f" for {1000 * passes.duration[row]:.0f} ms"
    return Where(_file(run, first["source_id"]), first["line"], number, first["dp_rank"], text)


def find_crash(run: Run) -> Where | None:
    """The line on which the engine died, and its last iteration; None if it did not.

    A traceback after which it goes on, ``SURVIVED`` later at least, is no death.
    """
    crash = next((i for i in run.incidents if i.kind == "crash"), None)
    if crash is None:
        return None
    later = (pl.col("source_id") == crash.source_id) & (pl.col("line") > crash.line)
    if crash.ts_ns is not None:
        later &= pl.col("ts").dt.epoch("ns") > crash.ts_ns + SURVIVED.total_seconds() * 1e9
    if any(part.events.filter(later).height for part in run):
        return None
    last = run.iterations["iteration"].max()
    number = int(last) if isinstance(last, int) else 0
    return Where(
        _file(run, crash.source_id),
        crash.line,
        number,
        crash.dp_rank,
        "the last of an engine that died",
    )


def _file(run: Run, source_id: int | None) -> str:
    if source_id is None or source_id >= len(run.files):
        return run.files[0].path if run.files else ""
    return run.files[source_id].path
