"""From the text of a log to a report, for each release's format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import pdtrace
from pdtrace.__main__ import main
from pdtrace.errors import UsageError
from pdtrace.loading import reason_for_nothing

SAMPLES = Path(__file__).parent.parent / "sample_logs"
LINES = sorted((Path(__file__).parent / "data" / "lines").glob("*.log"))


@pytest.mark.parametrize("path", LINES, ids=lambda p: p.stem)
def test_every_release_is_analyzed(path: Path, tmp_path: Path) -> None:
    """A log of each release gives a summary.

    Through 0.5.3 a log has neither labels nor milliseconds, so a few lines of it give no iteration,
    but the tokens that they print are still counted.
    """
    target = tmp_path / "summary.json"
    code = main(["analyze", str(path), "--json", str(target)])
    summary = json.loads(target.read_text())
    is_bare = path.stem in ("0.4.6.post5", "0.4.9.post6", "0.5.2", "0.5.3.post3")
    assert code == 0
    assert summary["metrics"]["num_new_tokens"]["value"] > 0
    assert (summary["metrics"]["num_iterations"]["value"] is None) == is_bare
    assert summary["run"]["files"][0]["num_lines"] > 0


def test_other_ranks_rebuild_a_saved_run(tmp_path: Path) -> None:
    """--dp-size on a saved run rebuilds its grid from the events it kept."""
    path = next(p for p in LINES if p.stem == "0.5.13")
    run = pdtrace.load(path)
    pdtrace.save_run(run, tmp_path / "saved")
    wider = pdtrace.load(tmp_path / "saved", dp_size=run.dp_size + 2)
    assert wider.dp_size == run.dp_size + 2
    assert wider.events["event_id"].equals(run.events["event_id"])
    assert reason_for_nothing(wider) is None
    assert wider.rank_passes.height == wider.iterations.height * wider.dp_size


def test_a_given_size_is_held_against_the_input() -> None:
    """A size that contradicts the engine's own settings is not taken without a word."""
    log = Path(__file__).parents[1] / "sample_logs" / "h100x2-off" / "server.log"
    assert pdtrace.load(log, dp_size=4).warnings[0] == (
        "--dp-size 4 is used, though the engine's own server_args say 2"
    )
    assert not [w for w in pdtrace.load(log, dp_size=2).warnings if "--dp-size" in w]
    with pytest.raises(UsageError, match=r"--dp-size 1: .* DP rank 1"):
        pdtrace.load(log, dp_size=1)


def test_a_damaged_file_beside_others_is_named(tmp_path: Path) -> None:
    """A log that was cut off in copying must not vanish behind the spans beside it."""
    run = tmp_path / "run"
    shutil.copytree(SAMPLES / "cpu-dp4-on", run)
    log = run / "server.log.gz"
    log.write_bytes(log.read_bytes()[:15])
    (warning,) = [w for w in pdtrace.load(run).warnings if "server.log.gz" in w]
    assert warning.startswith("left out: ")
