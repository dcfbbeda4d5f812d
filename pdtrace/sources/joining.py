"""Puts what several sources read together: one recording, and one row a request."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from pdtrace.run import EngineInfo, Recording
from pdtrace.schema import COUNTERS, DECISIONS, REQUESTS, SOURCES
from pdtrace.sources.spill import EventChunks

if TYPE_CHECKING:
    from collections.abc import Sequence

# Whose word goes first for a stage: spans stamp to the nanosecond where it happens, the log's time
# statistics to a millisecond of the same clock, the client sees only the ends.
_EVIDENCE = ("otel_spans", "scheduler_log", "client_log", "prometheus", "fpm")
_FAR_S = 600.0
_MIN_COVERED = 0.8


def join_recordings(recordings: Sequence[Recording], *, engine: EngineInfo) -> Recording:
    """Put recordings of one engine by several sources together.

    Args:
        recordings: In the order of their files, the best source first.
        engine: What is known beside them, from the engine's own answers.

    Returns:
        All events merged by time, the rows of all sources; of the engine what the first source
        that knows it says. Which source's events become iterations is decided when they are built.
    """
    if len(recordings) == 1 and engine == EngineInfo():
        return recordings[0]
    events = EventChunks([s for r in recordings for s in _stores(r)])
    counters = pl.concat([COUNTERS.empty(), *(r.counters for r in recordings)])
    decisions = pl.concat([DECISIONS.empty(), *(r.decisions for r in recordings)])
    notes = _compare_clocks(recordings)
    note = _find_early_scrape(recordings, counters)
    if note:
        notes.append(note)
        decisions = decisions.filter(pl.col("source") != "prometheus")
    return Recording(
        engine=_join_engines([r.engine for r in recordings], engine),
        files=tuple(f for r in recordings for f in r.files),
        events=events,
        num_events=events.num_rows,
        requests=pl.concat([REQUESTS.empty(), *(r.requests for r in recordings)]),
        decisions=decisions,
        counters=counters,
        incidents=tuple(i for r in recordings for i in r.incidents),
        warnings=(*(w for r in recordings for w in r.warnings), *notes),
        seen_ranks=frozenset(rank for r in recordings for rank in r.seen_ranks),
    )


def _stores(recording: Recording) -> tuple[Any, ...]:
    assert isinstance(recording.events, EventChunks) or not recording.num_events
    return recording.events.stores if isinstance(recording.events, EventChunks) else ()


def _join_engines(infos: Sequence[EngineInfo], known: EngineInfo) -> EngineInfo:
    # the log says what the engine printed; its own answer goes before what others let infer
    order = [infos[0], known, *infos[1:]] if infos[0].server_args else [known, *infos]
    out = order[0]
    for other in order[1:]:
        missing: dict[str, Any] = {
            f.name: getattr(other, f.name)
            for f in fields(EngineInfo)
            if getattr(out, f.name) is None or getattr(out, f.name) == {}
        }
        if out.delayer.enabled is None:
            missing["delayer"] = other.delayer
        # the largest tag seen is a lower bound in each source
        bound = out.dp_size if out.dp_size_source == "tags" else None
        size = other.dp_size
        if bound and size and (other.dp_size_source != "tags" or size > bound):
            missing |= {"dp_size": other.dp_size, "dp_size_source": other.dp_size_source}
        out = replace(out, **missing)
    return out


def _compare_clocks(recordings: Sequence[Recording]) -> list[str]:
    """A log printed in another zone than it is read in lies hours beside the other sources."""
    ranges = {}
    for r in recordings:
        times = [
            (chunk["ts"].min(), chunk["ts"].max())
            for store in _stores(r)
            for chunk in store
            if chunk.height
        ]
        if times:
            name = r.files[0].source
            ranges[name] = (min(t[0] for t in times), max(t[1] for t in times))
    log = ranges.pop("scheduler_log", None)
    if log is None:
        return []
    out = []
    for name, (first, last) in ranges.items():
        apart = max((log[0] - last).total_seconds(), (first - log[1]).total_seconds())
        if apart > _FAR_S:
            out.append(
                f"the log's times and those of {name} are {apart / 3600:.1f} hours apart: another"
                " run, or local times in the log (then say --tz)"
            )
    return out


def _find_early_scrape(recordings: Sequence[Recording], counters: pl.DataFrame) -> str | None:
    """Why the counters are not those of this recording: scraped only before the load, say."""
    counted = counters.filter(
        (pl.col("counter") == "realtime_tokens_total")
        & pl.col("labels").str.contains("mode=prefill_compute", literal=True)
    )["growth"].sum()
    if not counters.height or not counted:
        return None
    seen = 0
    for r in recordings:
        seen = sum(int(chunk["num_new_tokens"].sum()) for s in _stores(r) for chunk in s)
        if seen:
            break
    if counted >= _MIN_COVERED * seen:
        return None
    return (
        f"the metrics count {counted:,.0f} prompt tokens where {recordings[0].files[0].source} has"
        f" {seen:,}: scraped before the end, or of another run; their delayer outcomes are left out"
    )


def join_requests(requests: pl.DataFrame) -> pl.DataFrame:
    """One row for each request, from the rows that several sources have of it.

    Rows belong together by request id (and by order of appearance, where a source has an id twice).
    Each stage is taken from the best source that knows it: spans, then the log's time statistics,
    then the client. ``sent`` and ``answered`` are by the client's clock; differences to other
    stages are of two clocks.

    Args:
        requests: Table ``requests``.

    Returns:
        Table ``requests`` (``source`` is the best of each row's) with a column ``sources``, the
        list of all that knew it, best first.
    """
    order = {name: i for i, name in enumerate(_EVIDENCE)}
    best = {"finished": 0, "failed": 1, "unfinished": 2}
    # a client's "received" is only its own sending time; it must not stand for the engine's
    is_client = pl.col("source") == "client_log"
    ranked = requests.with_columns(
        pl.col("source").cast(pl.String),
        pl.col("source").cast(pl.String).replace_strict(order, default=9).alias("_near"),
        pl.col("status").cast(pl.String).replace_strict(best, default=9).alias("_best"),
        pl.int_range(pl.len()).over("rid", "source").alias("_turn"),
        pl.when(is_client).then(None).otherwise(pl.col("received")).alias("_received"),
    ).sort("_near", maintain_order=True)
    stages = [c.name for c in REQUESTS if c.name not in ("rid", "source", "status", "received")]
    joined = ranked.group_by("rid", "_turn", maintain_order=True).agg(
        pl.col("source").unique(maintain_order=True).alias("sources"),
        pl.col("source").first(),
        pl.col("status").cast(pl.String).sort_by("_best").first(),
        pl.coalesce(
            pl.col("_received").drop_nulls().first(), pl.col("received").drop_nulls().first()
        ).alias("received"),
        *(pl.col(c).drop_nulls().first() for c in stages),
    )
    table = REQUESTS.conform(joined.with_columns(pl.col("source").cast(pl.Enum(SOURCES))))
    return table.with_columns(joined["sources"])
