"""Made runs whose changes are known, and the recorded ones, loaded once."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdtrace

ROOT = Path(__file__).parent.parent.parent
SAMPLES = ROOT / "sample_logs"

_spec = importlib.util.spec_from_file_location(
    "hand_counted", ROOT / "tests" / "metrics" / "hand_counted.py"
)
assert _spec is not None
assert _spec.loader is not None
hand = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hand)


@cache
def load_sample(name: str) -> Any:
    """A recorded run."""
    return pdtrace.load(SAMPLES / name)


@pytest.fixture
def sample() -> Any:
    """Loads a recorded run by its name."""
    return load_sample


def make_pairs(
    seconds: Any, *, fused: bool = False, prefix: str = "pair", tokens: int = 1000, **more: Any
) -> Any:
    """A run of pairs of simultaneous requests, one on each of two ranks, 10 s apart.

    Args:
        seconds: How long each pass takes, one for each pair. Fused, both requests of a pair run in
            one pass; otherwise one after the other, a pass each.
        fused: See above.
        prefix: Of the request ids.
        tokens: Of each prompt.
        **more: As ``hand_counted.build`` takes them.
    """
    grid: list[Any] = []
    requests = []
    now = 0
    for k, length in enumerate(seconds):
        ms = round(float(length) * 1000)
        passes = [{0: tokens, 1: tokens}] if fused else [{0: tokens}, {1: tokens}]
        grid += [(ms, ranks) for ranks in passes]
        for rank in (0, 1):
            start = now if fused or rank == 0 else now + ms
            end = start + ms
            requests.append(
                hand.request(
                    f"{prefix}{k}-{rank}", now, end, source="otel_spans", dp_rank=rank,
                    num_prompt_tokens=tokens, sent=hand.START + now * hand.MS,
                    arrived=hand.START + now * hand.MS,
                    answered=hand.START + end * hand.MS, selected=hand.START + start * hand.MS,
                    forward_end=hand.START + end * hand.MS,
                )
            )  # fmt: skip
        now += ms * len(passes)
        # A pass that nobody waits for fills the pause, since passes of a made run are back to back.
        grid.append((10_000, {}))
        now += 10_000
    return hand.build(grid, requests=requests, **more)


@pytest.fixture
def pairs() -> Any:
    """Builds runs of pairs of requests."""
    return make_pairs


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(7)
