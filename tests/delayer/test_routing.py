"""Other assignments to ranks: what the kernel keeps step by step, counted anew for each request."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pdtrace.delayer.policy_kernel import pack_settings
from pdtrace.delayer.records import PolicyConfig
from pdtrace.delayer.replay_kernel import run_engine
from pdtrace.delayer.routing import (
    BY_NAME,
    FEWEST_REQUESTS,
    FEWEST_TOKENS,
    GIVEN,
    ONE_QUEUE,
    ROUTINGS,
    assign_ranks,
)
from pdtrace.delayer.rules import rules_for

CHUNK = 4096.0
LOADS = st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 9000)), min_size=1, max_size=60)
RANKS = st.sampled_from([1, 2, 3, 8])
PASSES = st.sampled_from([0, 2, 30])


def run(load, ranks, passes, rule, rank=None):
    """The engine over gaps and tokens; arrivals, tokens and its trace."""
    arrival = 1.0 + np.cumsum([gap for gap, _ in load])
    tokens = np.array([float(n) for _, n in load])
    config = PolicyConfig(dp_size=ranks, max_delay_passes=max(passes, 1))
    rules = rules_for("0.5.13")
    flat = np.full(20, 0.1)
    given_rank = np.zeros(len(load), np.int64) if rank is None else rank
    trace = run_engine(
        pack_settings(config, rules), passes > 0, rules.mid_chunk_asks, arrival, given_rank,
        tokens, ranks, CHUNK, 1e6, np.array([0.05, 0.004, 0.002, 0.003, 0.01]), flat, flat * 0,
        flat, True, np.array([0.03]), np.empty(0), np.empty(0),
        np.array([0.001, 0.002, 0.0015, 0.0016, 0.0016, 0.002]), 1, 0, np.zeros(len(load)), rule,
    )  # fmt: skip
    return arrival, tokens, trace


@given(LOADS, RANKS, PASSES, st.sampled_from([FEWEST_REQUESTS, FEWEST_TOKENS]))
@settings(max_examples=150, deadline=None)
def test_each_request_goes_to_the_least_loaded_rank(load, ranks, passes, rule):
    """Guards the bookkeeping of what ranks hold: counted anew at each arrival, it is the least."""
    arrival, tokens, trace = run(load, ranks, passes, rule)
    for i in range(len(load)):
        held = []
        for r in range(ranks):
            mine = [j for j in range(i) if trace.rank[j] == r and trace.finish[j] > arrival[i]]
            weight = sum(tokens[j] for j in mine) if rule == FEWEST_TOKENS else 0
            held.append((weight, len(mine), r))
        assert trace.rank[i] == min(held)[2]


@given(LOADS, RANKS, PASSES)
@settings(max_examples=150, deadline=None)
def test_one_queue_is_dealt_in_order_to_the_emptiest_rank(load, ranks, passes):
    """Guards dealing: pass by pass, by hand, each request is where the fewest tokens were."""
    _, tokens, trace = run(load, ranks, passes, ONE_QUEUE)
    assert (np.diff(trace.first) >= 0).all()
    cut = {}  # rank → tokens left of a cut prompt
    for k in range(len(trace.width)):
        filled = [cut.get(r, 0.0) for r in range(ranks)]
        cut = {r: left - CHUNK for r, left in cut.items() if left > CHUNK}
        for i in np.flatnonzero(trace.first == k):
            r = int(np.argmin(filled))
            assert trace.rank[i] == r
            assert filled[r] < CHUNK
            filled[r] += tokens[i]
            if filled[r] > CHUNK:
                cut[r] = filled[r] - CHUNK


@given(LOADS, RANKS, PASSES, st.sampled_from([r.name for r in ROUTINGS]))
@settings(max_examples=60, deadline=None)
def test_every_routing_serves_everything_once(load, ranks, passes, name):
    """Guards against requests lost or run twice where ranks are chosen late."""
    rank = assign_ranks(name, np.zeros(len(load), np.int64), ranks)
    arrival, tokens, trace = run(load, ranks, passes, BY_NAME[name].rule, rank)
    assert (trace.finish > arrival).all()
    assert trace.batch.sum() == np.round(tokens.sum())
    assert (trace.rank < ranks).all()
    assert (trace.final >= trace.first).all()


def test_round_robin_takes_the_ranks_in_turn():
    """Guards the simplest assignment."""
    assert assign_ranks("round_robin", np.zeros(5, np.int64), 2).tolist() == [0, 1, 0, 1, 0]
    assert BY_NAME["round_robin"].rule == GIVEN
