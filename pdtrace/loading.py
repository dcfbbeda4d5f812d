"""From paths to a run: read the sources, rebuild the iterations; or open a saved run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from pdtrace.errors import NothingMeasuredError, UsageError
from pdtrace.run import Recording, Run
from pdtrace.saved_run import is_saved_run, load_run
from pdtrace.sources.formats import MAX_RANKS
from pdtrace.untrusted import shorten
from pdtrace.wording import name_ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

MOST_COMPARED = 400_000
MOST_INFERRED = 10_000


@dataclass(frozen=True)
class SavedEvents:
    """The events of a run part by part, as they were before its iterations were rebuilt.

    ``has_labels`` off: as if the engine had not printed its iteration labels.
    """

    run: Run
    has_labels: bool = True

    def __iter__(self) -> Iterator[pl.DataFrame]:
        for part in self.run:
            events = part.events.with_columns(pl.lit(None, pl.UInt32).alias("iteration"))
            if not self.has_labels:
                events = events.with_columns(pl.lit(None, pl.Int64).alias("forward_iter"))
            yield events


def load(
    *paths: str | Path,
    sources: Sequence[str] | None = None,
    dp_size: int | None = None,
    tz: str = "UTC",
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Load one engine's recording and rebuild its iterations.

    Args:
        paths: Log files (plain, .gz, .zst, ``-`` for standard input), run directories, or one
            directory that :func:`pdtrace.save_run` wrote.
        sources: Names of the sources to use; all if not given.
        dp_size: DP ranks of the engine, where the input does not say it.
        tz: Time zone of the log's time stamps.
        progress: Called with bytes done and bytes in all.

    Returns:
        The run. It may hold no iteration at all; :func:`reason_for_nothing` then says why.

    Raises:
        UsageError: An argument does not make sense.
        InputError: A path cannot be read.
    """
    if not paths:
        raise UsageError("name at least one log file or run directory")
    if dp_size is not None and not 1 <= dp_size <= MAX_RANKS:
        raise UsageError(
            f"the number of DP ranks must be from 1 to {MAX_RANKS}, not {shorten(str(dp_size))}"
        )
    if any(is_saved_run(p) for p in paths):
        if len(paths) > 1:
            raise UsageError("a saved run stands alone: name it without further paths")
        if sources:
            raise UsageError("a saved run cannot be limited to sources; name its log instead")
        run = load_run(paths[0])
        if dp_size is None or dp_size == run.dp_size:
            return _explain(run)
        from pdtrace.iterations import build_run  # noqa: PLC0415 (compiled kernels: slow to import)

        return _explain(_check_size(build_run(as_recording(run), dp_size=dp_size), dp_size))

    from pdtrace.iterations import build_run  # noqa: PLC0415 (likewise)
    from pdtrace.sources import read  # noqa: PLC0415 (likewise)

    recording = read(
        [str(p) for p in paths], sources=sources, dp_size=dp_size, tz=tz, progress=progress
    )
    return _explain(_check_size(build_run(recording, dp_size=dp_size), dp_size))


def _check_size(run: Run, given: int | None) -> Run:
    """Hold the number of ranks that was given against what the input says.

    Raises:
        UsageError: There are more ranks in it.
    """
    from pdtrace.sources.scheduler_log.server_args import count_dp_ranks  # noqa: PLC0415 (likewise)

    if given is None:
        return run
    if run.dp_size > given:
        raise UsageError(
            f"--dp-size {given}: the input has batches of DP rank {run.dp_size - 1}, so the engine "
            f"has {run.dp_size} ranks or more"
        )
    printed = count_dp_ranks(run.engine.server_args)
    if printed is None or printed == given:
        return run
    note = f"--dp-size {given} is used, though the engine's own server_args say {printed}"
    return replace(run, warnings=(note, *run.warnings))


def _explain(run: Run) -> Run:
    """Follow its requests and its idle passes, where a source knows requests."""
    if run.requests.is_empty():
        return run
    from pdtrace.joined import explain_run  # noqa: PLC0415 (not needed for a log alone)
    from pdtrace.sources.joining import join_requests  # noqa: PLC0415 (likewise)

    return explain_run(run, join_requests(run.requests))


def as_recording(run: Run) -> Recording:
    """A run as it was read, to rebuild its iterations with other settings."""
    return Recording(
        engine=run.engine,
        files=run.files,
        events=SavedEvents(run),
        num_events=sum(part.events.height for part in run),
        requests=run.requests,
        decisions=run.decisions,
        counters=run.counters,
        incidents=run.incidents,
        warnings=run.warnings,
        seen_ranks=frozenset(range(run.dp_size)) - set(run.missing_ranks),
    )


def compare_sources(run: Run) -> Run:
    """Rebuild the iterations from the other sources, and compare what each of them says.

    Args:
        run: A run.

    Returns:
        The run with its table ``agreement``; as it is where there is but one source, where nothing
        was measured, or where the recording is too long to be rebuilt for a check.
    """
    kinds = {f.source for f in run.files}
    num_events = sum(f.num_events for f in run.files)
    if len(kinds) < 2 or run.grouping == "none" or num_events > MOST_COMPARED:
        return run
    from pdtrace.iterations import build_run  # noqa: PLC0415 (compiled kernels: slow to import)
    from pdtrace.joined.agreement import check_agreement  # noqa: PLC0415 (only where asked)
    from pdtrace.sources.joining import join_requests  # noqa: PLC0415 (likewise)

    recording = as_recording(run)
    others: dict[str, tuple[Run, bool]] = {}
    if run.grouping != "span" and any(f.source == "otel_spans" and f.num_events for f in run.files):
        files = tuple(
            f if f.source == "otel_spans" else replace(f, num_events=0) for f in run.files
        )
        spans = build_run(replace(recording, files=files), dp_size=run.dp_size)
        if spans.grouping == "span":
            others["spans"] = spans, True
    # With many ranks the search over times is slow.
    is_quick = run.dp_size <= 2 or run.dp_size * num_events <= MOST_INFERRED
    if run.grouping == "label" and is_quick:
        blank = replace(recording, events=SavedEvents(run, has_labels=False))
        times = build_run(blank, dp_size=run.dp_size)
        if times.grouping != "none":
            others["times alone"] = times, False
    table = check_agreement(run, join_requests(run.requests), others)
    return replace(run, agreement=table)


def reason_against_replay(run: Run) -> NothingMeasuredError | None:
    """Why the load of a run cannot be replayed, as the error to end with; None if it can."""
    if not run.missing_ranks or run.grouping == "span":
        return None
    why = (
        f"nothing was read of DP {name_ranks(run.missing_ranks)}, and so of the load only a part: "
        "name the logs of all ranks together, or the spans"
    )
    return NothingMeasuredError(why, path=run.files[0].path if run.files else None)


def reason_for_nothing(run: Run) -> NothingMeasuredError | None:
    """Why nothing of prefill was found in a run, as the error to end with; None if some was.

    Batches that could not be put into iterations still tell tokens, queues and usage.
    """
    for part in run:
        if (part.events["kind"] == "prefill").any():
            return None
    path = run.files[0].path if run.files else None
    if run.engine.role == "decode":
        why = "nothing to measure: this is a decode engine's log; name its prefill engine's"
    elif run.engine.release_min == run.engine.release_max == "0.5.9":
        why = "nothing to measure: a prefill engine of release 0.5.9 prints no Prefill batch line"
    else:
        why = (
            "nothing to measure: no Prefill batch line was found; name the log of a prefill engine "
            "at log level info"
        )
    return NothingMeasuredError(why, path=path)
