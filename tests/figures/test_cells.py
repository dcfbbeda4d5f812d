"""What the page knows of a run comes back from its packed arrays as it went in."""

from __future__ import annotations

import base64
import json
import runpy
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pdtrace
from pdtrace.figures.cells import describe_levels, pack_cells
from pdtrace.figures.packing import count_chars, pack_array, pack_rows
from pdtrace.figures.survey import DELAYED, IDLE, PREFILL, ROLE_NAMES, survey_run

make_run = runpy.run_path(str(Path(__file__).with_name("made_run.py")))["make_run"]
SAMPLES = Path(__file__).parents[2] / "sample_logs"
ROOM = 5_600_000


def unpack(packed):
    """Undo ``pack_array`` as dashboards/packed.js does."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed["b"])), np.uint8)
    planes = raw.reshape(packed["w"], packed["n"]).astype(np.int64)
    out = (planes << (8 * np.arange(packed["w"]))[:, None]).sum(axis=0)
    if packed["s"]:
        out = np.where(out % 2, -(out + 1) // 2, out // 2)
    return np.cumsum(out) if packed["d"] else out


def unpack_rows(groups):
    """Undo ``pack_rows``."""
    tables = [unpack(g["table"]).reshape(-1, g["num"])[unpack(g["index"])] for g in groups]
    return np.hstack(tables)


def read_states(levels):
    """Iteration × rank matrices of the role and of whether it was observed."""
    codes = unpack_rows(levels["groups"])
    role, observed = (np.array([s[k] for s in levels["states"]]) for k in ("role", "observed"))
    return role[codes], observed[codes].astype(bool)


@cache
def load(name):
    """A captured run."""
    return pdtrace.load(SAMPLES / name)


@pytest.mark.parametrize("kind", [{}, {"delta": True}, {"signed": True}])
@pytest.mark.parametrize("top", [1, 200, 60_000, 2**31, 2**40])
def test_packing_comes_back(top, kind):
    """An array reaches the page's script unchanged, whatever width its numbers need."""
    low = -top if kind.get("signed") else 0
    values = np.random.default_rng(1).integers(low, top + 1, 500)
    assert (unpack(pack_array(values, **kind)) == values).all()


@given(
    st.integers(1, 19).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 255), min_size=n, max_size=n), min_size=1)
    )
)
def test_rows_come_back(rows):
    """A matrix of codes is the same after packing, whatever the number of its columns."""
    matrix = np.array(rows, np.uint8)
    assert (unpack_rows(pack_rows(matrix)) == matrix).all()


def test_small_runs_are_packed_cell_by_cell():
    """A small run keeps every cell exactly: times, role, tokens, line and queue."""
    survey = survey_run(make_run(120, 3, lose_every=7))
    levels = pack_cells(survey, ROOM)
    assert levels["size"] == levels["tokens"]["size"] == levels["queues"]["size"] == 1
    role, observed = read_states(levels)
    assert (role == survey.role).all()
    assert (observed == survey.observed).all()
    end = np.cumsum(unpack(levels["gap"]) + unpack(levels["extent"])) * levels["unit"]
    assert end == pytest.approx(survey.end, abs=1e-6)
    assert (survey.tokens == unpack(levels["tokens"]["a"]).reshape(3, 120).T).all()
    there = survey.line > 0
    assert (unpack(levels["line"]["a"]).reshape(3, 120).T[there] == survey.line[there]).all()
    longest = survey.queues.group_by("iteration").agg(pl.col("num_queue_reqs").max())
    shown = unpack(levels["queues"]["a"]).reshape(-1, 120)[
        levels["queues"]["names"].index("num_queue_reqs")
    ]
    rows = longest["iteration"].to_numpy()
    assert (shown[rows] - 1 == longest["num_queue_reqs"].to_numpy()).all()


@pytest.mark.parametrize("name", ["h100x2-on", "cpu-dp8-off", "cpu-dp4-on-defaultlog"])
def test_durations_of_captured_runs_come_back(name):
    """Extent and what lies beyond it give each iteration's duration to the tick."""
    survey = survey_run(load(name))
    levels = pack_cells(survey, ROOM)
    took = unpack(levels["extent"])
    if "beyond" in levels:
        took = took + unpack(levels["beyond"])
    known = ~np.isnan(survey.duration)
    assert took[known] * levels["unit"] == pytest.approx(
        survey.duration[known], abs=1.01 * levels["unit"]
    )


def test_states_name_the_cause_of_idling():
    """Every idle pass of a run with requests carries why, as often as the table of causes says."""
    run = load("h100x2-on")
    survey = survey_run(run)
    levels = pack_cells(survey, ROOM)
    codes = unpack_rows(levels["groups"])
    counts = {s["cause"]: int((codes == k).sum()) for k, s in enumerate(levels["states"])}
    assert counts.pop(None) == (survey.role == PREFILL).sum()
    idle = np.isin(survey.role, (IDLE, DELAYED)).sum()
    assert sum(counts.values()) == idle == 119
    detail = run.rank_passes["cause_detail"].cast(pl.String)
    assert counts["arrived while others ran"] == (detail == "arrived_while_running").sum()


def test_the_requests_of_a_run_are_all_carried():
    """Ids, times and forwards of every request come back, the slowest first."""
    run = load("h100x2-on")
    survey = survey_run(run)
    requests = pack_cells(survey, ROOM)["requests"]
    rids = json.loads(zlib.decompress(base64.b64decode(requests["rids"]["b"])))
    stages = run.stages
    assert requests["carried"] == requests["total"] == stages["request"].n_unique()
    assert sorted(rids) == sorted(stages.group_by("request").agg(pl.col("rid").first())["rid"])
    rows = np.cumsum(unpack(requests["num"]))
    took = unpack(requests["took"])
    totals = np.array([part.sum() for part in np.split(took, rows[:-1])]) * 1e-5
    assert (np.diff(totals) <= 1e-5).all()
    longest = stages.group_by("request").agg(pl.col("duration").sum())["duration"].max()
    assert totals[0] == pytest.approx(longest.total_seconds(), abs=1e-4)
    forward = stages.filter(pl.col("stage") == "forward")
    found = survey.iteration[unpack(requests["at"]) - 1]
    assert sorted(found) == sorted(forward["iteration"])


def test_too_little_room_leaves_the_slowest_requests():
    """Where ids do not fit, the page carries the slowest, keeps the room, and says so."""
    survey = survey_run(load("h100x2-on"))
    room = count_chars(pack_cells(survey, ROOM)) // 3
    levels = pack_cells(survey, room)
    requests = levels["requests"]
    assert 0 < requests["carried"] < requests["total"]
    assert count_chars(requests) <= room
    said = describe_levels(levels)
    assert f"Of {requests['total']:,} requests the {requests['carried']:,} slowest" in said


def test_long_runs_become_blocks():
    """A run that does not fit keeps exact totals in blocks, and the note names their size."""
    survey = survey_run(make_run(20_000, 8, lose_every=9))
    levels = pack_cells(survey, 60_000)
    assert levels["size"] > 1
    assert count_chars(levels) <= 60_000
    n = levels["blocks"]
    for role in range(len(ROLE_NAMES)):
        if f"count{role}" in levels:
            per_rank = unpack(levels[f"count{role}"]).reshape(8, n).sum(axis=1)
            assert (per_rank == (survey.role == role).sum(axis=0)).all()
    assert unpack(levels["tokens"]["a"]).sum() == survey.tokens.sum()
    assert unpack(levels["widths"]).sum() == 20_000
    assert f"blocks of {levels['size']} iterations" in describe_levels(levels)


def test_confidence_is_never_rounded_up_to_certainty():
    """A grouping that is nearly sure does not read as sure."""
    survey = survey_run(make_run(10, 2))
    survey.confidence[:] = np.float32(0.99999)
    assert set(unpack(pack_cells(survey, ROOM)["confidence"])) == {999}


@pytest.mark.slow
def test_a_long_run_keeps_every_state():
    """As crowded as a million iterations on 8 ranks: each pass keeps its role, in the budget.

    The page of a whole million is opened in tests/pages/test_long_run.py.
    """
    survey = survey_run(make_run(200_000, 8))
    room = ROOM // 5
    levels = pack_cells(survey, room)
    assert levels["size"] == 1
    assert count_chars(levels) <= room
    assert (read_states(levels)[0] == survey.role).all()
    assert unpack(levels["tokens"]["a"]).sum() == survey.tokens.sum()
