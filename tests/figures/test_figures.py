"""Figures: what they draw is what the run says, and they stay small however long the run is."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pdtrace.errors import UsageError
from pdtrace.figures import draw_figure, list_figures
from pdtrace.figures.survey import DELAYED, IDLE, PREFILL, UNKNOWN, survey_run

make_run = runpy.run_path(str(Path(__file__).with_name("made_run.py")))["make_run"]


def test_survey_keeps_idle_and_unknown_apart():
    """A silent rank is idle where lock-step says so, and unknown where lines were lost."""
    survey = survey_run(make_run(50, 4, lose_every=5))
    lost = survey.iteration % 5 == 1
    silent = survey.role != PREFILL
    assert set(survey.role[lost][silent[lost]]) == {UNKNOWN}
    assert set(survey.role[~lost][silent[~lost]]) == {IDLE}
    assert not survey.observed[silent].any()
    assert (survey.line[~silent] > 0).all()


def test_survey_matches_the_tables_over_parts():
    """Reading part by part gives the tables' numbers, each cell in its own place."""
    run = make_run(250, 3, part_size=100)
    survey = survey_run(run)
    passes = run.rank_passes.filter(run.rank_passes["role"] == "prefill")
    rows, ranks = passes["iteration"].to_numpy(), passes["dp_rank"].to_numpy()
    assert (survey.line[rows, ranks] == passes["line"].to_numpy()).all()
    assert survey.tokens.sum() == run.iterations["num_new_tokens"].sum()
    assert (np.diff(survey.start) >= 0).all()
    assert (survey.end[:-1] <= survey.start[1:]).all()


def test_delay_passes_are_counted_before_their_iteration():
    """Delay passes belong to the iteration that they held back, once and not once a rank."""
    survey = survey_run(make_run(40, 2))
    assert survey.delay_passes[9::10].tolist() == [12] * 4
    assert survey.delay_passes.sum() == 48


@pytest.mark.parametrize("name", list_figures("run"))
@pytest.mark.parametrize("num_iterations", [0, 1, 60])
def test_every_figure_is_valid_plotly(name, num_iterations):
    """Plotly accepts every figure of a run, also of a run with one iteration or none."""
    run = make_run(num_iterations, 2) if num_iterations else empty_run()
    figure = draw_figure(name, run)
    figure.to_plotly()
    assert figure.alt
    assert figure.title


def empty_run():
    """A run in which nothing was rebuilt."""
    import dataclasses

    return dataclasses.replace(make_run(1, 2), parts=())


def test_fusion_histogram_counts_every_iteration_once():
    """The bars add up to the iterations, and each is that width's count."""
    run = make_run(300, 4)
    table = draw_figure("fusion_histogram", run).table
    counts = dict(table.select("ranks that prefilled", "iterations").iter_rows())
    widths = run.iterations["fusion_width"].to_list()
    assert counts == {w: widths.count(w) for w in range(1, 5)}


def test_idle_share_adds_up_to_the_idle_rank_seconds():
    """Cutting time into intervals neither loses idle time nor invents any."""
    run = make_run(300, 4)
    passes = run.rank_passes.filter(run.rank_passes["role"] == "idle")
    idle = passes["duration"].dt.total_nanoseconds().sum() / 1e9
    table = draw_figure("idle_share", run, {"intervals": 17}).table
    assert table["idle (rank-seconds)"].sum() == pytest.approx(idle, rel=1e-3)


def test_unknown_figures_and_options_name_the_known():
    """A typing mistake in a page is answered with the names that exist."""
    run = make_run(5, 2)
    with pytest.raises(UsageError, match=r"timelin.*known: .*timeline"):
        draw_figure("timelin", run)
    with pytest.raises(UsageError, match="known: x, row_height, max_kb"):
        draw_figure("timeline", run, {"y": 1})
    with pytest.raises(UsageError, match="must be int"):
        draw_figure("timeline", run, {"row_height": "tall"})
    with pytest.raises(UsageError, match="time, iteration"):
        draw_figure("timeline", run, {"x": "rank"})


def test_delayed_is_a_role_of_its_own():
    """An idle pass whose cause is the delayer is told apart from one without work."""
    import dataclasses

    import polars as pl

    from pdtrace.run import Part

    run = make_run(20, 2)

    def hold(part):
        idle = part.rank_passes.filter(pl.col("role") == "idle").select(
            "iteration",
            "dp_rank",
            pl.lit("held_by_delayer").alias("cause"),
            pl.lit("withheld").alias("cause_detail"),
        )
        return Part(part.events, part.iterations, idle)

    survey = survey_run(dataclasses.replace(run, parts=[hold(p) for p in run]))
    assert (survey.role == DELAYED).any()
    assert not (survey.role == IDLE).any()


@pytest.mark.parametrize("name", ["cpu-dp4-on", "h100x2-on"])
def test_withheld_time_before_passes_is_that_of_the_requests(name):
    """The stripes of the timeline are the time in which the delayer held a request, never more."""
    import polars as pl

    import pdtrace

    run = pdtrace.load(Path(__file__).parents[2] / "sample_logs" / name)
    survey = survey_run(run)
    waits = run.stages.filter(pl.col("held_by") == "delayer", pl.col("stage") == "waiting")
    begin, took = waits["start"].dt.epoch("us").to_numpy(), waits["duration"]
    held = np.zeros(int(begin.max() - begin.min()) // 1000 + 2_000, np.bool_)
    for at, length in zip(begin - begin.min(), took.dt.total_microseconds(), strict=True):
        held[at // 1000 : (at + length) // 1000] = True
    # A pass is drawn for its share of the time line, which may reach into the wait after it.
    assert 0.9 * held.sum() / 1000 < survey.held.sum() < 1.001 * held.sum() / 1000
    assert set(np.flatnonzero(survey.held_ranks.any(axis=0))) == set(waits["dp_rank"])


def test_queues_of_passes_that_print_none_leave_no_gap():
    """A value between passes that print no queue is drawn: no row of the figure is empty."""
    run = make_run(40, 2)
    columns = ("num_queue_reqs", "num_bootstrap_reqs", "num_inflight_reqs", "token_usage")
    silent = [
        pl.when(pl.col("iteration") % 2 == 0).then(pl.col(c)).otherwise(None).alias(c)
        for c in columns
    ]
    parts = tuple(dataclasses.replace(p, events=p.events.with_columns(silent)) for p in run)
    told = draw_figure("queues", dataclasses.replace(run, parts=parts))
    assert told.table.height
    for trace in told.spec["data"]:
        assert None not in trace["y"]
        assert "markers" in trace["mode"]
