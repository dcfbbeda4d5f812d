"""No result is written onto what it is made from, whatever the command and however it is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pdtrace.__main__ import main

RECORDED = Path(__file__).parent.parent.parent / "sample_logs" / "h100x2-on"


@pytest.fixture
def run(tmp_path):
    """A run directory that may be lost, and one of its files by a link."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(RECORDED / "server.log", folder)
    kept = tmp_path / "kept.jsonl"
    kept.write_text('{"rid": "a", "phase": "x", "t0": 1780000000.0, "t1": 1780000001.0}\n')
    (folder / "client.jsonl").symlink_to(kept)
    return folder


def read_all(folder: Path) -> dict[Path, bytes]:
    """Every file below a directory."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def words(text: str, run: Path, target: str) -> list[str]:
    """A command line with the run and the output filled in."""
    return [word.format(run=run, out=target) for word in text.split()]


COMMANDS = (
    "analyze {run} --json {out}",
    "analyze {run} --html {out}",
    "analyze {run} --markdown {out}",
    "export iterations {run} -o {out}",
    "export perfetto {run} -o {out}",
    "compare {run} {run} --json {out}",
    "compare {run} {run} --html {out}",
    "compare {run} {run} --markdown {out}",
    "whatif {run} --max-delay-passes 30 --json {out}",
    "whatif {run} --max-delay-passes 30 --html {out}",
    "tune {run} --json {out}",
    "tune {run} --html {out}",
    "dashboard {run} -o {out}",
    "dashboard {run} --figure timeline --png {out}",
    "dashboard {run} --figure timeline --svg {out}",
    "check {run} num_iterations>=1 --json {out}",
    "check {run} num_iterations>=1 --sarif {out}",
    "load http://127.0.0.1:9 --replay {run} --json {out}",
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("read", ["file", "directory"])
def test_a_recording_is_never_replaced(run, command, read, capsys):
    """Guards the recording, which cannot be made again, against one wrong word."""
    before = read_all(run.parent)
    target = str(run / "server.log")
    path = target if read == "file" else run
    assert main(words(command, path, target)) == 2
    err = capsys.readouterr().err
    assert err.endswith(f"would replace {target}, which is read\n")
    assert err.count("\n") == 1
    assert read_all(run.parent) == before


@pytest.mark.parametrize("name", ["kept.jsonl", "run/client.jsonl", "other/../run/server.log"])
def test_links_and_detours_are_followed(run, name, capsys):
    """Guards files that lie elsewhere and are read by a link, and other names of one file."""
    (run.parent / "other").mkdir()
    before = read_all(run.parent)
    assert main(["analyze", str(run), "--json", str(run.parent / name)]) == 2
    assert "which is read" in capsys.readouterr().err
    assert read_all(run.parent) == before


def test_results_may_lie_in_the_run_directory(run, capsys):
    """A report beside its log is where people put it, and a second one takes its place."""
    (run / "notes.txt").write_text("mine")
    for name in ("summary.json", "summary.json", "notes.txt", "/dev/null"):
        assert main(["analyze", str(run), "--json", str(run / name)]) == 0, capsys.readouterr().err


def test_a_saved_run_is_never_replaced(run, tmp_path, capsys):
    """Every file of a saved run is read, its tables too."""
    saved = tmp_path / "saved"
    assert main(["analyze", str(run), "--save", str(saved)]) == 0
    table = saved / "parts" / "00000-events.parquet"
    before = table.read_bytes()
    assert main(["export", "events", str(saved), "-o", str(table)]) == 2
    assert "which is read" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_a_directory_is_not_replaced_around_its_input(run, tmp_path, capsys):
    """A log kept in the directory of an earlier saved run would vanish with it."""
    saved = tmp_path / "saved"
    assert main(["analyze", str(run), "--save", str(saved)]) == 0
    log = saved / "server.log"
    shutil.copy(run / "server.log", log)
    capsys.readouterr()
    assert main(["analyze", str(log), "--save", str(saved)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert log.exists()
    assert main(["simulate", "--like", str(run), "-o", str(run), "--force"]) == 2
    assert "would replace what is read there" in capsys.readouterr().err


def test_two_outputs_are_two_files(run, tmp_path, capsys):
    """The second would silently take the place of the first."""
    target = str(tmp_path / "out")
    assert main(["analyze", str(run), "--json", target, "--html", target]) == 2
    assert capsys.readouterr().err.endswith(f"would replace {target}, which --json writes\n")
    assert not Path(target).exists()


def test_a_page_is_not_drawn_onto_its_own_description(run, tmp_path, capsys):
    """A page's TOML is written by hand."""
    page = tmp_path / "mine.toml"
    shutil.copy(RECORDED.parent.parent / "dashboards" / "overview.toml", page)
    before = page.read_bytes()
    assert main(["dashboard", str(run), "--page", str(page), "-o", str(page)]) == 2
    assert capsys.readouterr().err.endswith(f"would replace {page}, which is read\n")
    assert page.read_bytes() == before
