"""The figures of stages, causes and agreement, and the same in report and summary."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path

import pytest

import pdtrace
from pdtrace.exports.report import build_report
from pdtrace.exports.summary import write_summary
from pdtrace.exports.terminal import render_terminal
from pdtrace.figures import draw_figure
from pdtrace.loading import compare_sources
from pdtrace.metrics import measure

SAMPLES = Path(__file__).parents[2] / "sample_logs"


@cache
def load():
    """A run with all its sources compared."""
    return compare_sources(pdtrace.load(SAMPLES / "h100x2-on"))


@cache
def load_log():
    """The log of the same run without a single request."""
    run = pdtrace.load(SAMPLES / "h100x2-on" / "server.log")
    return dataclasses.replace(
        run, requests=run.requests.clear(), stages=run.stages.clear(), parts=tuple(run.parts.parts)
    )


def test_the_bars_of_the_breakdown_sum_to_the_times():
    """Nothing is left out of the three bars, whatever part it was put into."""
    figure = draw_figure("ttft_breakdown", load())
    bars = zip(*(trace["x"] for trace in figure.spec["data"]), strict=True)
    sums = [sum(parts) for parts in bars]
    columns = [c for c in figure.table.columns if c.endswith("(ms)")]
    assert sums == pytest.approx([figure.table[c].sum() for c in columns], abs=0.05)
    assert sums[0] == pytest.approx(452.3, abs=0.1)


def test_the_bars_of_causes_sum_to_the_idle_passes():
    """Each idle rank pass is in one bar, longest first; its length is the time, in one unit."""
    figure = draw_figure("idle_causes", load())
    bar = figure.spec["data"][0]
    assert sum(int(text.split()[0]) for text in bar["text"]) == 119
    assert sum(bar["x"]) == pytest.approx(figure.table["rank time (s)"].sum(), abs=0.01)
    assert bar["x"] == sorted(bar["x"], reverse=True)
    assert "rank-seconds" in figure.spec["layout"]["xaxis"]["title"]["text"]
    assert figure.table["idle rank passes"].sum() == 119


def test_the_agreement_is_drawn_as_a_table():
    """A row for each comparison, with its verdict."""
    figure = draw_figure("agreement", load())
    assert figure.table.height == load().agreement.height
    assert set(figure.table["verdict"]) == {"agrees"}


@pytest.mark.parametrize("name", ["ttft_breakdown", "agreement"])
def test_without_sources_a_figure_says_what_would_give_it(name):
    """A log alone draws no zeros."""
    figure = draw_figure(name, load_log())
    assert figure.spec["data"] == []
    assert "source" in figure.alt


def test_the_report_says_where_time_went():
    """Breakdown, causes and agreement have their sections; a log alone has only the causes."""
    run = load()
    text = render_terminal(build_report(run, measure(run)))
    assert "Where the time to first token went" in text
    assert "Of 18 comparisons: agrees 18." in text
    assert "nothing had arrived for the rank" in text
    log = load_log()
    plain = render_terminal(build_report(log, measure(log)))
    assert "Where the time" not in plain
    assert "No source knows requests" in plain


def test_the_summary_gains_three_keys():
    """Additive to version 1, and strict JSON."""
    run = load()
    summary = json.loads(write_summary(run, measure(run)))
    assert summary["schema_version"] == 1
    told = summary["ttft_breakdown"]
    assert sum(s["mean_s"] for s in told["stages"]) == pytest.approx(told["mean_s"])
    assert sum(c["num_passes"] for c in summary["idle_causes"]) == 119
    assert {r["verdict"] for r in summary["agreement"]} == {"agrees"}
    log = load_log()
    bare = json.loads(write_summary(log, measure(log)))
    assert bare["ttft_breakdown"]["mean_s"] is None
    assert "spans" in bare["ttft_breakdown"]["note"]
    assert bare["agreement"] == []
