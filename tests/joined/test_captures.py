"""Stages, causes and agreement on the recorded runs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import polars as pl
import pytest

import pdtrace
from pdtrace.joined.breakdown import break_down, count_causes
from pdtrace.loading import compare_sources
from pdtrace.metrics import measure
from pdtrace.sources.joining import join_requests

SAMPLES = Path(__file__).parents[2] / "sample_logs"
WITH_SPANS = ("h100x2-on", "h100x2-off", "h100x2-on-watermark", "cpu-dp4-on", "cpu-dp8-off")


@cache
def load(name):
    """A sample, read once."""
    return pdtrace.load(SAMPLES / name)


@pytest.mark.parametrize("name", WITH_SPANS)
def test_stages_sum_to_the_time_on_the_engine(name):
    """For 99 % of the requests of spans the stages sum to finished − arrived within 1 ms."""
    run = load(name)
    inside = run.stages.filter(~pl.col("stage").cast(pl.String).is_in(["sending", "returning"]))
    sums = inside.group_by("request").agg(
        pl.col("duration").sum(), (pl.col("stage").cast(pl.String) == "unknown").any().alias("gap")
    )
    joined = join_requests(run.requests).with_row_index("request")
    both = joined.drop_nulls(["arrived", "finished"]).join(sums, on="request", how="left")
    error = (both["finished"] - both["arrived"] - both["duration"]).dt.total_nanoseconds().abs()
    assert both.height > 200
    assert ((error <= 1_000_000).fill_null(value=False) & ~both["gap"]).mean() >= 0.99


@pytest.mark.parametrize("name", WITH_SPANS)
def test_requests_lead_to_the_passes_that_computed_them(name):
    """The chunks that stages name are as many as the log's batches hold, batch by batch."""
    run = load(name)
    chunks = (
        run.stages.filter(pl.col("iteration").is_not_null())
        .group_by("iteration", "dp_rank")
        .agg(pl.col("request").n_unique().alias("found"))
    )
    batches = run.rank_passes.filter(pl.col("num_new_seqs") > 0)
    both = batches.join(chunks, on=["iteration", "dp_rank"], how="left")
    assert (both["num_new_seqs"] == both["found"]).mean() >= 0.99


@pytest.mark.parametrize("name", WITH_SPANS)
def test_causes_cover_the_idle_passes(name):
    """Shares of causes sum to the whole, and hardly any is unknown where spans are."""
    run = load(name)
    table = count_causes(run)
    assert table["num_passes"].sum() == sum(p.iterations["num_idle_ranks"].sum() for p in run)
    assert table["share"].sum() == pytest.approx(1)
    assert table.filter(cause="unknown")["share"].sum() < 0.05


def test_the_delayers_time_is_that_of_its_passes():
    """On the GPUs a delay pass takes 1.0 to 2.2 ms: 4215 of them say how long it waited in all."""
    m = {r["metric"]: r["value"] for r in measure(load("h100x2-on")).iter_rows(named=True)}
    assert m["num_delay_passes"] == 4215
    assert 0.0010 < m["delay_seconds_total"] / m["num_delay_passes"] < 0.0022


@pytest.mark.parametrize("name", ["h100x2-off", "h100x2-on-watermark", "cpu-dp8-off"])
def test_a_delayer_that_never_waits_holds_nothing(name):
    """Off, or with every prompt let through by the watermark: no time is its."""
    run = load(name)
    assert run.stages.filter(held_by="delayer").is_empty()
    assert break_down(run.stages).delay_ratio == 0


def test_sources_agree_on_a_complete_run():
    """The engine's counters, its lines, its spans and its client tell one story."""
    table = compare_sources(load("h100x2-on")).agreement
    assert table["verdict"].cast(pl.String).unique().to_list() == ["agrees"]
    told = {
        (r["what"], r["source_b"]): (r["value_a"], r["value_b"])
        for r in table.iter_rows(named=True)
    }
    fused = "engine counters: no_wait + wait_success"
    assert told["iterations on all ranks", fused] == (158, 67 + 91)
    some = "engine counters: wait_timeout, watermark"
    assert told["iterations on some ranks", some] == (119, 57 + 62)
    assert told["requests", "client"] == (562, 554)


def test_forward_pass_metrics_count_the_idle_passes():
    """Where messages and batches are one to one, so are the idle ones that lines only imply."""
    table = compare_sources(load("cpu-dp4-on")).agreement
    row = table.filter(what="idle rank passes").row(0, named=True)
    assert (row["value_a"], row["value_b"], row["verdict"]) == (127, 127, "agrees")


def test_an_incomplete_source_is_not_compared():
    """A run that died: what its last messages missed is no disagreement."""
    table = compare_sources(load("h100x2-on-watermark")).agreement
    assert "differs" not in table["verdict"].cast(pl.String).to_list()
    assert table.filter(verdict="not_comparable")["reason"].null_count() == 0


def test_breakdown_sums_up():
    """The rows sum to the mean and to the two requests that stand for p50 and p99."""
    told = break_down(load("h100x2-on").stages)
    for column, whole in (("mean_s", told.mean_s), ("p50_s", told.p50_s), ("p99_s", told.p99_s)):
        assert told.table[column].sum() == pytest.approx(whole, abs=1e-3)
    assert told.table["share"].sum() == pytest.approx(1)
    assert 0.01 < told.delay_ratio < 0.05
