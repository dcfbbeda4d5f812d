"""Counts of a collection, and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class FrameSequence:
    """Numbers of one publisher's frames, as far as they came.

    Attributes:
        num_frames: Frames that came.
        num_lost: Numbers missing between two that came. What was sent before the first that came is
            not counted: nobody was listening.
        num_restarts: Times that the numbers started anew: the engine was restarted.
        first: First number.
        last: Last number.
    """

    num_frames: int = 0
    num_lost: int = 0
    num_restarts: int = 0
    first: int | None = None
    last: int | None = None

    def take(self, number: int) -> None:
        """Note the number of the next frame."""
        self.num_frames += 1
        if self.last is None:
            self.first = number
        elif number > self.last:
            self.num_lost += number - self.last - 1
        else:
            self.num_restarts += 1
        self.last = number


@dataclass
class Tally:
    """What came, and what became of it.

    Attributes:
        num_spans: Spans on disk, all of them acknowledged or about to be.
        num_messages: Messages that hold them.
        num_rejected_spans: Spans without valid ids, refused one by one (``partial_success``).
        num_malformed: Requests refused for good: no OTLP, too large, wrong type.
        num_deferred: Requests that were told to come again: queue full, disk full, stopping.
        num_scrapes: Scrapes of the metrics.
        num_failed_scrapes: Scrapes that failed.
        num_damaged_frames: Frames that are no forward-pass metrics.
        num_unwritten_frames: Frames that the disk did not take.
        frames: Endpoint → its frames.
    """

    num_spans: int = 0
    num_messages: int = 0
    num_rejected_spans: int = 0
    num_malformed: int = 0
    num_deferred: int = 0
    num_scrapes: int = 0
    num_failed_scrapes: int = 0
    num_damaged_frames: int = 0
    num_unwritten_frames: int = 0
    frames: dict[str, FrameSequence] = field(default_factory=dict)

    @property
    def num_frames(self) -> int:
        """Frames of all endpoints."""
        return sum(f.num_frames for f in self.frames.values())

    @property
    def num_lost_frames(self) -> int:
        """Frames lost on the way, of all endpoints."""
        return sum(f.num_lost for f in self.frames.values())

    def note_refused(self, *, is_retryable: bool) -> None:
        """Count a request that was not taken."""
        if is_retryable:
            self.num_deferred += 1
        else:
            self.num_malformed += 1

    def describe(self) -> str:
        """One line: what there is always, what went wrong only where it did."""
        parts = [
            f"{self.num_spans:,} spans in {self.num_messages:,} messages",
            f"{self.num_scrapes:,} scrapes",
            f"{self.num_frames:,} frames ({self.num_lost_frames:,} lost)",
        ]
        troubles = (
            (self.num_rejected_spans, "spans rejected (invalid ids)"),
            (self.num_malformed, "requests refused"),
            (self.num_deferred, "requests deferred"),
            (self.num_failed_scrapes, "scrapes failed"),
            (self.num_damaged_frames, "frames damaged"),
            (self.num_unwritten_frames, "frames not written"),
        )
        return ", ".join([*parts, *(f"{n:,} {what}" for n, what in troubles if n)])
