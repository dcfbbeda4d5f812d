"""Finding the blocks of one run in another, whatever happened to some requests."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pdtrace.check.cutting import NOWHERE, cut_passes, cut_requests, find_blocks, find_pass_blocks
from pdtrace.compare.matching import Requests, read_requests
from pdtrace.compare.passes import read_passes
from tests.check.recorded import load


def make_requests(rids: list[str], tokens: list[float]) -> Requests:
    """Requests sent 50 ms apart."""
    n = len(rids)
    sent = np.arange(n) * 0.05
    nothing = np.full(n, np.nan)
    return Requests(
        rids, np.array(tokens, np.float64), nothing, sent, sent + 1, nothing, nothing, nothing,
        nothing, nothing, sent, sent + 1, np.ones(n, np.bool_), 0,
    )  # fmt: skip


@given(
    st.integers(1, 3),
    st.lists(st.integers(1, 4000), min_size=20, max_size=120),
    st.lists(st.integers(0, 119), max_size=5, unique=True),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_a_lost_request_costs_its_block_alone(num_phases, tokens, lost, is_renamed):
    """One refused prompt must not shift all later ones, nor another order of ids undo the match."""
    rids = [f"p{chr(97 + i * num_phases // len(tokens))}-{i}" for i in range(len(tokens))]
    whole = make_requests(rids, [float(t) for t in tokens])
    workload = cut_requests(whole)
    blocks = find_blocks(whole, workload)
    assert (blocks != NOWHERE).all()
    assert (np.bincount(blocks) == workload.requests).all()
    gone = {i for i in lost if i < len(tokens)}
    keep = np.array([i for i in range(len(tokens)) if i not in gone])
    rest = whole.take(keep)
    if is_renamed:
        names = [f"{r.partition('-')[0]}-again-{i}" for i, r in enumerate(rest.rid)]
        rest = make_requests(names, rest.tokens.tolist())
    found = find_blocks(rest, workload)
    for block in np.unique(found[found != NOWHERE]):
        mine = rest.tokens[found == block]
        assert len(mine) == workload.requests[block]
        assert mine.sum() == workload.tokens[block]
    num_lost = workload.num_blocks - len(np.unique(found[found != NOWHERE]))
    assert num_lost <= 2 * len(gone)


def test_ids_without_phases_are_one_phase():
    """Most load clients name requests by random numbers."""
    rng = np.random.default_rng(0)
    names = [rng.bytes(16).hex() for _ in range(50)]
    other = [rng.bytes(16).hex() for _ in range(50)]
    tokens = rng.integers(10, 4000, 50).astype(float).tolist()
    workload = cut_requests(make_requests(names, tokens))
    assert list(workload.cells) == [""]
    found = find_blocks(make_requests(other, tokens), workload)
    assert (np.bincount(found) == workload.requests).all()


def test_simultaneous_requests_stay_together():
    """A block that ended inside a group would split its fused iterations."""
    requests = read_requests(load("h100x2-on"))
    blocks = find_blocks(requests, cut_requests(requests))
    gaps = np.diff(requests.begin)
    ends = np.flatnonzero(np.diff(blocks))
    assert gaps[ends].min() > 0.015


def test_passes_without_requests_are_found_by_tokens():
    """A bare log names no request; off and on compute the same tokens between the same pauses."""
    on, off = (read_passes(load(n)) for n in ("h100x2-on", "h100x2-off"))
    workload = cut_passes(on)
    mine = find_pass_blocks(on, workload)
    assert (mine[on.width > 0] >= 0).all()
    other = find_pass_blocks(off, workload)
    found = np.unique(other[other >= 0])
    assert len(found) >= 0.5 * workload.num_blocks
    sums = np.bincount(other[other >= 0], weights=off.tokens[other >= 0])
    assert np.allclose(sums[found], workload.tokens[found], rtol=0.03)
