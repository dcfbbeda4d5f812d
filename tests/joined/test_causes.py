"""Causes: why each idle rank pass was idle."""

from __future__ import annotations

import dataclasses

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pdtrace.joined.breakdown import count_causes
from tests.joined.made import causes_of, make_run, request

FIRST = request("a", 0, arrived=0, received=4, queued=5, selected=10, forward_end=110, finished=115)
ALONE = [(10, 110, {0: (50, 0, 1)}), (120, 220, {1: (50, 0, 1)})]


def second(**stamps):
    """The request of rank 1 that is selected at 120."""
    return request("b", 1, selected=120, forward_end=220, finished=225, **stamps)


def cause_of_first(**stamps):
    """Why rank 1 idled in the first iteration, by when its request came."""
    return causes_of(make_run(ALONE, [FIRST, second(**stamps)], delayer=False))[0, 1]


def test_nothing_had_arrived():
    """No request before the selection: nothing; one that comes during the pass is a near miss."""
    assert cause_of_first(arrived=112, received=114, queued=115) == ("nothing_arrived", None)
    assert cause_of_first(arrived=20, received=112, queued=115) == (
        "nothing_arrived", "arrived_while_running",
    )  # fmt: skip


def test_not_yet_eligible():
    """Arrived before the selection, but not far enough to be selected with it."""
    kind = "not_yet_eligible"
    assert cause_of_first(arrived=9, received=112, queued=115) == (kind, "arrived_after_selection")
    assert cause_of_first(arrived=5, received=8, queued=115) == (kind, "in_bootstrap")
    assert cause_of_first(arrived=5, received=8, queued=9) == (kind, "not_selected")


def test_held_by_the_delayer():
    """In the queue, the delayer on, and still idle beside a new prompt: withheld."""
    rows = [FIRST, second(arrived=5, received=8, queued=9)]
    assert causes_of(make_run(ALONE, rows, delayer=True))[0, 1] == ("held_by_delayer", None)


def test_another_rank_in_the_middle_of_a_prompt():
    """A chunk goes on without asking: the pass beside it is its doing, whatever waited here."""
    long = request(
        "long", 0, tokens=250, arrived=0, received=3, queued=4, selected=5, forward_end=305,
        finished=306,
    )  # fmt: skip
    passes = [
        (5, 105, {0: (100, 150, 1)}), (105, 205, {0: (100, 50, 1)}), (205, 305, {0: (50, 0, 1)}),
        (400, 500, {1: (50, 0, 1)}),
    ]  # fmt: skip
    late = request(
        "b", 1, arrived=150, received=170, queued=180, selected=400, forward_end=500, finished=505
    )
    found = causes_of(make_run(passes, [long, late], delayer=True, cuts=(1, 2)))
    assert found == {
        (0, 1): ("nothing_arrived", None),
        (1, 1): ("other_rank_mid_chunk", "nothing_arrived"),
        (2, 1): ("other_rank_mid_chunk", "withheld"),
        (3, 0): ("nothing_arrived", None),
    }


def test_a_rank_that_may_not_have_idled_has_no_cause():
    """Of a rank whose role is unknown nothing is claimed."""
    run = make_run(ALONE, [FIRST, second(arrived=20, received=112, queued=115)])
    (part,) = run
    unknown = part.iterations.with_columns(
        num_idle_ranks=pl.lit(0, pl.UInt16), num_unknown_ranks=pl.lit(1, pl.UInt16)
    )
    blind = dataclasses.replace(part, iterations=unknown).rank_passes
    assert "unknown" in blind["role"].cast(pl.String).to_list()
    assert blind["cause"].null_count() == blind.height


def test_what_is_not_known_is_unknown():
    """A batch whose requests no source names, and a client's request that left no trace."""
    assert causes_of(make_run(ALONE, [FIRST]))[0, 1] == ("unknown", None)
    lost = request("x", 1, source="client_log", status="failed", sent=0, received=0, answered=90)
    rows = [FIRST, second(arrived=112, received=114, queued=115), lost]
    assert causes_of(make_run(ALONE, rows, delayer=False))[0, 1] == ("unknown", None)


def test_a_log_alone_tells_chunks_from_the_rest():
    """Without requests only the tokens left pending say that a prompt went on."""
    passes = [(5, 105, {0: (100, 50, 1)}), (105, 205, {0: (50, 0, 1)})]
    for cuts in ((), (1,)):
        table = count_causes(make_run(passes, [], cuts=cuts))
        assert dict(table.select("cause", "num_passes").iter_rows()) == {
            "other_rank_mid_chunk": 1, "unknown": 1,
        }  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 900)), max_size=8),
    st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=1, max_size=8),
    st.booleans(),
)
def test_every_idle_pass_has_one_cause(arrivals, widths, delayer):
    """The counts sum to the idle rank passes and the shares to one, unknown included."""
    passes = [
        (100 * k, 100 * k + 90, dict.fromkeys(ranks, (50, 0, 1))) for k, ranks in enumerate(widths)
    ]
    rows = [
        request(
            f"r{k}", rank, arrived=t, received=t + 2, queued=t + 3, selected=t + 5,
            forward_end=t + 60, finished=t + 61,
        )
        for k, (rank, t) in enumerate(arrivals)
    ]  # fmt: skip
    run = make_run(passes, rows, delayer=delayer, dp_size=3)
    idle = sum(3 - len(w) for w in widths)
    if rows:
        assert len(causes_of(run)) == idle
        assert all(cause is not None for cause, _ in causes_of(run).values())
    table = count_causes(run)
    assert table["num_passes"].sum() == idle
    assert not idle or abs(table["share"].sum() - 1) < 1e-9
    busy = run.rank_passes.filter(pl.col("role").cast(pl.String) != "idle")
    assert busy["cause"].null_count() == busy.height
