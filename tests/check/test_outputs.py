"""Where a check's result goes: every named file, standard output, and errors too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pdtrace.__main__ import main
from pdtrace.check.outputs import CHECKOUT_VARIABLES

ROOT = Path(__file__).parent.parent.parent
OFF, ON = (str(ROOT / "sample_logs" / name / "server.log") for name in ("h100x2-off", "h100x2-on"))
RULE = "idle_rank_pass_ratio<=0.3"
FILES = ("junit", "json", "html", "markdown", "sarif", "code-quality")


@pytest.fixture(autouse=True)
def outside_of_github(monkeypatch):
    """The project's own CI must not get these annotations into its summary."""
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", *CHECKOUT_VARIABLES):
        monkeypatch.delenv(name, raising=False)


def name_all(folder: Path) -> list[str]:
    """Options that name a file of each kind."""
    return [f"--{kind}={folder / kind}" for kind in FILES]


def test_all_files_say_the_same(tmp_path, capsys):
    """Whichever file a CI system reads, the verdict and the line to look at are those printed."""
    assert main(["check", OFF, RULE, *name_all(tmp_path)]) == 1
    place = re.search(r"look at +(\S+server\.log:\d+) ", capsys.readouterr().out)
    assert place
    for kind in FILES:
        text = (tmp_path / kind).read_text(encoding="utf-8").replace("\\_", "_")
        assert "39.0 %" in text or '"value": 0.3' in text, kind
        assert place[1].partition("sample_logs")[2].rpartition(":")[0] in text, kind
        assert place[1].rpartition(":")[2] in text, kind


@pytest.mark.parametrize("kind", FILES)
def test_standard_output_in_place_of_the_report(kind, capsys):
    """A pipe gets the document alone."""
    assert main(["check", ON, RULE, f"--{kind}=-"]) == 0
    out = capsys.readouterr().out
    assert "Passed" not in out.splitlines()[0]
    if kind in ("json", "sarif", "code-quality"):
        json.loads(out)
    elif kind == "junit":
        ET.fromstring(out.encode())


@pytest.mark.parametrize("args", [["--json=-", "--junit=-"], ["--github", "--json=-"]])
def test_two_texts_on_standard_output_are_refused(args, capsys):
    """Mixed, neither could be read; and it is said before anything is read."""
    assert main(["check", "no-such-log", RULE, *args]) == 2
    assert "standard output" in capsys.readouterr().err


def test_unreadable_run_replaces_what_an_earlier_one_left(tmp_path, capsys):
    """The green document of yesterday beside a check that could not be made is a false pass."""
    assert main(["check", ON, RULE, *name_all(tmp_path)]) == 0
    assert main(["check", str(tmp_path / "gone"), RULE, *name_all(tmp_path)]) == 2
    assert "gone" in capsys.readouterr().err
    for kind in FILES:
        assert "gone" in (tmp_path / kind).read_text(encoding="utf-8"), kind
    suite = ET.parse(tmp_path / "junit").find("testsuite")
    assert suite is not None
    assert suite.get("errors") == "1"
    told = json.loads((tmp_path / "json").read_text(encoding="utf-8"))
    assert (told["verdict"], told["exit_code"]) == ("unmeasured", 2)


def test_bad_rule_is_an_error_in_every_file(tmp_path):
    """A typing error in a rule must not leave a document that says nothing is wrong."""
    assert main(["check", ON, "--rule", "no_such_metric<=1", *name_all(tmp_path)]) == 2
    assert "no_such_metric" in (tmp_path / "junit").read_text(encoding="utf-8")


def test_internal_error_leaves_no_green_document(tmp_path, monkeypatch, capsys):
    """A defect of pdtrace itself must not look like the pass of an earlier run."""
    assert main(["check", ON, RULE, *name_all(tmp_path)]) == 0

    def fail(*_args: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr("pdtrace.exports.strip.find_worst_stretch", fail)
    assert main(["check", ON, RULE, *name_all(tmp_path)]) == 2
    for kind in FILES:
        assert "a defect" in (tmp_path / kind).read_text(encoding="utf-8"), kind
    assert "internal error" in capsys.readouterr().err


def test_paths_are_relative_to_gitlabs_checkout(tmp_path, monkeypatch):
    """GitLab names its checkout by another variable, and links only paths below it."""
    monkeypatch.setenv("CI_PROJECT_DIR", str(ROOT))
    assert main(["check", OFF, RULE, "--code-quality", str(tmp_path / "q.json")]) == 1
    (entry,) = json.loads((tmp_path / "q.json").read_text(encoding="utf-8"))
    assert entry["location"]["path"] == "sample_logs/h100x2-off/server.log"


def test_what_was_not_judged_is_one_line_on_standard_error(capsys):
    """The exit code alone does not say why; scripts show standard error."""
    assert main(["check", ON, "num_delay_passes<=1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pdtrace: NOT JUDGED (not measured): ")
    assert "num_delay_passes" in line


def test_github_without_a_runner_prints_annotations(capsys):
    """On a developer's machine the option shows what the runner would get."""
    assert main(["check", OFF, RULE, "--github"]) == 1
    assert "\n::error file=" in capsys.readouterr().out


def test_an_unreadable_run_is_named_without_its_rules(tmp_path):
    """A code-scanning view that is given a rule's text as a file shows the finding nowhere."""
    decode = str(ROOT / "sample_logs" / "h100x2-decode")
    on = str(ROOT / "sample_logs" / "h100x2-on")
    assert main(["check", on, decode, RULE, *name_all(tmp_path)]) == 2
    told = json.loads((tmp_path / "json").read_text(encoding="utf-8"))
    assert sorted(run["name"] for run in told["runs"]) == sorted([decode, on])
    (result,) = json.loads((tmp_path / "sarif").read_text(encoding="utf-8"))["runs"][0]["results"]
    where = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert where.endswith("sample_logs/h100x2-decode")
    for kind in FILES:
        assert "<=0.3" not in (tmp_path / kind).read_text(encoding="utf-8"), kind
