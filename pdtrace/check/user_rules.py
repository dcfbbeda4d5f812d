"""The user's rules, judged: bounds on values, and limits to a metric's worsening."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.check.changes import measure_change, measure_values
from pdtrace.check.judge import Case
from pdtrace.check.measures import ALL, OTHER_NOISE, Measure
from pdtrace.check.samples import Pool
from pdtrace.check.verdicts import Finding, Verdict
from pdtrace.errors import UsageError
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.check.baseline import Baseline
    from pdtrace.check.comparability import Tested
    from pdtrace.check.rules import Rule

_UNKNOWN_UNIT = "count"
ABOVE_ONE = frozenset({"rank_token_imbalance_ratio"})  # quotients that are no shares


def judge_bound(rule: Rule, tested: Sequence[Tested]) -> Finding:
    """A bound on a value: kept or broken, as measured; of repeats their mean counts.

    Raises:
        UsageError: The bound of a share is none: it would always be kept, or never.
    """
    measure = _find_measure(rule.metric, tested)
    values = [v for t in tested if (v := _value_of(measure, t)) is not None]
    if measure.unit == "ratio" and rule.metric not in ABOVE_ONE and not 0 <= rule.limit <= 1:
        where = f"{rule.source}: " if rule.source else ""
        raise UsageError(
            f"{where}rule '{show(rule.text)}': {rule.metric} is a share of 0 to 1; write it like "
            "0.3 or 30%"
        )
    sign = "at most" if rule.kind == "max" else "at least"
    start = Finding(
        metric=rule.metric,
        title=measure.title,
        rule=rule.text,
        tier="rule",
        verdict=Verdict.UNMEASURED,
        value=None,
        baseline=None,
        unit=measure.unit,
        reason="",
        better="lower" if rule.kind == "max" else "higher",
        limit=rule.limit,
        rule_source=rule.source,
    )
    if len(values) < len(tested):
        missing = (t.record.missing.get(rule.metric) for t in tested)
        note = next((m for m in missing if m), "the recording does not tell it")
        return replace(start, reason=note)
    value = float(np.mean(values))
    is_kept = value <= rule.limit if rule.kind == "max" else value >= rule.limit
    what = "the mean of the runs" if len(values) > 1 else "the value"
    return replace(
        start,
        verdict=Verdict.PASS if is_kept else Verdict.FAIL,
        value=value,
        reason=f"{what} is {'' if is_kept else 'not '}{sign} the limit",
    )


def _find_measure(name: str, tested: Sequence[Tested]) -> Measure:
    """The measure of a name, or one made up for a metric that is one number a run."""
    found = next((m for m in ALL if m.name == name), None)
    if found is not None:
        return found
    units = [t.record.metrics[name][1] for t in tested if name in t.record.metrics]
    unit = units[0] if units else _UNKNOWN_UNIT
    return Measure(name, name, unit, "lower", "B", "relative", OTHER_NOISE, "")


def _value_of(measure: Measure, tested: Tested) -> float | None:
    """Over the whole run, as ``analyze`` has it; else over the blocks."""
    if measure.name in tested.record.metrics:
        return tested.record.metrics[measure.name][0]
    if measure.name not in tested.record.missing and (measure.above or measure.sketch):
        pool = Pool.of((tested.record.sample,))
        change = measure_change(measure, (pool, pool), (tested.record.workload,) * 2)
        return getattr(change, "value", None)
    return None


def build_case(
    rule: Rule, tested: Sequence[Tested], baseline: Baseline, pools: tuple[Pool, Pool]
) -> Case:
    """A rule on the worsening of a metric."""
    measure = _find_measure(rule.metric, tested)
    assert rule.better is not None
    measure = replace(measure, better=rule.better)
    workloads = (baseline.workload, tested[0].record.workload)
    if measure.above or measure.sketch:
        if measure.name.startswith("ttft") and not all("ttft" in p.sketches for p in pools):
            measure = replace(measure, sketch="ttft_received")
        change = measure_change(measure, pools, workloads)
    else:
        before = [r.metrics[rule.metric][0] for r in baseline.records if rule.metric in r.metrics]
        now = [t.record.metrics[rule.metric][0] for t in tested if rule.metric in t.record.metrics]
        if len(now) < len(tested):
            now = []
        is_zero = min([*before, *now], default=1.0) <= 0
        if is_zero:
            # relative to nothing: judged by the difference
            measure = replace(measure, scale="absolute", noise=OTHER_NOISE * max([*before, *now]))
        change = measure_values(measure, before, now)
    limit = rule.limit
    if measure.scale == "absolute":
        effect = limit = rule.limit * getattr(change, "baseline", 0.0)
    elif rule.better == "lower":
        effect = math.log1p(rule.limit)
    else:
        effect = -math.log1p(-min(rule.limit, 0.999))
    return Case(measure, change, "rule", rule.text, effect, effect, limit, rule.source)
