"""How well delay episodes are rebuilt: captures against counters, simulated engines against truth.

    python benchmarks/ledger.py

Prints, for each run, what the engine counted and what the ledger has; and for simulated runs how
many forwards and idle rank-seconds the same arrivals took more with the delayer off.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl

import pdtrace
from pdtrace.delayer.ledger import Totals, build_ledger

SAMPLES = Path(__file__).parent.parent / "sample_logs"
CAPTURES = ("h100x2-on", "cpu-dp4-on", "cpu-dp4-on-defaultlog")
SIMULATED = (
    "--dp-size 2 --pattern seed",
    "--dp-size 4 --pattern stagger",
    "--dp-size 2 --pattern poisson",
    "--dp-size 4 --pattern poisson",
    "--dp-size 8 --pattern poisson",
    "--dp-size 2 --pattern mixed",
    "--dp-size 4 --pattern mixed",
    "--dp-size 4 --pattern mixed --chunked-prefill-size 2048",
)
OUTCOMES = ("delay", "wait_success", "wait_timeout")


def count_outcomes(outcomes: pl.DataFrame) -> list[int]:
    """Passes of each outcome, by the rank that saw most."""
    per = outcomes.group_by("output_reason", "dp_rank").agg(pl.col("count").sum())
    most = dict(per.group_by("output_reason").agg(pl.col("count").max()).iter_rows())
    return [int(most.get(name, 0)) for name in OUTCOMES]


def show(name: str, counted: list[int], totals: Totals, rest: str = "") -> None:
    """One line: delay passes, waits that others joined, waits that ran out."""
    found = (totals.num_delay_passes, totals.num_fused, totals.num_timeouts)
    pairs = "  ".join(f"{c:>6} {f or 0:>6}" for c, f in zip(counted, found, strict=True))
    sys.stdout.write(f"{name:<58}{pairs}{rest}\n")


def idle_seconds(run: pdtrace.Run) -> float:
    """Idle rank-seconds of the whole engine."""
    rows = pdtrace.measure(run).filter(metric="idle_rank_seconds")
    return float(rows.filter(pl.col("dp_rank").is_null())["value"].item())


def simulate(options: str, passes: str, folder: Path) -> Path:
    """Simulate a run quietly; its directory."""
    where = folder / passes
    command = [sys.executable, "-m", "pdtrace", "simulate", "-o", str(where)]
    command += ["--max-delay-passes", passes, *options.split()]
    subprocess.run(command, check=True, capture_output=True)
    return where


def run_benchmark() -> None:
    """Print both tables."""
    sys.stdout.write(f"{'counted, found':<58}{'passes':>13}{'joined':>15}{'ran out':>15}\n")
    for name in CAPTURES:
        run = pdtrace.load(SAMPLES / name)
        told = run.decisions.filter(source="prometheus").cast({"output_reason": pl.String})
        show(name, count_outcomes(told), build_ledger(run).totals)
    for options in SIMULATED:
        with tempfile.TemporaryDirectory() as folder:
            directory = simulate(options, "30", Path(folder))
            on = pdtrace.load(directory)
            off = pdtrace.load(simulate(options, "off", Path(folder)))
            truth = json.loads((directory / "truth.json").read_text())
        totals = build_ledger(on).totals
        more = off.iterations.height - on.iterations.height
        rest = (
            f"   forwards {more:>4} {totals.num_saved_forwards:>4}"
            f"   idle s {idle_seconds(off) - idle_seconds(on):>6.1f}"
            f" {totals.saved_idle_rank_s or 0:>6.1f}"
        )
        told = pl.DataFrame(truth["prefill_delayer_outcomes"])
        show(options, count_outcomes(told), totals, rest)


if __name__ == "__main__":
    run_benchmark()
