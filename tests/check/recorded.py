"""The recorded runs, and baselines made of them, each read once."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pdtrace
from pdtrace.check.baseline import Baseline
from pdtrace.check.gate import check_runs
from pdtrace.check.records import build_record
from pdtrace.check.rules import Rules, parse_rule

if TYPE_CHECKING:
    from pdtrace.check.verdicts import CheckResult
    from pdtrace.run import Run

SAMPLES = Path(__file__).parent.parent.parent / "sample_logs"


@cache
def load(name: str, source: str | None = None) -> Run:
    """A recorded run, or one source of it."""
    return pdtrace.load(SAMPLES / name, sources=[source] if source else None)


@cache
def baseline_of(name: str, source: str | None = None) -> Baseline:
    """A baseline of one recorded run."""
    return Baseline((build_record(load(name, source), name),), "test")


def check(name: str, baseline: Baseline | None, *rules: str, source: str | None = None, **engine):
    """Check a recorded run; ``engine`` replaces what it says of its engine."""
    run = load(name, source)
    if engine:
        run = replace(run, engine=replace(run.engine, **engine))
    return check_runs([(name, run)], baseline, Rules(tuple(parse_rule(r) for r in rules)))


def verdict_of(result: CheckResult, metric: str) -> str:
    """The verdict on a metric."""
    return next(str(f.verdict) for f in result.findings if f.metric == metric)
