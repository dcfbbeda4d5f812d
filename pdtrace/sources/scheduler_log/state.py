"""Folds the blocks of one log, in order, into events, requests, decisions and incidents."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.run import Incident
from pdtrace.schema import DECISIONS, EVENT_KINDS, REQUESTS, SPAN, TIME
from pdtrace.sources.scheduler_log import catalogue as cat
from pdtrace.sources.scheduler_log import torn
from pdtrace.sources.scheduler_log.clock import Clock
from pdtrace.sources.scheduler_log.engine import EngineFacts
from pdtrace.sources.scheduler_log.ranks import RankState
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
_GROUP_ROWS = 100_000


@dataclass(frozen=True)
class Wrapped:
    """Where the lines of an unwrapped block came from.

    Attributes:
        lines: Physical line number of each line.
        times: UTC ns by the wrapper, or ``NO_TIME``.
    """

    lines: NDArray[np.int64]
    times: NDArray[np.int64]


@dataclass
class LogState:
    """State of one file between its blocks, and what it has given so far."""

    source_id: int
    clock: Clock
    spill: Spill = field(default_factory=Spill)
    facts: list[EngineFacts] = field(default_factory=lambda: [EngineFacts()])
    ranks: RankState = field(default_factory=RankState)
    skipped: Counter[str] = field(default_factory=Counter)
    incidents: list[Incident] = field(default_factory=list)
    requests: list[pl.DataFrame] = field(default_factory=list)
    decisions: list[dict[str, object]] = field(default_factory=list)
    num_lines: int = 0
    num_headers: int = 0
    time_range: tuple[int, int] | None = None
    dp_ranks: set[int] = field(default_factory=set)
    _is_started: bool = False
    _since_args: bool = False
    _kinds: Counter[str] = field(default_factory=Counter)
    _stats: list[StatsLine] = field(default_factory=list)
    _torn: torn.TornLines = field(default_factory=torn.TornLines)
    _pending: list[pl.DataFrame] = field(default_factory=list)
    _last_local_ms: int | None = None

    @property
    def run(self) -> int:
        """Engine run of the next line."""
        return len(self.facts) - 1

    def fold(self, parsed: Parsed, text: bytes, wrapped: Wrapped | None = None) -> None:
        """Take in the next block.

        Args:
            parsed: What a reader found in it.
            text: The block.
            wrapped: Where its lines came from, if it was unwrapped.
        """
        ints, floats = parsed.ints, parsed.floats
        self.skipped["Prefill line without #new-token"] += parsed.num_blank
        starts: list[int] = []
        extra: list[tuple[list[int], list[float]]] = []
        self._torn.learn(ints, text)
        for code, start, stop, number in parsed.notes.T.tolist():
            line = text[start:stop]
            if code == cat.TORN:
                good, others, num_lost = self._torn.take_apart(
                    number, line, text[stop + 1 :][:8192]
                )
                self.skipped["torn line"] += num_lost
                for row in good:
                    row[0][cat.LINE] = number
                    extra.append(row)
                for piece in others:
                    head = parse_head(piece)
                    if head is not None:
                        code_of = find_code(piece, head.end)
                        if code_of >= 0:
                            self._take_note(
                                code_of, head, piece, number, wrapped, starts, ints, b""
                            )
                continue
            if code == cat.TRACEBACK:
                following = text[stop + 1 : stop + 8192]
                self._take_note(code, None, line, number, wrapped, starts, ints, following)
                continue
            head = parse_head(line)
            if head is not None:
                following = text[stop + 1 : stop + 8192] if code == cat.EXCEPTION else b""
                self._take_note(code, head, line, number, wrapped, starts, ints, following)
        if extra:
            ints = np.concatenate([ints, np.array([r[0] for r in extra]).T], axis=1)
            floats = np.concatenate([floats, np.array([r[1] for r in extra]).T], axis=1)
            order = np.argsort(ints[cat.LINE], kind="stable")
            ints, floats = ints[:, order], floats[:, order]
        if ints.shape[1]:
            self._take_rows(ints, floats, starts, wrapped)
        self._flush_stats()
        self.num_lines += parsed.num_lines if wrapped is None else 0

    def fold_last(self, line: bytes) -> None:
        """Take in the last line of a file, which lacks its newline and may lack more."""
        if torn.is_batch(line) and not self._torn.is_whole(line):
            self.skipped["half-written last line"] += 1
            self.num_lines += 1
            return
        self.fold(parse_block(line), line)

    def _line_number(self, number: int, wrapped: Wrapped | None) -> int:
        return self.num_lines + number if wrapped is None else int(wrapped.lines[number - 1])

    def _utc_ns(self, local_ms: int, bits: int, number: int, wrapped: Wrapped | None) -> int:
        given = None if wrapped is None else wrapped.times[number - 1 : number]
        ts, _ = self.clock.to_utc_ns(
            np.array([local_ms]), np.array([bool(bits & cat.HAS_MS)]), given
        )
        return int(ts[0])

    def _take_note(
        self,
        code: int,
        head: Head | None,
        line: bytes,
        number: int,
        wrapped: Wrapped | None,
        starts: list[int],
        ints: NDArray[np.int64],
        following: bytes,
    ) -> None:
        body = line[head.end :] if head is not None else line
        message = strip_end(body).decode("utf-8", "replace")
        dp_rank = None if head is None or head.dp_rank == cat.ABSENT else head.dp_rank
        if code == cat.SERVER_ARGS:
            self._start_engine(message, number, starts, ints)
        else:
            self._since_args |= code in (cat.READY, cat.EXCEPTION, cat.SIGQUIT, cat.TIME_STATS)
            self._is_started |= code != cat.ACCESS
        self.facts[-1].read_note(code, message)
        if dp_rank is not None:
            self.facts[-1].max_dp_rank = max(self.facts[-1].max_dp_rank, dp_rank)
        at = self._line_number(number, wrapped)
        if code == cat.TIME_STATS:
            self._stats.append(StatsLine(at, self.run, dp_rank, message))
            return
        if code == cat.DELAYER and head is not None:
            self._take_decision(body, head, dp_rank, at, number, wrapped)
            return
        kind = _INCIDENT.get(code)
        if kind is None:
            return
        self._kinds[kind] += 1
        if self._kinds[kind] > _MAX_INCIDENTS_OF_A_KIND:
            return
        ts = None if head is None else self._utc_ns(head.ts_ms, head.bits, number, wrapped)
        reason = torn.last_line_of_traceback(following) if following else ""
        shown = f"{message[:_MAX_TEXT]} … {reason}" if reason else message[:_MAX_TEXT]
        self.incidents.append(Incident(kind, ts, self.source_id, at, dp_rank, self.run, shown))

    def _start_engine(
        self, message: str, number: int, starts: list[int], ints: NDArray[np.int64]
    ) -> None:
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
            self.ranks.reset()
            starts.append(number)
        self._is_started = True
        self._since_args = False

    def _take_decision(
        self,
        body: bytes,
        head: Head,
        dp_rank: int | None,
        at: int,
        number: int,
        wrapped: Wrapped | None,
    ) -> None:
        for begin, reason in _DELAYER_CASES:
            if body.startswith(begin):
                prefillable, executed = _PREFILLABLE.search(body), _EXECUTED.search(body)
                self.decisions.append(
                    {
                        "source": "scheduler_log",
                        "source_id": self.source_id,
                        "line": at,
                        "ts": self._utc_ns(head.ts_ms, head.bits, number, wrapped),
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

    def _take_rows(
        self,
        ints: NDArray[np.int64],
        floats: NDArray[np.float64],
        starts: list[int],
        wrapped: Wrapped | None,
    ) -> None:
        self._is_started = self._since_args = True
        is_duplicate = self.ranks.find_duplicates(ints)
        if is_duplicate.any():
            self.skipped["duplicate of an attention-TP peer"] += int(is_duplicate.sum())
            ints, floats = ints[:, ~is_duplicate], floats[:, ~is_duplicate]
        lines = ints[cat.LINE]
        first_run = self.run - len(starts)
        run = first_run + np.searchsorted(np.array(starts, dtype=np.int64), lines, side="left")
        run = run.astype(np.int64)
        for row in self.ranks.find_restarts(ints, run):
            if self.ranks.is_mixed or len(self.facts) > 1000:
                break
            at_run = int(run[row])
            run[row:] += 1
            new = EngineFacts(settings=dict(self.facts[at_run].settings))
            self.facts.insert(at_run + 1, new)
            self.ranks.labels = {
                r: (lab, q + (q >= at_run)) for r, (lab, q) in self.ranks.labels.items()
            }
        gaps = self.ranks.compute_gaps(ints, floats, run)
        self._count_rows(ints, run)
        if wrapped is None:
            physical, times = lines + self.num_lines, None
        else:
            physical, times = wrapped.lines[lines - 1], wrapped.times[lines - 1]
        has_ms = (ints[cat.SEEN] & cat.HAS_MS) != 0
        ts, resolution = self.clock.to_utc_ns(ints[cat.TS], has_ms, times)
        low, high = int(ts.min()), int(ts.max())
        if self.time_range is not None:
            low, high = min(low, self.time_range[0]), max(high, self.time_range[1])
        self.time_range = (low, high)
        self.dp_ranks.update(np.unique(np.maximum(ints[cat.DP], 0)).tolist())
        self._pending.append(
            _build_frame(ints, floats, physical, ts, resolution, run, gaps, self.source_id)
        )
        if sum(f.height for f in self._pending) >= _GROUP_ROWS:
            self.flush_rows()

    def flush_rows(self) -> None:
        """Put the rows gathered so far into the store."""
        if self._pending:
            self.spill.append(pl.concat(self._pending, rechunk=True))
            self._pending = []

    def _count_rows(self, ints: NDArray[np.int64], run: NDArray[np.int64]) -> None:
        for r in range(int(run[0]), int(run[-1]) + 1):
            facts = self.facts[r]
            mine = run == r
            bits = ints[cat.SEEN, mine]
            is_prefill = ints[cat.KIND, mine] == cat.PREFILL
            count = int(is_prefill.sum())
            facts.num_prefill += count
            facts.num_decode += bits.size - count
            facts.num_ms += int(((bits & cat.HAS_MS) != 0).sum())
            if count:
                facts.any_bits |= int(np.bitwise_or.reduce(bits[is_prefill]))
                facts.all_bits &= int(np.bitwise_and.reduce(bits[is_prefill]))
                labels = ints[cat.LABEL, mine][is_prefill]
                facts.has_label |= bool((labels != cat.ABSENT).any())
            if count < bits.size:
                facts.decode_bits |= int(np.bitwise_or.reduce(bits[~is_prefill]))
            if bits.size:
                facts.max_dp_rank = max(facts.max_dp_rank, int(ints[cat.DP, mine].max()))

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


def _build_frame(
    ints: NDArray[np.int64],
    floats: NDArray[np.float64],
    lines: NDArray[np.int64],
    ts: NDArray[np.int64],
    resolution: NDArray[np.int64],
    run: NDArray[np.int64],
    gaps: NDArray[np.int64],
    source_id: int,
) -> pl.DataFrame:
    """Rows as columns of ``events``; sentinels become null, impossible values too."""
    data = {name: ints[cat.FIRST_FIELD + i] for i, name in enumerate(cat.INT_FIELDS)}
    raw = pl.DataFrame(
        {
            **data, "line": lines, "ts": ts, "ts_resolution": resolution, "engine_run": run,
            "dp_rank": np.maximum(ints[cat.DP], 0), "tp_rank": ints[cat.TP],
            "pp_rank": ints[cat.PP], "forward_iter": ints[cat.LABEL], "gap": gaps,
            "_kind": ints[cat.KIND], "token_usage": floats[0], "throughput_tok_s": floats[1],
        }
    )  # fmt: skip
    absent = pl.lit(cat.ABSENT)
    unsigned = [
        n for n in cat.INT_FIELDS if n not in ("num_cached_tokens", "num_replay_tokens")
    ]  # fmt: skip
    kinds = pl.Enum(EVENT_KINDS)
    is_decode = pl.col("_kind") == cat.DECODE
    return raw.select(
        pl.lit("scheduler_log").cast(pl.Categorical).cast(pl.String).alias("source"),
        pl.lit(source_id, dtype=pl.UInt16).alias("source_id"),
        pl.col("line").cast(pl.UInt32),
        pl.col("ts").cast(pl.Datetime("ns")).dt.replace_time_zone("UTC").cast(TIME),
        pl.col("ts_resolution").cast(SPAN),
        pl.col("engine_run").cast(pl.UInt16),
        pl.col("dp_rank").cast(pl.UInt16),
        *(
            pl.when(pl.col(c) != absent).then(pl.col(c)).cast(pl.UInt16)
            for c in ("tp_rank", "pp_rank")
        ),
        pl.when(is_decode)
        .then(pl.lit("decode", dtype=kinds))
        .otherwise(pl.lit("prefill", dtype=kinds))
        .alias("kind"),
        *(
            pl.when(pl.col(c) != absent).then(pl.col(c))
            for c in ("forward_iter", "num_cached_tokens")
        ),
        *(
            pl.when((pl.col(c) >= 0) & ~(is_decode & (c == "num_bootstrap_reqs")))
            .then(pl.col(c))
            .cast(pl.UInt32, strict=False)
            for c in unsigned
        ),
        *(
            pl.when(pl.col(c).is_not_nan()).then(pl.col(c))
            for c in ("token_usage", "throughput_tok_s")
        ),
        pl.when(pl.col("gap") != absent).then(pl.col("gap")).cast(SPAN),
    )
