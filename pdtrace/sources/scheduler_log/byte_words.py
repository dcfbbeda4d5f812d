"""Text as bytes for compiled code: looking for, comparing and reading digits, eight at a time.

The kernel that is built of these is cached by its own date: after an edit here, touch
``kernel.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import numba as nb
import numpy as np

from pdtrace.sources.scheduler_log import catalogue as cat

if TYPE_CHECKING:
    from collections.abc import Callable

_LOW = np.uint64(0x0101010101010101)
_HIGH = np.uint64(0x8080808080808080)
_ZEROS = np.uint64(0x3030303030303030)
_SIXES = np.uint64(0x0606060606060606)
_UPPER = np.uint64(0xF0F0F0F0F0F0F0F0)
_PAIRS = np.uint64(0x000000FF000000FF)
_ABSENT = np.int64(cat.ABSENT)
_FIRST_YEAR, _LAST_YEAR = cat.YEARS[0], cat.YEARS[-1]

F = Any


def jit(inline: Literal["never", "always"] = "never") -> Callable[[F], F]:
    """Compile at the first call, with a cache beside the source and without the GIL."""
    return cast("Callable[[F], F]", nb.njit(nogil=True, cache=True, inline=inline))


@jit("always")
def find(buf: F, words: F, i: F, end: F, byte: F) -> F:
    """Index of the next ``byte`` in ``buf[i:end]``, or ``end``; eight bytes at a time."""
    while i < end and i & 7:
        if buf[i] == byte:
            return i
        i += 1
    pattern = _LOW * np.uint64(byte)
    while i < end:
        x = words[i >> 3] ^ pattern
        if (x - _LOW) & ~x & _HIGH:
            break
        i += 8
    while i < end:
        if buf[i] == byte:
            return i
        i += 1
    return end


@jit("always")
def load(words: F, i: F) -> F:
    """The eight bytes from ``i`` on, the first in the lowest bits."""
    shift = np.uint64((i & 7) << 3)
    # shifted twice, because a shift by all 64 bits would be none
    above = (words[(i >> 3) + 1] << (np.uint64(63) - shift)) << np.uint64(1)
    return (words[i >> 3] >> shift) | above


@jit("always")
def count_digits(x: F) -> F:
    """How many of eight bytes are digits before the first that is not, 8 if all are."""
    y = x ^ _ZEROS
    others = ((y + _SIXES) | y) & _UPPER
    if others == 0:
        return np.int64(8)
    below = (others & (~others + np.uint64(1))) - np.uint64(1)
    return np.int64(((below & _LOW) * _LOW) >> np.uint64(56)) - 1


@jit("always")
def to_number(x: F, n: F) -> F:
    """Value of the first ``n`` (1 to 8) of eight bytes, which are digits."""
    y = (x ^ _ZEROS) << np.uint64(64 - 8 * n)
    y = y * np.uint64(10) + (y >> np.uint64(8))
    pairs = (y & _PAIRS) * np.uint64(0x000F424000000064)
    pairs += ((y >> np.uint64(16)) & _PAIRS) * np.uint64(0x0000271000000001)
    return np.int64(pairs >> np.uint64(32))


@jit("always")
def is_digit(c: F) -> F:
    """Whether a byte is a digit."""
    return c >= 48 and c <= 57


@jit("always")
def two(buf: F, i: F) -> F:
    """Value of the two digits at ``i``; far below zero where they are none."""
    a, b = np.int64(buf[i]) - 48, np.int64(buf[i + 1]) - 48
    if a < 0 or a > 9 or b < 0 or b > 9:
        return np.int64(-1000000)
    return a * 10 + b


@jit("always")
def equals(buf: F, i: F, text: F, start: F, stop: F) -> F:
    """Whether ``text[start:stop]`` stands at ``i``."""
    for k in range(stop - start):  # noqa: SIM110  (numba has no all() of a generator)
        if buf[i + k] != text[start + k]:
            return False
    return True


@jit()
def stamp(buf: F, i: F) -> F:
    """Milliseconds since 1970 of ``YYYY-MM-DD HH:MM:SS`` at ``i`` as if it were UTC, or ABSENT."""
    if (
        buf[i + 4] != 45 or buf[i + 7] != 45 or buf[i + 10] != 32
        or buf[i + 13] != 58 or buf[i + 16] != 58
    ):  # fmt: skip
        return _ABSENT
    century, year = two(buf, i), two(buf, i + 2)
    month, day = two(buf, i + 5), two(buf, i + 8)
    hour, minute, second = two(buf, i + 11), two(buf, i + 14), two(buf, i + 17)
    if century < 0 or year < 0:
        return _ABSENT
    if century * 100 + year < _FIRST_YEAR or century * 100 + year > _LAST_YEAR:
        return _ABSENT
    if month < 1 or month > 12 or day < 1 or day > 31:
        return _ABSENT
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 60:
        return _ABSENT
    # days from the civil calendar, years beginning in March so that the leap day comes last
    y = century * 100 + year - (1 if month <= 2 else 0)
    era = y // 400
    yoe = y - era * 400
    doy = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    days = era * 146097 + yoe * 365 + yoe // 4 - yoe // 100 + doy - 719468
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000


@jit("always")
def is_header(buf: F, i: F) -> F:
    """Whether a date and time follow the ``[`` at ``i``: where another line begins."""
    for k in (1, 2, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19):
        if not is_digit(buf[i + k]):
            return False
    return (
        buf[i + 5] == 45 and buf[i + 8] == 45 and buf[i + 11] == 32
        and buf[i + 14] == 58 and buf[i + 17] == 58
    )  # fmt: skip


@jit()
def has_header(buf: F, words: F, i: F, end: F) -> F:
    """Whether another line begins in ``buf[i:end]``."""
    while True:
        i = find(buf, words, i, end, np.uint8(91))
        if i + 20 > end:
            return False
        if is_header(buf, i):
            return True
        i += 1
