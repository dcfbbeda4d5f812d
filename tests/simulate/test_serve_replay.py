"""A served engine held against the captured one; ``benchmarks/serve.py`` does all phases."""

from __future__ import annotations

import statistics
from collections import defaultdict

import pytest

from benchmarks import serve

WITHIN = 0.10
PHASES = "seed"


@pytest.mark.slow
def test_captured_arrivals_give_the_captured_latencies(tmp_path):
    """Fitted to the run without the delayer, it is right with and without: phase by phase."""
    captured = {name: serve.read_captured(path) for name, path in serve.CAPTURES.items()}
    inputs = {name: tmp_path / name / "client.jsonl" for name in captured}
    for name, path in inputs.items():
        path.parent.mkdir()
        serve.select(serve.CAPTURES[name], PHASES, path)
    served = serve.measure_once(inputs, tmp_path, 0)
    for name, latencies in served.items():
        assert len(latencies) == 24
        phases = defaultdict(list)
        for rid, seconds in latencies.items():
            phases[serve.find_phase(rid)].append((seconds, captured[name][rid]))
        for phase, pairs in phases.items():
            own, real = (statistics.fmean(values) for values in zip(*pairs, strict=True))
            print(f"delayer {name}, {phase}: served {own:.3f} s, captured {real:.3f} s")
            assert own == pytest.approx(real, rel=WITHIN)
