"""The readable loop: equal to the compiled one where nothing varies, and right by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdtrace.delayer.policy_kernel import pack_settings
from pdtrace.delayer.records import PolicyConfig
from pdtrace.delayer.replay_kernel import run_engine
from pdtrace.delayer.routing import GIVEN
from pdtrace.delayer.rules import rules_for
from pdtrace.simulate.engine import Engine
from pdtrace.simulate.records import EngineSettings, Request
from pdtrace.simulate.timing import Timing

FLAT = Timing(
    floor=0.05, base=0.01, per_ktoken=0.004, per_msquare=0.002, shared_per_ktoken=0.003,
    idle_launch=0.03, taking=0.001, launching=0.002, processing=0.0015, delayed_turn=0.0016,
    empty_turn=0.0, asynchronous=0.0025,
)  # fmt: skip


def run_readable(requests, *, timing=FLAT, seed=0, **started):
    """Outcome of the readable loop."""
    return Engine(requests, EngineSettings(**started), timing, np.random.default_rng(seed)).run()


def run_compiled(requests, timing, started):
    """What the compiled loop gives for the same inputs, without scatter."""
    limit = started["max_delay_passes"]
    config = PolicyConfig(
        dp_size=started["dp_size"],
        max_delay_passes=max(limit or 1, 1),
        token_usage_low_watermark=started["token_usage_low_watermark"],
    )
    theta = [
        timing.floor, timing.per_ktoken, timing.per_msquare, timing.shared_per_ktoken, timing.base,
    ]  # fmt: skip
    times = [
        timing.taking, timing.launching, timing.processing, timing.delayed_turn,
        timing.empty_turn, timing.asynchronous,
    ]  # fmt: skip
    flat = np.linspace(0.05, 1.0, 20)
    return run_engine(
        pack_settings(config, started["rules"]), limit is not None,
        started["rules"].mid_chunk_asks,
        np.array([q.arrival for q in requests]), np.array([q.rank for q in requests]),
        np.array([float(q.tokens) for q in requests]), started["dp_size"],
        float(started["chunk"]), float(started["pool"]), np.array(theta), flat, np.zeros(20), flat,
        timing.is_blocking, np.array([timing.idle_launch]), timing.recorded_took,
        timing.recorded_share, np.array(times), 6, 0,
        np.zeros(len(requests)), GIVEN,
    )[:7]  # fmt: skip


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_it_agrees_with_the_compiled_engine(data):
    """Same passes, widths, tokens, delays and finish times as the loop behind the replay."""
    ranks = data.draw(st.sampled_from([1, 2, 3, 4, 8, 32]))
    gaps = st.floats(0, 0.3).filter(lambda x: x == 0 or x > 1e-4)
    drawn = data.draw(
        st.lists(st.tuples(gaps, st.integers(0, ranks - 1), st.integers(1, 9000)), min_size=1)
    )
    at = np.cumsum([gap for gap, _, _ in drawn])
    requests = [
        Request(f"r{i}", rank, tokens, float(t))
        for i, (t, (_, rank, tokens)) in enumerate(zip(at, drawn, strict=True))
    ]
    started = {
        "dp_size": ranks,
        "chunk": data.draw(st.sampled_from([1000, 4096, 16384])),
        "pool": 20000.0,
        "rules": rules_for(data.draw(st.sampled_from(["0.5.11", "0.5.13", "0.5.17", "0.5.23"]))),
        "max_delay_passes": data.draw(st.sampled_from([None, 1, 5, 30])),
        "token_usage_low_watermark": data.draw(st.sampled_from([None, 0.1])),
    }
    timing = Timing(
        **{
            **{name: getattr(FLAT, name) for name in FLAT.__dataclass_fields__},
            "is_blocking": data.draw(st.booleans()),
            # The result of the pass before is seen after this share of a launch with tokens.
            "recorded_took": np.linspace(0.05, 1.0, 20),
            "recorded_share": np.full(20, data.draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))),
        }
    )
    mine = run_readable(requests, timing=timing, **started)
    finish, first, last, width, batch, busy, delays = run_compiled(requests, timing, started)
    assert [len(p.batches) for p in mine.passes] == width.tolist()
    assert [sum(b.tokens for b in p.batches.values()) for p in mine.passes] == batch.tolist()
    assert mine.delay_passes == delays.tolist()
    np.testing.assert_allclose([p.duration for p in mine.passes], busy, rtol=1e-9)
    np.testing.assert_allclose([j.finished for j in mine.journeys], finish, rtol=1e-9)
    assert [j.chunks[0][0] - 1 for j in mine.journeys] == first.tolist()
    assert [j.chunks[-1][0] - 1 for j in mine.journeys] == last.tolist()


def test_two_that_arrive_together_share_a_pass():
    """Equal arrivals on two ranks are one iteration of two."""
    outcome = run_readable(
        [Request("a", 0, 100, 0.0), Request("b", 1, 200, 0.0)],
        dp_size=2, chunk=4096, pool=1e6, rules=rules_for("0.5.13"),
    )  # fmt: skip
    assert [sorted(p.batches) for p in outcome.passes] == [[0, 1]]


@pytest.mark.parametrize("limit", [2, 30])
def test_a_request_that_stays_alone_waits_one_pass_less_than_the_bound(limit):
    """M − 1 refusals, then a timeout that runs it."""
    outcome = run_readable(
        [Request("a", 0, 100, 0.0)],
        dp_size=2, chunk=4096, pool=1e6, rules=rules_for("0.5.13"), max_delay_passes=limit,
    )  # fmt: skip
    assert outcome.delay_passes[0] == limit - 1
    reasons = [n.verdict.output_reason for n in outcome.negotiations]
    assert reasons[: limit - 1] == ["delay"] * (limit - 1)
    assert reasons[limit - 1] == "wait_timeout"


def test_a_long_prompt_is_cut_and_runs_on_in_the_next_pass():
    """Chunks fill the budget; the rest of the budget after the last goes to the next prompt."""
    outcome = run_readable(
        [Request("a", 0, 2500, 0.0), Request("b", 0, 700, 0.0)],
        dp_size=2, chunk=1000, pool=1e6, rules=rules_for("0.5.13"),
    )  # fmt: skip
    assert [j.chunks for j in outcome.journeys] == [
        [(1, 1000), (2, 1000), (3, 500)],
        [(3, 500), (4, 200)],
    ]
    assert [p.batches[0].pending_tokens for p in outcome.passes] == [2200, 1200, 200, 0]
