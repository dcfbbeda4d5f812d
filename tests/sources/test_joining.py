"""A run directory is one recording; rows of one request are joined."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

import pdtrace
from pdtrace.iterations import build_run
from pdtrace.schema import REQUESTS
from pdtrace.sources import read
from pdtrace.sources.joining import join_requests

SAMPLES = Path(__file__).parents[2] / "sample_logs"


def test_a_run_directory_is_one_recording():
    """Every file is read, source ids count over all of them, and events are merged by time."""
    recording = read([str(SAMPLES / "cpu-dp4-on")])
    assert {f.source for f in recording.files} == {
        "scheduler_log", "otel_spans", "prometheus", "fpm", "client_log"
    }  # fmt: skip
    events = pl.concat(list(recording.events))
    assert events["event_id"].to_list() == list(range(recording.num_events))
    for source, source_id in events.select("source", "source_id").unique().iter_rows():
        assert recording.files[source_id].source == source
    assert recording.engine.release_max == "0.5.13"
    requests = recording.requests
    assert all(
        recording.files[i].source == s
        for s, i in requests.select("source", "source_id").unique().iter_rows()
    )


def test_only_one_source_becomes_iterations():
    """With labels in the log, spans and forward-pass metrics of the same passes are left alone."""
    run = build_run(read([str(SAMPLES / "cpu-dp4-on")]))
    placed = run.events.filter(pl.col("iteration").is_not_null())
    assert placed["source"].unique().to_list() == ["scheduler_log"]
    assert run.iterations.height == 214
    assert Counter(run.events["source"]) == {"scheduler_log": 729, "otel_spans": 729, "fpm": 856}


def test_sources_can_be_limited():
    """--source keeps the others out."""
    recording = read([str(SAMPLES / "cpu-dp4-on")], sources=["otel_spans", "prometheus"])
    assert {f.source for f in recording.files} == {"otel_spans", "prometheus"}
    assert recording.engine.dp_size == 4
    assert recording.engine.delayer.enabled is True


def test_requests_of_three_sources_are_joined():
    """One row a request, the engine's stages from the engine, both ends from the client."""
    joined = join_requests(read([str(SAMPLES / "h100x2-off-crash")]).requests)
    assert joined["rid"].n_unique() == joined.height == 562
    num = Counter(joined["sources"].list.join("+"))
    assert num == {
        "otel_spans+scheduler_log+client_log": 366, "otel_spans+scheduler_log": 8,
        "client_log": 188,
    }  # fmt: skip
    full = joined.filter(pl.col("sources").list.len() == 3)
    order = ["sent", "arrived", "tokenized", "dispatched", "received", "bootstrapped", "queued",
             "selected", "forward_end", "transferred", "finished", "answered"]  # fmt: skip
    for a, b in pairwise(order):
        assert full.select((pl.col(a) <= pl.col(b)).all()).item(), (a, b)
    assert joined.filter(pl.col("sources").list.len() == 1)["status"].unique().to_list() == [
        "failed"
    ]


def test_spans_agree_with_the_time_statistics():
    """Two sources that read the same clock: selection times to the printed millisecond."""
    requests = read([str(SAMPLES / "h100x2-on")]).requests
    mine = requests.filter(pl.col("source") == "otel_spans").select("rid", "selected", "dp_rank")
    log = requests.filter(pl.col("source") == "scheduler_log").select("rid", "selected", "dp_rank")
    both = mine.join(log, on="rid")
    apart = (both["selected"] - both["selected_right"]).dt.total_microseconds().abs()
    assert both.height == 562
    assert apart.max() < 2000
    assert (both["dp_rank"] == both["dp_rank_right"]).all()


def test_the_same_id_twice_stays_two_requests():
    """A client that uses an id again: rows are paired in order of appearance."""
    rows = [
        {"rid": "a", "source": s, "source_id": 0, "engine_run": 0, "status": "finished", "line": n}
        for n, s in enumerate(["client_log", "otel_spans", "client_log", "otel_spans"])
    ]
    joined = join_requests(REQUESTS.conform(pl.DataFrame(rows)))
    assert joined.select("rid", "source", "line").rows() == [
        ("a", "otel_spans", 1), ("a", "otel_spans", 3)
    ]  # fmt: skip


def test_log_in_another_zone_is_noticed(tmp_path):
    """Local times read as UTC lie hours beside the spans."""
    for name in ("server.log", "spans.jsonl.gz"):
        (tmp_path / name).write_bytes((SAMPLES / "h100x2-on" / name).read_bytes())
    recording = read([str(tmp_path)], tz="Asia/Shanghai")
    assert any("--tz" in w for w in recording.warnings)


@pytest.mark.parametrize("name", ["h100x2-on", "cpu-dp4-off"])
def test_saving_keeps_the_requests(tmp_path, name):
    """A saved run has the joined sources' rows again."""
    run = build_run(read([str(SAMPLES / name)]))
    pdtrace.save_run(run, tmp_path / "saved")
    assert pdtrace.load_run(tmp_path / "saved").requests.equals(run.requests)
