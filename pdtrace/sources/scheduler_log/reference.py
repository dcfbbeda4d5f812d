"""The obvious reader of batch lines, in plain Python; the kernel must match it.

It reads small logs, and so needs neither numba nor its half second of import.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from pdtrace.sources.scheduler_log import catalogue as cat
from pdtrace.sources.scheduler_log.lines import Parsed

HEADER = re.compile(
    rb"\[(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{3}))?((?: [A-Z_]+\d{1,4})*)\] "
)
EMBEDDED = re.compile(rb"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_TAG = re.compile(rb" ([A-Z_]+)(\d+)")
_BATCH = re.compile(rb"(Prefill|Decode) batch(?: \[(\d{1,18})\])?([.,]) ")
_NUMBER = re.compile(rb"(-?)(\d{1,18})(?:(\.)(\d*))?")
_FIELD = {f.key: (i, f.kind, f.slot) for i, f in enumerate(cat.FIELDS)}
_NOTES_BY_FIRST: dict[int, list[tuple[bytes, int]]] = {}
for _text, _code in cat.NOTES:
    _NOTES_BY_FIRST.setdefault(_text[0], []).append((_text, _code))
_SPLIT_MESSAGES = frozenset(b"PDRI")


class Head(NamedTuple):
    """The prefix of a line: local time (ms, as if UTC), tags, bits, where the message begins."""

    ts_ms: int
    dp_rank: int
    tp_rank: int
    pp_rank: int
    bits: int
    end: int


def count_days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01; a day that the month does not have counts on into the next."""
    y = year - (month <= 2)
    era = y // 400
    yoe = y - era * 400
    doy = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + yoe * 365 + yoe // 4 - yoe // 100 + doy - 719468


def parse_head(text: bytes) -> Head | None:
    """Read ``[time tags] `` at the start of a line; None if it does not begin so."""
    m = HEADER.match(text)
    if m is None:
        return None
    year, month, day, hour, minute, second = map(int, m.group(1, 2, 3, 4, 5, 6))
    if year not in cat.YEARS or not (
        1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60
    ):
        return None
    days = count_days(year, month, day)
    ts = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000
    bits = 0
    if m[7] is not None:
        ts += int(m[7])
        bits |= cat.HAS_MS
    tags = {b"DP": cat.ABSENT, b"TP": cat.ABSENT, b"PP": cat.ABSENT}
    for name, value in _TAG.findall(m[8]):
        if name in tags:
            tags[name] = int(value)
        else:
            bits |= cat.HAS_OTHER_TAG
    return Head(ts, tags[b"DP"], tags[b"TP"], tags[b"PP"], bits, m.end())


def _read_number(text: bytes) -> tuple[int, int, int] | None:
    """Value without its point, decimals (−1 if no point), characters; None if not a number."""
    m = _NUMBER.fullmatch(text)
    if m is None:
        return None
    whole, decimals = m[2], m[4]
    if decimals is None:
        size, digits, places = len(whole), whole, -1
    else:
        size, digits, places = len(whole) + 1 + len(decimals), whole + decimals, len(decimals)
        if size > 17:
            return None
    value = int(digits)
    return (-value if m[1] else value), places, size


def parse_batch(text: bytes, head: Head) -> tuple[list[int], list[float]] | str | None:
    """Read a batch line.

    Args:
        text: The line, without trailing blanks and commas.
        head: Its prefix.

    Returns:
        The integers (from ``catalogue.TS`` on) and floats of the row; ``torn`` if another line was
        written into it; ``blank`` for a Prefill line without tokens; None if it is no batch line.
    """
    m = _BATCH.match(text, head.end)
    if m is None:
        return None
    body = text[m.end() :]
    ints = [cat.ABSENT] * cat.NUM_INTS
    usage = throughput = float("nan")
    seen = head.bits | (cat.HAS_DOT if m[3] == b"." else 0)
    for cell in body.split(b", ") if body else ():
        key, colon, printed = cell.partition(b": ")
        index, kind, slot = _FIELD.get(key, (-1, cat.SKIP, 0)) if colon else (-1, cat.SKIP, 0)
        if index >= 0:
            bit = 1 << index
            if bit & cat.GRAPH and seen & cat.THROUGHPUT:
                seen |= cat.THROUGHPUT_BEFORE_GRAPH
            seen |= bit
        number = _read_number(printed) if kind != cat.SKIP else None
        if number is None:
            if EMBEDDED.search(cell):
                return "torn"
            continue
        value, places, size = number
        if kind == cat.INT:
            if places < 0:
                ints[slot] = value
        elif size <= 16:
            x = value / 10 ** max(places, 0)
            if kind == cat.FLOAT:
                throughput = x
            elif 0 <= x <= cat.MOST_USAGE and not usage >= x:
                usage = x
    is_decode = m[1] == b"Decode"
    if not is_decode and ints[cat.NEW_TOKENS] == cat.ABSENT:
        return "blank"
    ints[cat.TS] = head.ts_ms
    ints[cat.DP], ints[cat.TP], ints[cat.PP] = head.dp_rank, head.tp_rank, head.pp_rank
    ints[cat.LABEL] = cat.ABSENT if m[2] is None else int(m[2])
    ints[cat.KIND] = cat.DECODE if is_decode else cat.PREFILL
    ints[cat.SEEN] = seen
    return ints, [usage, throughput]


def find_code(text: bytes, start: int) -> int:
    """Code of the line whose message begins at ``start``, or −1 (``catalogue.NOTES``)."""
    if start >= len(text):
        return -1
    for begin, code in _NOTES_BY_FIRST.get(text[start], ()):
        if text.startswith(begin, start):
            return code
    if text.startswith(b"INFO:     ", start) and cat.MARK in text[start:]:
        return cat.ACCESS
    return -1


def strip_end(line: bytes) -> bytes:
    """A line without the blanks, commas and carriage returns at its end."""
    return line.rstrip(b" ,\r")


def parse_block(block: bytes) -> Parsed:
    """Read a block of whole lines; the last may lack its newline.

    Args:
        block: Log text, without wrappers and colours.

    Returns:
        Its batch lines and other lines of interest.
    """
    rows: list[list[int]] = []
    floats: list[list[float]] = []
    notes: list[tuple[int, int, int, int]] = []
    num_blank = number = start = 0
    size = len(block)
    while start < size:
        stop = block.find(b"\n", start)
        stop = size if stop < 0 else stop
        number += 1
        line = block[start:stop]
        text = strip_end(line)
        code = -1
        head = parse_head(text) if line.startswith(b"[") else None
        if head is None:
            if len(text) > 20:
                if text.startswith(b"Traceback (most"):
                    code = cat.TRACEBACK
                elif EMBEDDED.search(text, 1):
                    code = cat.TORN
        else:
            batch = parse_batch(text, head)
            if batch == "torn":
                code = cat.TORN
            elif batch == "blank":
                num_blank += 1
            elif isinstance(batch, tuple):
                batch[0][cat.LINE] = number
                if b"," in line[len(text) :]:
                    batch[0][cat.SEEN] |= cat.HAS_TRAILING_COMMA
                rows.append(batch[0])
                floats.append(batch[1])
            else:
                code = find_code(text, head.end)
                if text[head.end : head.end + 1] and text[head.end] in _SPLIT_MESSAGES:
                    code = cat.TORN if EMBEDDED.search(text, head.end) else code
        if code >= 0:
            notes.append((code, start, stop, number))
        start = stop + 1
    return Parsed(
        np.array(rows, dtype=np.int64).reshape(-1, cat.NUM_INTS).T.copy(),
        np.array(floats, dtype=np.float64).reshape(-1, len(cat.FLOAT_FIELDS)).T.copy(),
        np.array(notes, dtype=np.int64).reshape(-1, 4).T.copy(),
        number,
        num_blank,
    )
