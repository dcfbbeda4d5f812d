"""What the lines of one engine run offer for grouping, and grouping them by the best of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.iterations import labels
from pdtrace.iterations.scales import shortest_pass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.run import Recording

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

    Note = Callable[[str, int], None]

COARSE_S = 0.02  # stamps coarser than this need the printed throughputs
QUICKEST_S = 0.001  # no rank reports two passes within this
MAX_QUICK_SHARE = 0.01
MAX_BROKEN_SHARE = 0.3
CHECK_LINES = 20_000
CLOCK_NOTE_S = 0.02


@dataclass(frozen=True)
class Grouping:
    """Lines put into blocks.

    Attributes:
        name: ``label``, ``time`` or ``gap``.
        lines: Indices into the evidence.
        block: Block of each of these lines, 0-based, no gaps.
        confidence: Of each block.
        t: Time of each of these lines in seconds since the origin, as refined.
        forward: The engine's counter of each of these lines, or None.
        shift: Seconds by which the times of each file were corrected, or None.
    """

    name: str
    lines: I64
    block: I64
    confidence: F64
    t: F64
    forward: F64 | None = None
    shift: F64 | None = None


@dataclass(frozen=True)
class Evidence:
    """Prefill lines of one engine run, in the order read; their columns as arrays of n, on demand.

    Attributes:
        events: Events that hold the lines.
        at: Rows of the lines.
        origin_ns: Nanoseconds since the epoch that ``t`` counts from.
        requests: Requests of this engine run with a selection time: rank, seconds, uncached tokens,
            file.
        num_ranks: DP ranks.
        lock_step: As the engine says; ``why_not`` says it in words.
        delayer, before_launch, shifted_labels, silent_is_idle: Of the release and the role.
    """

    events: pl.DataFrame
    at: I64
    origin_ns: int
    requests: tuple[I64, F64, F64, I64]
    num_ranks: int
    lock_step: bool | None
    delayer: bool
    before_launch: bool
    shifted_labels: bool
    silent_is_idle: bool

    def __len__(self) -> int:
        return len(self.at)

    @classmethod
    def of(
        cls, events: pl.DataFrame, at: I64, recording: Recording, num_ranks: int, run: int
    ) -> Evidence:
        """What the prefill rows ``at`` of one engine run offer."""
        engine = recording.engine
        ns = _take(events, "ts", at).dt.timestamp("ns").to_numpy()
        origin = int(ns[0])
        asked = recording.requests
        if asked.height:
            asked = asked.filter(
                (pl.col("engine_run") == run)
                & pl.col("selected").is_not_null()
                & pl.col("dp_rank").is_not_null()
                & pl.col("selected")
                .dt.timestamp("ns")
                .is_between(int(ns.min()) - 120 * 10**9, int(ns.max()) + 10**9)
            )
        uncached = asked["num_prompt_tokens"].cast(pl.Float64) - asked["num_cached_tokens"].cast(
            pl.Float64
        ).fill_null(0.0)
        prefill_engine = engine.role == "prefill" or (
            engine.role is None and _take(events, "num_bootstrap_reqs", at).null_count() < len(at)
        )
        low, high = engine.release_min or "", engine.release_max or ""
        return cls(
            events=events,
            at=at,
            origin_ns=origin,
            requests=(
                asked["dp_rank"].to_numpy().astype(np.int64),
                (asked["selected"].dt.timestamp("ns").to_numpy() - origin) / 1e9,
                uncached.fill_null(0.0).to_numpy(),
                asked["source_id"].to_numpy().astype(np.int64),
            ),
            num_ranks=num_ranks,
            lock_step=engine.lock_step,
            delayer=bool(engine.delayer.enabled),
            before_launch=engine.prints_after_result is False,
            shifted_labels=_release(low) >= (0, 5, 9) and (0, 5, 9) < _release(high) < (0, 5, 12),
            silent_is_idle=prefill_engine,
        )

    def take(self, lines: I64) -> Evidence:
        """The same of some of the lines."""
        return replace(self, at=self.at[lines])

    def _floats(self, name: str) -> F64:
        return _take(self.events, name, self.at).cast(pl.Float64).fill_null(np.nan).to_numpy()

    def _seconds(self, name: str) -> F64:
        ns = _take(self.events, name, self.at).dt.total_nanoseconds()
        return ns.cast(pl.Float64).fill_null(np.nan).to_numpy() / 1e9

    def _integers(self, name: str) -> I64:
        return _take(self.events, name, self.at).to_numpy().astype(np.int64)

    @cached_property
    def t(self) -> F64:
        """Stamp of each line, seconds since the origin."""
        ns = _take(self.events, "ts", self.at).dt.timestamp("ns").to_numpy()
        seconds: F64 = (ns - self.origin_ns) / 1e9
        return seconds

    @cached_property
    def resolution(self) -> F64:
        """Resolution of each stamp, seconds."""
        return self._seconds("ts_resolution")

    @cached_property
    def file(self) -> I64:
        """File of each line."""
        return self._integers("source_id")

    @cached_property
    def rank(self) -> I64:
        """DP rank of each line."""
        return self._integers("dp_rank")

    @cached_property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Whether each line has a label."""
        return _take(self.events, "forward_iter", self.at).is_not_null().to_numpy()

    @cached_property
    def label(self) -> F64:
        """Printed label of each line; nan where none."""
        return self._floats("forward_iter")

    @cached_property
    def seqs(self) -> F64:
        """Requests in each batch."""
        return np.nan_to_num(self._floats("num_new_seqs"), nan=1.0)

    @cached_property
    def tokens(self) -> F64:
        """Tokens of each batch."""
        return np.nan_to_num(self._floats("num_new_tokens"))

    @cached_property
    def pending(self) -> F64:
        """Tokens still waiting; nan where not printed."""
        return self._floats("num_pending_tokens")

    @cached_property
    def queue(self) -> F64:
        """Requests in the waiting queue; nan where not printed."""
        return self._floats("num_queue_reqs")

    @cached_property
    def gap(self) -> F64:
        """Seconds since the rank's previous line; nan where unknown."""
        return self._seconds("gap")

    @cached_property
    def throughput(self) -> F64:
        """Throughput as printed, tok/s; nan where not printed."""
        return self._floats("throughput_tok_s")

    @property
    def rows(self) -> pl.DataFrame:
        """The lines' rows of ``events``, whole."""
        return self.events[self.at]

    @property
    def why_not(self) -> str:
        """Why these lines are not one engine in lock-step."""
        return (
            "the ranks of this log do not run in lock-step (independent replicas, or several "
            "engines in one log); their lines were not put into iterations"
        )

    @cached_property
    def must_continue(self) -> NDArray[np.bool_]:
        """The rank is certain to run in the very next pass.

        Tokens were still waiting when the batch was scheduled: without a delayer the next pass
        takes them; with one, only a chunk's continuation runs unasked, which an empty queue shows.
        """
        if np.isnan(self.pending).all():
            # Through 0.5.8 the queue is printed when scheduling, after this batch left it.
            queued: NDArray[np.bool_] = np.nan_to_num(self.queue) > 0
            return queued & self.before_launch
        waiting = np.nan_to_num(self.pending) > 0
        out: NDArray[np.bool_] = waiting & ((np.nan_to_num(self.queue) == 0) | (not self.delayer))
        return out

    def selection_of(self, lines: I64, t: F64, shift: F64 | None = None) -> F64:
        """Selection time of the requests newly admitted in each line, seconds; nan where unknown.

        Args:
            lines: Indices into the evidence.
            t: Their times in seconds.
            shift: Seconds by which the times of each file were corrected.
        """
        rank, selected, tokens, file = self.requests
        if shift is not None:
            selected = selected + np.where(file < len(shift), shift[file % len(shift)], 0.0)
        if not len(rank):
            return np.full(len(lines), np.nan)
        from pdtrace.iterations.selection import match_selections  # noqa: PLC0415  (numba: half a second)

        order = np.argsort(t, kind="stable")
        mine = lines[order]
        out = np.empty(len(lines))
        out[order] = match_selections(
            t[order], self.rank[mine], self.seqs[mine], self.tokens[mine],
            np.nan_to_num(self.pending[mine]), rank, selected, tokens,
        )  # fmt: skip
        return out


def _take(events: pl.DataFrame, name: str, at: I64) -> pl.Series:
    return events[name] if len(at) == events.height else events[name].gather(at)


def _release(text: str) -> tuple[int, ...]:
    """Leading numbers of a release: ``0.5.10.post1`` → (0, 5, 10)."""
    numbers = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers[:3])


def group_by_label(evidence: Evidence, lines: I64, note: Note) -> Grouping:
    """Group lines by their printed label; exact, save for the notes.

    Args:
        evidence: The lines.
        lines: Those with a label.
        note: Told of trouble: text and number of lines.
    """
    label = evidence.label[lines].astype(np.int64)
    rank, t = evidence.rank[lines], evidence.t[lines]
    shift = _label_shifts(evidence, lines, label, t, note)
    t = t + shift[evidence.file[lines]]
    confidence = np.ones(len(lines))
    if evidence.shifted_labels:
        fine = _fine_times(evidence, lines)
        label, confidence = labels.correct_shifted_labels(
            label, fine, rank, shortest_pass(fine, rank)
        )
    repeat = labels.number_repeats(label, rank)
    if repeat.any():
        note(
            "a rank printed the same iteration label twice (two engines in one log, or a restart "
            "without its start-up lines)",
            int((repeat > 0).sum()),
        )
        confidence = np.where(repeat > 0, 0.5, confidence)
    key = label + repeat * (int(label.max()) + 1)
    _, first, block = np.unique(key, return_index=True, return_inverse=True)
    worst = np.ones(len(first))
    np.minimum.at(worst, block, confidence)
    return Grouping("label", lines, block, worst, t, label.astype(float), shift)


def _label_shifts(evidence: Evidence, lines: I64, label: I64, t: F64, note: Note) -> F64:
    num = int(evidence.file.max()) + 1
    file = evidence.file[lines]
    shift = labels.measure_clock_offsets(label, t, file, num)
    for f in np.flatnonzero(np.isnan(shift)):
        note(f"the iteration labels of file {f + 1} recur at other times than in the others: it is "
             "of another recording; it was kept apart", int((file == f).sum()))  # fmt: skip
    shift = labels.keep_apart(label, file, shift)
    # Whole seconds cannot tell clocks apart, and skew within an iteration is no clock error.
    if float(evidence.resolution[lines].max()) > COARSE_S:
        shift[np.abs(shift) < 1.5] = 0.0
    shift[np.abs(shift) < CLOCK_NOTE_S] = 0.0
    for f in np.flatnonzero(shift):
        note(f"the clock of file {f + 1} is {-shift[f]:+.3f} s off; its times were corrected",
             int((file == f).sum()))  # fmt: skip
    return shift


def _fine_times(evidence: Evidence, lines: I64) -> F64:
    if float(np.median(evidence.resolution[lines])) <= COARSE_S:
        return evidence.t[lines]
    from pdtrace.iterations.clocks import refine_times  # noqa: PLC0415  (numba: half a second)

    return refine_times(
        evidence.t[lines], evidence.resolution[lines], evidence.file[lines],
        evidence.rank[lines], evidence.gap[lines], evidence.throughput[lines], evidence.num_ranks,
    ).t  # fmt: skip


def group_by_time(evidence: Evidence, note: Note) -> Grouping | None:
    """Infer the iterations of lines without labels.

    Args:
        evidence: The lines.
        note: Told why, where nothing can be inferred.

    Returns:
        None where the times do not suffice or contradict lock-step.
    """
    n = len(evidence)
    everything = np.arange(n)
    if evidence.num_ranks == 1:
        order = np.argsort(evidence.t, kind="stable")
        block = np.empty(n, np.int64)
        block[order] = everything
        return Grouping("time", everything, block, np.ones(n), evidence.t)
    coarse = float(np.median(evidence.resolution)) > COARSE_S
    if _is_contradictory(evidence, coarse, note):
        return None
    from pdtrace.iterations.inference import infer_blocks  # noqa: PLC0415  (numba: half a second)

    found = infer_blocks(evidence, coarse=coarse, note=note)
    return Grouping(
        "gap" if coarse else "time", everything, found.block, found.confidence, found.t,
        shift=found.shift,
    )  # fmt: skip


def _is_contradictory(evidence: Evidence, coarse: bool, note: Note) -> bool:
    """Cheap checks on the first lines: can these be ranks of one engine, with usable times?"""
    n = len(evidence)
    head = slice(0, CHECK_LINES)
    if not coarse:
        order = np.lexsort((evidence.t[head], evidence.rank[head]))
        same = np.diff(evidence.rank[head][order]) == 0
        gaps = np.diff(evidence.t[head][order])[same]
        if len(gaps) and float(np.mean(gaps < QUICKEST_S)) > MAX_QUICK_SHARE:
            note(
                "ranks print two prefill lines within a millisecond, which no single engine does "
                "(several engines in one log?); the lines were not put into iterations",
                n,
            )
            return True
        return False
    if np.isnan(evidence.gap[head]).mean() > MAX_BROKEN_SHARE:
        note(
            "whole-second stamps without a usable throughput cannot be put into iterations; "
            "SGLANG_LOG_FORWARD_ITERS=1 (0.5.4 on) or SGLANG_LOG_MS=1 (0.5.6 on) would give them",
            n,
        )
        return True
    from pdtrace.iterations.clocks import refine_times  # noqa: PLC0415  (numba: half a second)

    refined = refine_times(
        evidence.t[head], evidence.resolution[head], evidence.file[head], evidence.rank[head],
        evidence.gap[head], evidence.throughput[head], evidence.num_ranks, settle=False,
    )  # fmt: skip
    if refined.broken_share > MAX_BROKEN_SHARE:
        note(
            "the printed throughputs contradict the time stamps (several engines in one log, or "
            "lost lines?); the lines were not put into iterations",
            n,
        )
        return True
    return False
