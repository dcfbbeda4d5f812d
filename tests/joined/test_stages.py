"""Stages: where each request's time went, by hand and by property."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdtrace.joined import stages
from tests.joined.made import MS, STAMPS, decision, make_run, request, stages_of

A = request(
    "a", 0, sent=-3, arrived=0, tokenized=1, dispatched=2, received=4, queued=5, selected=10,
    forward_end=110, transferred=112, finished=115, answered=118,
)  # fmt: skip
B = request(
    "b", 1, arrived=20, tokenized=21, dispatched=22, received=112, queued=113, selected=115,
    forward_end=215, transferred=216, finished=217,
)  # fmt: skip
C = request(
    "c", 0, arrived=300, tokenized=301, dispatched=302, received=304, queued=305, selected=350,
    forward_end=450, transferred=451, finished=452,
)  # fmt: skip
PASSES = [
    (10, 110, {0: (50, 0, 1)}),
    (115, 215, {1: (50, 0, 1)}),
    (350, 450, {0: (50, 0, 1)}),
]


def test_a_request_on_an_idle_engine():
    """Every stage of a request that nothing delays is the distance of its two times."""
    assert stages_of(make_run(PASSES, [A, B, C], delayer=False), "a") == [
        ("sending", None, None, 3), ("tokenize", None, None, 1), ("dispatch", None, None, 1),
        ("pickup", "loop", None, 2), ("bootstrap", None, None, 1), ("waiting", "loop", None, 5),
        ("forward", None, 0, 100), ("transfer", None, None, 2), ("answer", None, None, 3),
        ("returning", None, None, 3),
    ]  # fmt: skip


def test_a_pickup_behind_a_forward():
    """While a forward runs the scheduler takes nothing; after its report it needs its own time."""
    mine = stages_of(make_run(PASSES, [A, B, C], delayer=False), "b")
    assert mine[2:5] == [
        ("pickup", "forward", None, 88), ("pickup", "loop", None, 2), ("bootstrap", None, None, 1)
    ]  # fmt: skip


def test_the_delayer_holds_a_request_on_an_idle_engine():
    """Queued, nothing running, not selected: withheld, after the first look at the queue."""
    held = make_run(PASSES, [A, B, C], delayer=True, decisions=[decision(349.5, 0, "wait_timeout")])
    waits = [s for s in stages_of(held, "c") if s[0] == "waiting"]
    # a and b tell how long a request waits that nobody withholds: 2 ms (5 ms are over two passes)
    assert waits == [("waiting", "loop", None, 2), ("waiting", "delayer", None, 43)]
    assert held.stages.filter(held_by="delayer")["is_estimated"].all()


@pytest.mark.parametrize(
    ("delayer", "reason"), [(False, "wait_timeout"), (None, None), (True, "token_watermark")]
)
def test_nothing_is_held_without_a_waiting_delayer(delayer, reason):
    """Off, not there, or letting everything through by the watermark: the wait is the loop's."""
    rows = [] if reason is None else [decision(b - 0.5, min(r), reason) for b, _, r in PASSES]
    lines = [row | {"actual_execution": True} for row in rows]
    run = make_run(PASSES, [A, B, C], delayer=delayer, decisions=lines)
    assert [s for s in stages_of(run, "c") if s[0] == "waiting"] == [("waiting", "loop", None, 45)]


def test_a_pickup_during_a_wait_is_held_too():
    """Who arrives while others are withheld meets an engine that could have been running."""
    late = request(
        "late", 1, arrived=310, tokenized=311, dispatched=312, received=316, queued=317,
        selected=350, forward_end=450, transferred=451, finished=452,
    )  # fmt: skip
    passes = [*PASSES[:2], (350, 450, {0: (50, 0, 1), 1: (50, 0, 1)})]
    run = make_run(passes, [A, B, C, late], delayer=True)
    assert ("pickup", "delayer", None, 4) in stages_of(run, "late")


def test_a_forward_is_cut_at_its_chunks():
    """Each chunk leads to the iteration that computed it."""
    long = request(
        "long", 0, tokens=150, arrived=0, tokenized=1, dispatched=2, received=3, queued=4,
        selected=5, forward_end=205, transferred=206, finished=207,
    )  # fmt: skip
    run = make_run([(5, 105, {0: (100, 50, 1)}), (105, 205, {0: (50, 0, 1)})], [long])
    chunks = [s for s in stages_of(run, "long") if s[0] == "forward"]
    assert chunks == [("forward", None, 0, 100), ("forward", None, 1, 100)]


def test_what_is_missing_is_named():
    """A time that no source knows is no zero: its stretch is unknown and says what it lacks."""
    bare = request("bare", 0, arrived=0, selected=10, forward_end=110, finished=115)
    run = make_run(PASSES[:1], [bare])
    rows = run.stages.select("stage", "note").rows()
    assert rows == [
        ("unknown", "not known: tokenized, dispatched, received, queued"), ("forward", None),
        ("transfer", "with the answer, which is not told apart"),
    ]  # fmt: skip


def test_time_statistics_alone_infer_the_end_of_the_forward():
    """The log's statistics lump forward and transfer; the report of the pass parts them."""
    stats = request(
        "s", 0, source="scheduler_log", received=3, bootstrapped=4, queued=5, selected=10,
        transferred=118, finished=118,
    )  # fmt: skip
    run = make_run(PASSES[:1], [stats], delayer=False)
    assert stages_of(run, "s")[2:] == [("forward", None, 0, 100), ("transfer", None, None, 8)]
    assert run.stages.filter(stage="forward")["is_estimated"].item()


def test_a_client_whose_clock_is_wrong_says_nothing():
    """An answer read before it was given is of another clock, so the client's ends are left out."""
    odd = {**A, "sent": A["arrived"] + 5 * MS}
    stages = [s[0] for s in stages_of(make_run(PASSES[:1], [odd], delayer=False), "a")]
    assert stages[0] == "tokenize"
    assert stages[-1] == "answer"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.lists(st.one_of(st.none(), st.integers(0, 600)), min_size=12, max_size=12),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([True, False, None]),
)
def test_stages_sum_to_the_time_of_the_request(told, delayer):
    """Whatever times are known, in whatever order: the stretches join, and sum to the whole."""
    rows = []
    for k, (rank, stamps) in enumerate(told):
        known = {n: s for n, s in zip(STAMPS, stamps, strict=True) if s is not None}
        rows.append(request(f"r{k}", rank, **known))
    run = make_run(PASSES, rows, delayer=delayer, decisions=[decision(349, 0, "wait_timeout")])
    for _, rows_of_one in run.stages.group_by("request"):
        mine = rows_of_one.sort("start", maintain_order=True)
        start = mine["start"].dt.epoch("ns")
        end = start + mine["duration"].dt.total_nanoseconds()
        assert (start[1:] == end[:-1]).all()
        assert (mine["duration"].dt.total_nanoseconds() >= 0).all()
        assert mine["duration"].dt.total_nanoseconds().sum() == end[-1] - start[0]


def test_a_chunk_without_a_report_takes_no_time():
    """A recording that lacks the times of some passes gave stretches of centuries."""
    rows = {
        "request": [0],
        "column": [stages.FORWARD_END],
        "start": [100],
        "end": [400],
        "pass": [-1],
    }
    passes = SimpleNamespace(report=np.array([200.0, np.nan, 300.0, 400.0]))
    links = pl.DataFrame({"first": [0], "last": [3]})
    cut = stages._cut_chunks({k: np.array(v) for k, v in rows.items()}, passes, links)
    assert cut["start"].tolist() == [100, 200, 200, 300]
    assert cut["end"].tolist() == [200, 200, 300, 400]
    passes.report[0] = np.nan
    cut = stages._cut_chunks({k: np.array(v) for k, v in rows.items()}, passes, links)
    assert cut["end"].tolist() == [100, 100, 300, 400]
