"""Simulated runs whose delay episodes are known one by one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import pdtrace
from pdtrace.delayer.rules import rules_for
from pdtrace.simulate.records import EngineSettings
from pdtrace.simulate.run_directory import simulate
from pdtrace.simulate.settings import Launch, Logging
from pdtrace.simulate.timing import assume_timing
from pdtrace.simulate.workload import LoadSettings, make_requests

_ROOT = TemporaryDirectory(prefix="pdtrace-episodes-")


@cache
def simulate_run(
    dp_size=2,
    num_requests=300,
    *,
    passes=30,
    pattern="mixed",
    chunk=8192,
    version="0.5.13",
    watermark=None,
    pool=312_560.0,
    debug_lines=True,
    time_stats=True,
    seed=1,
):
    """Simulate a run; return it as read back, and what its engine did."""
    settings = EngineSettings(
        dp_size=dp_size, chunk=chunk, pool=pool, rules=rules_for(version),
        max_delay_passes=passes, token_usage_low_watermark=watermark,
    )  # fmt: skip
    logging = Logging(has_debug_lines=debug_lines, has_time_stats=time_stats)
    launch = Launch(settings, version, logging, seed)
    load = LoadSettings(
        num_requests=num_requests, dp_size=dp_size, pattern=pattern, rate=None, lengths=None
    )
    requests = make_requests(load, np.random.default_rng([seed, 1]))
    directory = Path(_ROOT.name) / f"run{len(list(Path(_ROOT.name).iterdir()))}"
    directory.mkdir()
    timing = assume_timing(dp_size, is_blocking=True)
    timeline = simulate(launch, requests, timing, directory)
    return pdtrace.load(directory), timeline.outcome, directory


def list_true_episodes(outcome):
    """(refusals, reason of the verdict that ended them) of every wait, in order."""
    out, refused = [], 0
    for one in outcome.negotiations:
        if not one.verdict.output_allow:
            refused += one.count
        elif refused:
            out.append((refused, one.verdict.output_reason))
            refused = 0
    return out
