"""What is carried from line to line of one DP rank: gaps, restarts, duplicates, mixed engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.sources.scheduler_log import catalogue as cat

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REPLAY = cat.FIRST_FIELD + cat.INT_FIELDS.index("num_replay_tokens")
_PENDING = cat.FIRST_FIELD + cat.INT_FIELDS.index("num_pending_tokens")
_MAX_ALTERNATIONS = 6
_NUM_TAGS = 10_000  # tags have up to four digits


@dataclass
class RankState:
    """State of all ranks of one file, between stretches of its rows.

    Attributes:
        tokens: DP rank → engine run and ``#new-token`` of its last Prefill line.
        labels: DP rank → engine run and label of its last labelled line.
        signatures: DP rank → engine run and way of writing of its last Prefill line.
        alternations: How often a rank's lines changed their way of writing within a run.
    """

    tokens: dict[int, tuple[int, int]] = field(default_factory=dict)
    labels: dict[int, tuple[int, int]] = field(default_factory=dict)
    signatures: dict[int, tuple[int, int]] = field(default_factory=dict)
    alternations: int = 0
    _printers: NDArray[np.int64] = field(
        default_factory=lambda: np.full(_NUM_TAGS, np.iinfo(np.int64).max)
    )

    @property
    def is_mixed(self) -> bool:
        """Whether two engines write into this stream."""
        return self.alternations >= _MAX_ALTERNATIONS

    def find_duplicates(self, ints: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Rows that another process of the same DP rank prints too; None if there are none.

        Attention-TP peers print the same batch, and every pipeline stage its own copy; the process
        with the smallest PP and TP rank is kept.
        """
        dp = np.maximum(ints[cat.DP], 0)
        process = np.maximum(ints[cat.TP], 0)
        if (ints[cat.PP] > 0).any():
            process = process + np.maximum(ints[cat.PP], 0) * _NUM_TAGS
        if not np.array_equal(self._printers[dp], process):
            np.minimum.at(self._printers, dp, process)
            is_duplicate: NDArray[np.bool_] = self._printers[dp] != process
            return is_duplicate if is_duplicate.any() else None
        return None

    def find_restarts(
        self, ints: NDArray[np.int64], run: NDArray[np.int64], order: NDArray[np.intp]
    ) -> list[int]:
        """Rows before which the engine was started again although no line said so: labels fell.

        Args:
            ints: Rows in order of lines, without duplicates.
            run: Engine run of each row, as far as known.
            order: Rows by rank, then line.
        """
        labels = ints[cat.LABEL]
        order = order[labels[order] != cat.ABSENT]
        if not order.size:
            return []
        rank, label, of_run = np.maximum(ints[cat.DP, order], 0), labels[order], run[order]
        same = rank[1:] == rank[:-1]
        fell = same & (label[1:] < label[:-1]) & (of_run[1:] == of_run[:-1])
        at = np.flatnonzero(fell)
        pairs = list(zip(order[at + 1].tolist(), order[at].tolist(), strict=True))
        for i in np.flatnonzero(np.concatenate([[True], ~same])).tolist():
            before = self.labels.get(int(rank[i]))
            if before is not None and before[0] == of_run[i] and label[i] < before[1]:
                pairs.append((int(order[i]), -1))
        for i in np.flatnonzero(np.concatenate([~same, [True]])).tolist():
            self.labels[int(rank[i])] = (int(of_run[i]), int(label[i]))
        starts: list[int] = []
        for row, previous in sorted(pairs):
            # the other ranks of the same start fall too: theirs is already counted
            if not any(previous < s <= row for s in starts):
                starts.append(row)
        return starts

    def compute_gaps(
        self,
        ints: NDArray[np.int64],
        floats: NDArray[np.float64],
        run: NDArray[np.int64],
        order: NDArray[np.intp],
    ) -> NDArray[np.int64]:
        """Gap before each Prefill row in ns (``catalogue.ABSENT`` where the line cannot tell).

        The printed throughput is tokens ÷ gap; the tokens are those of this line from 0.5.11 on
        (with the replayed ones), and of the rank's previous line before that. ``#pending-token`` is
        printed by exactly the releases that count this line's.

        Args:
            ints: Integers of rows in order of lines, without duplicates.
            floats: Their floats.
            run: Engine run of each row.
            order: Rows by rank, then line.
        """
        gaps = np.full(ints.shape[1], cat.ABSENT, dtype=np.int64)
        order = order[ints[cat.KIND, order] == cat.PREFILL]
        if not order.size:
            return gaps
        rank, of_run = np.maximum(ints[cat.DP, order], 0), run[order]
        tokens = ints[cat.NEW_TOKENS, order]
        follows = np.zeros(order.size, dtype=np.bool_)
        follows[1:] = (rank[1:] == rank[:-1]) & (of_run[1:] == of_run[:-1])
        is_last = np.ones(order.size, dtype=np.bool_)
        is_last[:-1] = rank[1:] != rank[:-1]
        previous = np.full(order.size, cat.ABSENT, dtype=np.int64)
        previous[1:][follows[1:]] = tokens[:-1][follows[1:]]
        signature = ints[cat.SEEN, order] & cat.SIGNATURE
        signature |= (ints[cat.LABEL, order] != cat.ABSENT).astype(np.int64) << 60
        signature |= (ints[cat.DP, order] != cat.ABSENT).astype(np.int64) << 61
        self.alternations += int((follows[1:] & (signature[1:] != signature[:-1])).sum())
        for i in np.flatnonzero(~follows).tolist():
            r, q = int(rank[i]), int(of_run[i])
            before = self.tokens.get(r)
            if before is not None and before[0] == q and (i == 0 or rank[i - 1] != r):
                previous[i] = before[1]
            if (i == 0 or rank[i - 1] != r) and self.signatures.get(r, (-1, 0))[0] == q:
                self.alternations += self.signatures[r][1] != int(signature[i])
        for i in np.flatnonzero(is_last).tolist():
            r, q = int(rank[i]), int(of_run[i])
            self.tokens[r] = (q, int(tokens[i]))
            self.signatures[r] = (q, int(signature[i]))
        counts_this = ints[_PENDING, order] != cat.ABSENT
        numerator = np.where(counts_this, tokens + np.maximum(ints[_REPLAY, order], 0), previous)
        rate = floats[1, order]
        with np.errstate(all="ignore"):
            gap = numerator / rate * 1e9
        known = (rate > 0) & (numerator != cat.ABSENT) & (gap < 9e18) & (gap >= 0)
        gaps[order[known]] = np.rint(gap[known]).astype(np.int64)
        return gaps
