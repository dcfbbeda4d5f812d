"""When requests are sent, where to, and how long they are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdtrace.client.arrivals import (
    draw_poisson,
    group_posts,
    plan_round,
    plan_warm_up,
    space_batch,
    space_bursts,
)
from pdtrace.client.settings import Arrivals, Lengths, LoadSettings, Prompts, Route, parse_lengths
from pdtrace.errors import UsageError


def settings(arrivals: Arrivals | None = None, **more: object) -> LoadSettings:
    """What to send."""
    return LoadSettings((), arrivals=arrivals or Arrivals(), **more)


def test_the_original_experiment():
    """Four prompts at once, one for each of four ranks, ids as the captures' clients wrote them."""
    plan = plan_round(settings(), 2, 4, 8)
    assert [r.rid for r in plan] == ["batch2-0-8", "batch2-1-9", "batch2-2-10", "batch2-3-11"]
    assert {r.phase for r in plan} == {"batch2"}
    assert [r.rank for r in plan] == [0, 1, 2, 3]
    assert {r.num_tokens for r in plan} == {8192}
    assert {r.at for r in plan} == {0.0}


@given(rate=st.floats(0.1, 1000), seed=st.integers(0, 50))
def test_poisson_gaps_are_exponential(rate, seed):
    """Mean and spread of an exponential's gaps are both 1 ÷ rate; arrivals never go back."""
    offsets = draw_poisson(4000, rate, np.random.default_rng(seed))
    gaps = np.diff(offsets, prepend=0.0)
    assert (gaps >= 0).all()
    assert gaps.mean() * rate == pytest.approx(1, abs=0.1)
    assert gaps.std() * rate == pytest.approx(1, abs=0.15)
    # neither regular nor clustered: one gap tells nothing of the next
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.1


@given(
    num=st.integers(1, 300),
    size=st.integers(1, 40),
    gap=st.floats(0, 10),
    stagger=st.floats(0, 0.1),
)
def test_bursts_are_of_one_size(num, size, gap, stagger):
    """Each burst has ``size`` requests, but for the last, and begins a gap after the one before."""
    offsets = space_bursts(num, size, gap, stagger)
    assert len(offsets) == num
    for k in range(0, num, size):
        burst = offsets[k : k + size]
        assert burst[0] == pytest.approx(k // size * gap)
        assert np.allclose(burst - burst[0], space_batch(len(burst), stagger), atol=1e-9)


def test_rank_offsets_are_added_by_rank():
    """The stagger experiment: rank 3 gets its prompt 20 ms after rank 0."""
    plan = plan_round(
        settings(Arrivals(num_requests=8, rank_offsets_s=(0.0, 0.001, 0.005, 0.02))), 0, 4, 0
    )
    at = {0: 0.0, 1: 0.001, 2: 0.005, 3: 0.02}
    assert all(r.at == at[r.rank] for r in plan)
    assert all(a.at <= b.at for a, b in pairwise(plan))
    with pytest.raises(UsageError, match="names 2 ranks"):
        plan_round(settings(Arrivals(rank_offsets_s=(0.0, 0.1))), 0, 4, 0)


def test_repeats_draw_anew_and_again_the_same():
    """Repeats that drew the same times would not be independent; a seed must give the same run."""
    wanted = settings(Arrivals("poisson", 50, rate=10.0), prompts=Prompts(Lengths((1, 9000), True)))
    first, second = plan_round(wanted, 0, 4, 0), plan_round(wanted, 1, 4, 50)
    assert first == plan_round(wanted, 0, 4, 0)
    assert [r.at for r in first] != [r.at for r in second]
    assert [r.num_tokens for r in first] != [r.num_tokens for r in second]
    assert not {r.rid for r in first} & {r.rid for r in second}
    assert {r.phase for r in first + second} == {"poisson"}


def test_lengths_in_turn_follow_the_ranks():
    """One long prompt beside three short ones, as in the uneven phase of the captures."""
    plan = plan_round(settings(prompts=Prompts(Lengths((4096, 1024)))), 0, 2, 0)
    assert [(r.rank, r.num_tokens) for r in plan] == [(0, 4096), (1, 1024), (0, 4096), (1, 1024)]


@pytest.mark.parametrize("text", ["0", "9-3", "1-2-3", "-1", "x", "", "99999999"])
def test_impossible_lengths_are_refused(text):
    """A prompt has at least one token, and a range an order."""
    with pytest.raises(ValueError, match=r"^$|invalid literal"):
        parse_lengths(text)


def test_posts_hold_what_is_sent_at_once():
    """A post is one moment: requests of different times never share one."""
    plan = plan_round(settings(Arrivals("burst", 10, burst_size=4)), 0, 2, 0)
    assert [len(post) for post in group_posts(plan, 3)] == [3, 1, 3, 1, 2]
    assert [len(post) for post in group_posts(plan, 1)] == [1] * 10


def test_warm_up_reaches_every_rank():
    """The first pass of a rank that was left out would be measured cold."""
    warm = plan_warm_up(settings(num_warm=2), 4, 100)
    assert sorted(r.rank for r in warm) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len({r.rid for r in warm}) == 8
    only = plan_warm_up(settings(num_warm=1, route=Route("rank", 2)), 4, 100)
    assert {r.rank for r in only} == {2}
