"""The experiment of the README runs as written, and shows two iterations becoming one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulate.serving import serving

ROOT = Path(__file__).parent.parent
SCRIPT = "examples/experiment.py"


def run_experiment(*arguments):
    """What it says, and its exit code."""
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_iterations_become_one(tmp_path):
    """Rank 0 alone and the others after it, or all four at once; a third faster, as published."""
    assert f"python {SCRIPT}" in (ROOT / "README.md").read_text(encoding="utf-8")
    said = run_experiment("--repeats", "3", "-o", str(tmp_path / "out"))
    rows = re.findall(r"^  rank (\d) +([█·]+) +([█·]+)$", said, re.MULTILINE)
    assert rows == [("0", "█·", "█"), ("1", "·█", "█"), ("2", "·█", "█"), ("3", "·█", "█")]
    assert re.search(r"^  delayer off: 2 iterations in [23] of 3 repeats", said, re.MULTILINE)
    assert re.search(r"^  delayer on: 1 iteration in [23] of 3 repeats", said, re.MULTILINE)
    found = re.search(r"this model, no GPU +([\d.]+) s +([\d.]+) s +([−+]\d+) %", said)
    off, on, change = float(found[1]), float(found[2]), int(found[3].replace("−", "-"))
    assert change == pytest.approx(100 * (on / off - 1), abs=1)
    assert -50 < change < -20
    assert re.search(r"published: dp 4 on H200 +3\.023 s +1\.957 s +−35 %", said)
    assert len(re.findall(r"delayer off: sent 4 reqs in \d\.\d{3}s", said)) == 3
    assert "Passed: all 2 findings" in said
    assert (tmp_path / "out" / "comparison.html").stat().st_size > 100_000
    assert f"The page: {tmp_path}/out/comparison.html" in said


def test_engines_that_are_running_take_the_place_of_simulated_ones(tmp_path):
    """With --url nothing is started, and what the clients saw is compared."""
    options = ("--dp-size", "2", "--time-scale", "0.2")
    with (
        serving(tmp_path / "a", *options) as off,
        serving(tmp_path / "b", *options, "--enable-prefill-delayer") as on,
    ):
        options = ("--dp-size", "2", "--repeats", "2", "-o", str(tmp_path / "out"))
        said = run_experiment("--url", off.url, on.url, *options)
        about = json.loads(on.ask("/server_info")[2])
    assert about["enable_prefill_delayer"] is True
    assert re.search(r"these engines +0\.\d+ s +0\.\d+ s", said)
    assert "█" not in said
