"""One forward-pass metrics message: a msgpack map, or the same as JSON → ``Pass``.

Keys of version 1 (SGLang 0.5.12 to 0.5.23). A message says what one rank ran, and for how long; it
has no time of its own and no number of the forward: it is stamped on receipt, and ``counter_id``
only tells lost messages.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from pdtrace.sources.formats import MAX_RANKS

MAX_PAYLOAD_BYTES = 1 << 20


class _Scheduled(msgspec.Struct):
    num_prefill_requests: int = 0
    sum_prefill_tokens: int = 0
    num_decode_requests: int = 0


class _Payload(msgspec.Struct):
    dp_rank: int
    counter_id: int
    scheduled_requests: _Scheduled
    wall_time: float = 0.0
    worker_id: str = ""


class _Event(msgspec.Struct):
    fpm: _Payload | None = None
    observed_at_unix_ms: int = 0


class _Line(msgspec.Struct):
    """A trace line: Dynamo's envelope (``dynamo.fpm.trace.v1``), or the bare payload."""

    event: _Event | None = None


class Pass(NamedTuple):
    """What one message says.

    Attributes:
        ts: Receipt, nanoseconds since the epoch.
        worker: The publisher, as configured.
        dp_rank: Its DP rank.
        counter: Sequence number of the publisher; heartbeats take numbers too.
        kind: ``prefill``, ``decode``, ``idle``, or ``heartbeat``: an idle pass took GPU time.
        num_seqs, num_tokens: Prefill requests and their tokens.
        seconds: GPU time; through 0.5.22 that since the message before.
    """

    ts: int
    worker: str
    dp_rank: int
    counter: int
    kind: str
    num_seqs: int
    num_tokens: int
    seconds: float


_decode_msgpack = msgspec.msgpack.Decoder(_Payload).decode
_decode_line = msgspec.json.Decoder(_Line).decode
_decode_bare = msgspec.json.Decoder(_Payload).decode


def decode_payload(payload: bytes, ts: int) -> Pass:
    """Decode the msgpack payload of a message (the third ZMQ frame).

    Args:
        payload: The frame.
        ts: When it was received, nanoseconds since the epoch.

    Raises:
        ValueError: It is no such message (msgspec's errors are ValueErrors).
    """
    try:
        return _describe(_decode_msgpack(payload), ts)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e


def decode_frames(frames: list[bytes], ts: int) -> Pass:
    """Decode a live message: empty topic, sequence number (8 bytes, big-endian), payload.

    Raises:
        ValueError: It does not have three frames, or its payload is none.
    """
    if len(frames) != 3:
        raise ValueError(f"a message of {len(frames)} frames; expected topic, number and payload")
    return decode_payload(frames[2], ts)


def decode_json(line: bytes) -> Pass:
    """Decode a line of a router's trace; a line without a time of its own gets 0.

    Raises:
        ValueError: It is no such line.
    """
    try:
        event = _decode_line(line).event
        if event is not None and event.fpm is not None:
            return _describe(event.fpm, event.observed_at_unix_ms * 1_000_000)
        return _describe(_decode_bare(line), 0)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e


def _describe(m: _Payload, ts: int) -> Pass:
    done = m.scheduled_requests
    if not 0 <= m.dp_rank < MAX_RANKS or not 0 <= m.counter_id < 2**63:
        raise ValueError("a rank or counter out of range")
    if not math.isfinite(m.wall_time) or not 0 <= m.wall_time < 1e6:
        raise ValueError("a duration out of range")
    if not 0 <= done.num_prefill_requests < 2**32 or not 0 <= done.sum_prefill_tokens < 2**32:
        raise ValueError("a batch out of range")
    kind = "heartbeat"
    if done.num_prefill_requests > 0:
        kind = "prefill"
    elif done.num_decode_requests > 0:
        kind = "decode"
    elif m.wall_time > 0:
        kind = "idle"
    return Pass(
        ts, m.worker_id, m.dp_rank, m.counter_id, kind, done.num_prefill_requests,
        done.sum_prefill_tokens, m.wall_time,
    )  # fmt: skip
