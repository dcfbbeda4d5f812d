"""One speed or two: recorded and simulated runs, and the same with time stretched in places."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

import pdtrace
from pdtrace.__main__ import main
from pdtrace.compare.modes import Modes, Pace, find_modes, split_speeds
from pdtrace.compare.passes import Passes, read_passes
from tests.compare.conftest import SAMPLES, load_sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

RECORDED = ("cpu-dp4-off", "cpu-dp4-on", "cpu-dp8-off", "h100x2-off")
SIMULATED = (
    ("--dp-size", "2"),
    ("--dp-size", "4"),
    ("--dp-size", "4", "--max-delay-passes", "30"),
    ("--dp-size", "2", "--pattern", "poisson", "--input-len", "4096"),
    ("--like", str(SAMPLES / "h100x2-off"), "--pattern", "poisson"),
    ("--like", str(SAMPLES / "cpu-dp4-off"), "--pattern", "mixed"),
)


@pytest.fixture(scope="module")
def read_run(tmp_path_factory) -> Callable[[int], Passes]:
    """Passes of a recorded or simulated run of one speed, by its number."""

    @cache
    def read(number: int) -> Passes:
        if number < len(RECORDED):
            return read_passes(load_sample(RECORDED[number]))
        options = SIMULATED[number - len(RECORDED)]
        directory = tmp_path_factory.mktemp("run") / "simulated"
        seed = str(number)
        assert main(["simulate", "-o", str(directory), "--seed", seed, *options]) == 0
        return read_passes(pdtrace.load(directory))

    return read


NUM_RUNS = len(RECORDED) + len(SIMULATED)


def stretch(passes: Passes, factors: NDArray[np.float64]) -> Passes:
    """The same run where time passed so many times as slowly from each launch to the next."""
    recorded: Any = passes.recorded
    begin = np.sort(recorded.launch)
    edges = np.append(begin, np.nanmax(recorded.report) + 1)
    moved = begin[0] + np.append(0.0, np.cumsum(np.diff(edges) * factors))

    def move(time: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(time < begin[0], time, np.interp(time, edges, moved))

    return replace(
        passes,
        recorded=replace(
            recorded,
            launch=move(recorded.launch),
            end=move(recorded.end),
            report=move(recorded.report),
        ),
    )


def slow_down(passes: Passes, factor: float, seed: int) -> Passes:
    """Slower over a third of the passes, in stretches of 50 to 90."""
    rng = np.random.default_rng(seed)
    factors = np.ones(len(passes))
    at = int(rng.integers(10, 60))
    while at < len(factors) and (factors > 1).sum() < len(factors) / 3:
        length = int(rng.integers(50, 90))
        factors[at : at + length] = factor
        at += int(3 * length * rng.uniform(0.8, 1.2))
    return stretch(passes, factors)


def test_two_speeds_are_named(read_run) -> None:
    """1.4 times as slow for a third of the passes: nine in ten runs, and about by how much."""
    found = [find_modes(slow_down(read_run(k), 1.4, seed=k)) for k in range(NUM_RUNS)]
    named = [modes for modes in found if modes is not None]
    assert len(named) >= 0.9 * NUM_RUNS
    assert np.median([modes.ratio for modes in named]) == pytest.approx(1.4, abs=0.06)
    assert all(0.2 < modes.slow_share < 0.6 for modes in named)


def test_one_speed_is_not_called_two(read_run) -> None:
    """Mixed loads, phases, chunks, delays: durations vary, the speed does not."""
    assert [find_modes(read_run(k)) for k in range(NUM_RUNS)] == [None] * NUM_RUNS


def test_a_drift_is_not_two_speeds(read_run) -> None:
    """A run that slows down by a third bit by bit has no two levels."""
    drifted = [
        stretch(read_run(k), np.exp(np.linspace(0, 0.3, len(read_run(k)))))
        for k in range(0, NUM_RUNS, 2)
    ]
    assert [find_modes(passes) for passes in drifted] == [None] * len(drifted)


def test_late_passes_are_not_a_speed() -> None:
    """One pass in six at twice its duration, here and there: heavy tails, no stretches."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        residual = rng.laplace(0, 0.1, 400) + np.log1p(rng.pareto(1.5, 400)) * (
            rng.random(400) < 1 / 6
        )
        assert split_speeds(Pace(residual, rng.integers(0, 12, 400))) is None


def test_slow_stretches_of_other_work_are_no_speed() -> None:
    """Whatever ran slowly never ran fast: the work may be slow, not the machine."""
    rng = np.random.default_rng(6)
    is_slow = np.arange(400) // 80 % 2 == 1
    residual = 0.4 * is_slow + rng.laplace(0, 0.05, 400)
    assert isinstance(split_speeds(Pace(residual, rng.integers(0, 4, 400))), Modes)
    assert split_speeds(Pace(residual, is_slow.astype(np.int64))) is None


def test_without_times_of_selection_nothing_is_said() -> None:
    """A duration is partly a guess there, and a pause may look like slow passes."""
    run = load_sample("h100x2-off")
    assert read_passes(run).recorded is not None
    blind = replace(run, requests=run.requests.with_columns(selected=pl.lit(None)))
    assert find_modes(read_passes(blind)) is None
