"""Speed of a sweep over delayer settings: an hour of eight ranks, with about 20 passes a second.

``python benchmarks/tune.py`` simulates a short recording of an 8-rank engine and fits it, shortens
its passes to about 50 ms, gives it an hour of random arrivals, and replays 50 settings: bounds of 2
to 1000 passes, without and with four low watermarks. It prints seconds, passes replayed a second,
the cost of the load to that of half of it (2 is linear), and the whole of ``tune`` (the sweep,
other routings, and the turn's sensitivity). With a number as argument so many seconds are replayed
instead of an hour. ``--run`` times the command on a simulated recording too, reading and fitting
included.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import pdtrace
from pdtrace.delayer.engine_model import EngineModel, Setting, fit_engine
from pdtrace.delayer.replay import choose_repeats, choose_requests, replay_settings
from pdtrace.delayer.tuning import tune
from pdtrace.sources.joining import join_requests

RANKS = 8
SWEPT_PASSES = (2, 4, 8, 16, 30, 60, 120, 240, 500, 1000)
WATERMARKS = (0.001, 0.01, 0.02, 0.05)
REQUESTS_A_SECOND = 50.0
PASS_SCALE = 0.38  # simulated passes take 90 ms and more; so shortened, 20 fit into a second


def simulate(directory: Path, num_requests: int) -> Path:
    """A recording of the assumed engine."""
    command = [sys.executable, "-m", "pdtrace", "simulate", "-o", str(directory)]
    command += ["--dp-size", str(RANKS), "--requests", str(num_requests)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return directory


def make_model(recording: Path, seconds: float) -> EngineModel:
    """The fitted engine under random arrivals."""
    run = pdtrace.load(recording)
    model = fit_engine(run, join_requests(run.requests))
    rng = np.random.default_rng(0)
    n = int(REQUESTS_A_SECOND * seconds)
    at = 1.0 + np.sort(rng.uniform(0, seconds, n))
    load = replace(
        model.load,
        rid=[str(i) for i in range(n)],
        arrival=at,
        rank=rng.integers(0, RANKS, n),
        tokens=rng.integers(200, 3000, n).astype(float),
        begin=at - 0.010,
        first=at - 0.005,
        forward_end=at + 0.2,
        done=at + 0.203,
        finish=at + 0.208,
        picked=np.full(n, np.nan),
        selected=np.full(n, np.nan),
        hold=np.full(n, 0.003),
    )
    costs = tuple(
        replace(
            c,
            theta=c.theta * PASS_SCALE,
            expected=c.expected * PASS_SCALE,
            excess=c.excess * PASS_SCALE,
        )
        for c in model.costs
    )
    return replace(
        model,
        load=load,
        costs=costs,
        launches=model.launches.scale(PASS_SCALE),
        touched=np.zeros(n, bool),
    )


def time_sweep(model: EngineModel) -> tuple[float, float, float]:
    """Seconds of the sweep, passes replayed, and passes of one replay with the delayer off."""
    settings = [Setting(n) for n in SWEPT_PASSES]
    settings += [Setting(n, w) for w in WATERMARKS for n in SWEPT_PASSES]
    chosen = choose_requests(model, None)
    start = time.perf_counter()
    figures = replay_settings(model, [Setting(None), *settings], chosen)
    took = time.perf_counter() - start
    return took, sum(f["num_iterations"].sum() for f in figures), figures[0]["num_iterations"][0]


def main() -> int:
    """Time it and print."""
    seconds = float(next((a for a in sys.argv[1:] if a[0].isdigit()), "3600"))
    with tempfile.TemporaryDirectory() as scratch:
        recording = simulate(Path(scratch) / "short", 200 * RANKS)
        warm = make_model(recording, 10.0)  # compiles
        replay_settings(warm, [Setting(30, 0.01)], choose_requests(warm, None))
        half, whole = (make_model(recording, s) for s in (seconds / 2, seconds))
        took_half, *_ = time_sweep(half)
        took, passes, alone = time_sweep(whole)
        start = time.perf_counter()
        advice = tune(whole, choose_requests(whole, None))
        took_all = time.perf_counter() - start
        print(
            f"{seconds:,.0f} s of {RANKS} ranks: {len(whole.load):,} requests, {alone:,.0f} passes "
            f"({alone / seconds:.1f} a second)\n"
            f"50 settings and off, {choose_repeats(whole)} repeats each: {took:.2f} s, "
            f"{passes / took:,.0f} passes a second\n"
            f"cost of the load to that of half of it: {took / took_half:.2f}\n"
            f"tune as a whole, {len(advice.outcomes)} settings: {took_all:.2f} s"
        )
        if "--run" in sys.argv:
            big = simulate(Path(scratch) / "big", 20_000)
            start = time.perf_counter()
            command = [sys.executable, "-m", "pdtrace", "tune", str(big)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            print(f"pdtrace tune of 20,000 simulated requests: {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
