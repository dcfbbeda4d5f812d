"""Reads scheduler logs: one or several files of one engine → ``Recording``."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import polars as pl

from pdtrace.errors import InputError, UsageError
from pdtrace.run import EngineInfo, Recording, SourceFile
from pdtrace.schema import DECISIONS, REQUESTS
from pdtrace.sources.scheduler_log import server_args as sa
from pdtrace.sources.scheduler_log.blocks import (
    SMALL_BYTES,
    Found,
    LastLine,
    parse_blocks,
    read_plain,
)
from pdtrace.sources.scheduler_log.clock import Clock
from pdtrace.sources.scheduler_log.overlaps import drop_overlaps
from pdtrace.sources.scheduler_log.reference import EMBEDDED
from pdtrace.sources.scheduler_log.state import COPIES, LogState
from pdtrace.sources.scheduler_log.wrappers import Unwrapper
from pdtrace.sources.spill import EventChunks
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from pdtrace.sources.formats import ReadOptions
    from pdtrace.sources.inputs import Input
    from pdtrace.sources.scheduler_log.engine import EngineFacts

# Whatever a rank prints has its tag, from start-up on: it shows that its lines are in the file.
_TAG = re.compile(rb"(?m)^\[[-0-9T:,. ]{19,32} DP(\d{1,4}) ")
_TAGGED_BYTES = 4_000_000  # start-up is over long before
_CUT_NS = 50_000_000  # ranks write this much out of order where a log is cut
_FOREIGN_BATCH = re.compile(rb"(?:Prefill|Decode) batch(?: \[\d+\])?[.,] #")


def read_logs(inputs: Sequence[Input], options: ReadOptions) -> Recording:
    """Read the scheduler logs of one engine; several files are merged by time.

    Args:
        inputs: The files, opened.
        options: What the caller wants.

    Raises:
        InputError: A file is damaged, or nothing in it looks like an SGLang log.
        UsageError: The zone is unknown.
    """
    total = sum(i.num_bytes for i in inputs)
    before = 0
    states: list[LogState] = []
    files: list[SourceFile] = []
    for source_id, source in enumerate(inputs):

        def advance(done: int, before: int = before) -> None:
            if options.progress is not None:
                options.progress(before + done, total)

        state = _read_file(source, source_id, Clock(options.tz), advance)
        before += source.num_bytes
        states.append(state)
        files.append(
            SourceFile(
                path=source.path,
                source="scheduler_log",
                num_bytes=source.num_bytes or source.done_bytes,
                num_lines=state.num_lines,
                num_events=state.spill.num_rows,
                skipped={k: v for k, v in state.skipped.items() if v},
            )
        )
    copies = drop_overlaps(states)
    files = [replace(f, num_events=s.spill.num_rows) for s, f in zip(states, files, strict=True)]
    _refuse_other_recordings(states, files, copies.keys())
    engine, warnings = _join_engine(states, files, options, copies.keys())
    warnings += [
        f"{show(files[j].path)}: {num} lines stand in {show(files[i].path)} too, with the same"
        " stamps and figures; these copies were left out"
        for (i, j), num in copies.items()
    ]
    events = EventChunks([s.spill for s in states])
    return Recording(
        engine=engine,
        files=tuple(files),
        events=events,
        num_events=events.num_rows,
        requests=pl.concat([REQUESTS.empty(), *(s.read_requests() for s in states)]),
        decisions=_name_estimations(
            pl.concat([DECISIONS.empty(), *(s.read_decisions() for s in states)]), engine.dp_size
        ),
        incidents=tuple(i for s in states for i in s.incidents),
        warnings=tuple(warnings),
        seen_ranks=frozenset(rank for s in states for rank in s.seen_ranks),
    )


def _name_estimations(decisions: pl.DataFrame, dp_size: int | None) -> pl.DataFrame:
    """Fill in who could prefill, where the number of ranks is known."""
    if dp_size is None or not decisions.height:
        return decisions
    kind = decisions.schema["input_estimation"]
    is_all = pl.col("num_prefillable") >= dp_size
    return decisions.with_columns(
        pl.when(is_all)
        .then(pl.lit("all"))
        .when(pl.col("num_prefillable") > 0)
        .then(pl.lit("mixed"))
        .cast(kind)
        .alias("input_estimation")
    )


def _read_file(
    source: Input, source_id: int, clock: Clock, advance: Callable[[int], None]
) -> LogState:
    state = LogState(source_id, clock)
    unwrapper = Unwrapper.detect(source.head)
    has_foreign = False
    last = LastLine()
    budget = _TAGGED_BYTES
    stream: Iterator[Found]
    if unwrapper is None and source.is_plain and source.num_bytes > SMALL_BYTES:
        stream = read_plain(source, last, advance)
    else:
        blocks = _advancing(source, advance)
        pairs = ((b, None) for b in blocks) if unwrapper is None else unwrapper.unwrap(blocks)
        stream = parse_blocks(last.cut_off(pairs))
    for parsed, text, wrapped in stream:
        if not has_foreign and not parsed.ints.shape[1] and not state.num_headers:
            has_foreign = _FOREIGN_BATCH.search(text) is not None
        if budget > 0:
            state.seen_ranks.update(map(int, _TAG.findall(text, 0, budget)))
            budget -= len(text)
        state.num_headers += parsed.ints.shape[1] + parsed.notes.shape[1]
        state.fold(parsed, text, wrapped)
    if last.text:
        state.fold_last(last.text, last.wrapped)
        state.num_headers += bool(EMBEDDED.search(last.text))
    if unwrapper is not None:
        state.num_lines = unwrapper.num_lines
    state.flush_rows()
    state.spill.close()
    _check(source, state, has_foreign=has_foreign)
    return state


def _advancing(source: Input, advance: Callable[[int], None]) -> Iterator[bytes]:
    for block in source.blocks():
        yield block
        advance(source.done_bytes)


def _check(source: Input, state: LogState, *, has_foreign: bool) -> None:
    if state.num_headers or EMBEDDED.search(source.head):
        if not (has_foreign and not state.spill.num_rows):
            return
        has_foreign = not any(
            state.skipped[k] for k in ("Prefill line without #new-token", "torn line")
        )
        if not has_foreign:
            return
    if has_foreign:
        raise InputError(
            "has 'Prefill batch' messages, but behind an unknown prefix instead of"
            " '[YYYY-MM-DD HH:MM:SS ...] '; was SGLANG_LOGGING_CONFIG_PATH set? Record with the"
            " default format",
            path=source.path,
        )
    raise InputError(
        "nothing in it looks like an SGLang log; expected lines such as"
        " '[2026-05-28 03:21:01 DP0 TP0] Prefill batch, #new-seq: 1, ...'",
        path=source.path,
    )


def _refuse_other_recordings(
    states: Sequence[LogState], files: Sequence[SourceFile], copies: AbstractSet[tuple[int, int]]
) -> None:
    """Two logs that each start an engine and hold batches of the same ranks are two recordings.

    Logs of ranks, of nodes and rotated ones share no rank, differ in ``node_rank``, or have one
    start.
    """
    for j, b in enumerate(states):
        for i, a in enumerate(states[:j]):
            first, second = _first_with_prefill(a.facts), _first_with_prefill(b.facts)
            if (
                not (first.settings and second.settings)
                or first.settings.get("node_rank") != second.settings.get("node_rank")
                or not (first.num_prefill and second.num_prefill)
                or not a.rank_state.dp_ranks & b.rank_state.dp_ranks
                or not (a.spill.num_rows and b.spill.num_rows)
                or copies & {(i, j), (j, i)}
            ):
                continue
            names = show(files[i].path), show(files[j].path)
            remedy = (
                f"set them side by side: pdtrace compare {names[0]} {names[1]}, or pdtrace "
                "dashboard --page fleet"
            )
            if not first.differences(second):
                remedy += f"; one engine that was restarted: cat {names[0]} {names[1]} | pdtrace …"
            raise UsageError(
                f"{names[0]} and {names[1]} each start an engine and hold the same DP ranks: two "
                f"recordings; {remedy}"
            )


def _first_with_prefill(facts: Sequence[EngineFacts]) -> EngineFacts:
    return next((f for f in facts if f.num_prefill), facts[0])


def _last_with_prefill(facts: Sequence[EngineFacts]) -> EngineFacts:
    for wanted in ("num_prefill", "num_decode"):
        for f in reversed(facts):
            if getattr(f, wanted):
                return f
    return facts[-1]


def _join_engine(
    states: Sequence[LogState],
    files: Sequence[SourceFile],
    options: ReadOptions,
    copies: AbstractSet[tuple[int, int]],
) -> tuple[EngineInfo, list[str]]:
    warnings: list[str] = []
    chosen = [_last_with_prefill(s.facts) for s in states]
    main = chosen[0]
    info_settings = sa.settings_from_server_info(options.server_info)
    version = options.server_info.get("version")
    release = ".".join(str(version).split(".")[:3]) if version else None
    for other in chosen[1:]:
        # one file a rank or a node: what the first does not say, another may
        main.settings = main.settings or other.settings
        main.sizes = main.sizes or other.sizes
        main.delayer = main.delayer or other.delayer
        main.max_dp_rank = max(main.max_dp_rank, other.max_dp_rank)
        for name in ("num_prefill", "num_decode", "num_ms"):
            setattr(main, name, getattr(main, name) + getattr(other, name))
        main.any_bits |= other.any_bits
        main.all_bits &= other.all_bits
        main.has_label |= other.has_label
        main.clues.low = max(main.clues.low, other.clues.low)
        main.clues.high = min(main.clues.high, other.clues.high)
    if not main.settings and info_settings:
        main.settings = info_settings
    warnings += _find_mixed(states, files, main, copies)
    engine = main.build_info(dp_size=options.dp_size, release=release)
    for state, file in zip(states, files, strict=True):
        warnings += _compare_runs(state, file)
        if state.clock.num_disagreeing:
            warnings.append(
                f"{file.path}: {state.clock.num_disagreeing} lines carry a wrapper time that"
                " disagrees with their own; their own was kept"
            )
        num_copies = state.skipped[COPIES]
        if num_copies:
            warnings.append(
                f"{file.path}: {num_copies} lines repeat one just before them with its stamp and"
                " all its figures; these copies were left out"
            )
        num_torn = state.skipped["torn line"]
        if num_torn:
            warnings.append(
                f"{file.path}: {num_torn} batch lines were torn by another process's output and"
                " could not be put together"
            )
    if main.clues.is_contradictory and release is None:
        warnings.append(
            "the lines show formats that no one release has: several engines in one log?"
        )
    if not main.num_prefill and engine.role == "prefill":
        # 0.5.9 alone prints none; without a range the remedy is the same
        low, high = engine.release_min, engine.release_max
        if low is None or high is None or low == "0.5.9" or _may_be(low, high, "0.5.9"):
            span = f"{low or '0.4.6'} to {high or '0.5.23'}"
            warnings.append(
                f"a prefill engine without Prefill lines (the log fits releases {span}; 0.5.9"
                " prints none on a prefill engine): use another release, or give its spans"
            )
    return engine, warnings


def _may_be(low: str, high: str, release: str) -> bool:
    from pdtrace.sources.scheduler_log.releases import parse_release  # noqa: PLC0415

    return parse_release(low) <= parse_release(release) <= parse_release(high)


def _find_mixed(
    states: Sequence[LogState],
    files: Sequence[SourceFile],
    main: EngineFacts,
    copies: AbstractSet[tuple[int, int]],
) -> list[str]:
    found: list[str] = []
    for state, file in zip(states, files, strict=True):
        if state.rank_state.is_mixed or any(f.is_mixed for f in state.facts):
            found.append(
                f"{file.path}: two engines seem to write into this log (the same rank prints two"
                " formats, or two servers start); separate them, iterations cannot be trusted"
            )
    for i, a in enumerate(states):
        for j in range(i + 1, len(states)):
            b = states[j]
            if not a.rank_state.dp_ranks & b.rank_state.dp_ranks or copies & {(i, j), (j, i)}:
                continue
            # pieces of one log may share the stamp at which it was cut
            if a.overlap_ns(b) > max(a.resolution, b.resolution, _CUT_NS):
                found.append(
                    f"{files[i].path} and {files[j].path} hold the same DP rank at the same time:"
                    " two engines? Analyse them one by one"
                )
    if found:
        main.is_mixed = True
    return found


def _compare_runs(state: LogState, file: SourceFile) -> list[str]:
    told = [f for f in state.facts if f.num_prefill and f.settings]
    names = sorted({n for a, b in pairwise(told) for n in a.differences(b)})
    if not names:
        return []
    return [
        f"{file.path}: the engine was restarted with other settings ({', '.join(names)}); the"
        " summary names those of the last run"
    ]
