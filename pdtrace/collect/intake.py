"""Between receivers and file: a bounded queue, and one writer that answers when it has written."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pdtrace.collect.answers import defer
from pdtrace.collect.run_directory import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pdtrace.collect.messages import Message
    from pdtrace.collect.run_directory import AppendFile
    from pdtrace.collect.settings import Limits
    from pdtrace.collect.tally import Tally


class Ticket:
    """The bytes of the queue that one request holds."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.num_bytes = 0

    def grow(self, num_bytes: int) -> None:
        """Hold more.

        Raises:
            RefusedError: There is no room: the sender must come again.
        """
        if self._intake.num_held + num_bytes > self._intake.limits.max_queue_bytes:
            raise defer("the collector's queue is full")
        self._intake.num_held += num_bytes
        self.num_bytes += num_bytes


class Intake:
    """Takes messages from all receivers, and writes them in order.

    Messages that arrive while a write is under way go out together with the next one: a slow disk
    makes writes larger, not the queue longer than its bound.

    Args:
        tally: Counts what was written.
        limits: Bounds of message and queue.
        warn: Called with one line when the disk stops taking records, and when it does again.

    Attributes:
        num_held: Bytes in the queue.
        is_open: Whether requests are let in.
    """

    def __init__(self, tally: Tally, limits: Limits, warn: Callable[[str], None]) -> None:
        self.limits = limits
        self.tally = tally
        self.num_held = 0
        self.is_open = False
        self._file: AppendFile | None = None
        self._warn = warn
        self._waiting: list[tuple[Message, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._is_failing = False

    def open(self, file: AppendFile) -> None:
        """Let requests in, whose messages go to a file."""
        self._file = file
        self.is_open = True

    def close(self) -> None:
        """Let no more requests in; those inside go on."""
        self.is_open = False

    @contextmanager
    def admit(self) -> Iterator[Ticket]:
        """Let a request in.

        Raises:
            RefusedError: The collection is stopping, or has not started.
        """
        if not self.is_open:
            raise defer("the collector is stopping")
        ticket = Ticket(self)
        try:
            yield ticket
        finally:
            self.num_held -= ticket.num_bytes

    async def store(self, message: Message) -> None:
        """Return when the operating system has the message.

        Raises:
            RefusedError: The disk did not take it; the sender must come again.
        """
        if message.num_spans:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((message, done))
            if self._writer is None:
                self._writer = asyncio.create_task(self._write_waiting())
            # A sender that hangs up must not take the writer of all others with it.
            await asyncio.shield(done)
        self.tally.num_rejected_spans += message.num_rejected

    async def _write_waiting(self) -> None:
        assert self._file is not None
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                data = b"".join(message.record for message, _ in batch)
                try:
                    await asyncio.to_thread(self._file.append, data)
                except StorageError as error:
                    self._note_failing(self._file, str(error))
                    for _, done in batch:
                        done.set_exception(defer(f"the collector cannot write: {error}"))
                        done.exception()  # seen, even where the sender has hung up
                    continue
                self._note_failing(self._file, None)
                for message, done in batch:
                    self.tally.num_messages += 1
                    self.tally.num_spans += message.num_spans
                    done.set_result(None)
        finally:
            self._writer = None

    def _note_failing(self, file: AppendFile, why: str | None) -> None:
        is_failing = why is not None
        if is_failing and not self._is_failing:
            self._warn(f"{file.path}: {why}; senders are asked to come again")
        elif self._is_failing and not is_failing:
            self._warn(f"{file.path}: written to again")
        self._is_failing = is_failing

    async def drain(self) -> None:
        """Write what still waits."""
        while self._writer is not None:
            await asyncio.wait([self._writer])
