"""Folds the blocks of one log, in order, into events, requests, decisions and incidents."""

from __future__ import annotations

import bisect
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from pdtrace.run import Incident
from pdtrace.schema import DECISIONS, REQUESTS
from pdtrace.sources.scheduler_log import catalogue as cat
from pdtrace.sources.scheduler_log import ranks, torn
from pdtrace.sources.scheduler_log.clock import Clock
from pdtrace.sources.scheduler_log.copies import RecentLines
from pdtrace.sources.scheduler_log.engine import EngineFacts
from pdtrace.sources.scheduler_log.frames import build_chunk
from pdtrace.sources.scheduler_log.reference import (
    Head,
    find_code,
    parse_block,
    parse_head,
    strip_end,
)
from pdtrace.sources.scheduler_log.time_stats import StatsLine, parse_time_stats
from pdtrace.sources.spill import Spill

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pdtrace.sources.scheduler_log.lines import Parsed

_INCIDENT = {
    cat.FLUSH: "flush",
    cat.FLUSH_REFUSED: "flush_refused",
    cat.EXCEPTION: "crash",
    cat.TRACEBACK: "crash",
    cat.SIGQUIT: "sigquit",
    cat.WATCHDOG: "watchdog",
    cat.BOOTSTRAP_FAILED: "bootstrap_failed",
    cat.TRANSFER_FAILED: "transfer_failed",
    cat.WARMUP_START: "warmup_start",
    cat.WARMUP_END: "warmup_end",
    cat.READY: "ready",
    cat.ACCESS: "health_check",
    cat.SERVER_ARGS: "start",
}
_MAX_INCIDENTS_OF_A_KIND = 10_000
_MAX_TEXT = 300
_DELAYER_CASES = (
    (b"PrefillDelayer timeout", "wait_timeout"),
    (b"PrefillDelayer force allow", "token_watermark"),
)
_PREFILLABLE = re.compile(rb"num_prefillable=(\d{1,4})\b")
_EXECUTED = re.compile(rb"actual_execution=(True|False)")
_GROUP_ROWS = 50_000
COPIES = "copy of a line before it"


_MULTI_LINE = frozenset({cat.EXCEPTION, cat.TRACEBACK, cat.TORN})
_TOLD = frozenset({cat.TIME_STATS, cat.SERVER_ARGS})  # never printed twice in one second
_KERNEL = "pdtrace.sources.scheduler_log.kernel"
_TIME_STATS = (b"ReqTimeStats(", b"Req Time Stats(")


class _Note(NamedTuple):
    """A line of interest: its code, prefix, text, number in the block, and the text after it."""

    code: int
    head: Head | None
    line: bytes
    number: int
    following: bytes


@dataclass(frozen=True)
class Wrapped:
    """Where the lines of an unwrapped block came from.

    Attributes:
        lines: Physical line number of each line.
        times: UTC ns by the wrapper, or ``NO_TIME``.
    """

    lines: NDArray[np.int64]
    times: NDArray[np.int64]


# integers, floats, wrapper times
_Rows = tuple["NDArray[np.int64]", "NDArray[np.float64]", "NDArray[np.int64] | None"]


@dataclass
class LogState:
    """State of one file between its blocks, and what it has given so far."""

    source_id: int
    clock: Clock
    spill: Spill = field(init=False)
    facts: list[EngineFacts] = field(default_factory=lambda: [EngineFacts()])
    rank_state: ranks.RankState = field(default_factory=ranks.RankState)
    skipped: Counter[str] = field(default_factory=Counter)
    incidents: list[Incident] = field(default_factory=list)
    requests: list[pl.DataFrame] = field(default_factory=list)
    decisions: list[dict[str, object]] = field(default_factory=list)
    num_lines: int = 0
    num_headers: int = 0
    time_range: tuple[int, int] | None = None
    resolution: int = 0  # of the stamps, ns
    seen_ranks: set[int] = field(default_factory=set)
    _is_started: bool = False
    _since_args: bool = False
    _kinds: Counter[str] = field(default_factory=Counter)
    _stats: list[StatsLine] = field(default_factory=list)
    _recent: RecentLines = field(default_factory=RecentLines)
    _torn: torn.TornLines = field(default_factory=torn.TornLines)
    _starts: list[int] = field(default_factory=list)
    _rows: list[_Rows] = field(default_factory=list)
    _num_waiting: int = 0

    def __post_init__(self) -> None:
        self.spill = Spill("scheduler_log", self.source_id)

    @property
    def run(self) -> int:
        """Engine run of the next line."""
        return len(self.facts) - 1

    def fold(
        self, parsed: Parsed, text: bytes | memoryview, wrapped: Wrapped | None = None
    ) -> None:
        """Take in the next block.

        Args:
            parsed: What a reader found in it.
            text: What the offsets in ``parsed.notes`` count in.
            wrapped: Where its lines came from, if it was unwrapped.
        """
        ints, floats = parsed.ints, parsed.floats
        self.skipped["Prefill line without #new-token"] += parsed.num_blank
        extra: list[torn.Row] = []
        if (parsed.notes[0] == cat.TORN).any():
            self._torn.learn(bytes(text))
        for code, start, stop, number in parsed.notes.T.tolist():
            line = bytes(text[start:stop])
            following = b""
            if code in _MULTI_LINE:
                following = bytes(text[stop + 1 : stop + 8192])
            if code == cat.TORN:
                extra += self._take_torn(line, following, number, wrapped, ints)
                continue
            head = None if code == cat.TRACEBACK else parse_head(line)
            if head is not None or code == cat.TRACEBACK:
                note = _Note(code, head, line, number, following)
                self._take_note(note, wrapped, ints)
        if extra:
            ints = np.concatenate([ints, np.array([r[0] for r in extra]).T], axis=1)
            floats = np.concatenate([floats, np.array([r[1] for r in extra]).T], axis=1)
            order = np.argsort(ints[cat.LINE], kind="stable")
            ints, floats = ints[:, order], floats[:, order]
        if ints.shape[1]:
            self._is_started = self._since_args = True
            lines = ints[cat.LINE]
            times = None if wrapped is None else wrapped.times[lines - 1]
            ints[cat.LINE] = lines + self.num_lines if wrapped is None else wrapped.lines[lines - 1]
            self._rows.append((ints, floats, times))
            self._num_waiting += ints.shape[1]
            if self._num_waiting >= _GROUP_ROWS:
                self.flush_rows()
        self._flush_stats()
        self._torn.remember_tail(text)
        self.num_lines += parsed.num_lines if wrapped is None else 0

    def _take_torn(
        self,
        line: bytes,
        following: bytes,
        number: int,
        wrapped: Wrapped | None,
        ints: NDArray[np.int64],
    ) -> list[torn.Row]:
        head = parse_head(line)
        if head is not None and line.startswith(_TIME_STATS, head.end):
            # what looks like another line in it stands in the request id, which is anyone's text
            note = _Note(cat.TIME_STATS, head, line, number, b"")
            self._take_note(note, wrapped, ints)
            return []
        rows, others, num_lost = self._torn.take_apart(number, line, following)
        self.skipped["torn line"] += num_lost
        for row in rows:
            row[0][cat.LINE] = number
        for piece in others:
            head = parse_head(piece)
            code = -1 if head is None else find_code(piece, head.end)
            if code >= 0:
                self._take_note(_Note(code, head, piece, number, b""), wrapped, ints)
        return rows

    def fold_last(self, line: bytes, wrapped: Wrapped | None = None) -> None:
        """Take in the last line of a file, which lacks its newline and may lack more."""
        if torn.is_batch(line) and not self._torn.is_whole(line):
            self.skipped["half-written last line"] += 1
            self.num_lines += 1
            return
        self.fold(parse_block(line), line, wrapped)

    def _line_number(self, number: int, wrapped: Wrapped | None) -> int:
        return self.num_lines + number if wrapped is None else int(wrapped.lines[number - 1])

    def _utc_ns(self, local_ms: int, bits: int, number: int, wrapped: Wrapped | None) -> int:
        given = None if wrapped is None else wrapped.times[number - 1 : number]
        ts, _ = self.clock.to_utc_ns(
            np.array([local_ms]), np.array([bool(bits & cat.HAS_MS)]), given
        )
        return int(ts[0])

    def _take_note(self, note: _Note, wrapped: Wrapped | None, ints: NDArray[np.int64]) -> None:
        code, head, line, number, following = note
        body = line[head.end :] if head is not None else line
        message = strip_end(body).decode("utf-8", "replace")
        dp_rank = None if head is None or head.dp_rank == cat.ABSENT else head.dp_rank
        at = self._line_number(number, wrapped)
        has_ms = head is not None and bool(head.bits & cat.HAS_MS)
        if (code in _TOLD or (code == cat.DELAYER and has_ms)) and self._recent.repeats(line):
            self.skipped[COPIES] += 1
            return
        if code == cat.SERVER_ARGS:
            self._start_engine(message, number, at, ints)
        else:
            self._since_args |= code in (cat.READY, cat.EXCEPTION, cat.SIGQUIT, cat.TIME_STATS)
            self._is_started |= code != cat.ACCESS
        self.facts[-1].read_note(code, message)
        if dp_rank is not None:
            self.facts[-1].max_dp_rank = max(self.facts[-1].max_dp_rank, dp_rank)
        if code == cat.TIME_STATS:
            self._stats.append(StatsLine(at, self.run, dp_rank or 0, message))
            return
        if code == cat.DELAYER and head is not None:
            ts = self._utc_ns(head.ts_ms, head.bits, number, wrapped)
            self._take_decision(body, ts, dp_rank, at)
            return
        kind = _INCIDENT.get(code)
        if kind is None:
            return
        self._kinds[kind] += 1
        if self._kinds[kind] > _MAX_INCIDENTS_OF_A_KIND:
            return
        when = None if head is None else self._utc_ns(head.ts_ms, head.bits, number, wrapped)
        reason = torn.last_line_of_traceback(following) if following else ""
        shown = f"{message[:_MAX_TEXT]} … {reason}" if reason else message[:_MAX_TEXT]
        self.incidents.append(Incident(kind, when, self.source_id, at, dp_rank, self.run, shown))

    def _start_engine(self, message: str, number: int, at: int, ints: NDArray[np.int64]) -> None:
        had_rows = bool((ints[cat.LINE] < number).any()) if ints.size else False
        before = self.facts[-1]
        if self._is_started or had_rows:
            new = EngineFacts()
            new.read_note(cat.SERVER_ARGS, message)
            if before.settings and not self._since_args and not had_rows:
                # Printed again before anything ran: another node of the same engine, or another
                # server that writes into the same stream.
                if before.settings.get("port") != new.settings.get("port"):
                    before.is_mixed = True
                return
            self.facts.append(new)
            self._starts.append(at)
        self._is_started = True
        self._since_args = False

    def _take_decision(self, body: bytes, ts: int, dp_rank: int | None, at: int) -> None:
        for begin, reason in _DELAYER_CASES:
            if body.startswith(begin):
                prefillable, executed = _PREFILLABLE.search(body), _EXECUTED.search(body)
                self.decisions.append(
                    {
                        "source": "scheduler_log",
                        "source_id": self.source_id,
                        "line": at,
                        "ts": ts,
                        "engine_run": self.run,
                        "dp_rank": dp_rank,
                        "count": 1,
                        "output_allow": True,
                        "output_reason": reason,
                        "actual_execution": None if executed is None else executed[1] == b"True",
                        "num_prefillable": None if prefillable is None else int(prefillable[1]),
                    }
                )

    def _flush_stats(self) -> None:
        if self._stats:
            frame, num_bad = parse_time_stats(self._stats, source_id=self.source_id)
            self.skipped["time-stats line of unknown form"] += num_bad
            self.requests.append(frame)
            self._stats = []

    def flush_rows(self) -> None:
        """Put the rows gathered so far into the store."""
        if not self._rows:
            return
        ints = np.concatenate([r[0] for r in self._rows], axis=1)
        floats = np.concatenate([r[1] for r in self._rows], axis=1)
        times = None
        if self._rows[0][2] is not None:
            times = np.concatenate([r[2] for r in self._rows if r[2] is not None])
        self._rows = []
        self._num_waiting = 0
        is_copy = self._recent.find_copies(ints, floats)
        if is_copy.any():
            self.skipped[COPIES] += int(is_copy.sum())
            ints, floats = ints[:, ~is_copy], floats[:, ~is_copy]
            times = None if times is None else times[~is_copy]
            if not ints.shape[1]:
                return
        num_read = ints.shape[1]
        folded = self.rank_state.fold(ints, floats, self._starts, using=_choose_fold(num_read))
        num_dropped = num_read - folded.run.size
        self.skipped["duplicate of an attention-TP peer"] += num_dropped
        ints = folded.ints
        if times is not None and num_dropped:
            times = times[folded.kept]
        self._add_starts(folded.found.tolist())
        self._add_counts(int(folded.run[0]), folded.counts)
        has_ms = (ints[cat.SEEN] & cat.HAS_MS) != 0
        ts, resolution = self.clock.to_utc_ns(ints[cat.TS], has_ms, times)
        low, high = int(ts.min()), int(ts.max())
        if self.time_range is not None:
            low, high = min(low, self.time_range[0]), max(high, self.time_range[1])
        self.time_range = (low, high)
        self.resolution = max(self.resolution, int(resolution.max()))
        self.spill.append(build_chunk(folded, ts=ts, resolution=resolution))

    def _add_starts(self, lines: list[int]) -> None:
        """Note starts that only falling labels show; their settings are those of the run before."""
        for line in lines:
            at = bisect.bisect_left(self._starts, line)
            self._starts.insert(at, line)
            self.facts.insert(at + 1, EngineFacts(settings=dict(self.facts[at].settings)))

    def _add_counts(self, first_run: int, counts: NDArray[np.int64]) -> None:
        for facts, row in zip(self.facts[first_run:], counts.tolist(), strict=False):
            if not row[ranks.NUM_PREFILL] + row[ranks.NUM_DECODE]:
                continue
            facts.num_prefill += row[ranks.NUM_PREFILL]
            facts.num_decode += row[ranks.NUM_DECODE]
            facts.num_ms += row[ranks.NUM_MS]
            facts.any_bits |= row[ranks.ANY_BITS]
            facts.decode_bits |= row[ranks.DECODE_BITS]
            facts.all_bits &= row[ranks.ALL_BITS]
            facts.has_label |= row[ranks.NUM_LABELS] > 0
            facts.max_dp_rank = max(facts.max_dp_rank, row[ranks.MAX_DP])

    def overlap_ns(self, other: LogState) -> int:
        """Time that both files cover, negative if they are apart; -1 if one has no rows."""
        if self.time_range is None or other.time_range is None:
            return -1
        (a, b), (c, d) = self.time_range, other.time_range
        return min(b, d) - max(a, c)

    def read_requests(self) -> pl.DataFrame:
        """Table ``requests`` of this file."""
        return pl.concat([REQUESTS.empty(), *self.requests])

    def read_decisions(self) -> pl.DataFrame:
        """Table ``decisions`` of this file."""
        if not self.decisions:
            return DECISIONS.empty()
        frame = pl.DataFrame(self.decisions, infer_schema_length=None).with_columns(
            pl.from_epoch("ts", time_unit="ns").dt.replace_time_zone("UTC")
        )
        return DECISIONS.conform(frame)


def _choose_fold(num_rows: int) -> Callable[..., tuple[int, int, int]]:
    """The compiled fold where numba is loaded already, or where it pays to load it."""
    if num_rows < _GROUP_ROWS and _KERNEL not in sys.modules:
        return ranks.fold_rows
    from pdtrace.sources.scheduler_log import kernel  # noqa: PLC0415  (numba: half a second)

    compiled: Callable[..., tuple[int, int, int]] = kernel.fold_rows
    return compiled
