"""Forward-pass metrics from real ZeroMQ publishers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from pdtrace.collect.run_directory import AppendFile, StorageError
from pdtrace.collect.subscriber import Subscriber
from pdtrace.collect.tally import FrameSequence, Tally
from tests.collect.running import Running, collecting, wait_until


class Rank:
    """Publishes as one DP rank of the engine does."""

    def __init__(self, base: Path, rank: int) -> None:
        self.rank = rank
        self.endpoint = f"ipc://{base}.{rank}"
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.PUB)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 20_000)
        self.socket.bind(self.endpoint)

    def publish(self, number: int) -> bytes:
        """Send one frame, and return its payload."""
        payload = msgspec.msgpack.encode({"version": 1, "dp_rank": self.rank, "counter_id": number})
        self.socket.send_multipart([b"", number.to_bytes(8, "big"), payload])
        return payload

    def close(self) -> None:
        """Let go of the endpoint."""
        self.socket.close()
        self._context.term()


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[list[Rank]]:
    """Two publishers."""
    made = [Rank(tmp_path / "fpm", rank) for rank in range(2)]
    yield made
    for rank in made:
        rank.close()


def join(running: Running, ranks: list[Rank]) -> int:
    """Publish until each rank is heard, as a subscription takes a moment; the next number."""
    number = 0
    frames = running.session.tally.frames
    while not all(frames[r.endpoint].num_frames for r in ranks):
        for rank in ranks:
            rank.publish(number)
        number += 1
        assert number < 1000
        time.sleep(0.02)
    return number


def read_frames(path: Path) -> list[tuple[int, bytes]]:
    """Times and payloads of an fpm.bin, which must end with a whole frame."""
    data, at, frames = path.read_bytes(), 0, []
    while at < len(data):
        size = int.from_bytes(data[at + 8 : at + 12], "big")
        assert at + 12 + size <= len(data)
        frames.append((int.from_bytes(data[at : at + 8], "big"), data[at + 12 : at + 12 + size]))
        at += 12 + size
    return frames


def test_frames_are_stored_with_times_and_gaps_are_counted(
    tmp_path: Path, ranks: list[Rank]
) -> None:
    """What the high-water mark dropped is known by its number, each rank for itself."""
    run = tmp_path / "run"
    begun = time.time_ns()
    with collecting(run, fpm_endpoints=tuple(r.endpoint for r in ranks)) as running:
        at = join(running, ranks)
        sent = [ranks[0].publish(n) for n in (at, at + 1, at + 5, at + 6)]  # 3 missing
        ranks[1].publish(at)
        ranks[1].publish(at + 3)  # 2 missing
        wait_until(lambda: running.session.tally.frames[ranks[1].endpoint].last == at + 3)
    frames = read_frames(run / "fpm.bin")
    mine = [p for _, p in frames if msgspec.msgpack.decode(p)["dp_rank"] == 0]
    assert mine[-4:] == sent
    times = [t for t, _ in frames]
    assert begun < min(times) <= max(times) < time.time_ns()
    assert f"{len(frames)} frames (5 lost)" in running.summary
    said = json.loads((run / "collect.json").read_text())["fpm"]
    assert [said[r.endpoint]["num_lost_frames"] for r in ranks] == [3, 2]


def test_what_has_come_is_written_at_the_end(tmp_path: Path, ranks: list[Rank]) -> None:
    """Frames that wait in the socket when the collection stops are not thrown away."""
    run = tmp_path / "run"
    with collecting(run, fpm_endpoints=(ranks[0].endpoint,)) as running:
        at = join(running, ranks[:1])
        for n in range(at, at + 5000):
            ranks[0].publish(n)
        wait_until(lambda: running.session.tally.num_frames > at)
        time.sleep(0.05)
    numbers = [msgspec.msgpack.decode(p)["counter_id"] for _, p in read_frames(run / "fpm.bin")]
    assert numbers[-1] == at + 4999
    assert numbers == list(range(numbers[0], at + 5000))


def test_damaged_frames_are_counted_and_left_out(tmp_path: Path, ranks: list[Rank]) -> None:
    """A foreign publisher must not spoil the file."""
    run = tmp_path / "run"
    with collecting(run, fpm_endpoints=(ranks[0].endpoint,)) as running:
        at = join(running, ranks[:1])
        ranks[0].socket.send_multipart([b"only one part"])
        ranks[0].socket.send_multipart([b"", b"short", b"payload"])
        ranks[0].publish(at)
        wait_until(lambda: running.session.tally.frames[ranks[0].endpoint].last == at)
    assert "2 frames damaged" in running.summary
    assert len(read_frames(run / "fpm.bin")) == running.session.tally.num_frames


def test_a_full_disk_loses_frames_knowingly(
    tmp_path: Path, ranks: list[Rank], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishers cannot be asked to come again, so what was not written is counted."""
    tally, said = Tally(), []
    subscriber = Subscriber([ranks[0].endpoint], AppendFile(tmp_path / "f"), tally, said.append)
    with monkeypatch.context() as patched:

        def fail(*_: object) -> None:
            raise StorageError("No space left on device")

        patched.setattr(AppendFile, "append", fail)
        subscriber.start()
        number = 0
        while not tally.num_unwritten_frames:
            ranks[0].publish(number)
            number += 1
            time.sleep(0.02)
    ranks[0].publish(number)
    wait_until(lambda: tally.frames[ranks[0].endpoint].last == number)
    subscriber.stop()
    assert len(said) == 1
    assert tally.num_lost_frames == 0
    assert len(read_frames(tmp_path / "f")) == tally.num_frames - tally.num_unwritten_frames > 0


def test_sequence_numbers() -> None:
    """A gap is lost frames; a fall is a restarted engine, not a loss."""
    sequence = FrameSequence()
    for number in (7, 8, 10, 11, 0, 1, 4):
        sequence.take(number)
    assert (sequence.num_frames, sequence.num_lost, sequence.num_restarts) == (7, 3, 1)
    assert (sequence.first, sequence.last) == (7, 4)
