"""The parts of a rebuilt run: in memory while they are few, otherwise read again when asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from pathlib import Path

import polars as pl

from pdtrace.run import Part, StoredEvents
from pdtrace.schema import EVENTS

USED = (
    "source",
    "source_id",
    "ts",
    "ts_resolution",
    "engine_run",
    "dp_rank",
    "kind",
    "forward_iter",
    "num_new_seqs",
    "num_new_tokens",
    "num_queue_reqs",
    "num_pending_tokens",
    "num_bootstrap_reqs",
    "gap",
    "throughput_tok_s",
    "duration",
)
"""Columns of ``events`` that iterations are rebuilt from."""


class Parts:
    """Parts of a run, which can be iterated over any number of times.

    Args:
        chunks: The events of the recording.
        spill: Keep the iterations in a directory that goes with the object, and the events there
            too, unless the recording has put them away already.
    """

    def __init__(self, chunks: Iterable[pl.DataFrame], *, spill: bool) -> None:
        self._chunks = chunks
        self._stored = chunks if spill and isinstance(chunks, StoredEvents) else None
        self._kept: list[Part] = []
        self._heights: list[int] = []
        self._folder = tempfile.TemporaryDirectory(prefix="pdtrace-") if spill else None

    def read_chunks(self) -> Iterator[pl.DataFrame]:
        """The events to rebuild from: without what :meth:`add` need not be given."""
        return iter(self._chunks) if self._stored is None else self._stored.read(USED)

    def add(self, stretch: pl.DataFrame, number: pl.Series, iterations: pl.DataFrame) -> None:
        """Add the next stretch; ``number`` is the iteration of each of its rows."""
        if self._folder is None:
            self._kept.append(Part(stretch.with_columns(number), iterations))
            return
        k = len(self._heights)
        if self._stored is None:
            stretch.write_ipc_stream(self._path("events", k))
        number.to_frame().write_ipc_stream(self._path("numbers", k))
        iterations.write_ipc_stream(self._path("iterations", k))
        self._heights.append(stretch.height)

    def __iter__(self) -> Iterator[Part]:
        yield from self._kept
        first = 0
        for k, height in enumerate(self._heights):
            yield _StoredPart(self, k, first, height)
            first += height

    def _path(self, name: str, k: int) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / f"{name}-{k}.arrow"

    def read_iterations(self, k: int) -> pl.DataFrame:
        """Iterations of a part."""
        return pl.read_ipc_stream(self._path("iterations", k))

    def read_events(
        self, k: int, first: int, height: int, columns: Collection[str] | None
    ) -> pl.DataFrame:
        """Events of a part, all columns or the named ones, with their iterations."""
        if self._stored is None:
            frame = pl.read_ipc_stream(self._path("events", k))
        else:
            frame = self._stored.rows(first, height, columns)
        return frame.with_columns(pl.read_ipc_stream(self._path("numbers", k))["iteration"])


class _StoredPart(Part):
    """A part of which only what is asked for is read."""

    _parts: Parts
    _where: tuple[int, int, int]
    _read: dict[str, pl.Series]

    def __init__(self, parts: Parts, k: int, first: int, height: int) -> None:
        self.__dict__.update(_parts=parts, _where=(k, first, height), _read={})

    @cached_property
    def iterations(self) -> pl.DataFrame:
        return self._parts.read_iterations(self._where[0])

    @cached_property
    def events(self) -> pl.DataFrame:
        frame = self._parts.read_events(*self._where, None)
        return frame.select(list(EVENTS.schema))

    def select(self, *columns: str) -> pl.DataFrame:
        missing = [c for c in columns if c not in self._read]
        if missing:
            frame = self._parts.read_events(*self._where, missing)
            self._read.update((c, frame[c]) for c in missing)
        return pl.DataFrame([self._read[c] for c in columns])
