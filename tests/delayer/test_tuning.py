"""The advice: where it pays, where it does not, and what is said of flags that do nothing."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pdtrace
from pdtrace.__main__ import main
from pdtrace.delayer.outcomes import Outcome
from pdtrace.delayer.replay import (
    Setting,
    choose_requests,
    fit_engine,
    measure_recording,
    predict,
    replay_settings,
    spread_evenly,
    spread_of,
)
from pdtrace.delayer.tuning import LEAST_GAIN, choose_setting, choose_watermarks, mark_front, tune
from pdtrace.errors import UsageError
from pdtrace.exports.advice import build_advice_report
from pdtrace.exports.forecast import build_forecast_report
from pdtrace.exports.terminal import render_terminal
from pdtrace.sources.joining import join_requests
from tests.simulate.made import make_run

SAMPLES = Path(__file__).parents[2] / "sample_logs"
LATENCY = "request_latency_mean_s"


@cache
def fitted(directory):
    """Engine model of a run directory."""
    run = pdtrace.load(directory)
    return fit_engine(run, join_requests(run.requests))


@cache
def advised(directory):
    """Advice from a run directory."""
    model = fitted(directory)
    return tune(model, choose_requests(model, None), repeats=4)


OFF, ON = SAMPLES / "h100x2-off", SAMPLES / "h100x2-on"


def outcome(throughput, p99, latency=-0.1, setting=None, half=0.01):
    """An outcome of which only these matter."""

    def around(x):
        return (x, x - half, x + half)

    return Outcome(
        setting or Setting(30), 0.05, (0.04, 0.06), around(latency), around(p99 - 1),
        around(throughput - 1), around(1.0), around(p99), around(throughput), 1.0, 1.0, 1.0,
    )  # fmt: skip


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=15))
def test_the_front_is_what_nothing_dominates(places):
    """Guards the front by its definition, ties included."""
    marked = mark_front([outcome(float(t), float(p)) for t, p in places])
    front = {x for x, o in zip(places, marked, strict=True) if o.on_front}
    for t, p in places:
        dominated = any(u >= t and q <= p and (u, q) != (t, p) for u, q in places)
        assert ((t, p) in front) == (not dominated)
    assert sum(o.on_front for o in marked) == len(front)


def test_of_settings_alike_in_latency_the_busiest_is_chosen():
    """Guards the rule that the report states."""
    tried = [
        outcome(1.1, 0.9, -0.13, Setting(4)),
        outcome(1.25, 0.9, -0.12, Setting(30)),
        outcome(1.5, 0.95, -0.08, Setting(120)),
    ]
    assert choose_setting(tried).setting == Setting(30)


@pytest.mark.parametrize(
    "bad",
    [
        outcome(1.5, 0.9, -LEAST_GAIN / 2),
        outcome(1.5, 0.9, -0.05, half=0.06),
        outcome(1.5, 1.0 + 2 * LEAST_GAIN, -0.1),
    ],
)
def test_a_gain_that_may_be_none_or_costs_the_tail_is_not_advised(bad):
    """Guards against advising the delayer where it does not pay."""
    assert choose_setting([bad]) is None


def test_a_watermark_must_earn_its_place():
    """Guards against a second flag for a gain within the noise."""
    plain = outcome(1.25, 0.9, -0.12, Setting(30))
    slightly = outcome(1.26, 0.9, -0.125, Setting(30, 0.01))
    clearly = outcome(1.40, 0.9, -0.13, Setting(30, 0.01))
    assert choose_setting([plain, slightly]) is plain
    assert choose_setting([plain, clearly]) is clearly


def test_watermarks_to_try_lie_where_waits_begin():
    """Guards the sweep: just above an empty pool, and at the usage of the other waits."""
    usage = np.zeros(1001, np.int64)
    usage[0], usage[20], usage[60] = 100, 10, 10
    assert choose_watermarks(usage) == (0.001, 0.021, 0.061)
    assert choose_watermarks(np.zeros(1001, np.int64)) == (0.001,)


def test_turns_are_spread_evenly_from_the_first_on():
    """Guards few repeats: they must not all take long or short turns."""
    for n in (3, 5, 14):
        drawn = [0.5, *(spread_evenly(k) for k in range(1, n))]
        assert np.mean(drawn) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("n", [3, 6, 14])
def test_nine_in_ten_further_draws_fall_into_the_interval(n):
    """Guards the width of intervals from few repeats."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(4000):
        *sample, new = rng.normal(0, 1, n + 1)
        inside.append(abs(new - np.mean(sample)) <= spread_of(np.array(sample)))
    assert np.mean(inside) == pytest.approx(0.90, abs=0.02)


def test_advice_from_the_recording_without_the_delayer():
    """Guards the whole: the setting pays, is within what was seen, and the front is drawn."""
    advice = advised(OFF)
    assert advice.chosen is not None
    assert advice.chosen.latency[2] < 0
    assert advice.chosen in advice.outcomes
    assert len(advice.front) >= 3
    assert advice.off.setting.max_delay_passes is None
    assert {o.setting.token_usage_low_watermark for o in advice.outcomes} > {None}
    assert advice.routings[0].name == "recorded"
    assert advice.routings[0].on.latency == pytest.approx(advice.chosen.latency, abs=0.01)
    turns = [p.turn_s for p in advice.sensitivity]
    assert turns == sorted(turns)
    assert (turns[0], turns[-1]) == pytest.approx(advice.turn_s[1:])


def test_a_watermark_above_the_usual_usage_changes_nothing():
    """Guards the flag that did nothing where it was tried: 0.04, as h100x2-on-watermark was run."""
    model = fitted(OFF)
    chosen = choose_requests(model, None)
    off, on = replay_settings(model, [Setting(None), Setting(30, 0.04)], chosen, 6)
    assert on["num_waits"].mean() < 2
    assert on[LATENCY].mean() == pytest.approx(off[LATENCY].mean(), rel=0.03)
    assert on["num_iterations"].mean() == pytest.approx(off["num_iterations"].mean(), rel=0.02)
    real = pdtrace.measure(pdtrace.load(SAMPLES / "h100x2-on-watermark"))
    timeouts = real.filter((real["metric"] == "num_delay_timeouts") & real["dp_rank"].is_null())
    assert timeouts["value"][0] == 0
    told = tune(model, chosen, passes=(30,), watermarks=(0.04,), repeats=6)
    assert [o.does_nothing for o in told.outcomes] == [False, True]
    (said,) = [r for r in advised(OFF).remarks if "does nothing but undo" in r]
    assert float(said.split(" above ")[1].split()[0]) <= 0.04


def test_without_the_pool_size_a_watermark_is_left_out():
    """Guards against a pool of unknown size, on which any watermark would always fire."""
    model = replace(fitted(OFF), pool=np.inf)
    chosen = choose_requests(model, None)
    with pytest.raises(UsageError, match="size of the KV pool"):
        replay_settings(model, [Setting(30, 0.04)], chosen, 1)
    advice = tune(model, chosen, passes=(30,), repeats=2)
    assert [o.setting.token_usage_low_watermark for o in advice.outcomes] == [None]
    assert any("was left out" in r for r in advice.remarks)


@pytest.mark.parametrize(
    ("release", "words"),
    [("0.5.10", "disaggregation_mode must be null"), ("0.5.13", None), ("0.5.11", None)],
)
def test_a_release_that_dies_with_the_flag_is_not_told_to_use_it(release, words):
    """Guards against flags that abort the start of a prefill engine."""
    run = pdtrace.load(OFF)
    model = fit_engine(run, join_requests(run.requests), engine_version=release)
    advice = tune(model, choose_requests(model, None), passes=(30,), watermarks=(), repeats=2)
    assert (advice.chosen is None) == (words is not None)
    assert (words or "") in advice.reason
    queue = [r for r in advice.remarks if "queue-min-ratio" in r]
    assert len(queue) == 1
    assert ("do not exist" in queue[0]) == (release != "0.5.13")


@pytest.mark.parametrize(
    "options",
    [
        ("--dp-size", "4", "--pattern", "poisson", "--rate", "0.1", "--requests", "120"),
        (
            "--dp-size", "4", "--pattern", "poisson", "--rate", "40", "--requests", "400",
            "--input-len", "8000-8192",
        ),
    ],
    ids=["sparse", "saturated"],
)  # fmt: skip
def test_it_is_left_off_where_it_does_not_pay(options):
    """Guards the other answer: nobody to wait for, and no rank that is ever idle."""
    advice = advised(make_run(*options))
    assert advice.chosen is None
    assert advice.flags == ()
    assert advice.nearest is not None
    longest = advice.outcomes[8]
    assert longest.setting == Setting(500)
    assert longest.latency[0] > 0.02


def test_a_recording_with_the_delayer_on_says_so_and_tells_its_own_setting():
    """Guards the way back: what was on is replayed on, and off is said to be a prediction."""
    model = fitted(ON)
    assert model.recorded == Setting(30)
    advice = advised(ON)
    assert any("made with the delayer on (30 passes)" in r for r in advice.remarks)
    chosen = choose_requests(model, None)
    measured = measure_recording(model, chosen, None)
    own, off = predict(model, [Setting(30), Setting(None)], chosen, measured, repeats=6)
    real = measure_recording(fitted(OFF), choose_requests(fitted(OFF), None), None)
    assert own.values[LATENCY] == pytest.approx(measured[LATENCY], rel=0.05)
    assert off.values[LATENCY] == pytest.approx(real[LATENCY], rel=0.10)


def test_passes_are_timed_alike_with_long_waits_before_them():
    """Guards the fit under the delayer: a request held back is not one that is slow to take in."""
    options = ("--dp-size", "8", "--pattern", "poisson", "--rate", "32", "--requests", "640",
               "--input-len", "200-6000")  # fmt: skip
    off, on = (fitted(make_run(*options, *more)) for more in ((), ("--max-delay-passes", "120")))
    assert on.times[0] == pytest.approx(off.times[0], abs=0.001)
    both = [m.costs[0].theta[2] for m in (off, on)]
    assert both[1] == pytest.approx(both[0], rel=0.15)


@pytest.mark.parametrize("passes", ["off", "500"])
@pytest.mark.parametrize("launches", [(), ("--asynchronous-launches",)])
def test_simulated_launches_are_told_apart(passes, launches):
    """Passes of every size run in a row, and what follows may take as long, or be short."""
    options = ("--dp-size", "2", "--requests", "400", "--max-delay-passes", passes, *launches)
    assert fitted(make_run(*options)).costs[0].is_blocking is not bool(launches)


def test_waits_near_the_bound_are_told():
    """Guards the warning: pairs 47 ms apart end near a bound of 30 passes, and not of 120."""
    model = fitted(OFF)
    chosen = choose_requests(model, "^stagger50-")
    near, far = replay_settings(model, [Setting(30), Setting(500)], chosen, 6)
    assert near["num_near_bound"].sum() > 0.05 * near["num_waits"].sum()
    assert far["num_near_bound"].sum() < 0.02 * far["num_waits"].sum()


def test_a_log_with_time_stats_alone_is_marked_provisional(tmp_path, capsys):
    """Guards against trusting arrivals that are stamped at pickup."""
    shutil.copy(OFF / "server.log", tmp_path)
    assert main(["whatif", str(tmp_path), "--max-delay-passes", "30"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Provisional: ")
    assert "1.6 ms is assumed" in said


def test_a_log_without_requests_is_refused_in_one_line(tmp_path, capsys):
    """Guards the refusal: it says what to record."""
    lines = (OFF / "server.log").read_text().splitlines(keepends=True)
    (tmp_path / "server.log").write_text("".join(x for x in lines if "ReqTimeStats" not in x))
    assert main(["tune", str(tmp_path)]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert "--enable-trace" in said
    assert "--enable-request-time-stats-logging" in said


def test_tune_prints_the_promised_json(capsys):
    """Guards the keys that scripts and pages rely on."""
    assert main(["tune", str(OFF), "--request-filter", "^seed", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"chosen", "off", "outcomes", "routings", "sensitivity", "flags"} <= told.keys()
    page = (SAMPLES.parent / "docs" / "interface.md").read_text()
    section = page.partition("An outcome (")[2].partition("): ")[2].partition("Three of them")[0]
    promised = set(re.findall(r"`(\w+)`", section))
    assert len(promised) > 10
    for o in (told["off"], *told["outcomes"]):
        assert o.keys() == promised
        for q in (LATENCY, "ttft_p99_s", "prefill_throughput_tok_s"):
            assert o[q]["value_low"] <= o[q]["value"] <= o[q]["value_high"]
            assert o[q]["low"] <= o[q]["change_ratio"] <= o[q]["high"]
    assert any(o["is_on_front"] for o in (told["off"], *told["outcomes"]))


def test_tune_prints_the_front_and_the_choice(capsys):
    """Guards what a user reads: the flags first, then the front with the choice marked."""
    assert main(["tune", str(OFF)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Use --enable-prefill-delayer --prefill-delayer-max-delay-passes ")
    assert said.count("▸●") == 2  # changes, and what they come to
    assert "round robin" in said


@pytest.mark.parametrize(
    "command", [["tune"], ["whatif", "--max-delay-passes", "0", "1", "8", "30"]]
)
def test_reports_fit_a_narrow_terminal(command):
    """A table too wide loses its first column: numbers of nobody knows which setting."""
    model = fitted(OFF)
    if command[0] == "tune":
        report = build_advice_report(model, advised(OFF))
    else:
        chosen = choose_requests(model, None)
        measured = measure_recording(model, chosen, 0.0)
        settings = [Setting(int(n)) for n in command[2:]]
        report = build_forecast_report(model, measured, predict(model, settings, chosen, measured))
    text = re.sub(r"\x1b\[[0-9;]*m", "", render_terminal(report, width=80))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    for section in report.sections:
        for row in (section.columns, *section.rows) if section.rows else ():
            assert any(all(cell in line for cell in row) for line in lines), row


def test_whatif_says_each_setting_once_and_the_bounds_asked_for(capsys):
    """0 and 1 pass are one setting, and a reader of 8 passes is not told how long 30 take."""
    assert main(["whatif", str(OFF), "--max-delay-passes", "0", "1", "8"]) == 0
    said = capsys.readouterr().out
    assert said.count("As recorded (off)") == 1
    assert "with 8 passes" in said
    assert "30 passes" not in said


def test_whatif_notes_what_the_recording_does_not_tell_and_a_release_that_refuses(capsys):
    """Null without a reason, or a gain where the engine would not start, would mislead."""
    run = str(SAMPLES / "h100x2-on-watermark")
    assert main(["whatif", run, "--max-delay-passes", "30", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["measured"]["num_delay_passes"] is None
    assert "counters" in told["notes"][0]
    command = ["whatif", run, "--max-delay-passes", "30", "--engine-version"]
    assert main([*command, "0.5.8"]) == 0
    assert capsys.readouterr().out.startswith("SGLang 0.5.8 does not start with it on a prefill")
    assert main([*command, "0.5.24"]) == 0
    assert "0.5.24 is newer than any release known here" in capsys.readouterr().out


def test_a_bound_beyond_all_numbers_is_refused_in_one_line(capsys):
    """The compiled replay counts in 64 bits; more is a slip of the finger."""
    assert main(["whatif", str(OFF), "--max-delay-passes", "9" * 20]) == 2
    assert capsys.readouterr().err == (
        "pdtrace: --max-delay-passes must lie between 0 and 1,000,000,000\n"
    )


@pytest.mark.parametrize("command", [["tune"], ["whatif", "--max-delay-passes", "30"]])
def test_a_replay_that_misses_its_own_recording_says_so_first(tmp_path, capsys, command):
    """Stamps to whole seconds tell no pass; numbers fitted to them must not look like others."""
    log = (OFF / "server.log").read_text()
    rough = tmp_path / "server.log"
    rough.write_text(re.sub(r"(\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)[.,]\d{3}", r"\1", log))
    assert main([command[0], str(rough), *command[1:]]) == 0
    assert capsys.readouterr().out.startswith("Not to be relied on: at the recording's own setting")
    assert main([command[0], str(OFF), *command[1:]]) == 0
    assert "Not to be relied on" not in capsys.readouterr().out
