"""Cuts a log into blocks and reads them: in Python, or many of them with the kernel."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.errors import InputError
from pdtrace.sources.inputs import BLOCK_BYTES, MAX_LINE_BYTES, Input
from pdtrace.sources.scheduler_log import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pdtrace.sources.scheduler_log.lines import Parsed
    from pdtrace.sources.scheduler_log.state import Wrapped

SMALL_BYTES = 8 << 20
"""Up to this size numba is not imported: reading in Python costs less than importing it."""
_NUM_THREADS = 2
_NUM_IN_FLIGHT = 8
_TAIL_BYTES = 1 << 16

_NEWLINE = 10

Block = tuple[bytes, "Wrapped | None"]
Found = tuple["Parsed", "bytes | memoryview", "Wrapped | None"]


def _parse_with_kernel(text: bytes) -> Parsed:
    from pdtrace.sources.scheduler_log import kernel  # noqa: PLC0415  (numba: half a second)

    buffer = np.zeros(len(text) + kernel.PADDING, dtype=np.uint8)
    buffer[: len(text)] = np.frombuffer(text, dtype=np.uint8)
    return kernel.parse_block(buffer, len(text))


def parse_blocks(blocks: Iterable[Block], *, use_kernel: bool | None = None) -> Iterator[Found]:
    """Read blocks that are at hand as bytes, in order.

    Args:
        blocks: Text of whole lines, and where its lines came from.
        use_kernel: None: in Python for the first ``SMALL_BYTES``, then with the kernel.
    """
    pool: ThreadPoolExecutor | None = None
    waiting: deque[tuple[Future[Parsed], Block]] = deque()
    done = 0
    try:
        for block in blocks:
            is_fast = done + len(block[0]) > SMALL_BYTES if use_kernel is None else use_kernel
            done += len(block[0])
            if not is_fast:
                yield reference.parse_block(block[0]), *block
                continue
            if pool is None:
                pool = ThreadPoolExecutor(_NUM_THREADS)
            waiting.append((pool.submit(_parse_with_kernel, block[0]), block))
            if len(waiting) >= _NUM_IN_FLIGHT:
                future, ready = waiting.popleft()
                yield future.result(), *ready
        while waiting:
            future, ready = waiting.popleft()
            yield future.result(), *ready
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


class LastLine:
    """The last line of a file where it lacks its newline: it may be half written.

    Attributes:
        text: The line; empty if the file ends with a newline.
        wrapped: Where it came from, if it was unwrapped.
    """

    def __init__(self) -> None:
        self.text = b""
        self.wrapped: Wrapped | None = None

    def cut_off(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The blocks without that line."""
        for text, wrapped in blocks:
            if text.endswith(b"\n") or not text:
                yield text, wrapped
                continue
            cut = text.rfind(b"\n") + 1
            self.text = text[cut:]
            if wrapped is not None:
                self.wrapped = replace(wrapped, lines=wrapped.lines[-1:], times=wrapped.times[-1:])
            yield text[:cut], wrapped


def read_plain(source: Input, last: LastLine, advance: Callable[[int], None]) -> Iterator[Found]:
    """Read a big uncompressed file with the kernel, each block at its own offset.

    Args:
        source: The file.
        last: Takes the last line if it lacks its newline.
        advance: Called with the bytes read so far.

    Raises:
        InputError: A line is longer than ``MAX_LINE_BYTES``.
    """
    size = source.num_bytes
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        offsets = iter(range(0, size, BLOCK_BYTES))
        waiting = deque(
            (o, pool.submit(_read_at, source, last, o)) for o in islice(offsets, _NUM_IN_FLIGHT)
        )
        while waiting:
            offset, future = waiting.popleft()
            found = future.result()
            del future
            following = next(offsets, None)
            if following is not None:
                waiting.append((following, pool.submit(_read_at, source, last, following)))
            if found is not None:
                yield found
            advance(min(offset + BLOCK_BYTES, size))


def _read_at(source: Input, last: LastLine, first: int) -> Found | None:
    """Read the lines that begin in ``[first, first + BLOCK_BYTES)``; None if none begins there."""
    from pdtrace.sources.scheduler_log import kernel  # noqa: PLC0415  (numba: half a second)

    fd, size = source.fileno(), source.num_bytes
    start = max(first - 1, 0)
    stop = min(first + BLOCK_BYTES, size)
    spare = _TAIL_BYTES
    while True:
        want = min(stop + spare, size) - start
        buffer = np.empty(want + kernel.PADDING, dtype=np.uint8)
        view = memoryview(buffer.data)
        got = os.preadv(fd, [view[:want]], start)
        buffer[got:] = 0
        head = 0
        if first:
            # the line that is under way at `first` belongs to the block before
            head = _find_newline(view, 0, min(stop - start, got)) + 1
            if head == 0:
                return None
        is_end = start + got >= size or got < want
        tail = got if stop >= size else _find_newline(view, stop - start - 1, got) + 1
        if tail or is_end:
            tail = tail or got
            break
        spare *= 8
        if spare > MAX_LINE_BYTES:
            raise InputError("a line of more than 64 MB; this is no log of lines", path=source.path)
    if tail > head and buffer[tail - 1] != _NEWLINE:
        cut = max(bytes(view[head:tail]).rfind(b"\n") + 1 + head, head)
        last.text = bytes(view[cut:tail])
        tail = cut
    if tail <= head:
        return None
    return kernel.parse_block(buffer, tail, start=head), view[:tail], None


def _find_newline(view: memoryview, start: int, stop: int) -> int:
    step = 4096
    while start < stop:
        end = min(start + step, stop)
        at = bytes(view[start:end]).find(b"\n")
        if at >= 0:
            return start + at
        start = end
        step = min(step * 4, 1 << 20)
    return -1
