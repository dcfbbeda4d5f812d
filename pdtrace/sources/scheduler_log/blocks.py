"""Cuts a log into blocks and reads them: small ones in Python, big ones with the kernel, two at once."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.errors import InputError
from pdtrace.sources.inputs import BLOCK_BYTES, MAX_LINE_BYTES, Input
from pdtrace.sources.scheduler_log import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from pdtrace.sources.scheduler_log.lines import Parsed
    from pdtrace.sources.scheduler_log.state import Wrapped

SMALL_BYTES = 8 << 20
"""Up to this size numba is not imported: reading in Python costs less than importing it."""
_NUM_THREADS = 2
_NUM_IN_FLIGHT = 3
_TAIL_BYTES = 1 << 16

Block = tuple[bytes, "Wrapped | None"]


def _parse_with_kernel(text: bytes) -> Parsed:
    from pdtrace.sources.scheduler_log import kernel  # noqa: PLC0415  (numba: half a second)

    buffer = np.zeros(len(text) + kernel.PADDING, dtype=np.uint8)
    buffer[: len(text)] = np.frombuffer(text, dtype=np.uint8)
    return kernel.parse_block(buffer, len(text))


def parse_blocks(
    blocks: Iterable[Block], *, use_kernel: bool | None = None
) -> Iterator[tuple[Parsed, bytes, Wrapped | None]]:
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


class PlainReader:
    """Reads a big uncompressed file with the kernel, each block at its own offset.

    Args:
        source: The file.
        advance: Called with the bytes read so far.
    """

    def __init__(self, source: Input, advance: Callable[[int], None]) -> None:
        self.source = source
        self.advance = advance

    def _read_block(self, first: int) -> tuple[Parsed, NDArray[np.uint8], int] | None:
        """Read the lines that begin in ``[first, first + BLOCK_BYTES)``.

        Returns:
            What was found, the buffer, and its length; None if no line begins there.
        """
        from pdtrace.sources.scheduler_log import kernel  # noqa: PLC0415  (numba: half a second)

        fd, size = self.source.fileno(), self.source.num_bytes
        start = max(first - 1, 0)
        stop = min(first + BLOCK_BYTES, size)
        spare = _TAIL_BYTES
        while True:
            want = min(stop + spare, size) - start
            buffer = np.empty(want + kernel.PADDING, dtype=np.uint8)
            got = os.preadv(fd, [memoryview(buffer)[:want]], start)
            buffer[got:] = 0
            view = memoryview(buffer)
            head = 0
            if first:
                # the line that is under way at `first` belongs to the block before
                head = _find_newline(view, 0, min(stop - start, got)) + 1
                if head == 0:
                    return None
            if start + got >= size or got < want:
                tail = got
            else:
                tail = _find_newline(view, stop - start - 1, got) + 1
                if tail == 0:
                    spare *= 8
                    if spare > MAX_LINE_BYTES:
                        raise InputError(
                            "a line of more than 64 MB; this is no log of lines",
                            path=self.source.path,
                        )
                    continue
            break
        if tail <= head:
            return None
        text = np.zeros(tail - head + kernel.PADDING, dtype=np.uint8)
        text[: tail - head] = buffer[head:tail]
        return kernel.parse_block(text, tail - head), text, tail - head

    def __iter__(self) -> Iterator[tuple[Parsed, bytes, None]]:
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            offsets = iter(range(0, self.source.num_bytes, BLOCK_BYTES))
            waiting = deque(
                (pool.submit(self._read_block, o), o)
                for o, _ in zip(offsets, range(_NUM_IN_FLIGHT), strict=False)
            )
            while waiting:
                future, offset = waiting.popleft()
                found = future.result()
                following = next(offsets, None)
                if following is not None:
                    waiting.append((pool.submit(self._read_block, following), following))
                if found is not None:
                    parsed, buffer, length = found
                    yield parsed, buffer[:length].tobytes(), None
                self.advance(min(offset + BLOCK_BYTES, self.source.num_bytes))


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
