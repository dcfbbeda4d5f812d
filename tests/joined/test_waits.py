"""Delay episodes: against the engine's own counters, simulated engines, and a slow reference."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pdtrace
from tests.delayer.simulated import list_true_episodes, simulate_run
from tests.joined.made import decision, make_run, request

SAMPLES = Path(__file__).parents[2] / "sample_logs"
PASS_MS = 1.6  # as of a host of which nothing is known
FORWARD_MS = 100


def count_ends(episodes):
    """Number of episodes by how they ended."""
    return dict(episodes["ended_by"].cast(pl.String).value_counts().iter_rows())


@pytest.mark.parametrize(
    ("name", "successes", "timeouts", "passes"),
    [
        ("h100x2-on", 91, 119, 4215),
        ("cpu-dp4-on", 125, 35, 1953),
        ("cpu-dp4-on-defaultlog", 76, 31, 1487),
    ],
)
def test_episodes_are_those_the_engine_counted(name, successes, timeouts, passes):
    """Waits that ran out are exact, those that others joined within 5 %, passes within 8 %."""
    episodes = pdtrace.load(SAMPLES / name).episodes
    ends = count_ends(episodes)
    assert ends.pop("timeout") == timeouts
    assert ends.pop("fused") == pytest.approx(successes, rel=0.05)
    assert not ends
    assert episodes["num_delay_passes"].sum() == pytest.approx(passes, rel=0.08)


def test_lines_and_rules_find_the_same_timeouts():
    """Without its debug lines the same waits of a recording run out: who had no request says so."""
    folder = SAMPLES / "h100x2-on"
    with_lines = pdtrace.load(folder).episodes
    without = pdtrace.load(folder, sources=["otel_spans", "prometheus"]).episodes
    ran_out = [e.filter(ended_by="timeout") for e in (with_lines, without)]
    assert ran_out[0]["is_observed"].all()
    assert not ran_out[1]["is_observed"].any()
    gap = ran_out[0]["end"].dt.epoch("ns") - ran_out[1]["end"].dt.epoch("ns")
    assert ran_out[0].height == ran_out[1].height
    assert gap.abs().max() < 2_000_000


@pytest.mark.parametrize(
    "options",
    [
        {"dp_size": 2},
        {"dp_size": 4, "debug_lines": False},
        {"dp_size": 8, "num_requests": 400},
        {"dp_size": 2, "passes": 100, "pattern": "poisson"},
    ],
    ids=str,
)
def test_simulated_waits_are_found_one_by_one(options):
    """With known truth: every wait that ran out, and nine of ten of those that others joined."""
    run, outcome, _ = simulate_run(**options)
    true = list_true_episodes(outcome)
    limit = options.get("passes", 30) - 1
    timeouts = [n for n, why in true if why == "wait_timeout"]
    found = run.episodes.filter(ended_by="timeout")
    assert found.height == len(timeouts)
    assert set(timeouts) == {limit} == set(found["num_delay_passes"].to_list())
    joined = [n for n, why in true if why == "wait_success"]
    fused = run.episodes.filter(ended_by="fused")
    # waits of a single pass are told by less than the ranks' times scatter
    assert sum(n > 1 for n in joined) - 2 <= fused.height <= len(joined) + 2
    passes = sum(joined)
    assert fused["num_delay_passes"].sum() == pytest.approx(passes, abs=0.1 * passes + 5)


def test_continued_prompts_do_not_end_a_wait():
    """While one rank goes on with a prompt others are withheld: one episode, not one a chunk."""
    run, outcome, _ = simulate_run(dp_size=4, chunk=2048)
    timeouts = sum(why == "wait_timeout" for _, why in list_true_episodes(outcome))
    assert run.episodes.filter(ended_by="timeout").height == timeouts
    assert run.episodes["num_forwards"].sum() > 0


def play(arrivals, most, dp_size):
    """The obvious engine: pass by pass, one forward at a time; its requests, forwards and waits."""
    queue = [sorted(t for t, r in arrivals if r == rank) for rank in range(dp_size)]
    waiting = [[] for _ in range(dp_size)]
    requests, passes, waits = [], [], []
    now, refused = min(t for t, _ in arrivals), 0
    while any(queue) or any(waiting):
        for rank in range(dp_size):
            while queue[rank] and queue[rank][0] <= now:
                waiting[rank].append((queue[rank].pop(0), now))
        ready = sum(map(bool, waiting))
        if 0 < ready < dp_size and refused < most - 1:
            refused += 1
        elif ready:
            for rank, mine in enumerate(waiting):
                for arrived, taken in mine:
                    requests.append(
                        request(
                            f"r{len(requests)}", rank, arrived=arrived, tokenized=arrived,
                            dispatched=arrived, received=taken, queued=taken, selected=now,
                            forward_end=now + FORWARD_MS, transferred=now + FORWARD_MS,
                            finished=now + FORWARD_MS,
                        )
                    )  # fmt: skip
            if refused:
                how = "fused" if ready == dp_size else "timeout"
                waits.append((len(passes), how, refused))
            ran = {r: (50 * len(m), 0, len(m)) for r, m in enumerate(waiting) if m}
            passes.append((now, now + FORWARD_MS, ran))
            waiting = [[] for _ in range(dp_size)]
            refused = 0
            now += FORWARD_MS
            continue
        now += PASS_MS
    return requests, passes, waits


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 4),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 3)), min_size=1, max_size=25),
)
def test_waits_are_those_of_the_obvious_engine(dp_size, arrivals):
    """Whatever arrives when and where: the waits are those of a loop that tries pass after pass."""
    arrivals = [(t, rank % dp_size) for t, rank in arrivals]
    requests, passes, waits = play(arrivals, 30, dp_size)
    run = make_run(passes, requests, delayer=True, dp_size=dp_size, chunk=10_000)
    found = run.episodes.select("iteration", pl.col("ended_by").cast(pl.String))
    assert found.rows() == [(number, how) for number, how, _ in waits]
    for n, (_, _, passes_of_wait) in zip(run.episodes["num_delay_passes"], waits, strict=True):
        assert abs(n - passes_of_wait) <= 1


def test_a_wait_that_the_watermark_ended_is_told_by_its_line():
    """A long wait whose end a line calls the watermark's is an episode; a short one is not."""
    times = {"arrived": 0, "tokenized": 0, "dispatched": 0, "received": 1, "queued": 1}
    waits = request("a", 0, **times, selected=41, forward_end=141, finished=142)
    runs = [(41, 141, {0: (50, 0, 1)})]
    line = decision(40.9, 0, "token_watermark")
    (row,) = make_run(runs, [waits], delayer=True, decisions=[line]).episodes.rows(named=True)
    assert (row["ended_by"], row["is_observed"], row["num_prefillable"]) == ("watermark", True, 1)
    assert row["passes_source"] == "estimated"
    quick = request("a", 0, **times, selected=2, forward_end=102, finished=103)
    runs = [(2, 102, {0: (50, 0, 1)})]
    line = decision(1.9, 0, "token_watermark")
    assert make_run(runs, [quick], delayer=True, decisions=[line]).episodes.is_empty()
