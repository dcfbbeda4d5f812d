"""What a delay episode saved: its requests as they would have run had nobody waited for anybody.

Without the wait each request would have run in the first forward that began after it stood ready.
Both that sequence and the forwards that ran are priced by the same typical durations of the run,
so that the noise of single passes does not look like a gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.run import Run

    F64 = NDArray[np.float64]

FEWEST_PASSES = 20  # of a width, to have a curve of its own
FEWEST_ALIKE = 5  # of a size
PER_OCTAVE = 2  # sizes
MOST_ROUNDS = 64


@dataclass(frozen=True)
class TypicalDurations:
    """Median durations by the tokens of the busiest rank, for passes of one rank and of several.

    Attributes:
        alone, together: Tokens (log 2, ascending) and seconds.
        chunk: Tokens that a rank computes in one forward at most.
    """

    alone: tuple[F64, F64]
    together: tuple[F64, F64]
    chunk: int

    def price(self, tokens: F64, num_ranks: F64) -> F64:
        """Seconds of the forwards that compute these tokens on the busiest of so many ranks."""
        full, rest = np.divmod(np.maximum(tokens, 1.0), self.chunk)
        out = np.zeros(len(tokens))
        for (at, seconds), chosen in ((self.alone, num_ranks < 2), (self.together, num_ranks >= 2)):
            whole = np.interp(np.log2(self.chunk), at, seconds)
            part = np.interp(np.log2(np.maximum(rest, 1.0)), at, seconds) * (rest > 0)
            out = np.where(chosen, full * whole + part, out)
        return out

    def count(self, tokens: F64) -> F64:
        """Forwards that they take."""
        return np.ceil(np.maximum(tokens, 1.0) / self.chunk)


def read_typical_durations(run: Run) -> TypicalDurations | None:
    """The typical durations of a run, reading its parts once; None where no duration is known."""
    columns = ("duration", "max_rank_new_tokens", "fusion_width")
    frames = [part.iterations.select(columns).drop_nulls() for part in run]
    if not frames or not sum(f.height for f in frames):
        return None
    table = pl.concat(frames).select(
        (pl.col("duration").dt.total_nanoseconds() / 1e9).alias("s"),
        pl.col("max_rank_new_tokens").cast(pl.Float64).clip(1).log(2).alias("size"),
        (pl.col("fusion_width") >= 2).alias("together"),
    )
    every = _curve(table)
    curves = [
        _curve(mine)
        if (mine := table.filter(pl.col("together") == t)).height >= FEWEST_PASSES
        else every
        for t in (False, True)
    ]
    largest = int(2 ** float(str(table["size"].max())))
    return TypicalDurations(curves[0], curves[1], run.engine.chunked_prefill_size or largest)


def _curve(table: pl.DataFrame) -> tuple[F64, F64]:
    """Medians by size; sizes of which there are but a few passes, where one may be a stall, not."""
    near = (pl.col("size") * PER_OCTAVE).round()
    bins = table.group_by(near.alias("bin")).agg(pl.col("size", "s").median(), pl.len().alias("n"))
    usual = bins.filter(pl.col("n") >= min(FEWEST_ALIKE, int(str(bins["n"].max())))).sort("size")
    return usual["size"].to_numpy(), usual["s"].to_numpy()


def estimate_savings(
    members: pl.DataFrame, begins: F64, beside: F64, typical: TypicalDurations, num_ranks: int
) -> pl.DataFrame:
    """Estimate what each episode saved.

    Forwards that went on with other ranks' prompts in its course would have taken withheld requests
    along, so as many of the forwards that these would have needed are none that were saved.

    Args:
        members: A row for each request that ran in the iteration that ended its episode:
            ``episode``, ``dp_rank``, ``ready`` (s), ``tokens``.
        begins: When each episode began (s).
        beside: Forwards in the course of each.
        typical: Durations of the run's passes.
        num_ranks: DP ranks of the engine.

    Returns:
        ``episode``, ``num_saved_forwards``, ``saved_s``, ``saved_idle_rank_s``.
    """
    left = members
    clock = begins.copy()
    groups = [_forwards(members.clear(), typical, num_ranks)]
    for number in range(MOST_ROUNDS):
        if left.is_empty():
            break
        at = left["episode"].to_numpy()
        ready = left["ready"].to_numpy()
        # An idle engine takes the next request as soon as it is ready.
        earliest = np.full(len(begins), np.inf)
        np.minimum.at(earliest, at, ready)
        clock = np.maximum(clock, np.where(np.isfinite(earliest), earliest, clock))
        goes = (ready <= clock[at]) | (number == MOST_ROUNDS - 1)
        group = _forwards(left.filter(goes), typical, num_ranks)
        clock[group["episode"].to_numpy()] += group["s"].to_numpy()
        groups.append(group)
        left = left.filter(~goes)
    apart = pl.concat(groups).group_by("episode").agg(pl.col("num", "s", "idle_s").sum())
    along = pl.Series("beside", beside[apart["episode"].to_numpy()])
    left_over = (pl.col("num") - along).clip(lower_bound=1) / pl.col("num")
    apart = apart.with_columns(pl.col("num", "s", "idle_s") * left_over)
    return _difference(apart, _forwards(members, typical, num_ranks))


def _forwards(members: pl.DataFrame, typical: TypicalDurations, num_ranks: int) -> pl.DataFrame:
    """Forwards, seconds and idle rank-seconds if the requests of each episode run together."""
    ranks = members.group_by("episode", "dp_rank").agg(pl.col("tokens").sum())
    count = pl.Series("num", typical.count(ranks["tokens"].to_numpy().astype(float)))
    per = (
        ranks.with_columns(count)
        .group_by("episode")
        .agg(
            pl.col("tokens").max(),
            pl.len().alias("ranks"),
            pl.col("num").max(),
            pl.col("num").sum().alias("busy"),
        )
        .sort("episode")
    )
    seconds = typical.price(
        per["tokens"].to_numpy().astype(float), per["ranks"].to_numpy().astype(float)
    )
    idle = seconds * (num_ranks - (per["busy"] / per["num"]).to_numpy())
    return per.select("episode", "num").with_columns(
        pl.Series("s", seconds), pl.Series("idle_s", idle)
    )


def _difference(apart: pl.DataFrame, together: pl.DataFrame) -> pl.DataFrame:
    both = apart.join(together, on="episode", suffix="_now")
    return both.select(
        "episode",
        (pl.col("num") - pl.col("num_now")).round().cast(pl.Int32).alias("num_saved_forwards"),
        (pl.col("s") - pl.col("s_now")).alias("saved_s"),
        (pl.col("idle_s") - pl.col("idle_s_now")).alias("saved_idle_rank_s"),
    ).sort("episode")
