"""Keeps the chunks of a table: in memory while they are few, in temporary files beyond that."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from pdtrace.errors import OutputError
from pdtrace.schema import EVENTS, SOURCES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

MEMORY_BYTES = 4 << 20
"""Chunks are kept in memory up to this many bytes over all of one store."""
_NUM_WAITING = 2


class Spill:
    """Chunks of one file's events, in order; can be iterated any number of times.

    Attributes:
        source: Which kind of input it was read from (``schema.SOURCES``).
        source_id: Index of the file.
        num_rows: Rows over all chunks.

    The temporary folder is removed when the store is no longer used, or at exit.
    """

    def __init__(self, source: str, source_id: int) -> None:
        self.source = source
        self.source_id = source_id
        self.num_rows = 0
        self._frames: list[pl.DataFrame | Path] = []
        self._shapes: list[tuple[int, list[str]]] = []
        self._num_bytes = 0
        self._folder: Path | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._writing: deque[Future[None]] = deque()

    def append(self, frame: pl.DataFrame) -> None:
        """Add a chunk with any columns of ``events``; those left out are null."""
        if not frame.height:
            return
        self.num_rows += frame.height
        self._shapes.append((frame.height, frame.columns))
        size = int(frame.estimated_size())
        if self._num_bytes + size <= MEMORY_BYTES:
            self._num_bytes += size
            self._frames.append(frame)
            return
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="pdtrace-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        path = self._folder / f"{len(self._frames)}.ipc"
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1)
        while len(self._writing) >= _NUM_WAITING:
            self._writing.popleft().result()
        self._writing.append(self._writer.submit(_write, frame, path))
        self._frames.append(path)

    def close(self) -> None:
        """Wait until all chunks are written; none may be added afterwards.

        Raises:
            OutputError: The temporary folder is full or cannot be written.
        """
        while self._writing:
            self._writing.popleft().result()
        if self._writer is not None:
            self._writer.shutdown()
            self._writer = None

    def __iter__(self) -> Iterator[pl.DataFrame]:
        return self.read(0, self.num_rows)

    def read(
        self, first: int, height: int, columns: Collection[str] | None = None
    ) -> Iterator[pl.DataFrame]:
        """The chunks of ``height`` rows from ``first`` on.

        Args:
            first: First row.
            height: Number of rows.
            columns: Read those of these that there are; None: all.
        """
        start = 0
        for item, (rows, names) in zip(self._frames, self._shapes, strict=True):
            low, high = max(first - start, 0), min(first + height - start, rows)
            start += rows
            if low >= high:
                continue
            # one column at least, because it says how many rows there are
            wanted = [n for n in names if columns is None or n in columns] or names[:1]
            if isinstance(item, pl.DataFrame):
                frame = item.select(wanted)
            else:
                frame = pl.read_ipc_stream(item, columns=wanted)
            yield frame[low:high]


def _write(frame: pl.DataFrame, path: Path) -> None:
    try:
        frame.write_ipc_stream(path, compression="uncompressed")
    except OSError as e:
        raise OutputError(
            f"{path.parent}: cannot keep the events there: {e.strerror or e}; set TMPDIR to a"
            " folder with room for the log's size"
        ) from e


class EventChunks:
    """The events of several files, merged by time, numbered, with all declared columns."""

    def __init__(self, stores: Sequence[Spill]) -> None:
        self.stores = tuple(s for s in stores if s.num_rows)

    @property
    def num_rows(self) -> int:
        """Events over all files."""
        return sum(s.num_rows for s in self.stores)

    @cached_property
    def _merged(self) -> Spill:
        """All events in one store; those of several files are merged when first asked for."""
        if len(self.stores) == 1:
            return self.stores[0]
        merged = Spill("", 0)
        for chunk in _merge([_name_source(s, s) for s in self.stores]):
            merged.append(chunk)
        merged.close()
        return merged

    def __iter__(self) -> Iterator[pl.DataFrame]:
        return self.read()

    def read(self, columns: Collection[str] | None = None) -> Iterator[pl.DataFrame]:
        """All chunks in order, with all columns, or the number and the named ones."""
        return self._read(0, self.num_rows, columns)

    def rows(self, first: int, height: int, columns: Collection[str] | None = None) -> pl.DataFrame:
        """``height`` rows from ``first`` on, with all columns, or the number and the named ones."""
        return pl.concat(self._read(first, height, columns))

    def _read(
        self, first: int, height: int, columns: Collection[str] | None
    ) -> Iterator[pl.DataFrame]:
        if not self.stores:
            return
        chunks = self._merged.read(first, height, columns)
        if len(self.stores) == 1:
            chunks = _name_source(self.stores[0], chunks)
        for chunk in chunks:
            number = pl.int_range(first, first + chunk.height, dtype=pl.UInt32, eager=True)
            first += chunk.height
            # the number of the row stays, because nulls alone would not say how many rows there are
            only = None if columns is None else {"event_id", *columns}
            yield EVENTS.conform(chunk.with_columns(number.alias("event_id")), only)


def _name_source(store: Spill, chunks: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    for chunk in chunks:
        yield chunk.with_columns(
            pl.lit(store.source, dtype=pl.Enum(SOURCES)).alias("source"),
            pl.lit(store.source_id, dtype=pl.UInt16).alias("source_id"),
        )


def _merge(readers: Sequence[Iterator[pl.DataFrame]]) -> Iterator[pl.DataFrame]:
    """Merge by time; the order within each file is kept even where its clock stepped back."""
    latest: list[object] = [None] * len(readers)
    held: list[pl.DataFrame | None] = [None] * len(readers)
    is_open = [True] * len(readers)
    while True:
        for i, reader in enumerate(readers):
            if is_open[i] and held[i] is None:
                frame = next(reader, None)
                if frame is None:
                    is_open[i] = False
                    continue
                start = frame["ts"][0] if latest[i] is None else latest[i]
                key = pl.max_horizontal(
                    pl.col("ts").cum_max(), pl.lit(start, dtype=pl.Datetime("ns", "UTC"))
                )
                frame = frame.with_columns(key.alias("_key"))
                latest[i] = frame["_key"][-1]
                held[i] = frame
        parts = [h for h in held if h is not None]
        if not parts:
            return
        # up to here every file that goes on has shown what it has
        limit = min(
            (h["_key"][-1] for i, h in enumerate(held) if h is not None and is_open[i]),
            default=None,
        )
        ready = []
        for i, h in enumerate(held):
            if h is None:
                continue
            now = h if limit is None else h.filter(pl.col("_key") <= limit)
            rest = h.slice(now.height)
            held[i] = rest if rest.height else None
            ready.append(now)
        merged = pl.concat(ready, how="diagonal").sort("_key", maintain_order=True)
        if merged.height:
            yield merged.drop("_key")
