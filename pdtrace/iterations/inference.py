"""Iterations of lines without labels: refine the times, align the clocks, segment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.iterations.clocks import (
    OFFSET_REACH_S,
    RefinedTimes,
    align_groups,
    find_clocks,
    refine_times,
)
from pdtrace.iterations.doubts import UNDECIDED, are_turns, cap_by_freedom
from pdtrace.iterations.scales import shortest_pass
from pdtrace.iterations.segmentation import Lines, Segmentation, quick_evidence, segment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.iterations.evidence import Evidence, Note

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

ALIGN_LINES = 1500


@dataclass(frozen=True)
class Inferred:
    """Lines put into blocks by time.

    Attributes:
        t: Refined time of each line, seconds.
        block: Block of each line.
        confidence: Of each block.
        shift: Seconds added to the times of each file, or None.
    """

    t: F64
    block: I64
    confidence: F64
    shift: F64 | None


def infer_blocks(evidence: Evidence, *, coarse: bool, note: Note) -> Inferred:
    """Blocks of lines that ran together.

    Args:
        evidence: Prefill lines of one engine run.
        coarse: Stamps are whole seconds.
        note: Told what could not be used.
    """
    t, window, ordered = evidence.t, np.zeros(len(evidence)), True
    max_confidence = 1.0
    if coarse:
        refined = refine_times(
            evidence.t, evidence.resolution, evidence.file, evidence.rank, evidence.gap,
            evidence.throughput, evidence.num_ranks,
        )  # fmt: skip
        t, window, ordered = refined.t, refined.window, refined.ordered
        max_confidence = refined.max_confidence
        _note_losses(refined, len(t), note)
    shift: F64 | None = None
    clock = find_clocks(evidence.file, evidence.rank)
    several = int(clock.max()) > 0
    if several or not ordered:
        t, shift = _align(evidence, t, clock, coarse=coarse, window=window, note=note)
    order = np.argsort(t, kind="stable")
    lines = Lines(
        t[order],
        evidence.rank[order],
        evidence.tokens[order],
        evidence.must_continue[order],
        evidence.selection_of(order, t[order], shift),
        window[order],
    )
    found = segment(lines, evidence.num_ranks, before_launch=evidence.before_launch)
    block = np.empty(len(t), np.int64)
    block[order] = found.block
    confidence = np.minimum(_doubt_turns(lines, found, note), max_confidence)
    if window.any():
        pass_s = shortest_pass(lines.t, lines.rank)
        cap = cap_by_freedom(lines, found.block, evidence.num_ranks, pass_s)
        confidence = np.minimum(confidence, cap)
    return Inferred(t, block, confidence, shift)


def _doubt_turns(lines: Lines, found: Segmentation, note: Note) -> F64:
    """Confidence, with that of blocks that may be ranks taking turns capped, and a note of it."""
    doubtful = are_turns(lines, found.block)
    told = doubtful & (found.confidence > UNDECIDED)
    if told.any():
        note(
            "ranks either share passes here or take turns in shorter ones, and the times fit both; "
            "the confidence of these iterations is at most 0.5 (request time stats from 0.5.12, "
            "SGLANG_LOG_FORWARD_ITERS=1 from 0.5.4, or spans would tell)",
            int(told[found.block].sum()),
        )
    return np.where(doubtful, np.minimum(found.confidence, UNDECIDED), found.confidence)


def _note_losses(refined: RefinedTimes, num_lines: int, note: Note) -> None:
    if refined.num_lost:
        note(
            "printed gaps do not reach back to the rank's line before: lines were lost, or the "
            "clock was stepped",
            refined.num_lost,
        )
    if not refined.ordered:
        note(
            "the lines do not stand in the order of writing, which whole-second stamps need: "
            f"confidence is at most {refined.max_confidence:g}; record with SGLANG_LOG_MS=1 or "
            "SGLANG_LOG_FORWARD_ITERS=1",
            num_lines,
        )


def _align(
    evidence: Evidence, t: F64, clock: I64, *, coarse: bool, window: F64, note: Note
) -> tuple[F64, F64 | None]:
    """Shift clocks (or, where the order of one file is not that of writing, ranks) together."""
    several = int(clock.max()) > 0
    group = clock if several else evidence.rank
    _, group = np.unique(group, return_inverse=True)

    def evidence_of(shifted: F64, seen: NDArray[np.bool_]) -> float:
        at = np.flatnonzero(seen)
        at = at[np.argsort(shifted[at], kind="stable")][:ALIGN_LINES]
        lines = Lines(
            shifted[at],
            evidence.rank[at],
            evidence.tokens[at],
            evidence.must_continue[at],
            np.full(len(at), np.nan),
            np.zeros(len(at)),
        )
        return quick_evidence(lines, evidence.num_ranks)

    # Ranks of one file share a clock, so only their chains' windows are open.
    reach = OFFSET_REACH_S if several else max(float(np.median(window)), 0.05)
    kernel = max(0.001, 0.01 * shortest_pass(t, evidence.rank))
    shift = align_groups(t, group, reach, kernel, evidence_of)
    if several:
        moved = np.abs(shift) > 0.02
        if moved.any() and not coarse:
            note(
                "clocks of the files differ by up to "
                f"{float(np.abs(shift).max()):.3f} s; times were aligned by lock-step",
                int(moved[group].sum()),
            )
    by_file: F64 | None = None
    if several and not coarse:  # whole seconds leave the chains free, so a shift is no clock error
        by_file = np.zeros(int(evidence.file.max()) + 1)
        by_file[evidence.file] = shift[group]
    return t + shift[group], by_file
