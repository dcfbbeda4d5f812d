"""What other programs put around a log line: container run times, journald, colours."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.sources.scheduler_log.clock import NO_TIME
from pdtrace.sources.scheduler_log.reference import EMBEDDED
from pdtrace.sources.scheduler_log.state import Wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_RFC = rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)"
_POD = rb"(?:\[pod/[^\]\n]*\] )?"
_CRI = re.compile(_POD + _RFC + rb" (stdout|stderr) ([FP]) ?")
_KUBECTL = re.compile(_POD + _RFC + rb" ?(?:)")
_JOURNAL_ISO = re.compile(_RFC + rb" \S+ [^\s:\[]+(?:\[\d+\])?: ")
_JOURNAL = re.compile(
    rb"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d+)? \S+ [^\s:\[]+(?:\[\d+\])?: "
)
_COMPOSE = re.compile(rb"[\w.\-/]+ +\| |\[pod/[^\]\n]*\] ")
_COLOUR = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_DOCKER = re.compile(rb'\{.*"log"\s*:\s*"')
_PATTERNS = (_CRI, _JOURNAL_ISO, _KUBECTL, _JOURNAL, _COMPOSE)

# content, UTC ns or NO_TIME, stream, whether the line goes on
Piece = tuple[bytes, int, bytes, bool]


class Unwrapper:
    """Takes the wrapping off, line by line.

    Attributes:
        num_lines: Physical lines seen.
    """

    def __init__(self, read_line: Callable[[bytes], Piece]) -> None:
        self.num_lines = 0
        self._read_line = read_line

    @classmethod
    def detect(cls, head: bytes) -> Unwrapper | None:
        """Look at the first bytes of a file; None if its lines are bare."""
        plain = _COLOUR.sub(b"", head)
        lines = [x for x in plain.split(b"\n")[:400] if x.strip()]
        lines = [x for x in lines if EMBEDDED.search(x)] or lines
        if not lines:
            return None
        half = len(lines) / 2
        if sum(bool(_DOCKER.match(x)) for x in lines) > half:
            return cls(_read_docker)
        if sum(bool(EMBEDDED.match(x)) for x in lines) <= half:
            for pattern in _PATTERNS:
                if sum(bool(pattern.match(x)) for x in lines) > half:
                    return cls(_Prefix(pattern))
        return cls(_read_bare) if plain != head else None

    def unwrap(self, blocks: Iterable[bytes]) -> Iterator[tuple[bytes, Wrapped]]:
        """Bare text of each block, with where its lines came from."""
        held: dict[bytes, tuple[bytes, int, int]] = {}
        for block in blocks:
            if b"\x1b" in block:
                block = _COLOUR.sub(b"", block)  # noqa: PLW2901
            lines: list[bytes] = []
            numbers: list[int] = []
            times: list[int] = []
            physical = block.split(b"\n")
            if not physical[-1]:
                physical.pop()
            for raw in physical:
                self.num_lines += 1
                text, ns, stream, goes_on = self._read_line(raw)
                number = self.num_lines
                if held and stream in held:
                    begun, number, _ = held.pop(stream)
                    text = begun + text
                if goes_on:
                    held[stream] = (text, number, ns)
                    continue
                for part in text.split(b"\n") if b"\n" in text else (text,):
                    lines.append(part)
                    numbers.append(number)
                    times.append(ns)
            yield _build_block(lines, numbers, times, is_whole=block.endswith(b"\n"))
        if held:
            left = list(held.values())
            yield _build_block([x[0] for x in left], [x[1] for x in left], [x[2] for x in left])


def _build_block(
    lines: list[bytes], numbers: list[int], times: list[int], *, is_whole: bool = False
) -> tuple[bytes, Wrapped]:
    text = b"\n".join(lines) + (b"\n" if is_whole and lines else b"")
    return text, Wrapped(np.array(numbers, dtype=np.int64), np.array(times, dtype=np.int64))


def _read_bare(raw: bytes) -> Piece:
    return raw, NO_TIME, b"", False


_seconds: dict[tuple[bytes, bytes], int] = {}


def read_rfc3339(moment: bytes, decimals: bytes | None, zone: bytes) -> int:
    """UTC ns of the parts of an RFC 3339 stamp; ``NO_TIME`` if it is none."""
    whole = _seconds.get((moment, zone))
    if whole is None:
        offset = "+00:00" if zone == b"Z" else zone.decode()
        try:
            whole = int(datetime.fromisoformat(moment.decode() + offset).timestamp())
        except ValueError:
            return NO_TIME
        if len(_seconds) > 100_000:
            _seconds.clear()
        _seconds[moment, zone] = whole
    return whole * 1_000_000_000 + (int(decimals.ljust(9, b"0")) if decimals else 0)


class _Prefix:
    """Reads lines that a pattern's prefix stands before; others pass as they are."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self.pattern = pattern
        self.has_time = pattern.groups >= 3
        self.has_stream = pattern.groups >= 5

    def __call__(self, raw: bytes) -> Piece:
        m = self.pattern.match(raw)
        if m is None:
            return raw, NO_TIME, b"", False
        text = raw[m.end() :]
        if not self.has_time:
            return text, NO_TIME, b"", False
        # whole seconds of a wrapper say less than the line's own
        ns = read_rfc3339(m[1], m[2], m[3]) if m[2] else NO_TIME
        if not self.has_stream:
            return text, ns, b"", False
        return text, ns, m[4], m[5] == b"P"


_DOCKER_TIME = re.compile(_RFC)


def _read_docker(raw: bytes) -> Piece:
    try:
        item = json.loads(raw)
        text = item["log"].encode("utf-8", "surrogatepass")
        time, stream = (str(item.get(key, "")).encode() for key in ("time", "stream"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return raw, NO_TIME, b"", False
    m = _DOCKER_TIME.match(time)
    ns = read_rfc3339(m[1], m[2], m[3]) if m and m[2] else NO_TIME
    goes_on = not text.endswith(b"\n")
    return text[: None if goes_on else -1], ns, stream, goes_on
