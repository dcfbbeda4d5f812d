"""What one block of log text gives, before it is known what came before the block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Parsed:
    """Batch lines and other lines of interest of one block.

    Attributes:
        ints: Shape (``catalogue.NUM_INTS``, rows): line number within the block (from 1), local
            time in ms since 1970 as if it were UTC, tags, label, kind, bits, then the integer
            fields; ``catalogue.ABSENT`` where nothing was printed.
        floats: Shape (2, rows): pool usage (ratio), throughput (tok/s); NaN where not printed.
        notes: Shape (4, notes): code, first byte, byte after the last (without the newline), line
            number, of each other line of interest.
        num_lines: Lines in the block.
        num_blank: Prefill lines without a ``#new-token`` value.
    """

    ints: NDArray[np.int64]
    floats: NDArray[np.float64]
    notes: NDArray[np.int64]
    num_lines: int
    num_blank: int

    def is_same(self, other: Parsed) -> bool:
        """Whether both hold exactly the same values."""
        return (
            self.num_lines == other.num_lines
            and self.num_blank == other.num_blank
            and np.array_equal(self.ints, other.ints)
            and np.array_equal(self.floats, other.floats, equal_nan=True)
            and np.array_equal(self.notes, other.notes)
        )
