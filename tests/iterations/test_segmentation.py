"""Segmentation of lines without labels: right on engines whose truth is known, in any order."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from pdtrace.iterations import segmentation
from pdtrace.iterations.segmentation import Lines, segment
from tests.iterations.lockstep import run_engine


def as_lines(rows, selection=None):
    """Rows of ``run_engine`` as the segmentation takes them."""
    n = len(rows)
    return Lines(
        np.array([r[0] for r in rows]),
        np.array([r[1] for r in rows]),
        np.array([r[2] for r in rows]),
        np.zeros(n, bool),
        np.full(n, np.nan) if selection is None else selection,
        np.zeros(n),
    )


def exact_share(rows, found):
    """Share of true iterations rebuilt exactly."""
    true, built = {}, {}
    for i, (row, b) in enumerate(zip(rows, found.block.tolist(), strict=True)):
        true.setdefault(row[3], set()).add(i)
        built.setdefault(b, set()).add(i)
    got = {frozenset(s) for s in built.values()}
    return sum(frozenset(s) in got for s in true.values()) / len(true)


@pytest.mark.parametrize("num_ranks", [2, 4, 8])
@pytest.mark.parametrize("blocking", [False, True])
def test_passes_of_an_engine_are_found(num_ranks, blocking):
    """Guards the inference for both ways of reporting: at completion, and after the next launch."""
    rows = run_engine(num_ranks, 300, seed=num_ranks, blocking=blocking)
    found = segment(as_lines(rows), num_ranks)
    assert exact_share(rows, found) >= 0.95


def test_blocks_never_hold_a_rank_twice():
    """Guards the one hard rule of lock-step: a rank runs once in an iteration."""
    rows = run_engine(4, 200, seed=5)
    found = segment(as_lines(rows), 4)
    pairs = list(zip(found.block.tolist(), [r[1] for r in rows], strict=True))
    assert len(set(pairs)) == len(pairs)


def test_confidence_is_a_probability_of_being_right():
    """Guards calibration: over several engines the mean confidence is the share that is right."""
    right, confidence = [], []
    for seed in range(6):
        rows = run_engine(4, 250, seed=100 + seed, load=0.8)
        found = segment(as_lines(rows), 4)
        members = {}
        for i, b in enumerate(found.block.tolist()):
            members.setdefault(b, []).append(i)
        true = {}
        for i, row in enumerate(rows):
            true.setdefault(row[3], []).append(i)
        truth = {tuple(v) for v in true.values()}
        for b, lines in members.items():
            right.append(tuple(lines) in truth)
            confidence.append(found.confidence[b])
    assert abs(np.mean(right) - np.mean(confidence)) < 0.02


def test_selection_times_settle_what_times_cannot():
    """Guards the second source: lines 20 ms apart are told apart by selections 90 ms apart."""
    rows = run_engine(2, 200, seed=9)
    starts = {}
    for t, _, _, n in rows:
        starts[n] = min(t, starts.get(n, t))
    selection = np.array([starts[r[3]] - 0.3 for r in rows])
    found = segment(as_lines(rows, selection), 2)
    assert exact_share(rows, found) >= 0.995


def test_one_rank_needs_no_model():
    """Guards engines without data parallelism: every line is an iteration, for certain."""
    rows = run_engine(1, 20, seed=1)
    found = segment(as_lines(rows), 1)
    assert found.block.tolist() == list(range(20))
    assert set(found.confidence) == {1.0}


@pytest.mark.slow
def test_long_logs_are_cut_and_joined_without_a_seam():
    """Guards the windows of long logs: as right as short logs, no line lost or used twice."""
    rows = run_engine(4, 25_000, seed=3)
    found = segment(as_lines(rows), 4)
    assert len(found.block) == len(rows)
    assert (np.diff(found.block) >= 0).all()
    assert exact_share(rows, found) >= 0.95


def test_long_logs_learn_from_continuations(monkeypatch):
    """Guards long logs: what is left unfinished holds a rank, save where its stretch ends."""
    monkeypatch.setattr(segmentation, "LEARN_LINES", 200)
    lines = as_lines(run_engine(2, 300, seed=4))
    unfinished = replace(lines, must=np.ones(len(lines), bool))
    kept = segmentation.learning_lines(unfinished, 0.1)
    assert len(kept) == 200
    assert (~kept.must).sum() == 2 * segmentation.LEARN_STRETCHES
    assert (~kept.must[-20:]).any()


def test_long_logs_give_the_same_every_time(monkeypatch):
    """Guards the windows of a long log: worked on side by side, they must not see one another."""
    monkeypatch.setattr(segmentation, "LEARN_LINES", 200)
    monkeypatch.setattr(segmentation, "WINDOW_LINES", 40)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        lines = as_lines(run_engine(2, 2500, seed=4))
        first, *others = [segment(lines, 2).confidence.tolist() for _ in range(4)]
    finally:
        sys.setswitchinterval(before)
    assert all(x == first for x in others)
