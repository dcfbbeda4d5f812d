"""Iterations from spans alone, against the engine's own labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdtrace.iterations import build_run
from pdtrace.iterations.spans import cut_blocks
from pdtrace.sources import read

SAMPLES = Path(__file__).parents[2] / "sample_logs"
RUNS = ("h100x2-on", "h100x2-off", "cpu-dp4-off", "cpu-dp4-on", "cpu-dp8-off")


@pytest.mark.parametrize("name", RUNS)
def test_iterations_equal_the_labels(name):
    """Every iteration of a complete run is rebuilt: ranks and tokens, pass for pass."""
    truth = json.loads((SAMPLES / name / "truth.json").read_text())["iterations"]
    run = build_run(read([str(SAMPLES / name)], sources=["otel_spans"]))
    assert run.grouping == "span"
    passes = run.rank_passes.filter(pl.col("role") == "prefill").sort("iteration", "dp_rank")
    built = passes.group_by("iteration", maintain_order=True).agg("dp_rank", "num_new_tokens")
    want = [
        (sorted(int(r) for r in one["ranks"]),
         [one["ranks"][r]["new_token"] for r in sorted(one["ranks"], key=int)])
        for one in sorted(truth, key=lambda one: one["forward_iter"])
    ]  # fmt: skip
    assert [(ranks, tokens) for _, ranks, tokens in built.iter_rows()] == want
    assert run.iterations["confidence"].mean() > 0.97


@pytest.mark.parametrize(("name", "missing"), [("h100x2-off-crash", 3), ("h100x2-on-watermark", 3)])
def test_a_crash_loses_what_was_not_exported(name, missing):
    """A slice is exported when it ends, so the passes in flight at a crash are not there."""
    truth = json.loads((SAMPLES / name / "truth.json").read_text())["iterations"]
    run = build_run(read([str(SAMPLES / name)], sources=["otel_spans"]))
    assert run.iterations.height == len(truth) - missing


def test_spans_help_a_log_without_labels():
    """Default logging: the log's lines are grouped, with the spans' selection times.

    Truth is what the forward-pass metrics of each rank say: how often it idled.
    """
    run = build_run(read([str(SAMPLES / "cpu-dp4-on-defaultlog")]))
    assert run.grouping == "gap"
    idle = run.rank_passes.filter(pl.col("role") == "idle")["dp_rank"].value_counts()
    told = run.events.filter((pl.col("source") == "fpm") & (pl.col("kind") == "idle"))
    assert dict(idle.iter_rows()) == dict(told["dp_rank"].value_counts().iter_rows())


def cut(times, ranks, ends):
    """Blocks as sets of positions, in the given order."""
    order = np.argsort(times, kind="stable")
    first, sure = cut_blocks(np.array(times)[order], np.array(ends)[order], np.array(ranks)[order])
    assert ((sure >= 0.5) & (sure <= 1)).all()
    groups = np.cumsum(first) - 1
    return [set(order[groups == g].tolist()) for g in range(int(groups.max()) + 1)]


@given(st.data())
def test_clear_passes_are_found_exactly(data):
    """Members within a millisecond, passes 50 ms apart: any engine is rebuilt exactly."""
    num_ranks = data.draw(st.integers(2, 8))
    times, ranks, ends, want = [], [], [], []
    for n in range(data.draw(st.integers(5, 30))):
        members = data.draw(st.sets(st.integers(0, num_ranks - 1), min_size=1))
        want.append(set(range(len(times), len(times) + len(members))))
        for rank in sorted(members):
            times.append(0.05 * n + data.draw(st.floats(0, 0.0009)))
            ends.append(0.05 * n + 0.06 + data.draw(st.floats(0, 0.002)))
            ranks.append(rank)
    found = cut(times, ranks, ends)
    # a run in which no rank ever repeats or pairs teaches nothing
    if any(len(w) > 1 for w in want) and len(set(ranks)) < len(ranks):
        assert found == want


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 3)), min_size=1, max_size=60))
def test_no_rank_twice_in_an_iteration(batches):
    """Whatever the times, a rank runs once an iteration."""
    times, ranks = [t for t, _ in batches], [r for _, r in batches]
    for block in cut(times, ranks, [float("nan")] * len(times)):
        mine = [ranks[k] for k in block]
        assert len(mine) == len(set(mine))
