"""Rebuilding simulated runs without their labels, and predicting one from another."""

from __future__ import annotations

from pathlib import Path

import pytest

import pdtrace
from pdtrace.delayer.replay import (
    Setting,
    choose_requests,
    fit_engine,
    measure_recording,
    predict,
)
from pdtrace.sources.joining import join_requests
from tests.iterations.score import score_run
from tests.iterations.strip import strip_log
from tests.simulate.made import make_run, read_truth

LATENCY = "request_latency_mean_s"
# Least share of exact iterations: without time stats, with them. Without the delayer at 4 ranks and
# more, passes at the launch floor follow idle launches of nearly their length, which both readings
# of the lines fit; at 32 ranks 70 to 100 iterations are few to learn from.
LEAST = {
    ("2", "off"): (0.95, 0.98), ("2", "30"): (0.90, 0.99),
    ("4", "off"): (0.95, 0.97), ("4", "30"): (0.98, 0.99),
    ("8", "off"): (0.92, 0.95), ("8", "30"): (0.97, 0.99),
    ("32", "off"): (0.85, 0.96), ("32", "30"): (0.70, 0.99),
}  # fmt: skip

# Rebuilding takes long where ranks are many; 200 requests a rank are for fewer of them.
FEWER = {"8": "1000", "32": "800"}


def score(directory, milliseconds, time_stats, tmp_path):
    """Share of the iterations rebuilt exactly from the log with less in it."""
    with (directory / "server.log").open() as log:
        less = strip_log(log, label=False, milliseconds=milliseconds, time_stats=time_stats)
    (tmp_path / "server.log").write_text(less.text)
    run = pdtrace.load(tmp_path / "server.log")
    return score_run(run, read_truth(directory), less.old_line).exact


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "passes"), LEAST)
@pytest.mark.parametrize("milliseconds", [True, False])
def test_iterations_are_rebuilt_without_labels(ranks, passes, milliseconds, tmp_path):
    """Milliseconds or whole seconds, with and without time stats."""
    if ranks == "32" and not milliseconds:
        pytest.skip("as long again, and alike")
    fewer = ("--requests", FEWER[ranks]) if ranks in FEWER else ()
    directory = make_run("--dp-size", ranks, "--max-delay-passes", passes, *fewer)
    found = tuple(
        score(directory, milliseconds, has_stats, tmp_path) for has_stats in (False, True)
    )
    print(f"{ranks} ranks, delayer {passes}: {found[0]:.4f}, with time stats {found[1]:.4f}")
    least = LEAST[ranks, passes]
    assert found[0] >= least[0]
    assert found[1] >= least[1]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", ["2", "4", "8"])
def test_the_replay_predicts_the_run_with_the_delayer(ranks):
    """From the run without it alone: mean latency within 5 %, iterations within 10 %."""
    models = []
    for passes in ("off", "30"):
        run = pdtrace.load(make_run("--dp-size", ranks, "--max-delay-passes", passes))
        models.append(fit_engine(run, join_requests(run.requests)))
    off, on = models
    chosen = choose_requests(off, None)
    (guess,) = predict(off, [Setting(30)], chosen, measure_recording(off, chosen, 0.0), repeats=6)
    measured = measure_recording(on, choose_requests(on, None), None)
    assert guess.values[LATENCY] == pytest.approx(measured[LATENCY], rel=0.05)
    assert guess.values["num_iterations"] == pytest.approx(measured["num_iterations"], rel=0.1)


@pytest.mark.slow
def test_like_a_recording_repeats_it():
    """Fitted to a sample run and given its arrivals, the engine does about what was recorded."""
    sample = Path(__file__).parents[2] / "sample_logs" / "h100x2-off"
    directory = make_run("--like", str(sample), "--replay-arrivals")
    again, recorded = pdtrace.load(directory), pdtrace.load(sample)
    models = [fit_engine(run, join_requests(run.requests)) for run in (again, recorded)]
    made, real = (measure_recording(m, choose_requests(m, None), None) for m in models)
    assert made["num_iterations"] == pytest.approx(real["num_iterations"], rel=0.08)
    assert made[LATENCY] == pytest.approx(real[LATENCY], rel=0.10)
