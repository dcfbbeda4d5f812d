"""Reads recorded forward-pass metrics → ``events``.

``fpm.bin``: for each message the time of receipt (8 bytes, big-endian, nanoseconds since the
epoch), the length (4 bytes) and the msgpack payload. JSONL traces: one message a line.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

from pdtrace.errors import InputError
from pdtrace.run import EngineInfo, Recording, SourceFile
from pdtrace.schema import EVENTS
from pdtrace.sources.extras import need
from pdtrace.sources.spill import EventChunks, Spill

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pdtrace.sources.formats import ReadOptions
    from pdtrace.sources.forward_pass_metrics.frames import Pass
    from pdtrace.sources.inputs import Input

_HEAD_BYTES = 12
_READ_BYTES = 1 << 20
_CHUNK_ROWS = 50_000
_PLAUSIBLE = range(10**18, 4 * 10**18)
LOST = "lost message"
HEARTBEAT = "heartbeat"


@dataclass
class _State:
    """What is carried over the messages of one file."""

    store: Spill
    num_messages: int = 0
    num_lines: int | None = None
    num_bad: int = 0
    first_bad: str = ""
    num_untimed: int = 0
    num_kinds: Counter[str] = field(default_factory=Counter)
    num_lost: Counter[int] = field(default_factory=Counter)
    last: dict[tuple[str, int], int] = field(default_factory=dict)
    run: dict[tuple[str, int], int] = field(default_factory=dict)
    rows: list[tuple[int, int, Pass]] = field(default_factory=list)

    def miss(self, where: str, why: object) -> None:
        """Count what cannot be used."""
        self.num_bad += 1
        self.first_bad = self.first_bad or f"{where}: {' '.join(str(why).split())[:160]}"

    def take(self, message: Pass, number: int) -> None:
        """Take in one message."""
        self.num_messages += 1
        publisher = message.worker, message.dp_rank
        before = self.last.get(publisher)
        if before is not None and message.counter <= before:
            # counts from zero again: the engine was restarted
            self.run[publisher] = self.run.get(publisher, 0) + 1
        elif before is not None:
            self.num_lost[message.dp_rank] += message.counter - before - 1
        self.last[publisher] = message.counter
        self.num_kinds[message.kind] += 1
        if message.kind == HEARTBEAT:
            return
        if message.ts not in _PLAUSIBLE:
            self.num_untimed += 1
            return
        self.rows.append((number, self.run.get(publisher, 0), message))
        if len(self.rows) >= _CHUNK_ROWS:
            self.flush()

    def flush(self) -> None:
        """Hand the rows on."""
        if not self.rows:
            return
        rows = [m for _, _, m in self.rows]
        types = EVENTS.schema
        has_lines = self.num_lines is not None
        frame = pl.DataFrame(
            {
                "ts": [m.ts for m in rows],
                "engine_run": pl.Series([r for _, r, _ in self.rows], dtype=types["engine_run"]),
                "line": pl.Series([n if has_lines else None for n, _, _ in self.rows],
                                  dtype=types["line"]),
                "dp_rank": pl.Series([m.dp_rank for m in rows], dtype=types["dp_rank"]),
                "kind": pl.Series([m.kind for m in rows], dtype=types["kind"]),
                "num_new_seqs": pl.Series([m.num_seqs for m in rows], dtype=types["num_new_seqs"]),
                "num_new_tokens": pl.Series([m.num_tokens for m in rows],
                                            dtype=types["num_new_tokens"]),
                "duration": [round(m.seconds * 1e9) for m in rows],
            }
        )  # fmt: skip
        self.store.append(
            frame.with_columns(
                pl.from_epoch("ts", time_unit="ns").dt.replace_time_zone("UTC"),
                pl.col("duration").cast(types["duration"]),
                pl.lit(1, types["ts_resolution"]).alias("ts_resolution"),
            )
        )
        self.rows.clear()


def read_fpm(inputs: Sequence[Input], options: ReadOptions) -> Recording:
    """Read the forward-pass metrics of one engine.

    Args:
        inputs: The files, opened.
        options: What the caller wants.

    Returns:
        Events of kind prefill, decode and idle, stamped on receipt. Heartbeats (nothing scheduled,
        no GPU time) give none; messages missing from a publisher's sequence are counted.

    Raises:
        InputError: A file holds no message, is damaged, or an extra is missing.
    """
    warnings: list[str] = []
    files: list[SourceFile] = []
    states: list[_State] = []
    for k, source in enumerate(inputs):
        need("msgspec", extra="fpm", path=source.path)
        state = _State(Spill("fpm", options.first_source_id + k))
        is_json = source.head.lstrip()[:1] == b"{"
        (_read_lines if is_json else _read_frames)(source, state)
        state.flush()
        state.store.close()
        states.append(state)
        if not state.num_messages:
            first = f" (first: {state.first_bad})" if state.first_bad else ""
            raise InputError(
                f"no forward-pass message in it could be read{first}; expected receive time, length"
                " and a msgpack map, or JSON lines with scheduled_requests",
                path=source.path,
            )
        warnings += _notes(source.path, state)
        num_lost = sum(state.num_lost.values())
        skipped = {
            HEARTBEAT: state.num_kinds[HEARTBEAT], LOST: num_lost, "damaged message": state.num_bad,
            "message without a time": state.num_untimed,
        }  # fmt: skip
        files.append(
            SourceFile(
                path=source.path,
                source="fpm",
                num_bytes=source.num_bytes or source.done_bytes,
                num_lines=state.num_lines,
                num_events=state.store.num_rows,
                skipped={name: n for name, n in skipped.items() if n},
            )
        )
    ranks = {rank for s in states for _, rank in s.last}
    events = EventChunks([s.store for s in states])
    return Recording(
        engine=EngineInfo(
            release_min="0.5.12", dp_size=max(ranks) + 1 if ranks else None, dp_size_source="tags"
        ),
        files=tuple(files),
        events=events,
        num_events=events.num_rows,
        warnings=tuple(warnings),
    )


def _notes(path: str, state: _State) -> list[str]:
    out = []
    if state.num_bad:
        out.append(
            f"{path}: {state.num_bad} damaged messages were left out (first: {state.first_bad})"
        )
    lost = {rank: n for rank, n in sorted(state.num_lost.items()) if n}
    if lost:
        ranks = ", ".join(f"rank {rank}: {n}" for rank, n in lost.items())
        out.append(f"{path}: forward-pass messages were lost on the way ({ranks}), or sampled")
    return out


def _read_frames(source: Input, state: _State) -> None:
    from pdtrace.sources.forward_pass_metrics import frames  # noqa: PLC0415  (an extra)

    for number, (at, ts, payload) in enumerate(_messages(source, state), 1):
        try:
            state.take(frames.decode_payload(payload, ts), number)
        except ValueError as e:
            state.miss(f"offset {at}", e)


def _messages(source: Input, state: _State) -> Iterator[tuple[int, int, bytes]]:
    from pdtrace.sources.forward_pass_metrics.frames import MAX_PAYLOAD_BYTES  # noqa: PLC0415

    held, begin, at = source.head, 0, 0
    is_all = False
    while True:
        if not is_all and len(held) - begin < _HEAD_BYTES + MAX_PAYLOAD_BYTES:
            more = source.read(_READ_BYTES + MAX_PAYLOAD_BYTES)
            held, begin, is_all = held[begin:] + more, 0, not more
        left = len(held) - begin
        if not left:
            return
        size = int.from_bytes(held[begin + 8 : begin + 12], "big")
        if left >= _HEAD_BYTES and size > MAX_PAYLOAD_BYTES:
            state.miss(f"offset {at}", f"a length of {size} bytes; the rest was not read")
            return
        if left < _HEAD_BYTES or left < _HEAD_BYTES + size:
            state.miss(f"offset {at}", f"cut off after {left} bytes")
            return
        ts = int.from_bytes(held[begin : begin + 8], "big")
        begin += _HEAD_BYTES + size
        yield at, ts, held[begin - size : begin]
        at += _HEAD_BYTES + size


def _read_lines(source: Input, state: _State) -> None:
    from pdtrace.sources.forward_pass_metrics import frames  # noqa: PLC0415  (an extra)

    state.num_lines = 0
    for block in source.blocks():
        for line in block.splitlines():
            state.num_lines += 1
            if not line.strip():
                continue
            try:
                state.take(frames.decode_json(line), state.num_lines)
            except ValueError as e:
                state.miss(f"line {state.num_lines}", e)
