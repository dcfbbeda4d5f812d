"""A load client's log, one JSON object a request → ``requests``.

Keys: ``rid``, ``phase``, ``n`` (prompt tokens), ``rank`` (the DP rank it asked for), ``t0`` and
``t1`` (sent and answered, epoch seconds by the client's clock), ``ok``, ``err``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pdtrace.errors import InputError
from pdtrace.sources.formats import FORMATS, MAX_RANKS, ReadOptions, SourceFormat
from pdtrace.sources.json_lines import LineCount, as_count, as_text, as_time_ns, read_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pdtrace.run import Recording
    from pdtrace.sources.inputs import Input

    Row = dict[str, object]


def _is_client_log(head: bytes) -> bool:
    try:
        first = json.loads(head.lstrip().partition(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "rid" in first and ("t0" in first or "phase" in first)


def _read_row(said: dict[str, Any]) -> Row | None:
    rid, sent = as_text(said.get("rid")), as_time_ns(said.get("t0"))
    if rid is None or sent is None:
        return None
    answered = as_time_ns(said.get("t1"))
    ok = said.get("ok")
    status = "failed" if ok is False else "finished" if answered is not None else "unfinished"
    return {
        "rid": rid,
        "dp_rank": as_count(said.get("rank"), MAX_RANKS - 1),
        "num_prompt_tokens": as_count(said.get("n")),
        "sent": sent,
        "received": sent,
        "finished": answered,
        "answered": answered,
        "status": status,
    }


def read_requests(
    inputs: Sequence[Input],
    options: ReadOptions,
    read_row: Callable[[dict[str, Any]], Row | None],
    expected: str,
) -> Recording:
    """Read files of one JSON object a request.

    Args:
        inputs: The files, opened.
        options: What the caller wants.
        read_row: Object → columns of ``requests`` (times as nanoseconds since the epoch); None for
            an object that is no request.
        expected: What a line should hold, for messages.

    Raises:
        InputError: A file has no such line.
    """
    import polars as pl  # noqa: PLC0415  (heavy)

    from pdtrace.run import EngineInfo, Recording, SourceFile  # noqa: PLC0415  (imports polars)
    from pdtrace.schema import REQUESTS, TIME  # noqa: PLC0415  (imports polars)

    files, frames, warnings = [], [REQUESTS.empty()], []
    for k, source in enumerate(inputs):
        count = LineCount()
        rows: list[Row] = []
        for number, said in read_objects(source, count):
            row = read_row(said)
            if row is None:
                count.miss(f"expected {expected}")
            else:
                rows.append({"line": number} | row)
        first = f" (first: {count.first_bad})" if count.first_bad else ""
        if not rows:
            raise InputError(
                f"no line of it could be read{first}; expected {expected}", path=source.path
            )
        if count.num_bad:
            warnings.append(f"{source.path}: {count.num_bad} lines were left out{first}")
        types = {
            c.name: pl.Int64 if c.dtype == TIME else pl.String if c.name == "status" else c.dtype
            for c in REQUESTS
            if c.name in rows[0]
        }
        frame = pl.DataFrame(rows, schema=types)
        frames.append(
            REQUESTS.conform(
                frame.with_columns(
                    pl.lit("client_log").alias("source"),
                    pl.lit(options.first_source_id + k).alias("source_id"),
                    pl.lit(0).alias("engine_run"),
                    *(
                        pl.from_epoch(c.name, time_unit="ns").dt.replace_time_zone("UTC")
                        for c in REQUESTS
                        if c.dtype == TIME and c.name in types
                    ),
                )
            )
        )
        files.append(
            SourceFile(
                path=source.path,
                source="client_log",
                num_bytes=source.num_bytes or source.done_bytes,
                num_lines=count.num_lines,
                skipped={"line without a request": count.num_bad} if count.num_bad else {},
            )
        )
    return Recording(
        engine=EngineInfo(),
        files=tuple(files),
        events=(),
        num_events=0,
        requests=pl.concat(frames),
        warnings=tuple(warnings),
    )


def _read(inputs: Sequence[Input], options: ReadOptions) -> Recording:
    return read_requests(
        inputs, options, _read_row, '\'{"rid": "...", "t0": seconds, "t1": seconds, "ok": true}\''
    )


FORMATS.register(
    "client_log",
    SourceFormat("client_log", "a load client's log", _is_client_log, _read, order=64),
)
