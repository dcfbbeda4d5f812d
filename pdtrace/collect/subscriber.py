"""Listens to the ranks' forward-pass metrics."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import zmq

from pdtrace.collect.run_directory import StorageError
from pdtrace.collect.tally import FrameSequence
from pdtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pdtrace.collect.run_directory import AppendFile
    from pdtrace.collect.tally import Tally

# A frame is about 400 bytes; these two bound what the library holds while the disk is slow.
MAX_FRAME_BYTES = 64 << 10
HIGH_WATER_MARK = 20_000
POLL_MS = 100
BATCH = 1000
DRAIN_S = 1.0


class Subscriber:
    """Writes each frame behind the time that it came at, in nanoseconds, and its length.

    It is a thread of its own, because frames carry no time: it is read here, and should not wait
    for the spans of a busy moment.

    Args:
        endpoints: One a rank.
        file: Where frames go.
        tally: Counts frames, those lost included.
        warn: Called with one line when the disk stops taking frames.

    Raises:
        UsageError: An endpoint is none.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        file: AppendFile,
        tally: Tally,
        warn: Callable[[str], None],
    ) -> None:
        self._file = file
        self._tally = tally
        self._warn = warn
        self._is_stopping = threading.Event()
        self._context = zmq.Context()
        self._sockets: dict[zmq.Socket[bytes], FrameSequence] = {}
        try:
            for endpoint in dict.fromkeys(endpoints):
                self._connect(endpoint)
        except UsageError:
            self._close()
            raise
        self._thread = threading.Thread(target=self._listen, name="fpm", daemon=True)

    def _connect(self, endpoint: str) -> None:
        listening = self._context.socket(zmq.SUB)
        self._sockets[listening] = self._tally.frames.setdefault(endpoint, FrameSequence())
        listening.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
        listening.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        listening.setsockopt(zmq.LINGER, 0)
        listening.setsockopt(zmq.SUBSCRIBE, b"")
        try:
            listening.connect(endpoint)
        except zmq.ZMQError as error:
            raise UsageError(f"--fpm {endpoint}: {error.strerror}") from error

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Write what has come, and end. Blocks for about a tenth of a second."""
        self._is_stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._close()

    def _close(self) -> None:
        for listening in self._sockets:
            listening.close()
        self._context.term()

    def _listen(self) -> None:
        poller = zmq.Poller()
        for listening in self._sockets:
            poller.register(listening, zmq.POLLIN)
        while not self._is_stopping.is_set():
            for listening, _ in poller.poll(POLL_MS):
                self._drain(listening)
        # What has come is written; a publisher that never pauses must not keep this from ending.
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline and (ready := poller.poll(0)):
            for listening, _ in ready:
                self._drain(listening)

    def _drain(self, listening: zmq.Socket[bytes]) -> None:
        sequence = self._sockets[listening]
        records = []
        for _ in range(BATCH):
            try:
                parts = listening.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            now = time.time_ns()
            if len(parts) != 3 or len(parts[1]) != 8 or not parts[2]:
                self._tally.num_damaged_frames += 1
                continue
            sequence.take(int.from_bytes(parts[1], "big"))
            records += [now.to_bytes(8, "big"), len(parts[2]).to_bytes(4, "big"), parts[2]]
        if not records:
            return
        try:
            self._file.append(b"".join(records))
        except StorageError as error:
            if not self._tally.num_unwritten_frames:
                self._warn(f"{self._file.path}: {error}; frames are lost until it is written again")
            self._tally.num_unwritten_frames += len(records) // 3
