"""Figures: what they draw is what the run says, and they stay small however long the run is."""

from __future__ import annotations

import base64
import runpy
import zlib
from pathlib import Path

import numpy as np
import pytest

from pdtrace.errors import UsageError
from pdtrace.figures import draw_figure, list_figures
from pdtrace.figures.packing import count_chars, pack_array
from pdtrace.figures.survey import DELAYED, IDLE, PREFILL, UNKNOWN, survey_run
from pdtrace.figures.timeline import MAX_LEVEL_CHARS

make_run = runpy.run_path(str(Path(__file__).with_name("made_run.py")))["make_run"]


def unpack(packed):
    """Undo ``pack_array`` as page.js does."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed["b"])), np.uint8)
    planes = raw.reshape(packed["w"], packed["n"]).astype(np.int64)
    out = (planes << (8 * np.arange(packed["w"]))[:, None]).sum(axis=0)
    return np.cumsum(np.where(out % 2, -(out + 1) // 2, out // 2)) if packed["d"] else out


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("top", [1, 200, 60_000, 2**31, 2**40])
def test_packing_comes_back(top, delta):
    """An array reaches the page's script unchanged, whatever width its numbers need."""
    values = np.random.default_rng(1).integers(0, top + 1, 500)
    assert (unpack(pack_array(values, delta=delta)) == values).all()


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


@pytest.mark.parametrize("name", list_figures())
@pytest.mark.parametrize("num_iterations", [0, 1, 60])
def test_every_figure_is_valid_plotly(name, num_iterations):
    """Plotly accepts every figure, also of a run with one iteration or none."""
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


def test_small_runs_are_packed_cell_by_cell():
    """A small run keeps every cell exactly: role, tokens and line."""
    survey = survey_run(make_run(120, 3, lose_every=7))
    levels = draw_figure("timeline", survey).levels
    assert levels["size"] == 1
    assert (survey.role == unpack(levels["role"]).reshape(3, 120).T).all()
    assert (survey.tokens == unpack(levels["tokens"]).reshape(3, 120).T).all()
    there = unpack(levels["has_line"]).reshape(3, 120).T.astype(bool)
    assert (unpack(levels["line"]).reshape(3, 120).T[there] == survey.line[there]).all()
    assert {"prefill", "idle", "delayed", "unknown"} == set(levels["roles"])


@pytest.mark.slow
def test_a_million_iterations_stay_within_the_budget():
    """However long the run, the packed timeline leaves the page under 8 MB, and totals hold."""
    survey = survey_run(make_run(1_000_000, 8))
    levels = draw_figure("timeline", survey).levels
    assert count_chars(levels) <= MAX_LEVEL_CHARS
    assert unpack(levels["tokens"]).sum() == survey.tokens.sum()
    assert unpack(levels["count0"]).sum() == (survey.role == PREFILL).sum()


def test_unknown_figures_and_options_name_the_known():
    """A typing mistake in a page is answered with the names that exist."""
    run = make_run(5, 2)
    with pytest.raises(UsageError, match=r"timelin.*known: .*timeline"):
        draw_figure("timelin", run)
    with pytest.raises(UsageError, match="known: x, row_height"):
        draw_figure("timeline", run, {"y": 1})
    with pytest.raises(UsageError, match="must be int"):
        draw_figure("timeline", run, {"row_height": "tall"})
    with pytest.raises(UsageError, match="time, iteration"):
        draw_figure("timeline", run, {"x": "rank"})


def test_delayed_is_a_role_of_its_own():
    """An idle pass whose cause is the delayer is told apart from one without work."""
    import dataclasses

    import polars as pl

    run = make_run(20, 2)

    class Caused:
        def __init__(self, part):
            self.events, self.iterations = part.events, part.iterations
            cause = pl.when(pl.col("role") == "idle").then(pl.lit("delayer"))
            self.rank_passes = part.rank_passes.with_columns(cause.alias("cause"))

    survey = survey_run(dataclasses.replace(run, parts=[Caused(p) for p in run]))
    assert (survey.role == DELAYED).any()
    assert not (survey.role == IDLE).any()
