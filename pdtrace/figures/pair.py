"""Two runs and what comparing them gave, as the figures of a comparison draw them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pdtrace.compare.matching import (
    build_groups,
    find_group_gap,
    find_origin,
    read_requests,
)
from pdtrace.compare.passes import find_touched, read_passes
from pdtrace.compare.phases import name_phases
from pdtrace.compare.workload import compare_workloads
from pdtrace.figures.survey import Survey, survey_run
from pdtrace.untrusted import compile_pattern

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.compare import Comparison
    from pdtrace.compare.matching import F64, I64, Requests
    from pdtrace.run import Run

NAMES = ("baseline", "candidate")
# A mark beside colour, so that colour says nothing alone.
SIGNS = {"better": "▲", "worse": "▼", "same": "=", "inconclusive": "?", "unmeasured": "–"}
SYMBOLS = {
    "better": "triangle-up",
    "worse": "triangle-down",
    "same": "square",
    "inconclusive": "circle-open",
    "unmeasured": "circle-open",
}
COLOURS = {
    "better": "decode",
    "worse": "delayed",
    "same": "prefill",
    "inconclusive": "soft",
    "unmeasured": "soft",
}


@dataclass(frozen=True)
class Pair:
    """Baseline and candidate.

    Attributes:
        result: What comparing them gave.
        surveys: Of both.
        requests: Those that both answered, pair by pair; times are seconds on the axis of that
            run's survey. None of them where requests have no partner.
        groups: Number of the simultaneous group of each pair.
        phases: Kind of request of each pair, as its id tells.
        is_touched: Pairs that a stall touched in either run.
    """

    subject: ClassVar[str] = "comparison"

    result: Comparison
    surveys: tuple[Survey, Survey]
    requests: tuple[Requests, Requests]
    groups: I64
    phases: tuple[str, ...]
    is_touched: NDArray[np.bool_]

    def times(self, side: int, name: str) -> F64:
        """A time of the requests of one run, in seconds on the axis of its survey."""
        survey = self.surveys[side]
        offset = (find_origin(survey.run) - survey.origin_ns) / 1e9
        values: F64 = getattr(self.requests[side], name) + offset
        return values


def survey_pair(result: Comparison, runs: tuple[Run, Run], request_filter: str | None) -> Pair:
    """Read what the figures need from two runs.

    Args:
        result: What ``compare_runs`` gave for them.
        runs: Baseline and candidate.
        request_filter: The regular expression that they were compared with.
    """
    pattern = None
    if request_filter is not None:
        pattern = compile_pattern("--request-filter", request_filter)
    requests = [read_requests(run, pattern=pattern) for run in runs]
    passes = (read_passes(runs[0]), read_passes(runs[1]))
    left = right = np.zeros(0, np.int64)
    if result.kind == "paired":
        work = compare_workloads((requests[0], requests[1]), passes, is_filtered=bool(pattern))
        left, right = work.left, work.right
    mine = (requests[0].take(left), requests[1].take(right))
    touched = [find_touched(r, p) for r, p in zip(mine, passes, strict=True)]
    gap = find_group_gap([r.begin for r in mine]) if len(left) else 0.0
    return Pair(
        result=result,
        surveys=(survey_run(runs[0]), survey_run(runs[1])),
        requests=mine,
        groups=build_groups(mine, gap) if len(left) else left,
        phases=tuple(name_phases(mine[0].rid)),
        is_touched=touched[0] | touched[1],
    )
