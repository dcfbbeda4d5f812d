"""The time of a served engine: seconds since its origin, by a clock that never jumps."""

from __future__ import annotations

import time

from pdtrace.simulate.timeline import place


class Clock:
    """Starts when it is made.

    Attributes:
        origin: Nanoseconds since the epoch of its second 0.
    """

    def __init__(self) -> None:
        self.origin = time.time_ns()
        self._start = time.perf_counter()

    def now(self) -> float:
        """Seconds since the origin."""
        return time.perf_counter() - self._start

    def at(self, seconds: float) -> int:
        """Nanoseconds since the epoch of a moment."""
        return place(self.origin, seconds)

    def stamp(self) -> int:
        """Nanoseconds since the epoch of now."""
        return self.at(self.now())
