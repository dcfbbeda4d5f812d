"""A run on disk: ``run.json`` for its facts, and a Parquet file for each table and part.

::

    DIR/run.json                    format, version, engine, files, incidents, warnings, …
    DIR/requests.parquet            table requests
    DIR/decisions.parquet           table decisions
    DIR/counters.parquet            table counters
    DIR/parts/00000-events.parquet  tables events and iterations of the first part, and so on
    DIR/parts/00000-iterations.parquet

A saved run keeps the cuts between its parts, so whatever is measured on it is the same to the last
digit. History of the version: 1, the first.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

import polars as pl

from pdtrace.errors import InputError, OutputError
from pdtrace.run import DelayerInfo, EngineInfo, Incident, Part, Run, SourceFile
from pdtrace.schema import COUNTERS, DECISIONS, EVENTS, GROUPINGS, ITERATIONS, REQUESTS, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = "pdtrace-run"
VERSION = 1
FACTS = "run.json"
MOST_PARTS, MOST_DP_RANKS = 1_000_000, 4096

T = TypeVar("T")


@dataclass(frozen=True)
class SavedParts:
    """The parts of a saved run; each is read when its turn comes, so that one is in memory."""

    folder: Path
    num_parts: int

    def __iter__(self) -> Iterator[Part]:
        for number in range(self.num_parts):
            yield Part(
                read_table(part_path(self.folder, number, EVENTS), EVENTS),
                read_table(part_path(self.folder, number, ITERATIONS), ITERATIONS),
            )


def part_path(folder: Path, number: int, table: Table) -> Path:
    """Where a table of a part lies."""
    return folder / "parts" / f"{number:05d}-{table.name}.parquet"


def is_saved_run(path: str | Path) -> bool:
    """Whether the path is a directory that :func:`save_run` wrote, of whichever version."""
    facts = Path(path) / FACTS
    try:
        with facts.open(encoding="utf-8") as stream:
            # The key is written first, so a foreign run.json of any size costs one short read.
            return f'"format": "{FORMAT}"' in stream.read(200)
    except (OSError, UnicodeDecodeError):
        return False


def save_run(run: Run, directory: str | Path) -> None:
    """Write a run into a directory, which appears complete or not at all.

    Args:
        run: The run.
        directory: A directory that does not exist, is empty, or holds a saved run to replace.

    Raises:
        OutputError: It holds something else, or cannot be written.
    """
    target = Path(directory).absolute()  # "." has no name to put a scratch beside
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: cannot save a run here, it is a file; name a directory")
    if target.is_dir() and any(target.iterdir()) and not is_saved_run(target):
        raise OutputError(
            f"{target}: not empty, and not a saved run to replace; name another directory"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            new = Path(scratch) / "new"
            _write(run, new)
            if target.is_dir():
                target.rename(Path(scratch) / "old")  # its removal is the scratch directory's
            new.rename(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot save the run: {error.strerror or error}") from error


def _write(run: Run, folder: Path) -> None:
    (folder / "parts").mkdir(parents=True)
    num_parts = 0
    for num_parts, part in enumerate(run, start=1):
        part.events.write_parquet(part_path(folder, num_parts - 1, EVENTS))
        part.iterations.write_parquet(part_path(folder, num_parts - 1, ITERATIONS))
    run.requests.write_parquet(folder / "requests.parquet")
    run.decisions.write_parquet(folder / "decisions.parquet")
    run.counters.write_parquet(folder / "counters.parquet")
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "num_parts": num_parts,
        "dp_size": run.dp_size,
        "grouping": run.grouping,
        "missing_ranks": list(run.missing_ranks),
        "engine": asdict(run.engine),
        "files": [asdict(f) for f in run.files],
        "incidents": [asdict(i) for i in run.incidents],
        "warnings": list(run.warnings),
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_run(directory: str | Path) -> Run:
    """Open a saved run; its parts are read when they are iterated over.

    Args:
        directory: What :func:`save_run` wrote.

    Raises:
        InputError: It is not a saved run, is of a later version, or is damaged.
    """
    folder = Path(directory)
    path = folder / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"not a saved run: it has no {FACTS}", path=str(folder)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read as a saved run: {error}", path=str(path)) from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise InputError(f"not a saved run: its format is not {FORMAT!r}", path=str(path))
    if facts.get("version") != VERSION:
        raise InputError(
            f"saved by another pdtrace, version {facts.get('version')!r}; this one reads "
            f"{VERSION}: save it again from its log",
            path=str(path),
        )
    try:
        num_parts, dp_size, grouping = facts["num_parts"], facts["dp_size"], facts["grouping"]
        counts = ((num_parts, MOST_PARTS), (dp_size, MOST_DP_RANKS))
        if not all(type(n) is int and 0 <= n <= most for n, most in counts):
            raise ValueError("num_parts and dp_size must be counts, and not beyond all reason")
        if grouping not in (*GROUPINGS, "none"):
            raise ValueError(f"unknown grouping {grouping!r}")
        engine = dict(facts["engine"])
        delayer = _fill(DelayerInfo, engine.pop("delayer"))
        run = Run(
            engine=_fill(EngineInfo, {**engine, "delayer": delayer}),
            files=tuple(_fill(SourceFile, f) for f in facts["files"]),
            parts=SavedParts(folder, num_parts),
            requests=read_table(folder / "requests.parquet", REQUESTS),
            decisions=read_table(folder / "decisions.parquet", DECISIONS),
            incidents=tuple(_fill(Incident, i) for i in facts["incidents"]),
            warnings=tuple(str(w) for w in facts["warnings"]),
            dp_size=dp_size,
            grouping=grouping,
            counters=_read_counters(folder / "counters.parquet"),
            # the first saved runs did not have it
            missing_ranks=tuple(int(r) for r in facts.get("missing_ranks", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        message = f"damaged: {type(error).__name__}: {error}"
        raise InputError(message, path=str(path)) from error
    parts = (part_path(folder, n, t) for n in range(num_parts) for t in (EVENTS, ITERATIONS))
    missing = next((p for p in parts if not p.is_file()), None)
    if missing is not None:
        raise InputError("damaged: this file of the saved run is missing", path=str(missing))
    return run


def _read_counters(path: Path) -> pl.DataFrame:
    # The first saved runs had no such file.
    return read_table(path, COUNTERS) if path.exists() else COUNTERS.empty()


def _fill(kind: type[T], values: dict[str, Any]) -> T:
    """Make a frozen record of a JSON object.

    Raises:
        ValueError: A key that the record does not have, or a value of another type.
    """
    unknown = set(values) - {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown:
        raise ValueError(f"{kind.__name__} has no {sorted(unknown)[0]!r}")
    hints = get_type_hints(kind)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{kind.__name__}.{name} cannot be {str(value)[:40]!r}")
    return kind(**values)


def _fits(value: object, hint: type) -> bool:
    """Whether a value that was JSON is of an annotated type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def read_table(path: Path, table: Table) -> pl.DataFrame:
    """Read a Parquet file as a declared table.

    Raises:
        InputError: It cannot be read, or its columns are not those of the table.
    """
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot be read as Parquet: {reason}", path=str(path)) from error
    if dict(frame.schema) != dict(pl.Schema(table.schema)):
        raise InputError(f"its columns are not those of the table {table.name}", path=str(path))
    return frame
