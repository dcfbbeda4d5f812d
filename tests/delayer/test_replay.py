"""The replay: it reproduces what was recorded, and predicts what was recorded elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import pdtrace
from pdtrace.delayer.load import require_believable
from pdtrace.delayer.pass_cost import expect_passes, is_blocking
from pdtrace.delayer.policy_kernel import pack_settings
from pdtrace.delayer.records import PolicyConfig
from pdtrace.delayer.replay import (
    Setting,
    choose_requests,
    fit_engine,
    measure_recording,
    predict,
)
from pdtrace.delayer.replay_kernel import run_engine
from pdtrace.delayer.rules import rules_for
from pdtrace.errors import InputError, UsageError
from pdtrace.sources.joining import join_requests

SAMPLES = Path(__file__).parents[2] / "sample_logs"
PHASES = (
    "seed", "stagger1-", "stagger2-", "stagger5-", "stagger10-", "stagger20-", "stagger50-",
    "stagger100-", "stagger200-", "uneven", "burst", "poisson", "mixed",
)  # fmt: skip
LATENCY = "request_latency_mean_s"


@cache
def fitted(name):
    """Engine model of a sample run."""
    run = pdtrace.load(SAMPLES / name)
    return fit_engine(run, join_requests(run.requests))


@cache
def predicted(passes, pattern):
    """Prediction from the run without the delayer, and what was measured in both runs."""
    model, other = fitted("h100x2-off"), fitted("h100x2-on")
    chosen = choose_requests(model, pattern)
    measured = measure_recording(model, chosen, 0.0)
    (guess,) = predict(model, [Setting(passes)], chosen, measured, repeats=14)
    return guess, measured, measure_recording(other, choose_requests(other, pattern), None)


def lone_engine(
    arrival, rank, tokens, *, passes=0, watermark=None, chunk=16384.0, ranks=2, share=1.0
):
    """The engine with a pass of 100 ms whatever its size, 1 ms turns and no scatter."""
    config = PolicyConfig(
        dp_size=ranks, max_delay_passes=max(passes, 1), token_usage_low_watermark=watermark
    )
    rules = rules_for("0.5.13")
    flat = np.full(20, 0.1)
    return run_engine(
        pack_settings(config, rules), passes > 0, rules.mid_chunk_asks,
        np.array(arrival), np.array(rank), np.array(tokens, float), ranks, chunk, 1e6,
        np.array([0.1, 0.0, 0.0, 0.0, 0.0]), flat, flat * 0, flat, True, np.array([0.05]),
        flat, np.full(20, share), np.array([0.0, 0.0, 0.0, 0.001, 0.001, 0.0]), 1, 0,
        np.zeros(len(arrival)), 0,
    )[:7]  # fmt: skip


def test_two_requests_apart_run_alone_without_the_delayer():
    """Guards the seed experiment's cause: the second request misses the launch and idles a rank."""
    finish, first, _, width, *_ = lone_engine([1.0, 1.01], [0, 1], [100, 100])
    assert width.tolist() == [1, 1]
    assert first.tolist() == [0, 1]
    assert finish[1] - 1.01 > 0.18


def test_two_requests_apart_fuse_with_the_delayer():
    """Guards fusion: within the bound, both run in one pass."""
    finish, _, _, width, _, _, delays = lone_engine([1.0, 1.01], [0, 1], [100, 100], passes=30)
    assert width.tolist() == [2]
    assert 8 <= delays.sum() <= 12
    assert finish.max() - 1.01 < 0.12


def test_lone_request_is_held_for_one_pass_less_than_the_bound():
    """Guards the off-by-one: with a bound of M a lone request waits M - 1 passes."""
    *_, width, _, _, delays = lone_engine([1.0], [0], [100], passes=30)
    assert width.tolist() == [1]
    assert delays.sum() == 29


def test_watermark_above_the_usage_releases_at_once():
    """Guards the do-nothing setting: an almost empty pool is under any watermark."""
    *_, delays = lone_engine([1.0], [0], [100], passes=30, watermark=0.5)
    assert delays.sum() == 0


def test_long_prompt_runs_in_chunks_back_to_back():
    """Guards chunking: a prompt of two and a half chunks takes three passes."""
    finish, first, final, _, batch, *_ = lone_engine([1.0], [0], [250], chunk=100.0)
    assert (first[0], final[0]) == (0, 2)
    assert batch.tolist() == [100, 100, 50]
    assert finish[0] == pytest.approx(1.3, abs=0.02)


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_a_result_is_seen_once_the_next_launch_let_go(share):
    """Guards when a rank with tokens sees the result before: the host's launch holds it back."""
    finish, *_ = lone_engine([1.0, 1.05], [0, 0], [100, 100], share=share)
    assert finish[0] == pytest.approx(1.1 + 0.1 * share, abs=0.01)
    assert finish[1] == pytest.approx(1.2, abs=0.01)


def test_continued_chunk_runs_while_others_are_held():
    """Guards the release's rule: a continuation never asks, so it runs in refused passes too."""
    *_, width, _, _, delays = lone_engine([1.0, 1.15], [0, 1], [250, 50], passes=10, chunk=100.0)
    assert delays.sum() > 0
    assert width.sum() == 4


def test_every_request_finishes_once():
    """Guards the bookkeeping: any load leaves no request behind and no token uncounted."""
    rng = np.random.default_rng(1)
    arrival = np.sort(rng.uniform(1, 20, 400))
    tokens = rng.integers(1, 40_000, 400)
    finish, first, final, _, batch, *_ = lone_engine(
        arrival, rng.integers(0, 4, 400), tokens, passes=30, ranks=4
    )
    assert np.isfinite(finish).all()
    assert (finish > arrival).all()
    assert (first >= 0).all()
    assert (final >= first).all()
    assert batch.sum() == pytest.approx(tokens.sum())


def test_pass_cost_of_an_unseen_fused_pass_is_right():
    """Guards the fit: no pass of 2 × 8192 tokens is in the recording, and it takes 280 ms."""
    theta = fitted("h100x2-off").costs[0].theta
    square = 8192**2 / 1e6
    both = expect_passes(
        theta, np.array([2]), np.array([8.192, 8.192]), np.array([square] * 2), np.array([16.384])
    )
    assert both[0] == pytest.approx(0.280, rel=0.05)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h100x2-off", True),
        ("h100x2-on", True),
        ("h100x2-off-crash", True),
        ("h100x2-on-watermark", True),
        ("cpu-dp4-off", False),
        ("cpu-dp4-on", False),
        ("cpu-dp8-off", False),
    ],
)
def test_launches_block_on_real_devices_and_not_on_emulated_ones(name, expected):
    """One machine must not be read as two kinds: fusion and pass times hang on it."""
    assert fitted(name).costs[0].is_blocking is expected


def test_a_turn_is_found_where_passes_are_known_to_whole_seconds():
    """Requests that met a pass do not count as waiting for a turn, which would be 7 times longer.

    The engine counted 1,487 delay passes in 26.9 s of waiting: 18 ms each.
    """
    model = fitted("cpu-dp4-on-defaultlog")
    low, high = model.turn_range
    assert low < 0.018 < high
    assert high < 0.03


def test_a_clients_clock_tells_no_turn():
    """The way from a client to a rank varies by more than a turn, so a usual turn is assumed."""
    run = pdtrace.load(SAMPLES / "h100x2-off", sources=["scheduler_log", "client_log"])
    model = fit_engine(run, join_requests(run.requests))
    assert (model.load.arrival_source, model.turn_source) == ("sent", "default")


def test_requests_of_ranks_that_are_not_there_are_left_out():
    """A client may name a rank that the engine refused; the replay counts by rank."""
    run = pdtrace.load(SAMPLES / "h100x2-off")
    requests = join_requests(run.requests)
    is_first = pl.int_range(pl.len()) == 10
    other = pl.when(is_first).then(pl.lit(2, pl.UInt16)).otherwise(pl.col("dp_rank"))
    model = fit_engine(run, requests.with_columns(other.alias("dp_rank")))
    assert len(model.load) == len(fitted("h100x2-off").load) - 1
    assert any("1 request of ranks" in note for note in model.notes)


@pytest.mark.parametrize("phase", PHASES)
def test_replay_reproduces_the_recording_itself(phase):
    """Guards the first duty of a replay: with the recorded setting, the recorded latency."""
    model = fitted("h100x2-off")
    chosen = choose_requests(model, "^" + phase)
    measured = measure_recording(model, chosen, 0.0)
    (own,) = predict(model, [Setting(None)], chosen, measured, repeats=14)
    assert own.values[LATENCY] == pytest.approx(measured[LATENCY], rel=0.12)


@pytest.mark.parametrize("phase", PHASES)
def test_latency_with_the_delayer_is_predicted(phase):
    """Guards the prediction against the run with the delayer: 8 % where waits are short."""
    guess, _, real = predicted(30, "^" + phase)
    tight = phase in ("seed", "uneven") or re.fullmatch(r"stagger(1|2|5|10|20)-", phase)
    assert guess.values[LATENCY] == pytest.approx(real[LATENCY], rel=0.08 if tight else 0.15)


def test_mean_error_over_the_phases_is_at_most_five_per_cent():
    """Guards the figure that the documentation states."""
    errors = []
    for phase in PHASES:
        guess, _, real = predicted(30, "^" + phase)
        errors.append(abs(guess.values[LATENCY] / real[LATENCY] - 1))
    assert np.mean(errors) <= 0.05


def test_counts_with_the_delayer_are_predicted():
    """Guards passes, fusion and delay passes: 12 %, 12 % and 20 % of the engine's own counts."""
    guess, _, real = predicted(30, None)
    assert guess.values["num_iterations"] == pytest.approx(277, rel=0.12)
    assert guess.values["num_fully_fused_iterations"] == pytest.approx(158, rel=0.12)
    assert guess.values["num_delay_passes"] == pytest.approx(4215, rel=0.20)
    assert real["num_iterations"] == 277


@pytest.mark.parametrize("name", ["h100x2-off", "h100x2-on"])
def test_recorded_passes_of_the_phases_add_up(name):
    """Guards which passes count for chosen requests: phases follow each other and share none."""
    model = fitted(name)
    rest = f"^(?!{'|'.join(PHASES)})"
    parts = [
        measure_recording(model, choose_requests(model, pattern), None)
        for pattern in (rest, *(f"^{phase}" for phase in PHASES))
    ]
    whole = measure_recording(model, choose_requests(model, None), None)
    for q in ("num_iterations", "num_solo_iterations", "num_fully_fused_iterations"):
        assert sum(part[q] for part in parts) == whole[q]


def test_intervals_hold_nine_in_ten_measured_values():
    """Guards the intervals: they are neither decoration nor so wide that they say nothing."""
    inside, width = [], []
    for phase in PHASES:
        guess, _, real = predicted(30, "^" + phase)
        for name in (LATENCY, "ttft_p50_s"):
            low, high = guess.intervals[name]
            inside.append(low <= real[name] <= high)
            width.append((high - low) / guess.values[name])
    assert np.mean(inside) >= 0.85
    assert np.median(width) < 0.5


def test_unknown_filter_is_refused():
    """Guards against figures of no request at all."""
    with pytest.raises(UsageError, match="matches no request"):
        choose_requests(fitted("h100x2-off"), "^nobody")


def test_whatif_prints_the_promised_json(capsys):
    """Guards the keys that scripts rely on."""
    from pdtrace.__main__ import main

    path = str(SAMPLES / "h100x2-off")
    assert main(["whatif", path, "--max-delay-passes", "1", "30", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema_version"] == 1
    assert [s["max_delay_passes"] for s in told["scenarios"]] == [1, 30]
    for scenario in told["scenarios"]:
        assert set(scenario["predicted"]) == set(told["measured"])


def test_tune_advises_the_delayer_where_it_was_seen_to_help(capsys):
    """Guards the advice: on this load the delayer gained, so tune says to turn it on."""
    from pdtrace.__main__ import main

    assert main(["tune", str(SAMPLES / "h100x2-off"), "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "--enable-prefill-delayer" in told["flags"]
    assert told["chosen"]["request_latency_mean_s"]["high"] < 0


def test_a_load_that_was_never_computed_is_refused():
    """One prompt of billions of tokens in a damaged span would be replayed for minutes."""
    model = fitted("h100x2-off")
    tokens = model.load.tokens.copy()
    tokens[5] = 2**32 - 1
    with pytest.raises(InputError, match=r"262,[0-9]+ passes of 16,384"):
        require_believable(replace(model.load, tokens=tokens), model.passes, model.chunk)
    arrival = model.load.arrival.copy()
    arrival[-1] += 400 * 86_400
    with pytest.raises(InputError, match="400 days"):
        require_believable(replace(model.load, arrival=arrival), model.passes, model.chunk)
    require_believable(model.load, model.passes, model.chunk)


def test_reports_before_their_launches_are_no_times():
    """Spans of a damaged recording gave a logarithm of a negative duration, and a warning."""
    passes = fitted("h100x2-off").passes
    launch = passes.launch.copy()
    launch[10::7] += 30.0  # after what was launched next
    with np.errstate(all="raise"):
        is_blocking(replace(passes, launch=launch))
