"""From printed local time to UTC: zones, the repeated hour in autumn, a wrapper's stamp."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np

from pdtrace.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NS_PER_MS = 1_000_000
_QUARTER_MS = 15 * 60 * 1000
_AGREE_MS = 2000
NO_TIME = -(2**63)
"""Marks a line whose wrapper gave no time."""


class Clock:
    """Converts the local times of one file, in order of lines.

    Args:
        tz: IANA name of the zone that the engine prints.

    Raises:
        UsageError: There is no zone of that name.
    """

    def __init__(self, tz: str) -> None:
        try:
            self.zone = ZoneInfo(tz)
        except (KeyError, ValueError, OSError) as e:
            raise UsageError(f"unknown time zone {tz!r}; give an IANA name, e.g. UTC") from e
        self.is_utc = tz in ("UTC", "Etc/UTC", "Z")
        self._fold = 0
        self._previous_ms = NO_TIME
        self._shift_ms: int | None = None
        self.num_disagreeing = 0

    def _offset_ms(self, local_ms: int, fold: int) -> int:
        naive = datetime.fromtimestamp(local_ms / 1000, UTC).replace(tzinfo=self.zone, fold=fold)
        offset = naive.utcoffset()
        return 0 if offset is None else int(offset.total_seconds() * 1000)

    def _to_utc_ms(self, local: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.is_utc or not local.size:
            return local
        low, high = int(local.min()), int(local.max())
        margin = 2 * 3600_000
        offsets = {
            self._offset_ms(t, fold)
            for t in [low - margin, *range(low, high, 6 * 3600_000), high + margin]
            for fold in (0, 1)
        }
        if len(offsets) == 1:
            self._previous_ms = int(local[-1])
            return local - offsets.pop()
        out = np.empty_like(local)
        for i, t in enumerate(local.tolist()):
            first, second = self._offset_ms(t, 0), self._offset_ms(t, 1)
            if first == second:
                self._fold = 0
            elif self._previous_ms != NO_TIME and self._previous_ms - t > 30 * 60_000:
                self._fold = 1  # the clock went back: this is the hour's second time
            self._previous_ms = t
            out[i] = t - (second if self._fold else first)
        return out

    def to_utc_ns(
        self,
        local_ms: NDArray[np.int64],
        has_ms: NDArray[np.bool_],
        wrapper_ns: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Convert a stretch of lines.

        Args:
            local_ms: Printed times, ms since 1970 as if they were UTC.
            has_ms: Whether each line printed milliseconds.
            wrapper_ns: UTC ns of each line by its wrapper (``kubectl``, docker, journald), or
                ``NO_TIME``.

        Returns:
            UTC ns since 1970, and the resolution in ns. Where the line has only whole seconds and
            the wrapper agrees with it (a constant zone offset, less than 2 s later), the wrapper's
            time is taken.
        """
        utc = self._to_utc_ms(local_ms) * NS_PER_MS
        resolution = np.where(has_ms, NS_PER_MS, 1000 * NS_PER_MS)
        if wrapper_ns is None:
            return utc, resolution
        is_given = (wrapper_ns != NO_TIME) & ~has_ms
        if not is_given.any():
            return utc, resolution
        late_ms = np.where(is_given, wrapper_ns // NS_PER_MS - local_ms, 0)
        if self._shift_ms is None:
            # a wrapper stamps later than the engine, so the zone is what is left below the median
            median = int(np.median(late_ms[is_given]))
            self._shift_ms = (median + 100) // _QUARTER_MS * _QUARTER_MS
        rest = late_ms - self._shift_ms
        agrees = is_given & (rest > -100) & (rest < _AGREE_MS)
        self.num_disagreeing += int((is_given & ~agrees).sum())
        if not agrees.any():
            return utc, resolution
        shifted = np.where(has_ms, utc, (local_ms + self._shift_ms) * NS_PER_MS)
        return (
            np.where(agrees, wrapper_ns, shifted),
            np.where(agrees, NS_PER_MS, resolution),
        )
