"""Which part of a run each finding's value is of: all of it, or what no stall touched."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pdtrace.check.measures import ALL
from pdtrace.wording import plural

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pdtrace.check.comparability import Tested
    from pdtrace.check.verdicts import Finding

_OF_BLOCKS = frozenset(m.name for m in ALL if m.above or m.sketch)


def is_of_whole_run(finding: Finding, tested: Sequence[Tested]) -> bool:
    """Whether stalls count in a finding's value.

    A change is measured over the blocks of requests that no stall touched; a bound is on the value
    that ``analyze`` has, where it has one. What is one number a run is always of the whole run.
    """
    if finding.metric not in _OF_BLOCKS:
        return True
    is_bound = finding.tier == "rule" and finding.change is None and finding.baseline is None
    return is_bound and any(finding.metric in t.record.metrics for t in tested)


def tell_apart(
    bounds: Sequence[Finding], changes: Sequence[Finding], tested: Sequence[Tested]
) -> list[Finding]:
    """Bounds whose titles say what their values are of, where the same metric is also compared."""
    compared = {f.metric for f in changes if f.metric in _OF_BLOCKS}
    scopes = {True: "whole run", False: "this run alone"}
    return [
        replace(f, title=f"{f.title}, {scopes[is_of_whole_run(f, tested)]}")
        if f.metric in compared
        else f
        for f in bounds
    ]


def describe_stalls(findings: Sequence[Finding], tested: Sequence[Tested]) -> Iterator[str]:
    """One line a run that stalled: of which values that is left out; none where of no value."""
    judged = [f for f in findings if f.value is not None and f.unit != "runs"]
    whole = list(dict.fromkeys(f.title for f in judged if is_of_whole_run(f, tested)))
    if len(whole) == len({f.title for f in judged}):
        return
    rest = f"; counted in: {'; '.join(whole)}" if whole else ""
    for t in tested:
        if t.record.num_stalls:
            yield (
                f"{t.name}: {plural(t.record.num_stalls, 'stalled iteration')}, left out with the "
                f"requests around them{rest}"
            )
