"""The ledger: its balance with the counters, its costs, what it saved, and what it cannot know."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pdtrace
from pdtrace.__main__ import main
from pdtrace.delayer.balance import Entry
from pdtrace.delayer.ledger import build_ledger, ledger_values
from pdtrace.delayer.savings import TypicalDurations, estimate_savings
from pdtrace.exports.delay_section import ledger_section
from pdtrace.exports.report import build_report
from pdtrace.exports.terminal import render_terminal
from pdtrace.metrics import measure
from pdtrace.run import DelayerInfo
from pdtrace.schema import DELAY_EPISODES
from tests.delayer.simulated import simulate_run
from tests.joined.made import at, make_run, request
from tests.metrics import hand_counted as hand

SAMPLES = Path(__file__).parents[2] / "sample_logs"
ON = DelayerInfo(enabled=True, max_delay_passes=30)


@cache
def load(name):
    """A sample, read once."""
    return pdtrace.load(SAMPLES / name)


def balance_of(ledger):
    """What → (counted, rebuilt)."""
    return {e.what: (e.counted, e.rebuilt) for e in ledger.balance}


def test_the_balance_is_with_the_engines_counters():
    """4,215 passes, 91 and 119 waits were counted: the ledger says by how much it is off."""
    ledger = build_ledger(load("h100x2-on"))
    told = balance_of(ledger)
    assert {what: counted for what, (counted, _) in told.items()} == {
        "delay passes": 4215,
        "waits that ended with all ranks ready": 91,
        "waits that ran out": 119,
    }
    assert told["waits that ran out"][1] == 119
    assert told["delay passes"][1] == ledger.episodes["num_delay_passes"].sum()
    assert abs(told["delay passes"][1] - 4215) < 0.02 * 4215
    assert all(e.difference == e.rebuilt - e.counted for e in ledger.balance)


def test_costs_are_the_stages_of_requests():
    """No withheld second is lost, or told twice, between the stages and the episodes."""
    run = load("cpu-dp4-on")
    ledger = build_ledger(run)
    waiting = run.stages.filter(held_by="delayer", stage="waiting")
    seconds = waiting["duration"].dt.total_nanoseconds().sum() / 1e9
    assert ledger.totals.request_seconds == pytest.approx(seconds)
    assert ledger.episodes["request_seconds"].sum() == pytest.approx(seconds)
    metrics = {r["metric"]: r["value"] for r in measure(run).iter_rows(named=True)}
    assert metrics["delay_seconds_total"] == pytest.approx(ledger.totals.wait_s)


def test_an_episode_names_whom_it_held_and_who_joined():
    """Rank 0's request was withheld until rank 1's came; both ran in the iteration after."""
    held = request(
        "first", 0, arrived=0, tokenized=0, dispatched=0, received=1, queued=1, selected=41,
        forward_end=141, finished=142,
    )  # fmt: skip
    late = request(
        'la"te', 1, arrived=39, tokenized=39, dispatched=39, received=40, queued=40, selected=41,
        forward_end=141, finished=142,
    )  # fmt: skip
    run = make_run([(41, 141, {0: (50, 0, 1), 1: (50, 0, 1)})], [held, late], delayer=True)
    (row,) = build_ledger(run).episodes.rows(named=True)
    assert (row["ended_by"], row["held_ranks"], row["joined_ranks"]) == ("fused", "0", "1")
    assert json.loads(row["held"]) == [{"dp_rank": 0, "rids": ["first"]}]
    assert json.loads(row["joined"]) == [{"dp_rank": 1, "rids": ['la"te']}]
    assert row["end"].timestamp() == pytest.approx(at(41) / 1e9)
    assert row["request_seconds"] == pytest.approx(0.040, abs=0.002)
    assert row["ttft_ratio"] == pytest.approx(40 / 142, abs=0.02)
    # alone the first would have run for 100 ms, and the second after it
    assert (row["num_saved_forwards"], row["saved_s"]) == (1, pytest.approx(0.1))
    assert row["saved_idle_rank_s"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    "options",
    [
        {"dp_size": 4, "pattern": "seed"},
        {"dp_size": 4, "pattern": "stagger"},
        {"dp_size": 2, "pattern": "poisson"},
    ],
    ids=str,
)
def test_what_was_saved_is_what_the_engine_runs_without_the_delayer(options):
    """The same arrivals on the same engine with the delayer off take as many forwards more."""
    on, _, _ = simulate_run(**options)
    off, _, _ = simulate_run(**options, passes=None)
    totals = build_ledger(on).totals
    more = off.iterations.height - on.iterations.height
    assert totals.num_saved_forwards == pytest.approx(more, rel=0.15, abs=3)
    idle = [
        m["value"]
        for run in (off, on)
        for m in measure(run).filter(metric="idle_rank_seconds").iter_rows(named=True)
        if m["dp_rank"] is None
    ]
    assert totals.saved_idle_rank_s == pytest.approx(idle[0] - idle[1], rel=0.4)


def play_alone(members, begin, seconds, num_ranks):
    """The obvious sequence: run whoever is ready, then look again."""
    clock, left, forwards, total, idle = begin, sorted(members), 0, 0.0, 0.0
    while left:
        clock = max(clock, min(t for t, _ in left))
        goes = [m for m in left if m[0] <= clock]
        left = [m for m in left if m[0] > clock]
        forwards, total = forwards + 1, total + seconds
        idle += (num_ranks - len({r for _, r in goes})) * seconds
        clock += seconds
    return forwards, total, idle


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(0, 3), st.integers(0, 3)), min_size=1, max_size=6),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_savings_are_those_of_the_obvious_sequence(episodes):
    """All episodes at once give what one after the other by a plain loop gives."""
    curve = (np.array([10.0]), np.array([0.5]))
    rows = [
        {"episode": k, "dp_rank": r, "ready": t, "tokens": 1.0}
        for k, mine in enumerate(episodes)
        for t, r in mine
    ]
    members = pl.DataFrame(rows, schema_overrides={"episode": pl.UInt32})
    begins = np.zeros(len(episodes))
    got = estimate_savings(members, begins, begins, TypicalDurations(curve, curve, 1000), 4)
    for k, mine in enumerate(episodes):
        forwards, total, idle = play_alone(mine, 0.0, 0.5, 4)
        now_idle = (4 - len({r for _, r in mine})) * 0.5
        row = got.filter(episode=k).row(0, named=True)
        assert row["num_saved_forwards"] == forwards - 1
        assert row["saved_s"] == pytest.approx(total - 0.5)
        assert row["saved_idle_rank_s"] == pytest.approx(idle - now_idle)


def test_a_log_alone_tells_the_waits_that_ran_out():
    """An iteration on some ranks only ends a wait that ran out; since when, nobody knows."""
    folder = SAMPLES / "h100x2-on"
    run = pdtrace.load(folder / "server.log")
    bare = replace(
        run,
        requests=run.requests.clear(),
        stages=run.stages.clear(),
        episodes=DELAY_EPISODES.empty(),
    )
    for decisions, observed in ((run.decisions, True), (run.decisions.clear(), False)):
        ledger = build_ledger(replace(bare, decisions=decisions))
        assert ledger.totals.num_timeouts == ledger.episodes.height == 119
        assert ledger.episodes["is_observed"].unique().to_list() == [observed]
        assert set(ledger.episodes["num_delay_passes"]) == {29}
        assert ledger.episodes["begin"].null_count() == 119
        assert ledger.totals.wait_s is None
        assert ledger.totals.num_delay_passes is None
        assert ledger.reason is None
        assert "no source knows requests" in ledger.notes[0]


def test_parts_do_not_change_what_a_log_tells():
    """Wherever a long log is cut, a chunk that goes on is no new prompt."""
    grid = [(100, {0: 9, 1: 9}), (100, {0: 9}), (100, {1: 9}), (100, {0: 9, 1: 9}), (100, {1: 9})]
    seen = set()
    for cuts in ((), (1,), (2, 4)):
        run = hand.build(grid, cuts=cuts)
        run = replace(run, engine=replace(run.engine, delayer=ON, role="prefill"))
        seen.add(tuple(build_ledger(run).episodes["iteration"]))
    assert seen == {(1, 2, 4)}


@pytest.mark.parametrize(
    ("delayer", "reason"),
    [
        (DelayerInfo(enabled=False), "the engine says the delayer is off"),
        (DelayerInfo(), "nothing says whether the delayer was on"),
        (DelayerInfo(enabled=True, max_delay_passes=1), "max_delay_passes 1 lets everything"),
        (ON, "no wait that ran out is seen in the log"),
    ],
)  # fmt: skip
def test_an_empty_ledger_says_why(delayer, reason):
    """Nothing withheld and nothing known are told apart, and neither is a zero."""
    run = hand.build([(100, {0: 9, 1: 9})] * 2)
    ledger = build_ledger(replace(run, engine=replace(run.engine, delayer=delayer, role="prefill")))
    assert ledger.episodes.is_empty()
    assert reason in (ledger.reason or "")
    assert ledger.totals.wait_s is None
    assert ledger_values(ledger)["reason"] == ledger.reason


def test_a_watermark_that_lets_all_through_holds_nobody():
    """The captured engine with a low watermark never waited, and the ledger says by what."""
    ledger = build_ledger(load("h100x2-on-watermark"))
    assert ledger.reason == "prefill was never withheld (the low watermark lets it through)"
    assert ledger.totals.num_episodes == 0
    section = ledger_section(ledger)
    assert section is not None
    assert section.notes == (f"None: {ledger.reason}.",)


def test_counters_alone_are_told_without_episodes():
    """Where nothing but the metrics was recorded their counts stand, and nothing beside them."""
    folder = SAMPLES / "h100x2-on"
    run = pdtrace.load(*(folder / f"metrics_{w}.txt.zst" for w in ("before", "after")))
    ledger = build_ledger(run)
    assert ledger.reason == "no iteration could be rebuilt, so no wait can be told"
    told = balance_of(ledger)
    assert told["delay passes"] == (4215, None)


def test_one_wait_between_two_scrapes_gets_the_passes_counted():
    """What two scrapes count of one wait is its own, not an estimate; of two waits it is not."""
    run = load("h100x2-on")
    ends = run.episodes.filter(ended_by="fused")["end"].dt.epoch("ns")
    count = pl.lit(7, pl.UInt64)
    row = run.decisions.filter(source="prometheus", output_reason="delay", dp_rank=0).head(1)
    stamps = [ends[3] - 10**8, ends[3] + 1, ends[5] + 1]
    scrapes = pl.concat(
        row.with_columns(
            pl.from_epoch(pl.lit(s), time_unit="ns").dt.replace_time_zone("UTC").alias("ts"),
            count.alias("count"),
        )
        for s in stamps
    )
    ledger = build_ledger(replace(run, decisions=scrapes))
    counted = ledger.episodes.filter(passes_source="counted")
    assert counted.select(pl.col("end").dt.epoch("ns"), "num_delay_passes").rows() == [(ends[3], 7)]


def test_the_report_and_the_json_tell_the_ledger(tmp_path, capsys):
    """A reader of either finds how waits ended, their cost, and the balance; ids cannot act."""
    evil = request(
        "a\x1b[31m<b>", 0, arrived=0, tokenized=0, dispatched=0, received=1, queued=1, selected=41,
        forward_end=141, finished=142,
    )  # fmt: skip
    run = make_run([(41, 141, {0: (50, 0, 1)})], [evil], delayer=True)
    text = render_terminal(build_report(run, measure(run)), width=120)
    assert "Delay episodes" in text
    assert "wait ran out" in text
    assert "a\x1b[31m" not in text
    assert "a\\x1b[31m<b>" in text
    path = tmp_path / "summary.json"
    assert main(["analyze", str(SAMPLES / "h100x2-on"), "--json", str(path)]) == 0
    told = json.loads(path.read_text())["delay_ledger"]
    assert told["counters"]["delay passes"] == 4215
    assert told["totals"]["num_timeouts"] == 119
    assert {"what", "counted", "rebuilt", "difference", "note"} <= set(told["balance"][0])
    assert "4,215 by engine counters" in capsys.readouterr().out


def test_a_difference_needs_both_sides():
    """What was not counted, or not rebuilt, differs by nothing that could be known."""
    assert Entry("x", "waits", None, None, 3).difference is None
    assert Entry("x", "waits", 3, "counters", None).difference is None
    assert Entry("x", "waits", 3, "counters", 2).difference == -1
