"""Where on the time line each pass lies, so that the slices of one rank never overlap.

``iterations.start`` is the first selection of a pass; with overlapped scheduling that comes while
the pass before still runs. ``iterations.duration`` is the pass's share of the engine's time. A
share therefore begins at its ``start`` or where the share before ended, whichever is later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from pdtrace.run import Part


@dataclass
class PassTimes:
    """Places the iterations of a run, part by part, in order.

    Attributes:
        stop_ns: Where the share of the last iteration placed ended; None before the first.
    """

    stop_ns: int | None = field(default=None)

    def place(self, part: Part) -> pl.DataFrame:
        """Place the iterations of the next part.

        Args:
            part: The part that follows the one placed before.

        Returns:
            Table ``iterations`` with ``begin_ns`` and ``stop_ns`` (since 1970): as long as
            ``duration`` to the nanosecond and without overlap; both the time of the report where
            the duration is not known.
        """
        frame = part.iterations
        begins, stops = [], []
        rows = frame.select(
            pl.col("start").dt.epoch("ns"),
            pl.col("end").dt.epoch("ns"),
            pl.col("duration").dt.total_nanoseconds(),
            pl.col("duration_source").cast(pl.String),
        )
        for start, end, duration, source in rows.iter_rows():
            begin, stop = self._place_one(start, end, duration, source)
            begins.append(begin)
            stops.append(stop)
            self.stop_ns = stop
        return frame.with_columns(
            pl.Series("begin_ns", begins, pl.Int64), pl.Series("stop_ns", stops, pl.Int64)
        )

    def _place_one(
        self, start: int | None, end: int, duration: int | None, source: str | None
    ) -> tuple[int, int]:
        mark = self.stop_ns
        if duration is None:
            at = end if mark is None else max(end, mark)
            return at, at
        begin = end - duration if start is None else start
        if mark is not None:
            # The share of a gap runs from report to report, or to the next selection if that came
            # before its own report; its start, counted back from the report, is then too late.
            if source == "gap" and mark < begin and duration >= 0.5 * (end - mark):
                begin = mark
            begin = max(begin, mark)
        return begin, begin + duration
