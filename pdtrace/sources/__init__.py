"""Reads what engines and their companions record: logs today, one module a format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdtrace.errors import InputError, UsageError
from pdtrace.sources.formats import FORMATS, ReadOptions, SourceFormat, recognise
from pdtrace.sources.inputs import Input

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pdtrace.run import Recording

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
        sources: Formats to use; None for all.
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
    inputs: list[tuple[Input, SourceFormat]] = []
    server_info: dict[str, Any] = {}
    try:
        for path in paths:
            if path != "-" and Path(path).is_dir():
                found, info = _open_directory(path)
                inputs += found
                server_info |= info
            else:
                inputs.append(_open_file(path))
        wanted = [(i, f) for i, f in inputs if f.read and (sources is None or f.name in sources)]
        if not wanted:
            raise _nothing_to_read(paths, inputs, sources)
        options = ReadOptions(dp_size=dp_size, tz=tz, progress=progress, server_info=server_info)
        return _read_wanted(wanted, options)
    finally:
        for source, _ in inputs:
            source.close()


def _read_wanted(wanted: Sequence[tuple[Input, SourceFormat]], options: ReadOptions) -> Recording:
    names = sorted({f.name for _, f in wanted}, key=lambda n: n != "scheduler_log")
    first = FORMATS[names[0]]
    assert first.read is not None
    return first.read([i for i, f in wanted if f.name == first.name], options)


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


def _open_directory(path: str) -> tuple[list[tuple[Input, SourceFormat]], dict[str, Any]]:
    found: list[tuple[Input, SourceFormat]] = []
    info: dict[str, Any] = {}
    try:
        names = sorted(p for p in Path(path).iterdir() if p.is_file())
    except OSError as e:
        raise InputError(f"cannot be read: {e.strerror or e}", path=path) from e
    damaged: InputError | None = None
    for name in names:
        try:
            source = Input(str(name))
        except InputError as e:  # most likely another tool's file; the log may be whole
            damaged = damaged or e
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
        if damaged is not None:
            raise damaged
        raise InputError(
            "holds no scheduler log; expected a file with lines such as"
            " '[2026-05-28 03:21:01 DP0 TP0] Prefill batch, #new-seq: 1, ...'",
            path=path,
        )
    return found, info


def _read_server_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_bytes())
    except (OSError, ValueError):
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
