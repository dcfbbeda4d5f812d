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


@dataclass
class RankState:
    """State of all ranks of one file, between its blocks.

    Attributes:
        printers: DP rank → smallest (PP, TP) seen; only that process counts.
        tokens: DP rank → ``#new-token`` of its last Prefill line.
        labels: DP rank → label of its last labelled line, and the engine run it was in.
        signatures: DP rank → how its last Prefill line was written.
        alternations: How often a rank's lines changed how they are written, within a run.
    """

    printers: dict[int, tuple[int, int]] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    labels: dict[int, tuple[int, int]] = field(default_factory=dict)
    signatures: dict[int, int] = field(default_factory=dict)
    alternations: int = 0

    def reset(self) -> None:
        """Forget what a restarted engine does not continue."""
        self.tokens.clear()
        self.signatures.clear()
        self.labels.clear()

    @property
    def is_mixed(self) -> bool:
        """Whether two engines write into this stream."""
        return self.alternations >= _MAX_ALTERNATIONS

    def find_duplicates(self, ints: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Rows that another process of the same DP rank prints too (attention-TP peers, PP stages)."""
        dp = np.maximum(ints[cat.DP], 0)
        tp, pp = np.maximum(ints[cat.TP], 0), np.maximum(ints[cat.PP], 0)
        process = pp * 1_000_000 + tp
        key = dp * (1 << 44) + process
        for k in np.unique(key).tolist():
            rank, (stage, peer) = k >> 44, divmod(k & ((1 << 44) - 1), 1_000_000)
            self.printers[rank] = min(self.printers.get(rank, (stage, peer)), (stage, peer))
        wanted = np.array(
            sorted(r * (1 << 44) + s * 1_000_000 + p for r, (s, p) in self.printers.items())
        )
        return ~np.isin(key, wanted)

    def find_restarts(self, ints: NDArray[np.int64], run: NDArray[np.int64]) -> list[int]:
        """Rows before which the engine was started again although no line said so: labels fell.

        Args:
            ints: Rows in order of lines, without duplicates.
            run: Engine run of each row, as far as known.
        """
        labels = ints[cat.LABEL]
        rows = np.flatnonzero(labels != cat.ABSENT)
        if not rows.size:
            return []
        dp = np.maximum(ints[cat.DP], 0)
        order = rows[np.argsort(dp[rows], kind="stable")]
        same = dp[order[1:]] == dp[order[:-1]]
        fell = same & (labels[order[1:]] < labels[order[:-1]]) & (run[order[1:]] == run[order[:-1]])
        pairs = list(zip(order[1:][fell].tolist(), order[:-1][fell].tolist(), strict=True))
        first_of_rank = np.concatenate([[True], ~same])
        for row in order[first_of_rank].tolist():
            before = self.labels.get(int(dp[row]))
            if before is not None and before[1] == run[row] and labels[row] < before[0]:
                pairs.append((row, -1))
        last_of_rank = np.concatenate([~same, [True]])
        for row in order[last_of_rank].tolist():
            self.labels[int(dp[row])] = (int(labels[row]), int(run[row]))
        starts: list[int] = []
        for row, previous in sorted(pairs):
            # the other ranks of the same start fall too: theirs is already counted
            if not any(previous < s <= row for s in starts):
                starts.append(row)
        return starts

    def compute_gaps(
        self, ints: NDArray[np.int64], floats: NDArray[np.float64], run: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Gap before each Prefill row in ns (``catalogue.ABSENT`` where the line cannot tell).

        The printed throughput is tokens ÷ gap; the tokens are those of this line from 0.5.11 on
        (with the replayed ones), and of the rank's previous line before that. ``#pending-token`` is
        printed by exactly the releases that count this line's.
        """
        gaps = np.full(ints.shape[1], cat.ABSENT, dtype=np.int64)
        rows = np.flatnonzero(ints[cat.KIND] == cat.PREFILL)
        if not rows.size:
            return gaps
        dp = np.maximum(ints[cat.DP, rows], 0)
        by_rank = np.argsort(dp, kind="stable")
        order = rows[by_rank]
        dp = dp[by_rank]
        tokens = ints[cat.NEW_TOKENS, order]
        is_first = np.concatenate([[True], dp[1:] != dp[:-1]])
        previous = np.concatenate([[cat.ABSENT], tokens[:-1]])
        restarted = np.concatenate([[False], run[order[1:]] != run[order[:-1]]])
        previous[restarted] = cat.ABSENT
        for i in np.flatnonzero(is_first).tolist():
            previous[i] = self.tokens.get(int(dp[i]), cat.ABSENT)
        for i in np.flatnonzero(np.concatenate([is_first[1:], [True]])).tolist():
            self.tokens[int(dp[i])] = int(tokens[i])
        replayed = np.maximum(ints[_REPLAY, order], 0)
        counts_this = ints[_PENDING, order] != cat.ABSENT
        numerator = np.where(counts_this, tokens + replayed, previous)
        rate = floats[1, order]
        with np.errstate(all="ignore"):
            gap = numerator / rate * 1e9
        known = (rate > 0) & (numerator != cat.ABSENT) & (gap < 9e18) & (gap >= 0)
        gaps[order[known]] = np.round(gap[known]).astype(np.int64)
        self._count_alternations(order, dp, ints, run, is_first)
        return gaps

    def _count_alternations(
        self,
        order: NDArray[np.int64],
        dp: NDArray[np.int64],
        ints: NDArray[np.int64],
        run: NDArray[np.int64],
        is_first: NDArray[np.bool_],
    ) -> None:
        signature = ints[cat.SEEN, order] & cat.SIGNATURE
        signature |= (ints[cat.LABEL, order] != cat.ABSENT).astype(np.int64) << 60
        signature |= (ints[cat.DP, order] != cat.ABSENT).astype(np.int64) << 61
        changed = np.zeros(order.size, dtype=np.bool_)
        changed[1:] = (
            (signature[1:] != signature[:-1]) & ~is_first[1:] & (run[order[1:]] == run[order[:-1]])
        )
        self.alternations += int(changed.sum())
        for i in np.flatnonzero(is_first).tolist():
            before = self.signatures.get(int(dp[i]))
            self.alternations += before is not None and before != signature[i]
        for i in np.flatnonzero(np.concatenate([is_first[1:], [True]])).tolist():
            self.signatures[int(dp[i])] = int(signature[i])
