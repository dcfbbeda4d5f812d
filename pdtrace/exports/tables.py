"""Tables as CSV, JSON or Parquet, written part by part.

In every format a duration is a float of seconds named ``_s``, and ``source_id`` is replaced by
``file``, the path that it stands for. In CSV and JSON a time is ISO 8601 in UTC with a ``Z``.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import polars as pl

from pdtrace.schema import (
    DECISIONS,
    DELAY_EPISODES,
    EVENTS,
    ITERATIONS,
    METRICS,
    RANK_PASSES,
    REQUEST_STAGES,
    REQUESTS,
    TABLES,
    Table,
)
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pdtrace.run import Run

FORMATS = ("csv", "json", "parquet")
SLICE_ROWS = 50_000  # of text in memory at a time
TABLE_NAMES = tuple(t.name.replace("_", "-") for t in TABLES)
# Columns that are read most come first; the others follow in the order of the schema.
LEADING = {
    RANK_PASSES.name: (
        "iteration", "dp_rank", "role", "line", "file", "num_new_tokens", "start", "duration_s",
        "confidence",
    ),
    ITERATIONS.name: (
        "iteration", "forward_iter", "start", "duration_s", "fusion_width", "num_idle_ranks",
        "num_new_tokens", "grouping", "confidence",
    ),
}  # fmt: skip


def write_table(run: Run, name: str, kind: str, stream: BinaryIO) -> None:
    """Write one table of a run.

    Args:
        run: The run.
        name: One of ``TABLE_NAMES``.
        kind: One of ``FORMATS``.
        stream: Where to.
    """
    table = next(t for t in TABLES if t.name == name.replace("-", "_"))
    frames = (_exported(frame, table, run) for frame in table_parts(run, table))
    {"csv": _write_csv, "json": _write_json, "parquet": _write_parquet}[kind](frames, stream)


def table_parts(run: Run, table: Table) -> Iterator[pl.DataFrame]:
    """The rows of a table as they come; at least one frame, so that a header is never missing."""
    if table is METRICS:
        from pdtrace.metrics import measure  # noqa: PLC0415 (numba and numpy are not always needed)

        yield measure(run)
    elif table is REQUESTS:
        yield run.requests
    elif table is DECISIONS:
        yield run.decisions
    elif table is REQUEST_STAGES:
        yield run.stages
    elif table is DELAY_EPISODES:
        from pdtrace.delayer.ledger import build_ledger  # noqa: PLC0415 (likewise)

        yield build_ledger(run).episodes
    else:
        yield table.empty()
        column = {EVENTS: "events", ITERATIONS: "iterations", RANK_PASSES: "rank_passes"}[table]
        for part in run:
            yield getattr(part, column)


def _exported(frame: pl.DataFrame, table: Table, run: Run) -> pl.DataFrame:
    columns = []
    for c in table:
        column = pl.col(c.name)
        if c.dtype == pl.Duration("ns"):
            columns.append((column.cast(pl.Int64) / 1e9).alias(f"{c.name}_s"))
        elif c.name == "source_id":
            paths = {i: show(f.path) for i, f in enumerate(run.files)}
            columns.append(
                column.replace_strict(paths, default=None, return_dtype=pl.String).alias("file")
            )
        elif isinstance(c.dtype, pl.Enum):
            columns.append(column.cast(pl.String))
        else:
            columns.append(column)
    out = frame.select(columns)
    first = LEADING.get(table.name, ())
    return out.select(*first, *(c for c in out.columns if c not in first))


def _as_text(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        pl.col(pl.Datetime("ns", "UTC")).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"),
        # The shortest text of a 32-bit number is not that of its 64-bit value.
        pl.col(pl.Float32).cast(pl.Float64).round(6),
    )


def _slices(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    for frame in frames:
        if frame.is_empty():
            yield frame
        yield from frame.iter_slices(SLICE_ROWS)


def _write_csv(frames: Iterator[pl.DataFrame], stream: BinaryIO) -> None:
    for number, frame in enumerate(_slices(frames)):
        # Request ids are untrusted, and a CSV often ends on a terminal; JSON escapes by itself.
        safe = _as_text(frame).with_columns(pl.col(pl.String).str.replace_all(r"\p{Cc}", "\ufffd"))
        text = safe.write_csv(include_header=number == 0, null_value="")
        stream.write(text.encode())


def _write_json(frames: Iterator[pl.DataFrame], stream: BinaryIO) -> None:
    lead = b"[\n"
    for frame in _slices(frames):
        if frame.height:
            rows = _as_text(frame).write_ndjson().rstrip("\n").replace("\n", ",\n")
            stream.write(lead + rows.encode())
            lead = b",\n"
    stream.write(b"[]\n" if lead == b"[\n" else b"\n]\n")


def _write_parquet(frames: Iterator[pl.DataFrame], stream: BinaryIO) -> None:
    # A file a part, then one stream through them: a Parquet file cannot be appended to.
    with tempfile.TemporaryDirectory(prefix="pdtrace-") as scratch:
        parts = []
        for number, frame in enumerate(frames):
            parts.append(Path(scratch) / f"{number:05d}.parquet")
            frame.write_parquet(parts[-1])
        whole = Path(scratch) / "whole.parquet"
        pl.scan_parquet(parts).sink_parquet(whole)
        with whole.open("rb") as source:
            shutil.copyfileobj(source, stream)
