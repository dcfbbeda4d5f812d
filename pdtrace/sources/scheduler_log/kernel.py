"""The byte kernel: one pass over a block, digits straight into columns. Needs numba.

It reads exactly what ``reference`` reads, many times faster, and releases the GIL, so two blocks
can be read at once. What the fields are called stands in ``catalogue``; per cell the kernel first
tries the key that followed the previous key last time, and only then searches all keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pdtrace.sources.scheduler_log import catalogue as cat
from pdtrace.sources.scheduler_log import ranks
from pdtrace.sources.scheduler_log.byte_words import (
    F,
    count_digits,
    equals,
    find,
    has_header,
    is_digit,
    is_header,
    jit,
    load,
    stamp,
    to_number,
)
from pdtrace.sources.scheduler_log.lines import Parsed

if TYPE_CHECKING:
    from numpy.typing import NDArray

PADDING = 64
"""Bytes that must follow the text in the buffer, so that looking ahead needs no check."""

_THREE_BYTES = np.uint64(0xFFFFFF)
_POWERS = 10.0 ** np.arange(18)
_ABSENT = np.int64(cat.ABSENT)
_NUM_FIELDS = len(cat.FIELDS)
_FIRST_CODE_TORN = np.int64(cat.TORN)
_CODE_ACCESS = np.int64(cat.ACCESS)
_CODE_TRACEBACK = np.int64(cat.TRACEBACK)
_MOST_USAGE = np.float64(cat.MOST_USAGE)
_LINE, _TS, _DP, _TP, _PP = cat.LINE, cat.TS, cat.DP, cat.TP, cat.PP
_LABEL, _KIND, _SEEN, _TOKENS = cat.LABEL, cat.KIND, cat.SEEN, cat.NEW_TOKENS
_HAS_MS, _HAS_DOT = np.int64(cat.HAS_MS), np.int64(cat.HAS_DOT)
_HAS_COMMA, _HAS_OTHER = np.int64(cat.HAS_TRAILING_COMMA), np.int64(cat.HAS_OTHER_TAG)
_GRAPH, _THROUGHPUT = np.int64(cat.GRAPH), np.int64(cat.THROUGHPUT)
_BEFORE = np.int64(cat.THROUGHPUT_BEFORE_GRAPH)


def _pack(texts: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    ends = np.cumsum([0, *(len(t) for t in texts)], dtype=np.int64)
    return np.frombuffer(b"".join(texts), dtype=np.uint8), ends


def _pack_words(texts: list[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Texts as rows of eight-byte words, and the bits of them that count."""
    size = (max(map(len, texts)) + 7) // 8 * 8
    rows = b"".join(t.ljust(size, b"\0") for t in texts)
    masks = b"".join((b"\xff" * len(t)).ljust(size, b"\0") for t in texts)
    shape = (len(texts), size // 8)
    return (
        np.frombuffer(rows, dtype=np.uint64).reshape(shape),
        np.frombuffer(masks, dtype=np.uint64).reshape(shape),
    )


_KEY_TEXTS = [f.key + b": " for f in cat.FIELDS]
_KEY_WORDS, _KEY_MASKS = _pack_words(_KEY_TEXTS)
_KEY_SIZES = np.array([len(t) for t in _KEY_TEXTS], dtype=np.int64)
_KEY_KINDS = np.array([f.kind for f in cat.FIELDS], dtype=np.int64)
_KEY_SLOTS = np.array([f.slot for f in cat.FIELDS], dtype=np.int64)
_STARTS, _START_ENDS = _pack([text for text, _ in cat.NOTES])
_START_CODES = np.array([code for _, code in cat.NOTES], dtype=np.int64)
_WORDS, _WORD_ENDS = _pack(
    [b"Prefill batch", b"Decode batch", b"INFO:     ", b"Traceback (most", cat.MARK]
)


@jit("always")
def _is_key(words: F, i: F, key: F) -> F:
    if load(words, i) & _KEY_MASKS[key, 0] != _KEY_WORDS[key, 0]:
        return False
    for k in range(1, (_KEY_SIZES[key] + 7) >> 3):
        if load(words, i + 8 * k) & _KEY_MASKS[key, k] != _KEY_WORDS[key, k]:
            return False
    return True


@jit()
def _note(buf: F, words: F, i: F, end: F) -> F:
    """Code of the line whose message begins at ``i``, or -1."""
    first = buf[i]
    for k in range(_START_CODES.size):
        a, b = _START_ENDS[k], _START_ENDS[k + 1]
        if _STARTS[a] == first and i + b - a <= end and equals(buf, i, _STARTS, a, b):
            return _START_CODES[k]
    if first == 73 and equals(buf, i, _WORDS, _WORD_ENDS[2], _WORD_ENDS[3]):
        j = i
        while True:
            j = find(buf, words, j, end, np.uint8(45))
            if j >= end:
                break
            if j + _WORD_ENDS[5] - _WORD_ENDS[4] <= end and equals(
                buf, j, _WORDS, _WORD_ENDS[4], _WORD_ENDS[5]
            ):
                return _CODE_ACCESS
            j += 1
    return -1


@jit()
def _parse(buf: F, words: F, i: F, n: F, ints: F, floats: F, notes: F, following: F) -> F:
    """Read ``buf[i:n]``. Returns the numbers of rows, notes, lines, and lines without tokens."""
    row = num_notes = num_lines = num_blank = np.int64(0)
    # most lines print the second that the line before them printed
    last_ts = _ABSENT
    last_a = last_b = last_c = np.uint64(0)
    while i < n:
        start = i
        stop = find(buf, words, i, n, np.uint8(10))
        i = stop + 1
        num_lines += 1
        end = stop
        has_comma = False
        while end > start and (buf[end - 1] == 32 or buf[end - 1] == 44 or buf[end - 1] == 13):
            if buf[end - 1] == 44:
                has_comma = True
            end -= 1
        ts = _ABSENT
        if buf[start] == 91 and end - start > 21:
            a_word, b_word = load(words, start + 1), load(words, start + 9)
            c_word = load(words, start + 17) & _THREE_BYTES
            if a_word != last_a or b_word != last_b or c_word != last_c:
                last_a, last_b, last_c = a_word, b_word, c_word
                last_ts = stamp(buf, start + 1)
            ts = last_ts
        p = start + 20
        has_ms = False
        dp = tp = pp = _ABSENT
        has_other = False
        if ts != _ABSENT:
            if buf[p] == 46:
                for k in range(1, 4):
                    if not is_digit(buf[p + k]):
                        ts = _ABSENT
                if ts != _ABSENT:
                    ts += (
                        (np.int64(buf[p + 1]) - 48) * 100
                        + (np.int64(buf[p + 2]) - 48) * 10
                        + (np.int64(buf[p + 3]) - 48)
                    )
                    p += 4
                    has_ms = True
            while ts != _ABSENT and buf[p] == 32:
                a = p + 1
                p = a
                while (buf[p] >= 65 and buf[p] <= 90) or buf[p] == 95:
                    p += 1
                b = p
                value = np.int64(0)
                while is_digit(buf[p]) and p - b < 4:
                    value = value * 10 + (np.int64(buf[p]) - 48)
                    p += 1
                if b in (a, p):
                    ts = _ABSENT
                elif b - a == 2 and buf[a + 1] == 80 and buf[a] == 68:
                    dp = value
                elif b - a == 2 and buf[a + 1] == 80 and buf[a] == 84:
                    tp = value
                elif b - a == 2 and buf[a + 1] == 80 and buf[a] == 80:
                    pp = value
                else:
                    has_other = True
            if ts != _ABSENT and (buf[p] != 93 or buf[p + 1] != 32 or p + 2 > end):
                ts = _ABSENT
            p += 2
        if ts == _ABSENT:
            code = np.int64(-1)
            if end - start > 20:
                if equals(buf, start, _WORDS, _WORD_ENDS[3], _WORD_ENDS[4]):
                    code = _CODE_TRACEBACK
                elif has_header(buf, words, start + 1, end):
                    code = _FIRST_CODE_TORN
            if code >= 0:
                notes[0, num_notes] = code
                notes[1, num_notes] = start
                notes[2, num_notes] = stop
                notes[3, num_notes] = num_lines
                num_notes += 1
            continue

        kind = np.int64(-1)
        q = p
        if p + 13 < end and equals(buf, p, _WORDS, _WORD_ENDS[0], _WORD_ENDS[1]):
            kind = np.int64(0)
            q = p + 13
        elif p + 12 < end and equals(buf, p, _WORDS, _WORD_ENDS[1], _WORD_ENDS[2]):
            kind = np.int64(1)
            q = p + 12
        label = _ABSENT
        if kind >= 0 and buf[q] == 32 and buf[q + 1] == 91:
            a = q + 2
            q = a
            value = np.int64(0)
            while is_digit(buf[q]) and q - a < 18:
                value = value * 10 + (np.int64(buf[q]) - 48)
                q += 1
            if q == a or buf[q] != 93:
                kind = np.int64(-1)
            else:
                label = value
                q += 1
        if kind >= 0 and (q + 2 > end or buf[q + 1] != 32 or not (buf[q] == 44 or buf[q] == 46)):
            kind = np.int64(-1)

        if kind < 0:
            code = _note(buf, words, p, end)
            c = buf[p]
            # only these messages are taken apart when another line was written into them
            if c in (80, 68, 82, 73) and has_header(buf, words, p, end):
                code = _FIRST_CODE_TORN
            if code >= 0:
                notes[0, num_notes] = code
                notes[1, num_notes] = start
                notes[2, num_notes] = stop
                notes[3, num_notes] = num_lines
                num_notes += 1
            continue

        seen = np.int64(0)
        if buf[q] == 46:
            seen |= _HAS_DOT
        if has_ms:
            seen |= _HAS_MS
        if has_comma:
            seen |= _HAS_COMMA
        if has_other:
            seen |= _HAS_OTHER
        for k in range(8, ints.shape[0]):
            ints[k, row] = _ABSENT
        usage = throughput = np.nan
        p = q + 2
        # the two kinds of line go through the keys in different orders
        base = kind * (_NUM_FIELDS + 1)
        previous = base + _NUM_FIELDS
        is_torn = False
        while p < end:
            key = following[previous]
            if p + _KEY_SIZES[key] > end or not _is_key(words, p, key):
                key = np.int64(-1)
                first = load(words, p)
                for k in range(_NUM_FIELDS):
                    if (
                        first & _KEY_MASKS[k, 0] == _KEY_WORDS[k, 0]
                        and p + _KEY_SIZES[k] <= end
                        and _is_key(words, p, k)
                    ):
                        key = np.int64(k)
                        following[previous] = key
                        break
            is_valid = False
            if key >= 0:
                previous = base + key
                bit = np.int64(1) << key
                if bit & _GRAPH and seen & _THROUGHPUT:
                    seen |= _BEFORE
                seen |= bit
                p += _KEY_SIZES[key]
                kind_of = _KEY_KINDS[key]
                if kind_of != 3:
                    q = p
                    is_negative = buf[q] == 45
                    if is_negative:
                        q += 1
                    a = q
                    value = np.int64(0)
                    word = load(words, q)
                    count = count_digits(word)
                    if count and count < 8:
                        value = to_number(word, count)
                        q += count
                    while is_digit(buf[q]) and q - a < 18:
                        value = value * 10 + (np.int64(buf[q]) - 48)
                        q += 1
                    is_valid = q > a
                    decimals = np.int64(-1)
                    if is_valid and buf[q] == 46:
                        decimals = np.int64(0)
                        q += 1
                        while is_digit(buf[q]) and q - a < 17:
                            value = value * 10 + (np.int64(buf[q]) - 48)
                            decimals += 1
                            q += 1
                    is_valid = is_valid and (
                        q == end or (q + 1 < end and buf[q] == 44 and buf[q + 1] == 32)
                    )
                    if is_negative:
                        value = -value
                    if is_valid and kind_of == 0:
                        if decimals < 0:
                            ints[_KEY_SLOTS[key], row] = value
                        else:
                            is_valid = False
                    elif is_valid and q - a <= 16:
                        places = decimals if decimals > 0 else 0
                        x = np.float64(value) / _POWERS[places]
                        if kind_of == 1:
                            throughput = x
                        elif 0 <= x <= _MOST_USAGE and not usage >= x:
                            usage = x
                    else:
                        is_valid = False
                    if is_valid:
                        p = q
            if not is_valid:
                while p < end and not (p + 1 < end and buf[p] == 44 and buf[p + 1] == 32):
                    if buf[p] == 91 and p + 20 <= end and is_header(buf, p):
                        is_torn = True
                        break
                    p += 1
            if is_torn:
                break
            p += 2
        if is_torn:
            notes[0, num_notes] = _FIRST_CODE_TORN
            notes[1, num_notes] = start
            notes[2, num_notes] = stop
            notes[3, num_notes] = num_lines
            num_notes += 1
            continue
        if kind == 0 and ints[_TOKENS, row] == _ABSENT:
            num_blank += 1
            continue
        ints[_LINE, row] = num_lines
        ints[_TS, row] = ts
        ints[_DP, row] = dp
        ints[_TP, row] = tp
        ints[_PP, row] = pp
        ints[_LABEL, row] = label
        ints[_KIND, row] = kind
        ints[_SEEN, row] = seen
        floats[0, row] = usage
        floats[1, row] = throughput
        row += 1
    return row, num_notes, num_lines, num_blank


def parse_block(buffer: NDArray[np.uint8], stop: int, *, start: int = 0) -> Parsed:
    """Read a block of whole lines.

    Args:
        buffer: Holds the text, then at least ``PADDING`` bytes that are zero or later text.
        stop: End of the text.
        start: Where its first line begins.

    Returns:
        What ``reference.parse_block`` returns for the same bytes, offsets counted in ``buffer``.
    """
    words = buffer[: buffer.size // 8 * 8].view(np.uint64)
    # the shortest batch line and the shortest other line of interest are longer than this
    max_rows = (stop - start) // 36 + 2
    max_notes = (stop - start) // 20 + 2
    ints = np.empty((cat.NUM_INTS, max_rows), dtype=np.int64)
    floats = np.empty((len(cat.FLOAT_FIELDS), max_rows), dtype=np.float64)
    notes = np.empty((4, max_notes), dtype=np.int64)
    following = np.zeros(2 * (_NUM_FIELDS + 1), dtype=np.int64)
    rows, num_notes, lines, blank = _parse(
        buffer, words, start, stop, ints, floats, notes, following
    )
    return Parsed(
        ints[:, :rows].copy(),
        floats[:, :rows].copy(),
        notes[:, :num_notes].copy(),
        int(lines),
        int(blank),
    )


fold_rows = jit()(ranks.fold_rows)
"""``ranks.fold_rows``, compiled."""
