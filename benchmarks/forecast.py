"""How often a simulated run with the delayer lies in the interval predicted from one without it.

``python benchmarks/forecast.py`` simulates engines of 2, 4 and 8 ranks under three loads, without
the delayer and with bounds of 4 to 500 passes, fits each run without it, predicts the others, and
prints the share of their figures inside the 90 % intervals and the mean error, by figure, ranks and
bound; then the same for the changes that ``tune`` prints. ``--seeds N`` takes N seeds of each (2).
The simulated engine shares the replay's assumptions, so this checks fitting, reading and intervals,
not whether engines are so.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl

import pdtrace
from pdtrace.delayer.engine_model import EngineModel, Setting, fit_engine
from pdtrace.delayer.replay import (
    QUANTITIES,
    choose_requests,
    measure_recording,
    predict,
    replay_settings,
)
from pdtrace.delayer.tuning import compare_draws
from pdtrace.sources.joining import join_requests

BOUNDS = (4, 30, 120, 500)
CHANGES = ("request_latency_mean_s", "ttft_p99_s", "prefill_throughput_tok_s")
REQUESTS_A_RANK = 120
COLUMNS = ("kind", "figure", "ranks", "bound", "predicted", "low", "high", "truth")
Row = tuple[str, str, int, int, float, float, float, float]


def list_loads(ranks: int) -> list[list[str]]:
    """Options of the loads: a phase of each kind; long prompts now and then; short ones often."""
    rates = (1.5 * ranks, 4.0 * ranks)
    return [
        [],
        ["--pattern", "poisson", "--rate", str(rates[0])],
        ["--pattern", "poisson", "--rate", str(rates[1]), "--input-len", "200-6000"],
    ]


def simulate(directory: Path, options: list[str]) -> tuple[EngineModel, dict[str, float | None]]:
    """A simulated run: the engine fitted to it, and its figures."""
    command = [sys.executable, "-m", "pdtrace", "simulate", "-o", str(directory), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = pdtrace.load(directory)
    model = fit_engine(run, join_requests(run.requests))
    metrics = pdtrace.measure(run).filter(
        (pl.col("metric") == "num_delay_passes") & pl.col("dp_rank").is_null()
    )
    return model, measure_recording(model, choose_requests(model, None), metrics["value"][0])


def measure_pair(scratch: Path, ranks: int, seed: int, load: list[str]) -> list[Row]:
    """Predicted and simulated figures of one load."""
    options = ["--dp-size", str(ranks), "--seed", str(seed)]
    options += ["--requests", str(REQUESTS_A_RANK * ranks), *load]
    name = f"{ranks}-{seed}-{len(list(scratch.iterdir()))}"
    model, off = simulate(scratch / f"{name}-off", options)
    chosen = choose_requests(model, None)
    settings = [Setting(n) for n in BOUNDS]
    guesses = predict(model, settings, chosen, off)
    baseline, *tried = replay_settings(model, [Setting(None), *settings], chosen)
    rows: list[Row] = []
    for n, guess, drawn in zip(BOUNDS, guesses, tried, strict=True):
        _, on = simulate(scratch / f"{name}-{n}", [*options, "--max-delay-passes", str(n)])
        for q in QUANTITIES:
            value, truth = guess.values[q], on[q]
            if value is not None and truth is not None:
                rows.append(("value", q, ranks, n, value, *guess.intervals[q], truth))
        for q in CHANGES:
            before, after = off[q], on[q]
            if before and after:
                change = compare_draws(drawn[q], baseline[q])
                rows.append(("change", q, ranks, n, *change, after / before - 1))
    return rows


def main() -> int:
    """Simulate, predict and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    seeds = parser.parse_args().seeds
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for ranks in (2, 4, 8):
            for seed in range(1, seeds + 1):
                for load in list_loads(ranks):
                    rows += measure_pair(Path(scratch), ranks, seed, load)
    table = pl.DataFrame(rows, schema=COLUMNS, orient="row").with_columns(
        inside=pl.col("truth").is_between("low", "high"),
        error=pl.when(pl.col("kind") == "change")
        .then(pl.col("predicted") - pl.col("truth"))
        .otherwise(pl.col("predicted") / pl.col("truth") - 1)
        .replace(float("inf"), None),
    )
    for kind in ("value", "change"):
        mine = table.filter(pl.col("kind") == kind)
        share = mine["inside"].sum() / len(mine)
        print(f"{kind}s: {share:.3f} of {len(mine)} inside")
        for by in ("figure", "ranks", "bound"):
            for key, group in mine.sort(by).group_by(by, maintain_order=True):
                inside, error, size = (
                    group.select("inside", "error", pl.col("error").abs().alias("size"))
                    .cast(pl.Float64)
                    .mean()
                    .row(0)
                )
                print(
                    f"  {key[0]!s:28} inside {inside:.3f}  error {error:+.3f}  |error| {size:.3f}"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
