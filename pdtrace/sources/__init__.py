"""Reads what engines and their companions record, one module a format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdtrace.errors import InputError, UsageError
from pdtrace.sources.formats import FORMATS, ReadOptions, SourceFormat, recognise
from pdtrace.sources.inputs import Input
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pdtrace.run import EngineInfo, Recording

# The last says whether the user named the file itself, or a directory that it lies in.
_Wanted = tuple[Input, SourceFormat, bool]

__all__ = ["FORMATS", "ReadOptions", "SourceFormat", "read"]


def read(
    paths: Sequence[str],
    *,
    sources: Sequence[str] | None = None,
    dp_size: int | None = None,
    tz: str = "UTC",
    progress: Callable[[int, int], None] | None = None,
) -> Recording:
    """Read the recording of one engine.

    Args:
        paths: Files (plain, .gz, .zst, ``-`` for standard input), or run directories, in which
            every recognised file is found by its content.
        sources: Formats to use; None for all. A run directory gives one recording of all its files.
        dp_size: DP ranks, where the user knows better than the log.
        tz: Zone that printed local times are in (IANA name).
        progress: Called with bytes done and bytes in all (0 if unknown).

    Raises:
        InputError: A path is missing, unreadable, damaged, or holds nothing that can be read.
        UsageError: No path, an unknown format or an unknown zone.
    """
    if not paths:
        raise UsageError("no input; give a log file, a run directory, or - for standard input")
    for name in sources or ():
        FORMATS[name]
    inputs: list[_Wanted] = []
    owners: dict[str, str] = {}
    server_info: dict[str, Any] = {}
    damaged: list[InputError] = []
    try:
        for path in paths:
            if path != "-" and Path(path).is_dir():
                found, info, unread = _open_directory(path)
                damaged += unread
                inputs += [(source, kind, False) for source, kind in found]
                _refuse_second(path, {kind.name for _, kind in found}, owners)
                server_info |= info
            else:
                inputs.append((*_open_file(path), True))
        wanted = [w for w in inputs if w[1].read and (sources is None or w[1].name in sources)]
        if not wanted:
            raise _nothing_to_read(paths, [i[:2] for i in inputs], sources)
        options = ReadOptions(dp_size=dp_size, tz=tz, progress=progress, server_info=server_info)
        recording = _read_wanted(wanted, options)
        left_out = tuple(f"left out: {error}" for error in damaged)
        return replace(recording, warnings=(*left_out, *recording.warnings))
    finally:
        for source, _, _ in inputs:
            source.close()


def _refuse_second(path: str, kinds: set[str], owners: dict[str, str]) -> None:
    """Refuse a second run directory; one a node holds logs alone, so those are left to the reader.

    Args:
        path: A directory.
        kinds: Formats found in it.
        owners: Format → the directory before it that holds one; filled in.

    Raises:
        UsageError: Two directories hold what there is once for a whole engine.
    """
    for kind in sorted(kinds & {"otel_spans", "prometheus", "client_log", "server_info"}):
        first = owners.setdefault(kind, path)
        if first != path:
            raise UsageError(
                f"{show(first)} and {show(path)} are two recordings; set them side by side: "
                f"pdtrace compare {show(first)} {show(path)}, or pdtrace dashboard --page fleet"
            )


def _read_wanted(wanted: Sequence[_Wanted], options: ReadOptions) -> Recording:
    """Read format by format, in order of what is best to build iterations from."""
    from pdtrace.sources.joining import join_recordings  # noqa: PLC0415  (imports polars)

    total = sum(source.num_bytes for source, _, _ in wanted)
    done_before = 0
    recordings: list[Recording] = []
    warnings: list[str] = []
    formats = sorted({f for _, f, _ in wanted}, key=lambda f: (_rank_of(f.name), f.order))
    for kind in formats:
        mine = [(source, is_named) for source, f, is_named in wanted if f is kind]
        assert kind.read is not None

        def advance(done: int, _: int, before: int = done_before) -> None:
            if options.progress is not None:
                options.progress(before + done, total)

        here = replace(
            options,
            progress=advance,
            first_source_id=sum(len(r.files) for r in recordings),
        )
        try:
            recordings.append(kind.read([source for source, _ in mine], here))
        except InputError as e:
            # What was merely found beside the rest must not keep the rest from being read.
            is_named = any(is_named for _, is_named in mine)
            if kind.name == "scheduler_log" or is_named or len(formats) == 1:
                raise
            warnings.append(f"left out: {e}")
        done_before += sum(source.num_bytes for source, _ in mine)
    if not recordings:
        raise InputError(warnings[0].removeprefix("left out: "))
    joined = join_recordings(recordings, engine=_engine_of(options, recordings))
    return replace(joined, warnings=(*joined.warnings, *warnings)) if warnings else joined


def _rank_of(name: str) -> int:
    from pdtrace.schema import SOURCES  # noqa: PLC0415  (imports polars)

    return SOURCES.index(name) if name in SOURCES else len(SOURCES)


def _engine_of(options: ReadOptions, recordings: Sequence[Recording]) -> EngineInfo:
    """What the engine's own answer to /server_info says, where no log does."""
    from pdtrace.run import EngineInfo  # noqa: PLC0415  (imports polars)
    from pdtrace.sources.scheduler_log.engine import EngineFacts  # noqa: PLC0415  (likewise)
    from pdtrace.sources.scheduler_log.server_args import (  # noqa: PLC0415  (likewise)
        settings_from_server_info,
    )

    has_log = any(f.source == "scheduler_log" for r in recordings for f in r.files)
    if has_log or not options.server_info:
        return EngineInfo()
    facts = EngineFacts(settings=settings_from_server_info(options.server_info))
    version = options.server_info.get("version")
    release = ".".join(str(version).split(".")[:3]) if version else None
    return facts.build_info(dp_size=options.dp_size, release=release)


def _open_file(path: str) -> tuple[Input, SourceFormat]:
    if path != "-" and not Path(path).exists():
        raise InputError("no such file or directory", path=path)
    source = Input(path)
    if not source.head:
        source.close()
        raise InputError("is empty; expected a scheduler log", path=path)
    found = recognise(source.head)
    # a log whose engine starts late in the file shows nothing of it at first
    return source, found or FORMATS["scheduler_log"]


def _open_directory(
    path: str,
) -> tuple[list[tuple[Input, SourceFormat]], dict[str, Any], list[InputError]]:
    """What a directory holds: recognised files, the engine's own facts, files that are damaged."""
    found: list[tuple[Input, SourceFormat]] = []
    info: dict[str, Any] = {}
    try:
        names = sorted(p for p in Path(path).iterdir() if p.is_file())
    except OSError as e:
        raise InputError(f"cannot be read: {e.strerror or e}", path=path) from e
    damaged: list[InputError] = []
    for name in names:
        try:
            source = Input(str(name))
        except InputError as e:  # most likely another tool's file; the log may be whole
            damaged.append(e)
            continue
        kind = recognise(source.head) if source.head else None
        if kind is None:
            source.close()
            continue
        if kind.name == "server_info":
            info |= _read_server_info(name)
        found.append((source, kind))
    if not any(f.read for _, f in found):
        for source, _ in found:
            source.close()
        if damaged:
            raise damaged[0]
        raise InputError(
            "holds no scheduler log or other recording; expected lines such as"
            " '[2026-05-28 03:21:01 DP0 TP0] Prefill batch, #new-seq: 1, ...'",
            path=path,
        )
    return found, info, damaged


def _read_server_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return info if isinstance(info, dict) else {}


def _nothing_to_read(
    paths: Sequence[str],
    inputs: Sequence[tuple[Input, SourceFormat]],
    sources: Sequence[str] | None,
) -> InputError:
    if sources is not None and any(f.read for _, f in inputs):
        return InputError(
            f"has nothing of source {', '.join(sources)}; leave --source away", path=paths[0]
        )
    titles = ", ".join(sorted({f.title for _, f in inputs}))
    return InputError(f"is {titles}; give the scheduler log (too)", path=paths[0])
