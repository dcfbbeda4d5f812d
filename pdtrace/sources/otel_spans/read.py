"""Reads files of spans of one engine → ``Recording``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import polars as pl

from pdtrace.errors import InputError
from pdtrace.run import EngineInfo, Recording, SourceFile
from pdtrace.schema import EVENTS, REQUESTS
from pdtrace.sources.extras import need
from pdtrace.sources.otel_spans.collect import Collector
from pdtrace.sources.otel_spans.engines import choose_engine, find_engines, map_dp_ranks
from pdtrace.sources.spill import EventChunks, Spill

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pdtrace.sources.formats import ReadOptions
    from pdtrace.sources.inputs import Input
    from pdtrace.sources.otel_spans.engines import Engine
    from pdtrace.sources.otel_spans.spans import Span, Thread

MAX_MESSAGE_BYTES = 256 << 20
_READ_BYTES = 1 << 20


@dataclass
class _FileState:
    """What is counted while one file is read; ``where`` is the current message, in words."""

    num_lines: int | None = None
    num_messages: int = 0
    num_bad: int = 0
    first_bad: str = ""
    where: str = ""
    what: str = "messages"
    skipped: Counter[str] = field(default_factory=Counter)

    def miss(self, why: str) -> None:
        """Count the current message as one that cannot be used."""
        self.num_bad += 1
        self.first_bad = self.first_bad or f"{self.where}: {why}"
        self.skipped[f"damaged {self.what}"] += 1


def is_protobuf(head: bytes) -> bool:
    """Whether a file starts with a length and field 1 of ExportTraceServiceRequest."""
    return len(head) > 16 and head[4] == 0x0A and 2 < int.from_bytes(head[:4], "big") < 1 << 28


def read_spans(inputs: Sequence[Input], options: ReadOptions) -> Recording:
    """Read the spans of one engine; several files (one a process, or copies) are put together.

    Args:
        inputs: The files, opened.
        options: What the caller wants.

    Returns:
        Events of kind prefill, one for each batch of each rank (``ts`` is the time of scheduling,
        ``duration`` until the result was processed), and requests.

    Raises:
        InputError: A file holds no message at all, is damaged, or an extra is missing.
    """
    total = sum(i.num_bytes for i in inputs)
    before = 0
    collector = Collector()
    states: list[_FileState] = []
    firsts: dict[tuple[str, str], str] = {}
    counts = [0] * len(inputs)
    for k, source in enumerate(inputs):
        state = _FileState()
        states.append(state)
        for found in _read_file(source, state):
            spans = found
            if not counts[k]:
                try:
                    first = next(spans, None)
                except ValueError as e:
                    state.miss(_one_line(e))
                    continue
                if first is None:
                    continue
                twin = firsts.setdefault((first.trace, first.id), source.path)
                if twin != source.path:
                    state.skipped[f"the same spans as {twin}"] += 1
                    break
                spans = chain([first], spans)
            had = collector.num_spans
            try:
                collector.add(spans, k)
            except ValueError as e:
                state.miss(_one_line(e))
            counts[k] += collector.num_spans - had
            if options.progress is not None:
                options.progress(before + source.done_bytes, total)
        before += source.num_bytes
        if not state.num_messages:
            raise InputError(
                f"no message in it could be read as spans{_where(state)}; expected OTLP/JSON lines,"
                " the Collector's protobuf, or a Jaeger or Tempo JSON export",
                path=source.path,
            )
    return _build(collector, inputs, states, options)


def _where(state: _FileState) -> str:
    return f" (first: {state.first_bad})" if state.first_bad else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _read_file(source: Input, state: _FileState) -> Iterator[Iterator[Span]]:
    if is_protobuf(source.head):
        return _read_protobuf(source, state)
    return _read_json(source, state)


def _read_protobuf(source: Input, state: _FileState) -> Iterator[Iterator[Span]]:
    need("opentelemetry.proto", extra="otel", path=source.path)
    from pdtrace.sources.otel_spans import otlp_protobuf as otlp  # noqa: PLC0415  (an extra)

    held = source.head
    at = 0  # offset of ``held`` in the file

    def fill(size: int) -> bool:
        nonlocal held
        if len(held) < size:
            held += source.read(max(size - len(held), _READ_BYTES))
        return len(held) >= size

    while fill(1):
        state.where = f"offset {at}"
        if not fill(4):
            state.miss("cut off inside a length")
            return
        size = int.from_bytes(held[:4], "big")
        if size > MAX_MESSAGE_BYTES:
            state.miss(f"a length of {size} bytes; the rest was not read")
            return
        if not fill(4 + size):
            state.miss(f"cut off: {len(held) - 4} of {size} bytes are there")
            return
        body, held = held[4 : 4 + size], held[4 + size :]
        try:
            message = otlp.decode_message(body)
        except ValueError as e:
            state.miss(_one_line(e))
        else:
            state.num_messages += 1
            yield otlp.read_message(message)
        at += 4 + size


def _read_json(source: Input, state: _FileState) -> Iterator[Iterator[Span]]:
    need("msgspec", extra="otel", path=source.path)
    from pdtrace.sources.otel_spans import otlp_json as otlp  # noqa: PLC0415  (an extra)

    state.what = "lines"
    if _is_document(source.head):
        text = source.head + source.read(MAX_MESSAGE_BYTES)
        if len(text) >= MAX_MESSAGE_BYTES:
            raise InputError(
                f"one JSON document of more than {MAX_MESSAGE_BYTES >> 20} MB; export one message"
                " a line (the Collector's file exporter does)",
                path=source.path,
            )
        pieces: Iterator[tuple[int, bytes]] = iter([(1, text)])
    else:
        pieces = _lines(source, state)
    for number, line in pieces:
        if not line.strip():
            continue
        state.where = f"line {number}"
        try:
            message = otlp.decode_message(line)
            if len(message.data):
                spans: Iterator[Span] = iter(list(otlp.read_jaeger(message.data)))
            else:
                spans = otlp.read_message(message)
        except ValueError as e:
            state.miss(_one_line(e))
            continue
        state.num_messages += 1
        yield spans


def _is_document(head: bytes) -> bool:
    """Whether the JSON is spread over lines: its first line opens and does not close."""
    first, newline, rest = head.lstrip().partition(b"\n")
    return bool(newline) and len(first) < 400 and not first.rstrip().endswith(b"}") and bool(rest)


def _lines(source: Input, state: _FileState) -> Iterator[tuple[int, bytes]]:
    """Number and text of each line; a batch of many spans may be far longer than a log's line."""
    number = size = 0
    begun: list[bytes] = []  # pieces of a line that goes on
    data = source.head
    while data:
        first, *others = data.split(b"\n")
        begun.append(first)
        size += len(first)
        if size > MAX_MESSAGE_BYTES:
            raise InputError(
                f"a line of more than {MAX_MESSAGE_BYTES >> 20} MB; export one message a line",
                path=source.path,
            )
        for piece in others:
            number += 1
            yield number, b"".join(begun)
            begun, size = [piece], len(piece)
        state.num_lines = number
        data = source.read(_READ_BYTES)
    if size:
        state.num_lines = number + 1
        yield number + 1, b"".join(begun)


def _build(
    collector: Collector,
    inputs: Sequence[Input],
    states: Sequence[_FileState],
    options: ReadOptions,
) -> Recording:
    chunk_size = options.server_info.get("chunked_prefill_size")
    requests, batches = collector.finish(
        chunk_size if isinstance(chunk_size, int) and 0 < chunk_size < 2**31 else None
    )
    threads = collector.processes.threads
    engines = find_engines(threads, collector.links, batches)
    chosen, others = choose_engine(engines)
    attn_tp = _attention_tp(options, collector.num_tp_ranks)
    run_of: dict[int, int] = {}
    rank_of: dict[int, int] = {}
    warnings: list[str] = []
    for run, engine in enumerate(chosen):
        rank_of |= map_dp_ranks(threads, engine, attn_tp_size=attn_tp)
        run_of |= dict.fromkeys(engine.processes, run)
    for state, source in zip(states, inputs, strict=True):
        if state.num_bad:
            warnings.append(
                f"{source.path}: {state.num_bad} damaged {state.what} were left out{_where(state)}"
            )
    if requests.height:
        nameless = requests["rid"].null_count()
        if nameless:
            collector.skipped["request whose root span was not exported"] += nameless
    if others:
        names = "; ".join(f"{e.title}: {e.num_batches} batches" for e in others[:3])
        warnings.append(
            f"the spans are of {1 + len(others)} engines; only {chosen[0].title} is measured, not "
            f"{names}"
        )
    kept = batches.filter(pl.col("process").is_in(list(run_of)))
    events = _events(kept, inputs, options, run_of, rank_of)
    files = tuple(
        SourceFile(
            path=source.path,
            source="otel_spans",
            num_bytes=source.num_bytes or source.done_bytes,
            num_lines=state.num_lines,
            num_events=int((kept["source_id"] == k).sum()),
            skipped=dict(state.skipped) | (dict(collector.skipped) if k == 0 else {}),
        )
        for k, (source, state) in enumerate(zip(inputs, states, strict=True))
    )
    return Recording(
        engine=_engine_info(threads, chosen, rank_of),
        files=files,
        events=events,
        num_events=events.num_rows,
        requests=_request_table(requests, options, run_of, rank_of),
        warnings=tuple(warnings),
    )


def _attention_tp(options: ReadOptions, seen: int) -> int:
    info = options.server_info
    tp, dp = info.get("tp_size"), options.dp_size or info.get("dp_size")
    if isinstance(tp, int) and isinstance(dp, int) and 0 < dp <= tp:
        return tp // dp
    return seen


def _events(
    batches: pl.DataFrame,
    inputs: Sequence[Input],
    options: ReadOptions,
    run_of: dict[int, int],
    rank_of: dict[int, int],
) -> EventChunks:
    frame = batches.select(
        "source_id",
        pl.from_epoch("ts", time_unit="ns").dt.replace_time_zone("UTC").alias("ts"),
        pl.lit(1, pl.Duration("ns")).alias("ts_resolution"),
        pl.col("process").replace_strict(run_of, return_dtype=pl.UInt16).alias("engine_run"),
        pl.col("process").replace_strict(rank_of, return_dtype=pl.UInt16).alias("dp_rank"),
        pl.lit("prefill", EVENTS.schema["kind"]).alias("kind"),
        pl.max_horizontal("size", "seen").cast(pl.UInt32).alias("num_new_seqs"),
        pl.col("tokens").cast(pl.UInt32, strict=False).alias("num_new_tokens"),
        (pl.col("end") - pl.col("ts")).cast(pl.Duration("ns")).alias("duration"),
    )  # fmt: skip
    stores = []
    for k in range(len(inputs)):
        store = Spill("otel_spans", options.first_source_id + k)
        store.append(frame.filter(pl.col("source_id") == k).drop("source_id"))
        store.close()
        stores.append(store)
    return EventChunks(stores)


def _request_table(
    requests: pl.DataFrame, options: ReadOptions, run_of: dict[int, int], rank_of: dict[int, int]
) -> pl.DataFrame:
    if not requests.height:
        return REQUESTS.empty()
    place = pl.coalesce("scheduler", "helper")
    known = requests.filter(place.is_in(list(run_of)) & pl.col("rid").is_not_null())
    return REQUESTS.conform(
        known.with_columns(
            pl.lit("otel_spans").alias("source"),
            (pl.col("source_id") + options.first_source_id).alias("source_id"),
            place.replace_strict(run_of, return_dtype=pl.UInt16).alias("engine_run"),
            pl.col("scheduler")
            .replace_strict(rank_of, default=None, return_dtype=pl.UInt16)
            .alias("dp_rank"),
            pl.col("prompt_tokens").alias("num_prompt_tokens"),
            pl.col("cached_tokens").alias("num_cached_tokens"),
        )
    )


def _engine_info(
    threads: Sequence[Thread], chosen: Sequence[Engine], rank_of: dict[int, int]
) -> EngineInfo:
    roles = {threads[i].role for e in chosen for i in e.processes if threads[i].is_scheduler}
    has_dp = any(threads[i].dp_rank is not None for i in rank_of)
    return EngineInfo(
        release_min="0.5.11" if has_dp else "0.5.3",
        release_max=None if has_dp else "0.5.10",
        dp_size=max(rank_of.values()) + 1 if rank_of else None,
        dp_size_source="tags" if rank_of else None,
        role="prefill" if "prefill" in roles else "null" if roles else None,
    )
