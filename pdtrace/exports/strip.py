"""The strip: rank × iteration in characters, over the stretch that lost most rank time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.run import build_rank_passes
from pdtrace.schema import ITERATIONS, RANK_PASSES
from pdtrace.wording import plural, seconds

if TYPE_CHECKING:
    from datetime import datetime

    from pdtrace.run import Part, Run

# Apart in shape, not in colour alone.
MARKS = {"prefill": "█", "idle": "·", "unknown": "?", "decode": "d"}
MAX_RANKS = 32


@dataclass(frozen=True)
class Strip:
    """A stretch of consecutive iterations.

    Attributes:
        rows: Rank → one mark per iteration.
        num_hidden: Ranks that are not shown.
        first, last: Iteration numbers.
        start, end: When the first began and the last ended.
        path, line: Where its first line stands, if known.
        num_idle, num_passes: Idle rank passes in it, of all.
        idle_seconds: Their time; None where durations are not known.
    """

    rows: dict[int, str]
    num_hidden: int
    first: int
    last: int
    start: datetime | None
    end: datetime
    path: str | None
    line: int | None
    num_idle: int
    num_passes: int
    idle_seconds: float | None


def find_worst_stretch(run: Run, length: int) -> Strip | None:
    """Find the iterations, ``length`` in a row, whose idle ranks lost most time.

    Idle ranks × duration is summed over a sliding window; where no duration is known, idle ranks
    are counted. The end of each part is carried into the next, so cuts between parts do not
    matter.

    Returns:
        The first such stretch, or None if no rank idled, or if it is most of the run anyway.
    """
    best_loss, best = (0, 0), None
    num_iterations = 0
    held: list[Part] = []
    for part in run:
        tail = pl.concat([ITERATIONS.empty(), *(p.iterations for p in held)]).tail(length - 1)
        iterations = pl.concat([tail, part.iterations])
        held.append(part)
        num_iterations += part.iterations.height
        loss, at = _worst_window(iterations, length)
        if loss > best_loss:
            best_loss = loss
            stretch = iterations.slice(at, length)
            best = stretch, pl.concat([_passes_of(stretch, p) for p in held])
        while len(held) > 1 and sum(p.iterations.height for p in held[1:]) >= length - 1:
            held.pop(0)
    if best is None or 2 * best[0].height > num_iterations:
        return None
    return _draw(run, *best)


def _passes_of(stretch: pl.DataFrame, part: Part) -> pl.DataFrame:
    # the grid of a whole part is large, and almost none of it is drawn
    inside = part.iterations.join(stretch.select("iteration"), on="iteration", how="semi")
    if inside.is_empty():
        return RANK_PASSES.empty()
    events = part.select(
        "iteration",
        "dp_rank",
        "event_id",
        "source_id",
        "line",
        "num_new_seqs",
        "num_new_tokens",
        "kind",
    )
    return build_rank_passes(events, inside)


def _worst_window(iterations: pl.DataFrame, length: int) -> tuple[tuple[int, int], int]:
    if iterations.is_empty():
        return (0, 0), 0
    idle = iterations["num_idle_ranks"].cast(pl.Int64).to_numpy()
    ns = iterations["duration"].cast(pl.Int64).fill_null(0).to_numpy()
    size = min(length, len(idle))

    def sums(values: np.ndarray) -> np.ndarray:
        running = np.concatenate(([0], np.cumsum(values)))
        return running[size:] - running[:-size]

    times, counts = sums(idle * ns), sums(idle)
    at = int(np.argmax(times if times.any() else counts))
    return (int(times[at]), int(counts[at])), at


def _draw(run: Run, iterations: pl.DataFrame, passes: pl.DataFrame) -> Strip:
    idle = passes.filter(pl.col("role") == "idle")
    timed = idle["duration"].drop_nulls()
    first, last = iterations.row(0, named=True), iterations.row(-1, named=True)
    lines = passes.filter(
        pl.col("iteration") == first["iteration"], pl.col("line").is_not_null()
    ).sort("source_id", "line")
    source_id, line = lines.select("source_id", "line").row(0) if lines.height else (None, None)
    by_rank = passes.group_by("dp_rank").agg(
        pl.col("role").cast(pl.String).replace_strict(MARKS).sort_by("iteration").str.join(""),
        (pl.col("role") == "idle").sum().alias("idle"),
    )
    shown = by_rank.sort("idle", "dp_rank", descending=[True, False]).head(MAX_RANKS)
    return Strip(
        rows=dict(shown.sort("dp_rank").select("dp_rank", "role").iter_rows()),
        num_hidden=by_rank.height - shown.height,
        first=first["iteration"],
        last=last["iteration"],
        start=first["start"],
        end=last["end"],
        path=run.files[source_id].path if source_id is not None else None,
        line=line,
        num_idle=idle.height,
        num_passes=passes.height,
        idle_seconds=int(timed.cast(pl.Int64).sum()) / 1e9 if len(timed) else None,
    )


def strip_heading(strip: Strip) -> str:
    """One line about the worst stretch: which iterations, when, what idled, where to look."""
    when = ""
    if strip.start is not None:
        when = f", {strip.start:%Y-%m-%d %H:%M:%S} to {strip.end:%H:%M:%S} UTC"
    lost = f"{strip.num_idle:,} of {plural(strip.num_passes, 'rank pass')} idle"
    if strip.idle_seconds is not None:
        lost += f" ({seconds(strip.idle_seconds)})"
    return f"iterations {strip.first:,}–{strip.last:,}{when}: {lost}"


def strip_place(strip: Strip) -> str:
    """Where the first line of the stretch stands; empty if it has none."""
    return "" if strip.path is None else f"first line {strip.path}:{strip.line}"


def strip_legend(strip: Strip) -> str:
    """What the marks mean, those that occur, and ranks that are not shown."""
    text = "".join(strip.rows.values())
    legend = "  ".join(f"{mark} {role}" for role, mark in MARKS.items() if mark in text)
    if strip.num_hidden:
        legend += f"   ({plural(strip.num_hidden, 'rank')} that idled less not shown)"
    return f"{legend}   one column: one iteration"
