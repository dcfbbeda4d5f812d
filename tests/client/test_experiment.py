"""The original experiment, end to end: two simulated engines, the client, the comparison."""

from __future__ import annotations

import json

import polars as pl
import pytest

import pdtrace
from pdtrace.__main__ import main
from tests.simulate.serving import start


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Four prompts for four ranks, three times, without and with the delayer; the folder of it."""
    folder = tmp_path_factory.mktemp("experiment")
    engines = [
        start(folder / "engine-a", "--dp-size", "4"),
        start(folder / "engine-b", "--dp-size", "4", "--max-delay-passes", "30"),
    ]
    try:
        argv = ["--ab", *(e.url for e in engines), "-o", str(folder / "ab")]
        assert main(["load", *argv, "--repeats", "3", "--flush-cache"]) == 0
    finally:
        for engine in engines:
            engine.stop()
    return folder


def runs_of(experiment):
    """Both runs from the engines' files and the clients' logs."""
    return [
        pdtrace.load(experiment / f"engine-{name}", experiment / "ab" / name / "client.jsonl")
        for name in ("a", "b")
    ]


def test_two_iterations_become_one(experiment):
    """What the experiment is for: rank 0 alone and the others after it, or all four at once."""
    widths = []
    for run in runs_of(experiment):
        rids = set(run.requests.filter(run.requests["source"] == "client_log")["rid"])
        assert len(rids) == 12
        widths.append(run.iterations["fusion_width"].to_list())
    off, on = widths
    assert off.count(1) >= 3
    assert on.count(4) >= 3
    assert len(on) < len(off)


def test_every_request_is_joined(experiment):
    """The id that the client chose is the engine's: a request's two ends meet."""
    for run in runs_of(experiment):
        sources = run.requests.group_by("rid").agg(pl.col("source").cast(pl.String).unique())
        joined = [row for row in sources.iter_rows() if "client_log" in row[1]]
        assert len(joined) == 12
        assert all({"otel_spans", "scheduler_log"} & set(row[1]) for row in joined)


def test_the_gain_is_seen_by_the_client_alone(experiment, capsys):
    """``compare`` needs nothing but the two client logs for latency and makespan."""
    logs = [str(experiment / "ab" / name / "client.jsonl") for name in ("a", "b")]
    capsys.readouterr()
    assert main(["compare", *logs, "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["requests"]["compared"] == 12
    assert told["metrics"]["group_makespan_mean_s"]["change_ratio"] < 0
    assert told["metrics"]["fusion_width_mean"]["verdict"] == "unmeasured"
