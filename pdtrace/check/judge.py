"""From changes to findings.

A measure fails where it worsened by its effect or more *and* chance is ruled out at ``ALPHA``, over
all measures and rules together (Holm's correction).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.check.changes import Change, Untold, measure_change
from pdtrace.check.measures import COUNTS, FEATURES, LATENCIES, SPEEDS
from pdtrace.check.power import (
    LEVEL,
    POWER_Z,
    SURE_Z,
    find_detectable,
    find_runs,
    plan_runs,
    student_quantile,
    student_tail,
)
from pdtrace.check.verdicts import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.check.measures import Measure
    from pdtrace.check.samples import Pool, Workload
    from pdtrace.check.verdicts import Tier

PLANNED_BY = ("iterations_per_thousand_requests", "solo_iteration_ratio")
ALPHA = 0.005  # aimed at for all measures together; what comes of it: docs/method.md


@dataclass(frozen=True)
class Case:
    """One measure to be judged by its change.

    Attributes:
        measure: It.
        change: What was measured, or why it was not.
        tier: ``A``, ``B`` or ``rule``.
        rule: In words, or the user's own.
        effect, margin: In the units of the change's scale.
        limit: As it is told.
        source: Of a rule from a file.
    """

    measure: Measure
    change: Change | Untold
    tier: Tier
    rule: str
    effect: float
    margin: float
    limit: float
    source: str | None = None


@dataclass(frozen=True)
class Risk:
    """How the accepted chance of a false failure is shared.

    Attributes:
        num: Measures and rules that share it.
        single: Chance that one alone may have, whatever the others show.
        bar: Chance that those may have which were not shown: those that were use up nothing.
    """

    num: int
    single: float
    bar: float


def choose_measures(
    pools: tuple[Pool, Pool], workloads: tuple[Workload, Workload], tiers: Sequence[str]
) -> list[Case]:
    """What is judged without being asked: all that both runs tell.

    Latency is judged by the first kind of times that both have. Where the baseline tells a family
    (fusion, latency, throughput) and the run nothing of it, one case stands for the family and says
    so.
    """
    latencies = next((m for s, m in LATENCIES.items() if all(s in p.sketches for p in pools)), None)
    if latencies is None:
        latencies = next((m for s, m in LATENCIES.items() if s in pools[0].sketches), ())
    cases: list[Case] = []
    for family in (COUNTS, SPEEDS, latencies):
        mine = []
        for measure in family:
            if measure.tier not in tiers or not _is_told(measure, pools[0]):
                continue
            change = measure_change(measure, pools, workloads)
            unit = change.unit if isinstance(change, Change) else 1.0
            mine.append(
                Case(
                    measure,
                    change,
                    measure.tier,
                    _describe_default(measure),
                    measure.effect * unit,
                    measure.margin * unit,
                    measure.effect * unit,
                )
            )
        known = [c for c in mine if isinstance(c.change, Change)]
        cases += known or mine[:1]
    return cases


def _is_told(measure: Measure, pool: Pool) -> bool:
    if measure.sketch:
        return measure.sketch in pool.sketches
    needed = [n for n in (measure.above, measure.below) if n != "requests"]
    columns = [pool.counts[:, FEATURES.index(n)] for n in needed]
    return all(bool(np.isfinite(c).any()) for c in columns)


def _describe_default(measure: Measure) -> str:
    if measure.is_total:
        return f"at most {100 * measure.effect:g} % of all rank-seconds more than the baseline"
    if measure.scale == "absolute":
        return f"at most {measure.effect * 100:g} points worse than the baseline"
    return f"at most {100 * measure.effect:g} % worse than the baseline"


def _score(change: Change) -> float:
    """How many errors a change is; none at all if nothing varies and nothing changed."""
    error = change.error()
    if error > 0:
        return change.point / error
    return 0.0 if change.point == 0 else math.copysign(math.inf, change.point)


def judge_cases(cases: Sequence[Case], *, alpha: float = ALPHA) -> list[Finding]:
    """Judge all cases together.

    Args:
        cases: In the order to show them.
        alpha: Chance of any false failure that is accepted.
    """
    tested = [(i, c.change) for i, c in enumerate(cases) if isinstance(c.change, Change)]
    tails = {i: student_tail(_score(c), c.freedom) for i, c in tested}
    shown: set[int] = set()
    bar = alpha
    for rank, i in enumerate(sorted(tails, key=lambda k: tails[k])):
        bar = alpha / (len(tails) - rank)
        if tails[i] > bar:
            break
        shown.add(i)
    risk = Risk(len(tails), alpha / max(len(tails), 1), bar)
    return [
        _judge(case, is_shown=i in shown, chance=tails.get(i, 1.0), risk=risk)
        for i, case in enumerate(cases)
    ]


def plan(cases: Sequence[Case], *, alpha: float = ALPHA) -> tuple[int | None, int | None]:
    """How many runs of each would show what a gate is for.

    Returns:
        A tenth of the fused iterations lost, each run as two, in 19 of 20 checks (by the iterations
        that it adds); and mean latency 5 % longer in four of five. None where that is not judged,
        or no number would do.
    """
    by_name = {c.measure.name: c.change for c in cases if isinstance(c.change, Change)}
    tail = alpha / max(len(by_name), 1)
    passes, solo = (by_name.get(name) for name in PLANNED_BY)
    lost = slow = None
    if passes is not None and solo is not None and solo.baseline < 1:
        added = math.log1p(0.1 * (1 - solo.baseline))
        lost = plan_runs(passes, tail, max(added, 1e-9), SURE_Z)
    means = (by_name.get(name) for name in ("request_latency_mean_s", "ttft_mean_s"))
    if (mean := next((m for m in means if m is not None), None)) is not None:
        slow = plan_runs(mean, tail, math.log1p(0.05), POWER_Z)
    return lost, slow


def _judge(case: Case, *, is_shown: bool, chance: float, risk: Risk) -> Finding:
    measure, change = case.measure, case.change
    start = Finding(
        metric=measure.name,
        title=measure.title,
        rule=case.rule,
        tier=case.tier,
        verdict=Verdict.UNMEASURED,
        value=None,
        baseline=None,
        unit=measure.unit,
        reason=change.reason if isinstance(change, Untold) else "",
        better=measure.better,
        scale=measure.scale,
        limit=case.limit,
        rule_source=case.source,
    )
    if isinstance(change, Untold):
        return replace(start, verdict=Verdict.INCONCLUSIVE) if change.is_little else start
    half = student_quantile((1 - LEVEL) / 2, change.freedom) * change.error()
    low, high = change.point - half, change.point + half
    runs = None
    if is_shown and change.point >= case.effect:
        verdict, reason = Verdict.FAIL, "worse than allowed, and more than noise explains"
    elif high <= case.margin and low >= -case.margin:
        verdict, reason = Verdict.EQUIVALENT, "the same within the margin"
    elif high <= case.margin:
        verdict = Verdict.PASS
        reason = "better" if high < 0 else "no worse than the margin"
    elif case.tier == "rule" and change.point <= case.effect:
        verdict, reason = Verdict.PASS, "within the limit as measured; noise could hide more"
    else:
        verdict, reason = Verdict.INCONCLUSIVE, "the noise hides whether it is worse"
        if low > 0 and change.point >= case.effect:
            together = f" with {risk.num} judged together" if risk.num > 1 else ""
            reason = (
                f"likely worse, but chance is not ruled out: {100 * chance:.2g} % of it remains, "
                f"and {100 * risk.bar:.2g} % is accepted{together}"
            )
        runs = find_runs(change, risk.bar, case.effect, case.margin)
        if runs is None:
            reason = "too near the limit: no number of runs would settle it"
    sign = 1.0 if measure.better == "lower" else -1.0
    ends = sorted((_show(sign * low, measure), _show(sign * high, measure)))
    return replace(
        start,
        verdict=verdict,
        value=change.value,
        baseline=change.baseline,
        reason=reason,
        change=_show(sign * change.point, measure),
        low=ends[0],
        high=ends[1],
        detectable=abs(_show(max(find_detectable(change, risk.single), case.effect), measure)),
        runs_needed=None if runs is None or not runs[1] else runs[1],
        baseline_runs_needed=None if runs is None or not runs[0] else runs[0],
    )


def _show(change: float, measure: Measure) -> float:
    """A change as it is told: of a logarithm the ratio − 1."""
    return math.expm1(change) if measure.scale == "relative" else change
