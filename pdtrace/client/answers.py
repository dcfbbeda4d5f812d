"""What an engine's answer says of each request in a post."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdtrace.client.flights import Flight

_MOST_ERROR = 1000


@dataclass(frozen=True)
class Answer:
    """How one request ended.

    Attributes:
        is_ok: Whether the engine did what it was asked.
        kind: If not: ``refused``, ``disconnected``, ``timeout``, ``interrupted``, ``http_400`` and
            so on, ``engine`` (it answered that it gave up), or ``answer`` (it cannot be read).
        error: The same in words: the engine's, or the client's exception.
        rank: DP rank that served it (0.5.10 on).
        num_cached: Prompt tokens that the prefix cache had.
        num_tokens: Prompt tokens as the engine counts them.
    """

    is_ok: bool
    kind: str | None = None
    error: str | None = None
    rank: int | None = None
    num_cached: int | None = None
    num_tokens: int | None = None


def read_answers(flight: Flight, num: int) -> list[Answer]:
    """What became of each of the requests in a post.

    Args:
        flight: Of the post; ended, or given up.
        num: Requests in it.
    """
    if flight.kind is not None:
        return [Answer(False, flight.kind, flight.error)] * num
    if flight.status is None:
        return [Answer(False, "interrupted", "interrupted: the client stopped waiting")] * num
    if flight.status != 200:
        text = flight.text[:_MOST_ERROR].decode("utf-8", "replace")
        return [Answer(False, f"http_{flight.status}", text or f"HTTP {flight.status}")] * num
    try:
        said = json.loads(flight.text)
    except (ValueError, RecursionError):
        return [Answer(False, "answer", "an answer that is not JSON")] * num
    parts = said if isinstance(said, list) else [said]
    if len(parts) != num:
        return [Answer(False, "answer", f"{len(parts)} answers for {num} prompts")] * num
    return [_read_answer(part) for part in parts]


def _read_answer(said: Any) -> Answer:  # noqa: ANN401 (whatever the engine answered)
    if not isinstance(said, dict):
        return Answer(False, "answer", "an answer that is not an object")
    if said.get("error"):
        return Answer(False, "engine", _shorten(said["error"]))
    meta = said.get("meta_info")
    meta = meta if isinstance(meta, dict) else {}
    reason = meta.get("finish_reason")
    is_aborted = isinstance(reason, dict) and reason.get("type") == "abort"
    return Answer(
        not is_aborted,
        "engine" if is_aborted else None,
        _shorten(reason.get("message") or "aborted") if reason and is_aborted else None,
        rank=_count(meta.get("dp_rank")),
        num_cached=_count(meta.get("cached_tokens")),
        num_tokens=_count(meta.get("prompt_tokens")),
    )


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 32 else None


def _shorten(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:_MOST_ERROR]
