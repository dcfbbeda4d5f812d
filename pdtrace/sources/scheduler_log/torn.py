"""Physical lines that hold pieces of two log lines, taken apart where that is sure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

from pdtrace.sources.scheduler_log import catalogue as cat
from pdtrace.sources.scheduler_log.reference import (
    EMBEDDED,
    HEADER,
    parse_batch,
    parse_head,
    strip_end,
)

_KNOWN = {f.key: f.kind for f in cat.FIELDS}
_PARTIAL_HEADER = re.compile(rb"\[[\d\-: .A-Z_]*\]? ?")
_PROGRESS = re.compile(rb"\r|%\|")
_LAST_NUMBER = re.compile(rb"(-?\d+\.\d\d)(.*)", re.DOTALL)
_COMPLETE_END = re.compile(rb"(?:: -?\d+\.\d\d%?|: True|: False)$")
_TAIL_BYTES = 1 << 16
_BEGINNINGS = (b"Prefill batch", b"Decode batch")

Row = tuple[list[int], list[float]]


def keys_of(text: bytes) -> tuple[bytes, ...] | None:
    """Known keys of a batch line in order; None if a number of it is not whole."""
    head = parse_head(text)
    if head is None:
        return None
    keys = []
    body = strip_end(text)[head.end :]
    cells = body.split(b", ") if b", " in body else body.split(b". ", 1)
    for cell in cells:
        key, _, value = cell.partition(b": ")
        key = key.rpartition(b". ")[2] if key.startswith(_BEGINNINGS) else key
        kind = _KNOWN.get(key)
        if kind is None:
            continue
        if kind == cat.INT and not re.fullmatch(rb"-?\d+", value):
            return None
        if kind in (cat.FLOAT, cat.USAGE) and not re.fullmatch(rb"-?\d+\.\d\d", value):
            return None
        keys.append(key)
    return tuple(keys)


def is_batch(text: bytes) -> bool:
    """Whether a line is a batch line, whole or not."""
    head = parse_head(text)
    return head is not None and text[head.end :].startswith(_BEGINNINGS)


def last_line_of_traceback(following: bytes) -> str:
    """The line that names the exception, from the text after ``Traceback (most recent …)``."""
    found = b""
    for line in following.split(b"\n"):
        if HEADER.match(line) or EMBEDDED.match(line):
            break
        if line[:1].strip() and b":" in line:
            found = line
        elif found and not line.strip():
            break
    return strip_end(found).decode("utf-8", "replace")[:300]


@dataclass
class TornLines:
    """Knows which keys a whole line of this log has, and takes torn lines apart by that.

    Attributes:
        usual: Keys of recent whole lines, by kind (Prefill, Decode).
    """

    usual: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    _last_line: int = -10
    _tail: bytes = b""

    def remember_tail(self, text: bytes | memoryview) -> None:
        """Keep the end of a block, to compare a half-written last line with."""
        self._tail = bytes(text[-_TAIL_BYTES:])

    def learn(self, text: bytes) -> None:
        """Remember the keys of the last whole batch line of a text."""
        for begin in _BEGINNINGS:
            at = len(text)
            for _ in range(20):
                at = text.rfind(b"] " + begin, 0, at)
                if at < 0:
                    break
                start = text.rfind(b"\n", 0, at) + 1
                stop = text.find(b"\n", at)
                line = text[start : stop if stop >= 0 else len(text)]
                keys = None if EMBEDDED.search(line, 1) else keys_of(line)
                if keys:
                    self.usual[begin] = keys
                    break

    def is_whole(self, text: bytes) -> bool:
        """Whether a batch line that lacks its newline lacks nothing else."""
        head = parse_head(text)
        if head is None:
            return False
        self.learn(self._tail)
        keys = keys_of(text)
        for begin in _BEGINNINGS:
            if text.startswith(begin, head.end) and begin in self.usual:
                return keys == self.usual[begin] and self._ends_well(text)
        return bool(keys) and self._ends_well(text)

    @staticmethod
    def _ends_well(text: bytes) -> bool:
        return text.rstrip(b"\r ").endswith(b",") or bool(_COMPLETE_END.search(strip_end(text)))

    def take_apart(
        self, number: int, line: bytes, following: bytes
    ) -> tuple[list[Row], list[bytes], int]:
        """Recover the lines that share a physical line.

        Args:
            number: Number of the line in its block.
            line: The line.
            following: Text after it.

        Returns:
            Batch rows; other messages, with their headers; batch lines that are lost.
        """
        cuts = [m.start() for m in EMBEDDED.finditer(line, 1)]
        edges = [0, *cuts, len(line)]
        pieces = [line[a:b] for a, b in pairwise(edges)]
        follows_torn = number == self._last_line + 1
        first, rest = pieces[0], pieces[1:]
        if not self._is_trusted(first, follows_torn=follows_torn):
            return [], [], 0
        self._last_line = number
        after = strip_end(following.partition(b"\n")[0])
        if after.startswith(b"["):
            after = b""
        rows: list[Row] = []
        others: list[bytes] = []
        num_lost = 0
        for i, piece in enumerate([first, *rest]):
            is_last = i == len(rest)
            if not is_batch(piece):
                if i:
                    others.append(piece)
                continue
            expected = self._expected(piece, rest)
            whole = self._complete(piece, expected, after=after, is_last=is_last)
            if whole is None and is_last and first is not piece and is_batch(first):
                whole = self._split_tail(piece, first, expected, rows)
                num_lost -= whole is not None
            row = None if whole is None else self._row(whole)
            if row is None:
                num_lost += 1
            else:
                rows.append(row)
        return rows, others, num_lost

    @staticmethod
    def _is_trusted(first: bytes, *, follows_torn: bool) -> bool:
        """Whether what stands before an embedded header is a piece of a line, not a quotation."""
        head = parse_head(first)
        if head is None:
            is_progress = _PROGRESS.search(first) is not None
            return follows_torn or is_progress or _PARTIAL_HEADER.fullmatch(first) is not None
        message = first[head.end :]
        if message.startswith(_BEGINNINGS):
            return True
        if any(b.startswith(message) for b in _BEGINNINGS):
            return True
        return message.startswith((b"INFO:     ", b"PrefillDelayer "))

    def _expected(self, piece: bytes, rest: list[bytes]) -> tuple[bytes, ...] | None:
        head = parse_head(piece)
        for begin in _BEGINNINGS:
            if head is not None and piece.startswith(begin, head.end) and begin in self.usual:
                return self.usual[begin]
        known = [k for k in map(keys_of, rest) if k and len(k) >= 5 and len(set(k)) == len(k)]
        return known[0] if known else None

    def _complete(
        self, piece: bytes, expected: tuple[bytes, ...] | None, *, after: bytes, is_last: bool
    ) -> bytes | None:
        if expected is None:
            return None
        if keys_of(piece) == expected and (self._ends_well(piece) or is_last):
            return piece
        if after and not is_last and keys_of(piece + after) == expected:
            return piece + after
        return None

    def _split_tail(
        self, piece: bytes, first: bytes, expected: tuple[bytes, ...] | None, rows: list[Row]
    ) -> bytes | None:
        """``A-begin B A-end`` in one line: cut B after its last number, give the rest to A."""
        if expected is None:
            return None
        at = piece.find(expected[-1] + b": ")
        if at < 0:
            return None
        m = _LAST_NUMBER.match(piece, at + len(expected[-1]) + 2)
        if m is None:
            return None
        mine, tail = piece[: m.end(1)], m[2]
        if keys_of(mine) != expected or keys_of(first + tail) != expected:
            return None
        row = self._row(first + tail)
        if row is None:
            return None
        rows.append(row)
        return mine

    @staticmethod
    def _row(text: bytes) -> Row | None:
        stripped = strip_end(text)
        head = parse_head(stripped)
        row = parse_batch(stripped, head) if head is not None else None
        if not isinstance(row, tuple):
            return None
        if b"," in text[len(stripped) :]:
            row[0][cat.SEEN] |= cat.HAS_TRAILING_COMMA
        return row
