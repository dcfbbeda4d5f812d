"""Whether a run can be judged against a baseline: same engine, same work, well enough known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.check.changes import mean_of
from pdtrace.check.records import build_record
from pdtrace.check.samples import Pool, Workload
from pdtrace.compare.settings import SURE, compare_engines, select_flags
from pdtrace.compare.workload import ALIKE, ALIKE_TOKENS, MIN_SHARE

if TYPE_CHECKING:
    from pdtrace.check.baseline import Baseline
    from pdtrace.check.records import Record
    from pdtrace.check.samples import Mask, Sample
    from pdtrace.run import Run

SAME_RATE = 1.5  # times as fast or as slow as the baseline's requests may be sent
_DECILES = np.arange(0.1, 1.0, 0.1)


@dataclass(frozen=True)
class Matched:
    """A run laid beside a baseline.

    Attributes:
        record: Of the run, in the baseline's blocks where these were found in it.
        is_paired: Whether they were.
        reasons: Why it cannot be judged.
        notes: What a reader should know besides.
        is_alien: The engine itself is another.
    """

    record: Record
    is_paired: bool
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_alien: bool = False


@dataclass(frozen=True)
class Tested:
    """A run under test, and what was made of it."""

    name: str
    run: Run
    record: Record
    matched: Matched | None


def match_run(run: Run, name: str, baseline: Baseline) -> Matched:
    """Measure a run in the blocks of a baseline, or say why that cannot be."""
    record = build_record(run, name, baseline.workload)
    engine = replace(record.engine, server_args=select_flags(record.engine.server_args))
    found = compare_engines(baseline.engine, engine, (baseline.dp_size, record.dp_size))
    notes = [*found.notes, *record.notes]
    groupings = {r.grouping for r in baseline.records}
    if record.grouping not in groupings:
        notes.append(
            f"iterations were put together by {' and '.join(sorted(groupings))} in the baseline "
            f"and by {record.grouping} in {name}"
        )
    if found.reasons:
        return Matched(record, True, found.reasons, tuple(notes), is_alien=True)
    pool = Pool.of(tuple(r.sample for r in baseline.records))
    size, share = _common(pool, record)
    if size and share >= MIN_SHARE:
        rate = _rate_difference(pool, record)
        if size < 0.99 * _size(baseline.workload):
            what = "requests" if baseline.workload.is_named else "prompt tokens"
            notes.append(
                f"{name}: judged on {size:,.0f} of the baseline's {_size(baseline.workload):,.0f} "
                f"{what}: those that both have, in whole blocks that no stall touched"
            )
        return Matched(record, True, (rate,) if rate else (), tuple(notes))
    if share >= MIN_SHARE:
        return Matched(
            record, True, ("no part of the workload was answered in both",), tuple(notes)
        )
    own = build_record(run, name)
    why = _differences(baseline, own)
    if why:
        return Matched(record, True, (f"workload differs: {why}",), tuple(notes))
    notes.append(
        f"{name}: its requests are others than the baseline's: judged as another sample of one "
        "workload, alike in number, lengths and rate; the same requests would show smaller changes"
    )
    return Matched(own, False, (), tuple(notes))


def _size(workload: Workload) -> float:
    return float((workload.requests if workload.is_named else workload.tokens).sum())


def _common(pool: Pool, record: Record) -> tuple[float, float]:
    """Requests (or tokens) that baseline and run have in common, and as a share of the lesser."""
    workload = record.workload
    each = workload.requests if workload.is_named else workload.tokens
    both = (pool.num > 0) & record.sample.is_usable
    # A stall or a lost request makes blocks unusable, but not another workload of them.
    sent = (
        ~np.isnan(record.sample.unanswered) if workload.is_named else record.sample.counts[:, 0] > 0
    )
    theirs = float(record.num_requests) if workload.is_named else float(each.sum())
    lesser = min(float(each.sum()), theirs)
    size = float(each[both].sum())
    return size, float(each[sent].sum()) / lesser if lesser else 0.0


def _rate_difference(pool: Pool, record: Record) -> str | None:
    """Requests that come faster or slower than later answers explain are another workload."""
    mine = record.sample
    # A scheduler that takes a request in late does not say that it was sent late.
    if not all({"request_latency", "ttft"} & s.sketches.keys() for s in (mine, *pool.samples)):
        return None
    spans = np.array([s.span_s for s in pool.samples])
    both = np.isfinite(mine.span_s) & np.isfinite(spans).all(0) & (pool.num > 0) & mine.is_usable
    if not both.any():
        return None
    before, now = float(spans[:, both].mean(0).sum()), float(mine.span_s[both].sum())
    if before <= 0 or now <= 0:
        return None
    slower = _latency_change(pool, mine, both)
    apart = abs(np.log(now / before))
    if apart <= np.log(SAME_RATE) + abs(slower):
        return None
    times = np.exp(apart)
    return (
        f"workload differs: the requests came {times:.2g} times as "
        f"{'slowly' if now > before else 'fast'} as the baseline's"
    )


def _latency_change(pool: Pool, sample: Sample, blocks: Mask) -> float:
    """|ln| of the change of mean time; a client that waits for answers sends later by it."""
    for name, theirs in pool.sketches.items():
        ours = sample.sketches.get(name)
        if ours is None:
            continue
        weights = blocks.astype(np.float64)[None, :]
        ratio = float((mean_of(ours, weights) / mean_of(theirs, weights))[0])
        if np.isfinite(ratio) and ratio > 0:
            return float(np.log(ratio))
    return 0.0


def _differences(baseline: Baseline, own: Record) -> str:
    """Why two runs are not two samples of one workload; empty if they may be."""
    a, b = baseline.workload, own.workload
    if not (a.is_named and b.is_named):
        return _apart_in("prompt tokens", a.tokens.sum(), b.tokens.sum(), ALIKE_TOKENS)
    if why := _apart_in("requests", a.requests.sum(), b.requests.sum(), ALIKE):
        return why
    if why := _apart_in("prompt tokens", a.tokens.sum(), b.tokens.sum(), ALIKE):
        return why
    lengths = [np.quantile(w.tokens / np.maximum(w.requests, 1), _DECILES) for w in (a, b)]
    if max(abs(np.log((x + 1) / (y + 1))) for x, y in zip(*lengths, strict=True)) > 3 * ALIKE:
        return "the lengths of the prompts are distributed differently"
    before = float(np.nansum([r.sample.span_s for r in baseline.records])) / len(baseline.records)
    now = float(np.nansum(own.sample.span_s))
    return _apart_in("seconds of sending", before, now, 3 * ALIKE)


def _apart_in(what: str, x: float, y: float, limit: float) -> str:
    apart = 0.0 if x == y else abs(x - y) / max(abs(x), abs(y))
    return f"{what}: {x:,.0f} in the baseline, {y:,.0f} here" if apart > limit else ""


def is_sure(records: tuple[Record, ...]) -> bool:
    """Whether the iterations are known well enough to be counted."""
    return all(r.confidence is None or r.confidence >= SURE for r in records)
