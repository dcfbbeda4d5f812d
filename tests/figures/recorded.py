"""The recorded runs that figures of comparisons and what-ifs are drawn from, read once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pdtrace.compare import compare_runs
from pdtrace.delayer.replay import choose_requests, fit_engine
from pdtrace.delayer.tuning import tune
from pdtrace.figures.outlook import Outlook
from pdtrace.figures.pair import Pair, survey_pair
from pdtrace.loading import load
from pdtrace.run import Run
from pdtrace.sources.joining import join_requests

SAMPLES = Path(__file__).parent.parent.parent / "sample_logs"


@cache
def read_sample(name: str) -> Run:
    """A recorded run by the name of its directory."""
    return load(str(SAMPLES / name))


@cache
def read_pair(baseline: str = "h100x2-off", candidate: str = "h100x2-on") -> Pair:
    """Two recorded runs compared."""
    runs = read_sample(baseline), read_sample(candidate)
    return survey_pair(compare_runs(*runs), runs, None)


@cache
def read_outlook(name: str = "h100x2-off") -> Outlook:
    """A recorded run with a small sweep of its replay."""
    run = read_sample(name)
    model = fit_engine(run, join_requests(run.requests))
    advice = tune(model, choose_requests(model, None), passes=(4, 30, 500), repeats=3)
    return Outlook(model, advice)
