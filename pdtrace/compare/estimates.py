"""One side of a comparison: its requests, passes and blocks, and every metric of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.compare.passes import NO_BLOCK, OUTSIDE
from pdtrace.compare.resampling import Fixed, Quantile, Ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.compare.matching import F64, I64, Requests
    from pdtrace.compare.passes import Passes
    from pdtrace.compare.resampling import Estimate

    Mask = NDArray[np.bool_]

QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


@dataclass(frozen=True)
class Side:
    """One run of a comparison.

    Attributes:
        requests: The compared ones; pair by pair in the same order as the other run's.
        blocks, groups: Of each request.
        num_blocks: Of this side; the other's too where requests are paired.
        passes: All of the run.
        pass_blocks: Block of each pass; ``NO_BLOCK``: counts, but belongs to none of the requests;
            ``OUTSIDE``: is not compared.
        counts: Metrics that are one number for the run: they cannot be split into blocks. None
            where it says nothing of the compared requests.
        delays: Those of the delayer, whatever is compared: for the raw figures.
    """

    requests: Requests
    blocks: I64
    groups: I64
    num_blocks: int
    passes: Passes
    pass_blocks: I64
    counts: dict[str, float | None]
    delays: dict[str, float | None]


@dataclass(frozen=True)
class Kept:
    """Which requests of a side have what a metric needs, in both runs where they are paired.

    Attributes:
        seen: Finished, with a beginning and an end.
        timed: Those whose client's times are known, for request latency.
        answered: Those whose arrival and end are known, for TTFT.
        by_arrival: TTFT counts from the API server's receipt, not from the bootstrap queue.
    """

    seen: Mask
    timed: Mask
    answered: Mask
    by_arrival: bool


def keep(sides: tuple[Side, Side], usable: tuple[Mask, Mask], *, paired: bool) -> tuple[Kept, Kept]:
    """Find which requests can be used for what.

    Args:
        sides: Baseline and candidate.
        usable: Requests that no stall touched; all of them for the raw figures.
        paired: A request is used in both runs or in neither.
    """
    by_arrival = all(
        bool(np.isfinite(s.requests.arrived[s.requests.is_finished]).all()) for s in sides
    )
    out = []
    for side, mask in zip(sides, usable, strict=True):
        r = side.requests
        seen = mask & r.is_finished & np.isfinite(r.begin) & np.isfinite(r.end)
        origin = r.arrived if by_arrival else r.received
        out.append(
            (
                seen,
                seen & np.isfinite(r.sent) & np.isfinite(r.answered),
                seen & np.isfinite(origin) & np.isfinite(r.finished),
            )
        )
    if paired:
        both = tuple(x & y for x, y in zip(*out, strict=True))
        out = [both, both]
    return Kept(*out[0], by_arrival), Kept(*out[1], by_arrival)


def build_estimates(
    side: Side, kept: Kept, timed: Mask, *, is_raw: bool
) -> dict[str, Estimate | None]:
    """Every metric of one side as something that can be resampled; None where nothing gives it.

    Args:
        side: The side.
        kept: Requests that can be used.
        timed: Passes whose time counts.
        is_raw: Counts of the whole run stand for any choice of its requests.
    """
    counts = side.counts | side.delays if is_raw else side.counts
    return {
        **_of_requests(side, kept),
        **_of_passes(side, timed),
        **{name: None if value is None else Fixed(value, 1) for name, value in counts.items()},
    }


def _of_requests(side: Side, kept: Kept) -> dict[str, Estimate | None]:
    r, nb = side.requests, side.num_blocks
    out: dict[str, Estimate | None] = {}
    origin = r.arrived if kept.by_arrival else r.received
    for name, mask, values in (
        ("request_latency", kept.timed, r.answered - r.sent),
        ("ttft", kept.answered, r.finished - origin),
    ):
        x, blocks = values[mask], side.blocks[mask]
        n = len(x)
        out[f"{name}_mean_s"] = (
            Ratio(_sum(blocks, nb, x), _sum(blocks, nb, np.ones(n)), n) if n else None
        )
        for label, share in QUANTILES:
            out[f"{name}_{label}_s"] = Quantile(x, blocks, share) if n else None
    first, last = _group_bounds(side, kept.seen)
    if len(first):
        spans = last - first
        blocks = _group_blocks(side, kept.seen)
        out["group_makespan_mean_s"] = Ratio(
            _sum(blocks, nb, spans), _sum(blocks, nb, np.ones(len(spans))), len(spans)
        )
    if kept.seen.any():
        blocks = side.blocks[kept.seen]
        busy = _sum(blocks, nb, time_in_flight(r.begin[kept.seen], r.end[kept.seen]))
        tokens = _sum(blocks, nb, np.nan_to_num(r.tokens[kept.seen]))
        n = int(kept.seen.sum())
        out["makespan_s"] = Ratio(busy, np.zeros(nb), n, rest_below=1.0)
        if np.isfinite(r.tokens[kept.seen]).all():
            out["served_throughput_tok_s"] = Ratio(tokens, busy, n)
    return out


def time_in_flight(begin: F64, end: F64) -> F64:
    """How much each interval adds to the union of all, taken in order of their beginnings."""
    out = np.zeros(len(begin))
    until = -np.inf
    for i in np.argsort(begin, kind="stable"):
        out[i] = max(0.0, end[i] - max(begin[i], until))
        until = max(until, end[i])
    return out


def _whole_groups(side: Side, mask: Mask) -> I64:
    """Groups of two requests or more, all of which are usable."""
    sizes = np.bincount(side.groups)
    usable = np.bincount(side.groups[mask], minlength=len(sizes))
    return np.flatnonzero((sizes >= 2) & (usable == sizes))


def _group_bounds(side: Side, mask: Mask) -> tuple[F64, F64]:
    wanted = _whole_groups(side, mask)
    if not len(wanted):
        return np.zeros(0), np.zeros(0)
    first = np.full(int(side.groups.max()) + 1, np.inf)
    last = np.full(len(first), -np.inf)
    np.minimum.at(first, side.groups[mask], side.requests.begin[mask])
    np.maximum.at(last, side.groups[mask], side.requests.end[mask])
    return first[wanted], last[wanted]


def _group_blocks(side: Side, mask: Mask) -> I64:
    of_group = np.zeros(int(side.groups.max()) + 1, np.int64)
    of_group[side.groups] = side.blocks
    return of_group[_whole_groups(side, mask)]


def _sum(blocks: I64, num_blocks: int, values: F64) -> F64:
    return np.bincount(blocks, weights=values, minlength=num_blocks).astype(np.float64)


def _of_passes(side: Side, timed: Mask) -> dict[str, Estimate | None]:
    p, nb, block = side.passes, side.num_blocks, side.pass_blocks
    scope = block != OUTSIDE
    ran = scope & (p.width > 0)
    if not ran.any() or p.missing:
        return {}
    timed = timed & scope & np.isfinite(p.duration)
    time = np.nan_to_num(p.duration)
    one = np.ones(len(p))
    solo = (p.width == 1).astype(np.float64)
    full = (p.width == p.dp_size).astype(np.float64)
    known = (p.dp_size - p.unknown).astype(np.float64)
    idle = p.idle.astype(np.float64)

    def ratio(above: F64, below: F64 | None, mask: Mask) -> Ratio | None:
        rest = mask & (block == NO_BLOCK)
        mine = mask & (block >= 0)
        if not mask.any() or (below is not None and not below[mask].sum() > 0):
            return None
        num = _sum(block[mine], nb, above[mine])
        den = np.zeros(nb) if below is None else _sum(block[mine], nb, below[mine])
        rest_below = 1.0 if below is None else float(below[rest].sum())
        return Ratio(num, den, int(mask.sum()), float(above[rest].sum()), rest_below)

    linked = ran & (block >= 0)
    requests = _sum(side.blocks, nb, np.ones(len(side.requests)))
    passes = _sum(block[linked], nb, 1000.0 * one[linked])
    told = known.sum() > 0 and not (p.unknown.sum() > 0 and p.idle.sum() == 0)
    prefilling = timed & (p.width > 0)
    return {
        "num_iterations": ratio(one, None, scope),
        "num_solo_iterations": ratio(solo, None, scope),
        "num_fully_fused_iterations": ratio(full, None, scope),
        "iterations_per_thousand_requests": Ratio(passes, requests, int(linked.sum()))
        if len(side.requests)
        else None,
        "solo_iteration_ratio": ratio(solo, one, ran),
        "fully_fused_iteration_ratio": ratio(full, one, ran),
        "fusion_width_mean": ratio(p.width.astype(np.float64), one, ran),
        "idle_rank_pass_ratio": ratio(idle, known, scope) if told else None,
        "idle_rank_time_ratio": ratio(idle * time, known * time, timed) if told else None,
        "idle_rank_seconds": ratio(idle * time, None, timed) if told else None,
        "prefill_throughput_tok_s": ratio(p.tokens, time, prefilling),
    }
