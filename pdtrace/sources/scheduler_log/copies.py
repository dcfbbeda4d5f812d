"""Lines that stand in a log twice: written by two handlers, or collected twice."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.sources.scheduler_log import catalogue as cat

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REACH = 8  # rows; a copy stands beside its line, other processes may write between them
_TELLING_TOK_S = 100.0  # five digits: no two gaps agree in as many
_DOUBLED = 0.45  # share of copies where nearly every line is written twice
_FIRST = (cat.TS, cat.DP, cat.TP, cat.KIND, cat.NEW_TOKENS)


def _empty() -> NDArray[np.int64]:
    return np.empty((cat.NUM_INTS, 0), np.int64)


@dataclass
class RecentLines:
    """The last lines of one file, to know a copy by."""

    _ints: NDArray[np.int64] = field(default_factory=_empty)
    _floats: NDArray[np.float64] = field(default_factory=lambda: np.empty((2, 0)))
    _texts: deque[bytes] = field(default_factory=lambda: deque(maxlen=_REACH))

    def find_copies(
        self, ints: NDArray[np.int64], floats: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Which of the next rows repeat one of the few rows before them in every field.

        Two batches can print the same whole second and the same counts; they differ in their label,
        their milliseconds or their throughput (tokens ÷ gap to five digits). A row that has none of
        these is taken for a copy only where nearly all the others are doubled.

        Args:
            ints: Integers of the rows, in order of lines.
            floats: Their floats.
        """
        num_before = self._ints.shape[1]
        ints = np.concatenate([self._ints, ints], axis=1)
        floats = np.concatenate([self._floats, floats], axis=1)
        is_copy = np.zeros(ints.shape[1], np.bool_)
        is_told = (ints[cat.LABEL] != cat.ABSENT) | ((ints[cat.SEEN] & cat.HAS_MS) != 0)
        is_told |= floats[1] >= _TELLING_TOK_S
        for lag in range(1, min(_REACH, ints.shape[1] - 1) + 1):
            is_same = np.ones(ints.shape[1] - lag, np.bool_)
            for row in _FIRST:
                is_same &= ints[row, lag:] == ints[row, :-lag]
            at = np.flatnonzero(is_same) + lag
            if at.size:
                same = (np.delete(ints[:, at] == ints[:, at - lag], cat.LINE, axis=0)).all(axis=0)
                a, b = floats[:, at], floats[:, at - lag]
                same &= ((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=0)
                is_copy[at[same]] = True
        if (is_copy & is_told).sum() <= _DOUBLED * is_told.sum():
            is_copy &= is_told
        self._ints, self._floats = ints[:, -_REACH:].copy(), floats[:, -_REACH:].copy()
        return is_copy[num_before:]

    def repeats(self, line: bytes) -> bool:
        """Whether a line of another kind repeats one of the few before it; remembers it."""
        if line in self._texts:
            return True
        self._texts.append(line)
        return False
