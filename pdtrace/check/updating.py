"""Adding runs to a baseline, or starting it anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pdtrace
from pdtrace.check.baseline import Baseline, describe_delayer, find_difference
from pdtrace.check.comparability import match_run
from pdtrace.check.judge import choose_measures, judge_cases
from pdtrace.check.records import build_record
from pdtrace.check.rules import TIERS
from pdtrace.check.samples import Pool
from pdtrace.check.verdicts import Verdict
from pdtrace.errors import NothingMeasuredError, UsageError
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.check.records import Record
    from pdtrace.run import Run


def update_baseline(
    baseline: Baseline | None, runs: Sequence[tuple[str, Run]]
) -> tuple[Baseline, str]:
    """Add repeats to a baseline; runs that are no repeats of it start a new one.

    Args:
        baseline: What there is; None: nothing yet.
        runs: Name and run of each.

    Returns:
        The baseline, and what was done in words.

    Raises:
        UsageError: The runs are no repeats of each other.
        NothingMeasuredError: They hold no whole block to judge by.
    """
    if baseline is not None:
        records, why = _match(runs, baseline)
        if why is None:
            merged = baseline.merge(Baseline(tuple(records), pdtrace.__version__))
            added = len(merged.records) - len(baseline.records)
            known = len(runs) - added
            text = f"{added} run{'' if added == 1 else 's'} added, {len(merged.records)} in all"
            return merged, text + (f" ({known} already in it)" if known else "")
    first = build_record(runs[0][1], runs[0][0])
    if not first.sample.is_usable.any():
        raise NothingMeasuredError(
            "no part of the workload ran without a stall and was answered: no baseline can be made",
            path=show(runs[0][0]),
        )
    fresh = Baseline((first,), pdtrace.__version__)
    if len(runs) > 1:
        records, other = _match(runs[1:], fresh)
        if other is not None:
            raise UsageError(f"these runs do not make one baseline: {other}")
        fresh = fresh.merge(Baseline(tuple(records), pdtrace.__version__))
    num = len(fresh.records)
    text = (
        f"{num} run{'' if num == 1 else 's'} of {first.engine.engine}, {first.dp_size} DP ranks, "
        f"delayer {describe_delayer(first.engine.delayer)}"
    )
    return fresh, text if baseline is None else f"started anew with {text}; before: {why}"


def _match(runs: Sequence[tuple[str, Run]], baseline: Baseline) -> tuple[list[Record], str | None]:
    """The runs in the baseline's blocks, and why they are no repeats of it."""
    records = []
    for name, run in runs:
        matched = match_run(run, name, baseline)
        if matched.reasons:
            return [], f"{show(name)}: {'; '.join(matched.reasons)}"
        if not matched.is_paired:
            return [], f"{show(name)}: it has other requests"
        if why := find_difference(baseline.records[0], matched.record):
            return [], f"{show(name)}: {why}"
        if why := _find_change(baseline, matched.record):
            return [], f"{show(name)}: {why}"
        records.append(matched.record)
    return records, None


def _find_change(baseline: Baseline, record: Record) -> str | None:
    """A measure by which a run is shown to differ from the baseline, for better or for worse."""
    pools = (Pool.of(tuple(r.sample for r in baseline.records)), Pool.of((record.sample,)))
    workloads = (baseline.workload, baseline.workload)
    for order in (pools, pools[::-1]):
        for finding in judge_cases(choose_measures(order, workloads, TIERS)):
            if finding.verdict is Verdict.FAIL:
                return f"{finding.title} differs by more than noise explains"
    return None
