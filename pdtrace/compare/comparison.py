"""Compares two runs: first whether they can be, then every metric with its interval and verdict."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.compare.estimates import Side, build_estimates, keep
from pdtrace.compare.matching import (
    build_blocks,
    build_groups,
    find_group_gap,
    read_requests,
    widest_gap,
)
from pdtrace.compare.modes import find_modes
from pdtrace.compare.passes import (
    NO_BLOCK,
    OUTSIDE,
    assign_blocks,
    cut_blocks,
    find_touched,
    read_passes,
)
from pdtrace.compare.phases import compare_phases
from pdtrace.compare.quantities import QUANTITIES
from pdtrace.compare.resampling import draw_weights, point_of
from pdtrace.compare.settings import compare_settings
from pdtrace.compare.verdicts import Compared, judge
from pdtrace.compare.workload import compare_workloads
from pdtrace.metrics import measure
from pdtrace.schema import COMPARISONS
from pdtrace.untrusted import compile_pattern
from pdtrace.wording import plural

if TYPE_CHECKING:
    import re

    from numpy.typing import NDArray

    from pdtrace.compare.matching import Requests
    from pdtrace.compare.passes import Passes
    from pdtrace.compare.resampling import Estimate
    from pdtrace.compare.workload import Workload
    from pdtrace.run import Run

DELAYS = ("num_delay_passes", "delay_seconds_total")
NAMES = ("baseline", "candidate")
TWO_SPEEDS = "ran at two speeds"
OF_DURATIONS = ("prefill_throughput_tok_s", "idle_rank_time_ratio", "idle_rank_seconds")
OF_PASSES = (
    *OF_DURATIONS,
    "num_iterations",
    "num_solo_iterations",
    "num_fully_fused_iterations",
    "iterations_per_thousand_requests",
    "solo_iteration_ratio",
    "fully_fused_iteration_ratio",
    "fusion_width_mean",
    "idle_rank_pass_ratio",
)
MOST_ESTIMATED = 0.2  # share of durations that may be estimates before nothing is claimed of them
SLOWER = 0.05
WHOLE = 0.99  # share of the requests compared from which the whole runs are
_CLIENT = "a client's log with sending and answering times (client_log) gives it"
_TIMES = "spans, request time stats or a client's log give it"
MISSING = {
    "request_latency": _CLIENT,
    "ttft": _TIMES,
    "makespan_s": _TIMES,
    "served_throughput": _TIMES,
    "group_makespan": "no two requests were sent at once, or nothing gives their times",
    "num_unfinished": _TIMES,
    "iterations_per": "request time stats, spans or a client's log tell which passes were theirs",
    "delay_seconds": "the prefill_delayer_wait_seconds histogram of releases from 0.5.14 on",
    "num_delay": "counters (metrics_before/after) give it",
}
ONE_RUN_EACH = (
    "each setting was run once: an interval holds what varies within these runs, and how much a "
    "repeat would differ is only known where one is given (--second-baseline)"
)
OF_WHOLE_RUN = "counted over the whole run, not for some of its requests; see the raw figures"


@dataclass(frozen=True)
class Comparison:
    """What comparing two runs gave.

    Attributes:
        reasons: Why they cannot be compared; empty if they can.
        notes: What a reader should know besides.
        rows: One for each metric, in the order of the report.
        kind: How requests relate; see :class:`pdtrace.compare.workload.Workload`.
        num_requests, num_internal, num_stalls: Of baseline and candidate: requests that match the
            filter, requests that no client sent, stalled passes.
        num_matched: Pairs that both runs answered.
        num_touched: Pairs, or requests of both runs, left out because a stall touched them.
        num_blocks: Of baseline and candidate.
        num_slower: Pairs that the candidate answers over 5 % later, and pairs with a latency.
        phases: Mean latency by kind of request; see :mod:`pdtrace.compare.phases`.
        noise: Metric → |ln| of the change between two baselines, where a second one was given.
    """

    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[Compared, ...] = ()
    kind: str = "different"
    num_requests: tuple[int, int] = (0, 0)
    num_internal: tuple[int, int] = (0, 0)
    num_matched: int = 0
    num_stalls: tuple[int, int] = (0, 0)
    num_touched: int = 0
    num_blocks: tuple[int, int] = (0, 0)
    num_slower: tuple[int, int] = (0, 0)
    phases: tuple[tuple[str, Compared], ...] = ()
    noise: dict[str, float] = field(default_factory=dict)

    @property
    def is_comparable(self) -> bool:
        """Whether there are numbers."""
        return not self.reasons

    def to_table(self) -> pl.DataFrame:
        """Table ``comparisons``."""
        rows = [
            {
                "metric": r.quantity.name,
                "unit": r.quantity.unit,
                "better": r.quantity.better,
                "baseline": r.baseline,
                "candidate": r.candidate,
                "change_ratio": r.change_ratio,
                "low": r.low,
                "high": r.high,
                "verdict": r.verdict,
                "num_blocks": r.num_blocks,
                "baseline_n": r.n[0],
                "candidate_n": r.n[1],
                "baseline_raw": r.raw[0],
                "candidate_raw": r.raw[1],
                "note": r.note,
            }
            for r in self.rows
        ]
        return COMPARISONS.conform(pl.DataFrame(rows, schema=COMPARISONS.schema))

    def get(self, name: str) -> Compared:
        """The row of a metric."""
        return next(row for row in self.rows if row.quantity.name == name)


def compare_runs(
    baseline: Run,
    candidate: Run,
    *,
    request_filter: str | None = None,
    second_baseline: Run | None = None,
) -> Comparison:
    """Compare two runs.

    Args:
        baseline: What is compared against.
        candidate: What is compared.
        request_filter: Regular expression; only requests in whose id it is found count, and the
            iterations that prefilled them.
        second_baseline: A repeat of the baseline; what differs between the two is added to both
            ends of every interval.

    Raises:
        UsageError: The filter is not a regular expression.
    """
    pattern = None
    if request_filter is not None:
        pattern = compile_pattern("--request-filter", request_filter)
    result = _compare(baseline, candidate, pattern, {})
    if second_baseline is None or not result.is_comparable:
        return result
    repeat = _compare(baseline, second_baseline, pattern, {})
    if not repeat.is_comparable:
        note = f"the second baseline is no repeat of the first: {'; '.join(repeat.reasons)}"
        return replace(result, notes=(*result.notes, note))
    noise = {
        row.quantity.name: abs(float(np.log1p(row.change_ratio)))
        for row in repeat.rows
        if row.change_ratio is not None and row.change_ratio > -1
    }
    return _compare(baseline, candidate, pattern, noise)


def _compare(
    baseline: Run, candidate: Run, pattern: re.Pattern[str] | None, noise: dict[str, float]
) -> Comparison:
    runs = (baseline, candidate)
    found = compare_settings(baseline, candidate)
    passes = (read_passes(baseline), read_passes(candidate))
    requests = (read_requests(baseline, pattern=pattern), read_requests(candidate, pattern=pattern))
    reasons = list(found.reasons)
    for name, p, r in zip(NAMES, passes, requests, strict=True):
        # A client's log alone still tells latencies.
        if not (p.width > 0).any() and not np.isfinite(r.answered).any():
            reasons.append(f"the {name} holds no prefill iteration")
    work = compare_workloads(requests, passes, is_filtered=pattern is not None)
    result = Comparison(
        reasons=(*reasons, *work.reasons),
        notes=(*found.notes, *work.notes),
        kind=work.kind,
        num_requests=(len(requests[0]), len(requests[1])),
        num_internal=(requests[0].num_internal, requests[1].num_internal),
        num_matched=len(work.left),
        num_stalls=(int(passes[0].is_stall.sum()), int(passes[1].is_stall.sum())),
        noise=noise,
    )
    if not result.is_comparable:
        return result
    is_whole = pattern is None and (
        work.kind != "paired" or len(work.left) >= WHOLE * max(len(requests[0]), len(requests[1]))
    )
    sides, notes = _build_sides(runs, requests, passes, work, is_whole=is_whole)
    if not noise:
        notes.append(ONE_RUN_EACH)
    return _measure(replace(result, notes=(*result.notes, *notes)), sides, work, is_whole=is_whole)


def _build_sides(
    runs: tuple[Run, Run],
    requests: tuple[Requests, Requests],
    passes: tuple[Passes, Passes],
    work: Workload,
    *,
    is_whole: bool,
) -> tuple[tuple[Side, Side], list[str]]:
    notes: list[str] = []
    if work.kind == "paired":
        requests = (requests[0].take(work.left), requests[1].take(work.right))
        gap = find_group_gap([r.begin for r in requests])
        groups = build_groups(requests, gap)
        blocks = build_blocks(requests, groups)
        grouped = [(groups, blocks)] * 2
    elif work.kind == "unpaired":
        gap = find_group_gap([r.begin for r in requests])
        each = [build_groups([r], gap) for r in requests]
        grouped = [(g, build_blocks([r], g)) for r, g in zip(requests, each, strict=True)]
    else:
        gap = 0.0
        empty = np.zeros(0, np.int64)
        requests = (requests[0].take(empty), requests[1].take(empty))
        grouped = [(empty, empty)] * 2
    if gap:
        widest = widest_gap(requests, gap) * 1000
        notes.append(f"requests sent within {widest:.0f} ms of each other count as one group")
    out: list[Side] = []
    for name, run, mine, p, (groups, blocks) in zip(
        NAMES, runs, requests, passes, grouped, strict=True
    ):
        if work.kind == "unnamed":
            pass_blocks = cut_blocks(p)
            num_blocks = int(pass_blocks.max()) + 1
        else:
            num_blocks = int(blocks.max()) + 1
            pass_blocks, num_by_time = assign_blocks(p, mine, blocks)
            if num_by_time:
                notes.append(
                    f"{num_by_time:,} requests of the {name} have no selection time or rank: the "
                    "passes while they were in flight are taken for theirs"
                )
        if is_whole:
            pass_blocks = np.where(pass_blocks == OUTSIDE, NO_BLOCK, pass_blocks)
        delays = _read_delays(run)
        # Without a delayer it is zero for any choice of requests.
        counts = {k: v if is_whole or v == 0 else None for k, v in delays.items()}
        if len(mine):
            counts["num_unfinished_requests"] = float(work.num_unanswered[len(out)])
        out.append(Side(mine, blocks, groups, num_blocks, p, pass_blocks, counts, delays))
    return (out[0], out[1]), notes


def _read_delays(run: Run) -> dict[str, float | None]:
    rows = measure(run).filter(pl.col("metric").is_in(DELAYS), pl.col("dp_rank").is_null())
    return dict(rows.select("metric", "value").iter_rows())


def _measure(
    result: Comparison, sides: tuple[Side, Side], work: Workload, *, is_whole: bool
) -> Comparison:
    paired = work.kind == "paired"
    touched = [find_touched(s.requests, s.passes) for s in sides]
    if paired:
        touched = [touched[0] | touched[1]] * 2
    everything = tuple(np.ones(len(t), np.bool_) for t in touched)
    kept = keep(sides, (~touched[0], ~touched[1]), paired=paired)
    raw_kept = keep(sides, (everything[0], everything[1]), paired=paired)
    timed = [_timed_passes(s, t) for s, t in zip(sides, touched, strict=True)]
    every_pass = [np.ones(len(s.passes), np.bool_) for s in sides]
    clean, raw = (
        [
            build_estimates(s, k, t, is_raw=is_raw)
            for s, k, t in zip(sides, keeps, passes, strict=True)
        ]
        for keeps, passes, is_raw in ((kept, timed, False), (raw_kept, every_pass, True))
    )
    first = draw_weights(sides[0].num_blocks)
    weights = (first, first if paired else draw_weights(sides[1].num_blocks))
    rows = tuple(
        judge(
            q,
            clean[0].get(q.name),
            clean[1].get(q.name),
            weights,
            noise=result.noise.get(q.name, 0.0),
            raw=(_value(raw[0].get(q.name)), _value(raw[1].get(q.name))),
            missing=_what_gives(q.name, sides, is_whole=is_whole),
        )
        for q in QUANTITIES
    )
    shares = [s.passes.estimated_share for s in sides]
    if max(shares) > MOST_ESTIMATED:
        note = (
            f"{shares[0]:.0%} and {shares[1]:.0%} of the durations are estimates, low ones after "
            "pauses; request time stats or spans give them"
        )
        rows = tuple(_without_claim(row, note) for row in rows)
    num_slower = (0, 0)
    if paired and kept[0].timed.any():
        mask = kept[0].timed
        took = [(s.requests.answered - s.requests.sent)[mask] for s in sides]
        num_slower = (int((took[1] > took[0] * (1 + SLOWER)).sum()), len(took[0]))
    return replace(
        result,
        rows=rows,
        notes=(*result.notes, *_describe(sides, kept[0].by_arrival)),
        num_touched=int(touched[0].sum()) if paired else int(sum(t.sum() for t in touched)),
        num_blocks=(sides[0].num_blocks, sides[1].num_blocks),
        num_slower=num_slower,
        phases=compare_phases(sides, kept) if paired else (),
    )


def _without_claim(row: Compared, note: str) -> Compared:
    """The row of a metric made of durations that are not known well enough to judge it."""
    is_open = row.verdict == "unmeasured" or row.change_ratio == 0
    if row.quantity.name not in OF_DURATIONS or is_open:
        return row
    return replace(row, verdict="inconclusive", note=note)


def _timed_passes(side: Side, touched: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Passes whose time is compared: they did not stall, and prefilled what no stall touched.

    With paired requests a pass drops out in one run when a stall struck its requests in the other;
    otherwise the run that stalled would be spared the time that the other must show.
    """
    mask: NDArray[np.bool_] = ~side.passes.is_stall
    if len(side.requests):
        index = np.flatnonzero(~touched)
        own, _ = assign_blocks(side.passes, side.requests.take(index), side.blocks[index])
        mask = mask & (own >= 0)
    return mask


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else point_of(estimate)


def _what_gives(name: str, sides: tuple[Side, Side], *, is_whole: bool) -> str:
    if name in DELAYS and not is_whole:
        return OF_WHOLE_RUN
    for side_name, side in zip(NAMES, sides, strict=True):
        if name in OF_PASSES and side.passes.missing:
            return f"{side_name}: {side.passes.missing}"
    told = (text for prefix, text in MISSING.items() if name.startswith(prefix))
    return next(told, "iterations with a duration give it")


def _describe(sides: tuple[Side, Side], by_arrival: bool) -> list[str]:
    notes = []
    if len(sides[0].requests) and not by_arrival:
        notes.append("TTFT counts from the bootstrap queue: one run lacks the time of arrival")
    blind = [
        n for n, s in zip(NAMES, sides, strict=True) if not np.isfinite(s.passes.duration).any()
    ]
    if blind:
        notes.append(f"stalls cannot be seen in {' and '.join(blind)}: no pass has a duration")
    for name, side in zip(NAMES, sides, strict=True):
        if side.passes.missing:
            notes.append(f"{name}: {side.passes.missing}")
        modes = find_modes(side.passes)
        if modes is not None:
            notes.append(
                f"the {name} {TWO_SPEEDS}: in {modes.slow_share:.0%} of its time the same "
                f"passes took {modes.ratio:.2f} times as long; a mean of both describes neither"
            )
        rest = int((side.pass_blocks == NO_BLOCK).sum())
        if rest and len(side.requests):
            notes.append(
                f"{plural(rest, 'pass')} of the {name} prefilled none of the compared requests "
                "(warm-up); they count among its iterations, as in analyze"
            )
    return notes
