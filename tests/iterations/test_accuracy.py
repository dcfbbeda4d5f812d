"""How exactly iterations are rebuilt from logs that say less than the recorded ones.

The README's table of accuracy states these bounds.
"""

from __future__ import annotations

import gzip
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

import pdtrace
from tests.iterations.score import Score, measure_calibration_error, score_run
from tests.iterations.strip import strip_log

SAMPLES = Path(__file__).parents[2] / "sample_logs"
RUNS = sorted(p.parent.name for p in SAMPLES.glob("*/truth.json"))
LABELLED = {"label": True, "milliseconds": True, "time_stats": True}
MS_STATS = {"label": False, "milliseconds": True, "time_stats": True}
S_STATS = {"label": False, "milliseconds": False, "time_stats": True}
MS = {"label": False, "milliseconds": True, "time_stats": False}
S = {"label": False, "milliseconds": False, "time_stats": False}
VARIANTS = {"label": LABELLED, "ms+stats": MS_STATS, "s+stats": S_STATS, "ms": MS, "s": S}
LEAST = {"label": 1.0, "ms+stats": 0.995, "s+stats": 0.995, "ms": 0.96, "s": 0.96}


def read_log(name: str) -> str:
    """The server log of a sample, however it is compressed."""
    (path,) = (SAMPLES / name).glob("server.log*")
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    return data.decode("utf-8", "replace")


def find_lines(lines: list[str], iterations: list[dict[str, Any]]) -> list[int]:
    """Numbers of the lines of these iterations and of what lies between, and of the arguments."""
    mine = {r["line"] for i in iterations for r in i["ranks"].values()}
    between = range(min(mine), max(mine) + 1)
    return [
        number
        for number, line in enumerate(lines, 1)
        if number in mine
        or "server_args=" in line
        or (number in between and "Prefill batch" not in line)
    ]


@pytest.fixture(scope="module")
def rebuild(tmp_path_factory: pytest.TempPathFactory):
    """Strip a sample's log, rebuild its iterations, score them; once for each."""

    @cache
    def run(name: str, variant: str, only: tuple[int, int] | None = None) -> Score:
        truth = json.loads((SAMPLES / name / "truth.json").read_text(encoding="utf-8"))
        lines = read_log(name).splitlines(keepends=True)
        numbers = list(range(1, len(lines) + 1))
        if only is not None:
            truth["iterations"] = truth["iterations"][slice(*only)]
            numbers = find_lines(lines, truth["iterations"])
        kept = strip_log([lines[n - 1] for n in numbers], **VARIANTS[variant])
        old_line = {new: numbers[old - 1] for new, old in kept.old_line.items()}
        path = tmp_path_factory.mktemp("stripped") / "server.log"
        path.write_text(kept.text, encoding="utf-8")
        return score_run(pdtrace.load(path), truth, old_line)

    return run


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", RUNS)
def test_share_of_exact_iterations(rebuild, name, variant):
    """Every recording is rebuilt from every kind of log at least as exactly as promised."""
    assert rebuild(name, variant).exact >= LEAST[variant]


@pytest.mark.parametrize("variant", ["ms+stats", "s+stats"])
def test_ranks_that_take_turns_do_not_run_together(rebuild, variant):
    """Selection times tell pairs of which each rank runs alone from pairs that share a pass.

    No rank runs twice in a row there, so no gap of one rank tells how long a pass is.
    """
    assert rebuild("h100x2-off", variant, (0, 50)).exact >= 0.995


def test_nothing_is_reported_of_a_pass_before_all_ranks_selected(rebuild):
    """Eight ranks that run alone in turn: what a rank selects after a report is another pass."""
    assert rebuild("cpu-dp8-off", "ms+stats", (134, 184)).exact >= 0.98


def test_turns_that_the_times_cannot_tell_are_doubted(rebuild):
    """Ranks in turn look like ranks together at half the rate: confidence and a warning say so."""
    turns = rebuild("h100x2-off", "ms", (7, 31))
    assert turns.confidence.max() <= 0.5
    assert sum("take turns" in text for text in turns.warnings) == 1


def test_passes_that_ranks_share_are_not_doubted(rebuild):
    """The same prompts with the ranks held together: the times tell, and no warning is given."""
    shared = rebuild("h100x2-on", "ms", (4, 16))
    assert shared.exact == 1
    assert shared.confidence.min() >= 0.95
    assert not any("take turns" in text for text in shared.warnings)


@pytest.mark.parametrize("variant", ["ms", "s"])
def test_mean_share_without_time_stats(rebuild, variant):
    """Without labels and time stats, 98 of 100 iterations are exact on average of recordings."""
    assert np.mean([rebuild(name, variant).exact for name in RUNS]) >= 0.98


@pytest.mark.parametrize("variant", ["ms+stats", "s+stats", "ms", "s"])
def test_confidence_is_calibrated(rebuild, variant):
    """An iteration with confidence p is right with probability p, within 0.02 on average."""
    scores = [rebuild(name, variant) for name in RUNS]
    confidence = np.concatenate([s.confidence for s in scores])
    is_right = np.concatenate([s.is_right for s in scores])
    assert measure_calibration_error(confidence, is_right) <= 0.02


@pytest.mark.parametrize("variant", ["ms", "s"])
def test_high_confidence_is_deserved(rebuild, variant):
    """Of the iterations with confidence 0.99 and more, at least 98 in 100 are right."""
    scores = [rebuild(name, variant) for name in RUNS]
    confidence = np.concatenate([s.confidence for s in scores])
    is_right = np.concatenate([s.is_right for s in scores])
    assert is_right[confidence >= 0.99].mean() >= 0.98


def test_few_whole_seconds_earn_little_confidence(rebuild):
    """Logs of six iterations bound their ranks poorly: what is still sure of itself is right."""
    scores = [rebuild(name, "s", (k, k + 6)) for name in RUNS for k in range(20, 90, 10)]
    confidence = np.concatenate([s.confidence for s in scores])
    is_right = np.concatenate([s.is_right for s in scores])
    sure = confidence >= 0.9
    assert sure.sum() >= 20
    assert is_right[sure].mean() >= 0.93


def test_calibration_error_is_what_it_says():
    """A measure that were always small would let any confidence pass."""
    sure = np.full(100, 0.75)
    assert measure_calibration_error(sure, np.arange(100) < 75) < 1e-9
    assert abs(measure_calibration_error(sure, np.arange(100) < 50) - 0.25) < 1e-9
    assert measure_calibration_error(np.ones(10), np.ones(10, bool)) == 0
