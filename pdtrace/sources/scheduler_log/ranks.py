"""What is carried from line to line of one DP rank: gaps, restarts, duplicates, mixed engines.

``fold_rows`` is plain Python for small logs; ``kernel`` compiles the same function for big ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.sources.scheduler_log import catalogue as cat

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_NUM_TAGS = 10_000  # tags have up to four digits
_MAX_ALTERNATIONS = 6
_MAX_SILENT_STARTS = 8
_MAX_ENGINES = 3
# Decode and Prefill labels of one rank may be out of step by this much in 0.5.9 to 0.5.11.
_LABEL_SLACK = 4

_REPLAY = cat.FIRST_FIELD + cat.INT_FIELDS.index("num_replay_tokens")
_PENDING = cat.FIRST_FIELD + cat.INT_FIELDS.index("num_pending_tokens")
_LINE, _DP, _TP, _PP = cat.LINE, cat.DP, cat.TP, cat.PP
_LABEL, _KIND, _SEEN, _TOKENS = cat.LABEL, cat.KIND, cat.SEEN, cat.NEW_TOKENS
_PREFILL, _ABSENT, _NUM_INTS = cat.PREFILL, cat.ABSENT, cat.NUM_INTS
_SIGNATURE, _HAS_MS = cat.SIGNATURE, cat.HAS_MS
_WITH_LABEL, _WITH_RANK = 1 << 60, 1 << 61

# Rows of the state, one column a DP rank.
(_PRINTER, _TOKENS_RUN, _TOKENS_LAST, _LABEL_RUN, _LABEL_LAST, _WAY_RUN, _WAY_LAST, _IS_SEEN) = (
    range(8)
)
_NUM_WAYS, _WAYS = 8, 9
# Columns of the counts, one row an engine run.
NUM_PREFILL, NUM_DECODE, NUM_MS, ANY_BITS, ALL_BITS, DECODE_BITS, NUM_LABELS, MAX_DP = range(8)


def fold_rows(
    ints: NDArray[np.int64],
    floats: NDArray[np.float64],
    starts: NDArray[np.int64],
    state: NDArray[np.int64],
    run: NDArray[np.int64],
    gaps: NDArray[np.int64],
    kept: NDArray[np.int64],
    counts: NDArray[np.int64],
    found: NDArray[np.int64],
    bounds: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Take in rows in order of lines; see ``RankState.fold``.

    Args:
        ints: Integers of the rows; those kept are moved to the front.
        floats: Their floats, moved likewise.
        starts: Lines of all engine starts so far.
        state: State of each DP rank, changed in place.
        run: Takes the engine run of each row that is kept.
        gaps: Takes the gap before it in ns, or ABSENT.
        kept: Takes its index before the move.
        counts: Takes what each run from the first row's on printed.
        found: Takes the lines before which the labels show a start that no line said.
        bounds: Takes the smallest and largest value of each integer column.

    Returns:
        Rows kept, starts found, changes in how a rank's lines are written.
    """
    n = ints.shape[1]
    for i in range(n):
        dp = max(ints[_DP, i], 0)
        process = max(ints[_PP, i], 0) * _NUM_TAGS + max(ints[_TP, i], 0)
        state[_PRINTER, dp] = min(state[_PRINTER, dp], process)
    num_kept = num_found = alternations = next_start = 0
    first_run = -1
    for i in range(n):
        dp = max(ints[_DP, i], 0)
        if max(ints[_PP, i], 0) * _NUM_TAGS + max(ints[_TP, i], 0) != state[_PRINTER, dp]:
            continue
        j = num_kept
        num_kept += 1
        if j != i:
            for k in range(_NUM_INTS):
                ints[k, j] = ints[k, i]
            floats[0, j] = floats[0, i]
            floats[1, j] = floats[1, i]
        kept[j] = i
        state[_IS_SEEN, dp] = 1
        while next_start < starts.size and starts[next_start] < ints[_LINE, j]:
            next_start += 1
        this_run = next_start + num_found
        label = ints[_LABEL, j]
        if label != _ABSENT:
            if state[_LABEL_RUN, dp] == this_run and label + _LABEL_SLACK < state[_LABEL_LAST, dp]:
                if num_found < found.size:
                    found[num_found] = ints[_LINE, j] - 1
                    num_found += 1
                    this_run += 1
                else:
                    alternations += 1
            state[_LABEL_RUN, dp] = this_run
            state[_LABEL_LAST, dp] = label
        run[j] = this_run
        gaps[j] = _ABSENT
        bits = ints[_SEEN, j]
        if first_run < 0:
            first_run = this_run
        c = this_run - first_run
        counts[c, MAX_DP] = max(counts[c, MAX_DP], ints[_DP, j])
        if bits & _HAS_MS:
            counts[c, NUM_MS] += 1
        if ints[_KIND, j] == _PREFILL:
            counts[c, NUM_PREFILL] += 1
            counts[c, ANY_BITS] |= bits
            counts[c, ALL_BITS] &= bits
            tokens = ints[_TOKENS, j]
            numerator = _ABSENT
            # printed by exactly the releases (0.5.11+) that divide this line's tokens by the gap
            if ints[_PENDING, j] != _ABSENT:
                numerator = tokens + max(ints[_REPLAY, j], 0)
            elif state[_TOKENS_RUN, dp] == this_run:
                numerator = state[_TOKENS_LAST, dp]
            rate = floats[1, j]
            if rate > 0 and numerator >= 0:
                gap = numerator / rate * 1e9
                if gap < 9e18:
                    gaps[j] = int(np.floor(gap + 0.5))
            state[_TOKENS_RUN, dp] = this_run
            state[_TOKENS_LAST, dp] = tokens
            way = bits & _SIGNATURE
            if label != _ABSENT:
                way |= _WITH_LABEL
                counts[c, NUM_LABELS] += 1
            if ints[_DP, j] != _ABSENT:
                way |= _WITH_RANK
            if state[_WAY_RUN, dp] != this_run:
                state[_NUM_WAYS, dp] = 0
            elif state[_WAY_LAST, dp] != way:
                alternations += 1
            if state[_NUM_WAYS, dp] == 0 or state[_WAY_LAST, dp] != way:
                is_new = state[_NUM_WAYS, dp] <= _MAX_ENGINES
                for k in range(min(state[_NUM_WAYS, dp], _MAX_ENGINES)):
                    if state[_WAYS + k, dp] == way:
                        is_new = False
                if is_new:
                    if state[_NUM_WAYS, dp] < _MAX_ENGINES:
                        state[_WAYS + state[_NUM_WAYS, dp], dp] = way
                    state[_NUM_WAYS, dp] += 1
            state[_WAY_RUN, dp] = this_run
            state[_WAY_LAST, dp] = way
        else:
            counts[c, NUM_DECODE] += 1
            counts[c, DECODE_BITS] |= bits
        for k in range(_NUM_INTS):
            value = ints[k, j]
            bounds[0, k] = min(bounds[0, k], value)
            bounds[1, k] = max(bounds[1, k], value)
    return num_kept, num_found, alternations


@dataclass(frozen=True)
class Folded:
    """Rows with what their ranks' earlier lines add.

    Attributes:
        ints: Integers of the rows that are kept.
        floats: Their floats.
        run: Engine run of each.
        gaps: Gap before each in ns, or ``catalogue.ABSENT``.
        kept: Index of each among the rows given.
        counts: What each run printed, from that of the first row on; columns as in this module.
        found: Lines before which the labels show a start that no line said.
        bounds: Smallest and largest value of each integer column.
    """

    ints: NDArray[np.int64]
    floats: NDArray[np.float64]
    run: NDArray[np.int64]
    gaps: NDArray[np.int64]
    kept: NDArray[np.int64]
    counts: NDArray[np.int64]
    found: NDArray[np.int64]
    bounds: NDArray[np.int64]


def _build_state() -> NDArray[np.int64]:
    state = np.full((_WAYS + _MAX_ENGINES, _NUM_TAGS), -1, dtype=np.int64)
    state[_PRINTER] = np.iinfo(np.int64).max
    return state


@dataclass
class RankState:
    """State of all ranks of one file, between stretches of its rows.

    Attributes:
        alternations: How often a rank's lines changed their way of writing within a run.
    """

    alternations: int = 0
    _state: NDArray[np.int64] = field(default_factory=_build_state)
    _num_found: int = 0

    @property
    def is_mixed(self) -> bool:
        """Whether two or three engines write into this stream.

        More ways of writing than that on one rank are a spliced or made-up log; that its formats
        contradict each other is said elsewhere.
        """
        num_ways = int(self._state[_NUM_WAYS].max())
        return self.alternations >= _MAX_ALTERNATIONS and num_ways <= _MAX_ENGINES

    @property
    def dp_ranks(self) -> set[int]:
        """DP ranks seen."""
        return set(np.flatnonzero(self._state[_IS_SEEN] > 0).tolist())

    def fold(
        self,
        ints: NDArray[np.int64],
        floats: NDArray[np.float64],
        starts: list[int],
        *,
        using: Callable[..., tuple[int, int, int]] = fold_rows,
    ) -> Folded:
        """Take in the next rows of the file.

        Of several processes of one DP rank that print the same batch (attention-TP peers, pipeline
        stages) the one with the smallest ranks is kept. An engine run ends where a start was
        printed, or where a rank's labels fall. The gap is tokens ÷ printed throughput, the tokens
        being those of this line from 0.5.11 on (with the replayed ones), and of the rank's previous
        line before that.

        Args:
            ints: Integers of the rows, in order of lines; changed in place.
            floats: Their floats; changed in place.
            starts: Lines of all engine starts so far.
            using: ``fold_rows``, as it is or compiled.
        """
        n = ints.shape[1]
        run, gaps, kept = (np.empty(n, dtype=np.int64) for _ in range(3))
        counts = np.zeros((len(starts) + _MAX_SILENT_STARTS + 1, 8), dtype=np.int64)
        counts[:, ALL_BITS] = counts[:, MAX_DP] = -1
        found = np.empty(_MAX_SILENT_STARTS, dtype=np.int64)[self._num_found :]
        bounds = np.empty((2, _NUM_INTS), dtype=np.int64)
        bounds[0], bounds[1] = np.iinfo(np.int64).max, _ABSENT
        lines = np.array(starts, dtype=np.int64)
        m, num_found, alternations = using(
            ints, floats, lines, self._state, run, gaps, kept, counts, found, bounds
        )
        self._num_found += num_found
        self.alternations += alternations
        return Folded(
            ints[:, :m], floats[:, :m], run[:m], gaps[:m], kept[:m], counts, found[:num_found],
            bounds,
        )  # fmt: skip
