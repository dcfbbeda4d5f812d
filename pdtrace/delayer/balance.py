"""The balance of the ledger: what the engine counted beside what was rebuilt of its waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.delayer.rules import rules_for
from pdtrace.errors import UsageError
from pdtrace.schema import DELAY_EPISODES

if TYPE_CHECKING:
    from pdtrace.run import Run

UNCOUNTED = "neither the engine's counters (metrics_before/after) nor debug lines tell it"
NO_REQUESTS = (
    "no source knows requests, so it is not known when waits began, nor which ended with all ranks "
    "ready; spans or request time stats (--enable-request-time-stats-logging) tell it"
)
LATE_CHUNKS = (
    "from 0.5.17 on a pass on which one rank goes on with a chunk, and nobody else has a request, "
    "counts as delayed too; it withholds nothing and is not rebuilt"
)
FROM_REFUSAL = "the engine counts from the first refusal, which may lie behind a forward"


@dataclass(frozen=True)
class Entry:
    """One line of the balance: a quantity as the engine counts it and as it was rebuilt.

    Attributes:
        what: The quantity.
        unit: Of both.
        counted: By the engine; None where it does not say.
        counted_by: Where that is from.
        rebuilt: From the episodes; None where they cannot tell.
        note: What explains a difference, or is missing.
    """

    what: str
    unit: str
    counted: float | None
    counted_by: str | None
    rebuilt: float | None
    note: str | None = None

    @property
    def difference(self) -> float | None:
        """Rebuilt − counted."""
        if self.counted is None or self.rebuilt is None:
            return None
        return self.rebuilt - self.counted


def build_balance(run: Run, episodes: pl.DataFrame | None, *, is_whole: bool) -> tuple[Entry, ...]:
    """What the engine counted beside what was rebuilt."""
    counters = run.decisions.filter(pl.col("source").cast(pl.String) == "prometheus")
    lines = run.decisions.filter(pl.col("source").cast(pl.String) == "scheduler_log")
    ended = (
        pl.Series([], dtype=pl.String) if episodes is None else episodes["ended_by"].cast(pl.String)
    )
    out = []
    for what, outcome, how, unit in (
        ("delay passes", "delay", None, "passes"),
        ("waits that ended with all ranks ready", "wait_success", "fused", "waits"),
        ("waits that ran out", "wait_timeout", "timeout", "waits"),
    ):
        counted, by, note = None, None, None
        if counters.height:
            counted, by = _count(counters, outcome), "engine counters"
        elif outcome == "wait_timeout" and lines.height:
            counted, by = _count(lines, outcome), "debug lines"
        rebuilt: float | None = None
        if episodes is not None and how is None and is_whole:
            rebuilt = float(episodes["num_delay_passes"].sum())
            note = _note_of_passes(episodes, run)
        elif episodes is not None and how is not None and (is_whole or how == "timeout"):
            rebuilt = float((ended == how).sum())
        elif episodes is not None:
            note = NO_REQUESTS
        if counted is not None or rebuilt is not None:
            out.append(
                Entry(what, unit, counted, by, rebuilt, note if counted is not None else UNCOUNTED)
            )
    waits = counters.filter(pl.col("wait").is_not_null())
    if waits.height:
        per = waits.group_by("dp_rank").agg(pl.col("wait").cast(pl.Int64).sum())
        seconds = float(str(per["wait"].max())) / 1e9
        mine = None
        if episodes is not None and is_whole:
            mine = float(episodes["wait"].dt.total_nanoseconds().sum()) / 1e9
        out.append(Entry("time waited", "s", seconds, "engine histogram", mine, FROM_REFUSAL))
    return tuple(out)


def _note_of_passes(episodes: pl.DataFrame, run: Run) -> str:
    by = dict(
        episodes.group_by(pl.col("passes_source").cast(pl.String))
        .agg(pl.col("num_delay_passes").sum())
        .iter_rows()
    )
    most = run.engine.delayer.max_delay_passes
    texts = {
        "limit": f"by rule, {(most or 1) - 1} for each wait that ran out",
        "counted": "from the counters between two scrapes",
        "estimated": "estimated from time",
    }
    said = [f"{by[name]:,} {text}" for name, text in texts.items() if by.get(name)]
    if _is_late(run.engine.release_min):
        said.append(LATE_CHUNKS)
    return "; ".join(said) or "no wait was found"


def _is_late(release: str | None) -> bool:
    """Whether a rank in mid-chunk counts as one that could prefill."""
    try:
        return release is not None and rules_for(release).mid_chunk_asks
    except UsageError:
        return False


def _count(decisions: pl.DataFrame, reason: str) -> float:
    """Passes with this outcome. All ranks reach the same one, so the rank that saw most counts."""
    mine = decisions.filter(pl.col("output_reason").cast(pl.String) == reason)
    per = mine.group_by("dp_rank").agg(pl.col("count").sum())
    return float(str(per["count"].max() or 0))


def count_alone(episodes: pl.DataFrame, run: Run) -> pl.DataFrame:
    """Take passes from the counters where two scrapes hold one wait whose number is not known."""
    scrapes = (
        run.decisions.filter(
            pl.col("source").cast(pl.String) == "prometheus",
            pl.col("output_reason").cast(pl.String) == "delay",
            pl.col("ts").is_not_null(),
        )
        .group_by("ts", "dp_rank")
        .agg(pl.col("count").sum())
        .group_by("ts")
        .agg(pl.col("count").max())
        .sort("ts")
    )
    if scrapes.height < 2 or episodes.is_empty():
        return episodes
    ts = scrapes["ts"].dt.epoch("ns").to_numpy()
    begin, end = (episodes[c].dt.epoch("ns").to_numpy() for c in ("begin", "end"))
    inside = np.searchsorted(ts, end)
    straddles = np.searchsorted(ts, begin) != inside
    spoilt = np.unique(np.r_[inside[straddles], np.searchsorted(ts, begin)[straddles], 0])
    known = (episodes["passes_source"].cast(pl.String) == "limit").to_numpy()
    passes = episodes["num_delay_passes"].fill_null(0).to_numpy().astype(np.int64)
    size = len(ts) + 1
    told = np.bincount(inside[known], passes[known], size)
    num_open = np.bincount(inside[~known], minlength=size)
    rest = np.r_[scrapes["count"].to_numpy().astype(np.int64), 0] - told
    fits = ~known & (num_open[inside] == 1) & (rest[inside] >= 1) & ~np.isin(inside, spoilt)
    fits &= inside < len(ts)
    return episodes.with_columns(
        pl.Series("num_delay_passes", np.where(fits, rest[inside], passes).astype(np.uint32)),
        pl.when(pl.Series(fits))
        .then(pl.lit("counted"))
        .otherwise(pl.col("passes_source").cast(pl.String))
        .cast(DELAY_EPISODES.schema["passes_source"])
        .alias("passes_source"),
    )
