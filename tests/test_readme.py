"""The README does what it says, as written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash run\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [c for b in BLOCKS for c in b.splitlines() if not c.startswith("pip install")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the samples, as a clone has them."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "sample_logs", folder / "sample_logs")
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of the README with this interpreter's pdtrace."""
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    env["PYTHONPATH"] = str(ROOT)
    line = re.sub(r"^pdtrace ", f"{sys.executable} -m pdtrace ", command)
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_run_as_written(command: str, place: Path) -> None:
    """Guards every command that a new user copies."""
    done = run(command, place)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_figures_of_the_readme_are_those_printed(place: Path) -> None:
    """Guards the numbers in the text against the program they describe."""
    off = run("pdtrace analyze sample_logs/h100x2-off/server.log", place).stdout
    on = run("pdtrace analyze sample_logs/h100x2-on/server.log", place).stdout
    assert off.startswith("78 % of 381 iterations")
    assert "40 % of rank time was idle" in off
    assert on.startswith("43 % of 277 iterations")
    assert "19 % of rank time was idle" in on


def test_python_block_runs(place: Path) -> None:
    """Guards the Python example."""
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_links_of_the_readme_lead_somewhere() -> None:
    """Guards against links to files that are not there."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        assert (ROOT / target).exists(), target


def test_data_model_is_generated_from_the_schema() -> None:
    """Guards the tables' documentation against drifting from the code."""
    from pdtrace.schema import describe_tables

    assert (ROOT / "docs/data-model.md").read_text(encoding="utf-8") == describe_tables()
