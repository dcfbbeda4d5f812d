"""A run: what is known of one engine's recording, as frozen facts and tables.

A big recording does not fit in memory, so a run holds its tables as *parts*: stretches of time,
each with its events and iterations, in memory or spilled. No iteration crosses parts, so whatever
is measured part by part merges by addition.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import polars as pl

from pdtrace.schema import (
    AGREEMENT,
    COUNTERS,
    DECISIONS,
    DELAY_EPISODES,
    EVENTS,
    ITERATIONS,
    RANK_PASSES,
    REQUEST_STAGES,
    REQUESTS,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator


@dataclass(frozen=True)
class SourceFile:
    """One input file and what reading it gave.

    Attributes:
        path: As the user named it (untrusted text).
        source: Which reader took it (``schema.SOURCES``).
        num_bytes: Bytes read, before decompression.
        num_lines: Lines, where the format has lines.
        num_events: Rows of ``events`` it gave.
        skipped: Reason → lines that looked like ours and could not be used.
    """

    path: str
    source: str
    num_bytes: int
    num_lines: int | None = None
    num_events: int = 0
    skipped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DelayerInfo:
    """The delayer as the engine says it runs; None where nothing says it."""

    enabled: bool | None = None
    max_delay_passes: int | None = None
    token_usage_low_watermark: float | None = None
    queue_min_ratio: float | None = None
    max_delay_ms: float | None = None


@dataclass(frozen=True)
class EngineInfo:
    """What the recording says of the engine; None where nothing says it.

    Attributes:
        engine: The serving engine.
        release_min, release_max: The releases whose format fits the log; equal when the input names
            the release itself.
        dp_size: DP ranks (``dp_size`` × ``attn_dp_size`` from 0.5.22).
        dp_size_source: ``server_args``, ``option`` or ``tags`` (largest tag + 1, a lower bound).
        role: ``prefill``, ``decode`` or ``null`` (unified).
        lock_step: Whether all ranks run the same forwards; None if nothing says so.
        has_ms: Whether the lines print milliseconds.
        prints_after_result: Prefill lines come after the result (0.5.10 on), not before the launch.
        server_args: The settings as printed, values as text.
    """

    engine: str = "sglang"
    release_min: str | None = None
    release_max: str | None = None
    dp_size: int | None = None
    dp_size_source: str | None = None
    tp_size: int | None = None
    ep_size: int | None = None
    pp_size: int | None = None
    role: str | None = None
    enable_dp_attention: bool | None = None
    lock_step: bool | None = None
    chunked_prefill_size: int | None = None
    max_running_requests: int | None = None
    max_total_num_tokens: int | None = None
    disable_overlap_schedule: bool | None = None
    model_path: str | None = None
    has_ms: bool | None = None
    prints_after_result: bool | None = None
    delayer: DelayerInfo = field(default_factory=DelayerInfo)
    server_args: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Incident:
    """Something the engine reported: a flush, a crash, a start, a failed transfer.

    ``kind`` is one of ``start``, ``ready``, ``warmup_start``, ``warmup_end``, ``flush``,
    ``flush_refused``, ``crash``, ``watchdog``, ``sigquit``, ``bootstrap_failed``,
    ``transfer_failed``, ``health_check``.
    """

    kind: str
    ts_ns: int | None
    source_id: int
    line: int
    dp_rank: int | None
    engine_run: int
    text: str


@runtime_checkable
class StoredEvents(Protocol):
    """Events that were put away, and of which any stretch and any columns can be read again."""

    def read(self, columns: Collection[str] | None = None) -> Iterator[pl.DataFrame]:
        """All chunks in order; all columns, or ``event_id`` and the named ones."""

    def rows(self, first: int, height: int, columns: Collection[str] | None = None) -> pl.DataFrame:
        """``height`` rows from ``first`` on, columns likewise."""


@dataclass(frozen=True)
class Recording:
    """What the sources read, before any iteration is rebuilt.

    Attributes:
        engine: Facts of the engine.
        files: Input files, indexed by ``source_id``.
        events: Chunks of the ``events`` table, each as read, together in order of time up to a few
            seconds' disorder between files; a chunk may be read from a spill when asked for.
        num_events: Rows over all chunks.
        requests: ``requests`` rows that the sources gave.
        decisions: ``decisions`` rows that the sources gave.
        counters: ``counters`` rows that the sources gave.
        incidents: In order of reading.
        warnings: One line each, for the report; the worst first.
        seen_ranks: DP ranks of which the log has any line at all.
    """

    engine: EngineInfo
    files: tuple[SourceFile, ...]
    events: Iterable[pl.DataFrame]
    num_events: int
    requests: pl.DataFrame = field(default_factory=REQUESTS.empty)
    decisions: pl.DataFrame = field(default_factory=DECISIONS.empty)
    incidents: tuple[Incident, ...] = ()
    warnings: tuple[str, ...] = ()
    counters: pl.DataFrame = field(default_factory=COUNTERS.empty)
    seen_ranks: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Part:
    """A stretch of a run: ``events`` with their ``iteration`` set, and its whole iterations.

    ``causes``, where known, says why ranks idled: ``iteration``, ``dp_rank``, ``cause``,
    ``cause_detail``.
    """

    events: pl.DataFrame
    iterations: pl.DataFrame
    causes: pl.DataFrame | None = None

    def select(self, *columns: str) -> pl.DataFrame:
        """Some columns of ``events``; a part that was put away reads no others."""
        return self.events.select(columns)

    @cached_property
    def rank_passes(self) -> pl.DataFrame:
        """The complete grid of this part's iterations × DP ranks (table ``rank_passes``)."""
        grid = build_rank_passes(self.events, self.iterations)
        if self.causes is None:
            return grid
        keys = ["iteration", "dp_rank"]
        names = ("cause", "cause_detail")
        grid = grid.drop(names).join(self.causes, on=keys, how="left", maintain_order="left")
        idle = pl.col("role").cast(pl.String) == "idle"
        return RANK_PASSES.conform(grid.with_columns(pl.when(idle).then(pl.col(n)) for n in names))


def build_rank_passes(events: pl.DataFrame, iterations: pl.DataFrame) -> pl.DataFrame:
    """Lay iterations × ranks out as a complete grid; a silent rank becomes idle, or unknown.

    A rank without a line in an iteration ran an idle batch, because every rank of an engine in
    lock-step runs every forward; that is inferred, not observed. Where the iteration counts unknown
    ranks, the ranks without a line anywhere in ``events`` are unknown first, then all silent ones.

    Args:
        events: Table ``events`` with ``iteration`` set; rows without one are left out.
        iterations: Table ``iterations``.

    Returns:
        Table ``rank_passes``, ordered by iteration and rank.
    """
    grid = iterations.select(
        "iteration",
        pl.int_ranges(0, pl.col("dp_size"), dtype=pl.UInt16).alias("dp_rank"),
        "start",
        "duration",
        "confidence",
        (pl.col("num_unknown_ranks") > 0).alias("_some_unknown"),
        (pl.col("num_idle_ranks") == 0).alias("_no_idle"),
    ).explode("dp_rank")
    seen = events.filter(pl.col("iteration").is_not_null()).select(
        "iteration",
        "dp_rank",
        "event_id",
        "source_id",
        "line",
        "num_new_seqs",
        "num_new_tokens",
        pl.col("kind").cast(pl.String),
    )
    out = grid.join(seen, on=["iteration", "dp_rank"], how="left", maintain_order="left")
    heard = seen["dp_rank"].unique().implode()
    unknown = pl.col("_some_unknown") & (pl.col("_no_idle") | ~pl.col("dp_rank").is_in(heard))
    silent = pl.when(unknown).then(pl.lit("unknown")).otherwise(pl.lit("idle"))
    return RANK_PASSES.conform(
        out.with_columns(
            pl.coalesce("kind", silent).alias("role"),
            pl.col("kind").is_not_null().alias("is_observed"),
        )
    )


def count_rank_passes(events: pl.DataFrame, iterations: pl.DataFrame) -> pl.DataFrame:
    """Passes, time and tokens by rank and role: ``build_rank_passes`` added up, without its grid.

    Args:
        events: Table ``events`` with ``iteration`` set.
        iterations: Table ``iterations``.

    Returns:
        ``dp_rank``, ``role`` (text), ``passes``, ``ns`` and ``tokens``, in no particular order.
    """
    some_unknown = pl.col("num_unknown_ranks") > 0
    kinds = iterations.select(
        "iteration",
        "dp_size",
        pl.col("duration").cast(pl.Int64).alias("ns"),
        some_unknown.alias("some_unknown"),
        (some_unknown & (pl.col("num_idle_ranks") == 0)).alias("all_unknown"),
    )
    every = kinds.group_by("dp_size", "some_unknown", "all_unknown").agg(
        pl.len().alias("passes"), pl.col("ns").sum()
    )
    seen = (
        events.lazy()
        .filter(pl.col("iteration").is_not_null())
        .select("iteration", "dp_rank", "kind", pl.col("num_new_tokens").cast(pl.Int64))
        .join(kinds.lazy(), on="iteration")
        .group_by("dp_rank", "kind", "dp_size", "some_unknown", "all_unknown")
        .agg(pl.len().alias("passes"), pl.col("ns").sum(), pl.col("num_new_tokens").sum())
        .filter(pl.col("dp_rank") < pl.col("dp_size"))
        .collect()
    )
    # what is left of the grid after the passes that were seen is silent
    ranks = every.select(
        pl.all(), pl.int_ranges(0, pl.col("dp_size"), dtype=pl.UInt16).alias("dp_rank")
    ).explode("dp_rank")
    of_kind = ["dp_rank", "dp_size", "some_unknown", "all_unknown"]
    heard = seen["dp_rank"].unique().implode()
    unknown = pl.col("some_unknown") & (pl.col("all_unknown") | ~pl.col("dp_rank").is_in(heard))
    silent = ranks.join(
        seen.group_by(of_kind).agg(pl.col("passes", "ns").sum()), on=of_kind, how="left"
    ).select(
        "dp_rank",
        pl.when(unknown).then(pl.lit("unknown")).otherwise(pl.lit("idle")).alias("role"),
        (pl.col("passes").cast(pl.Int64) - pl.col("passes_right").fill_null(0)).alias("passes"),
        (pl.col("ns") - pl.col("ns_right").fill_null(0)).alias("ns"),
        pl.lit(0, pl.Int64).alias("tokens"),
    )
    working = seen.select(
        "dp_rank",
        pl.col("kind").cast(pl.String).alias("role"),
        pl.col("passes").cast(pl.Int64),
        "ns",
        pl.col("num_new_tokens").alias("tokens"),
    )
    return (
        pl.concat([working, silent.filter(pl.col("passes") > 0)])
        .group_by("dp_rank", "role")
        .agg(pl.col("passes", "ns", "tokens").sum())
    )


@dataclass(frozen=True)
class Run:
    """One engine's recording with its iterations rebuilt.

    Attributes:
        engine, files, requests, decisions, incidents, warnings: As in ``Recording``.
        parts: The stretches, in order of time; iterating may read them from a spill.
        dp_size: Ranks that the grid was built for.
        grouping: How most iterations were put together (``schema.GROUPINGS``), or ``none``.
        counters: As in ``Recording``.
        missing_ranks: DP ranks of which nothing was read: whether they prefilled is not known, so
            no iteration has a known width.
        stages: Table ``request_stages``; empty where no source knows requests.
        agreement: Table ``agreement``; empty before the sources were compared.
        episodes: Table ``delay_episodes`` without its costs; empty where no source knows requests.
    """

    engine: EngineInfo
    files: tuple[SourceFile, ...]
    parts: Iterable[Part]
    requests: pl.DataFrame
    decisions: pl.DataFrame
    incidents: tuple[Incident, ...]
    warnings: tuple[str, ...]
    dp_size: int
    grouping: str
    counters: pl.DataFrame = field(default_factory=COUNTERS.empty)
    missing_ranks: tuple[int, ...] = ()
    stages: pl.DataFrame = field(default_factory=REQUEST_STAGES.empty)
    agreement: pl.DataFrame = field(default_factory=AGREEMENT.empty)
    episodes: pl.DataFrame = field(default_factory=DELAY_EPISODES.empty)

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)

    @property
    def events(self) -> pl.DataFrame:
        """Table ``events`` of the whole run, in memory."""
        return pl.concat([EVENTS.empty(), *(p.events for p in self.parts)])

    @property
    def iterations(self) -> pl.DataFrame:
        """Table ``iterations`` of the whole run, in memory."""
        return pl.concat([ITERATIONS.empty(), *(p.iterations for p in self.parts)])

    @property
    def rank_passes(self) -> pl.DataFrame:
        """Table ``rank_passes`` of the whole run, in memory."""
        return pl.concat([RANK_PASSES.empty(), *(p.rank_passes for p in self.parts)])
