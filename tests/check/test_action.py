"""The GitHub action and the CI examples: valid, safe, and run step by step as a runner would."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from ruamel.yaml import YAML

from pdtrace.__main__ import build_parser, main
from tests.check.runner import ACTION, ROOT, Job, read_action, run_action

EXAMPLES = ROOT / "examples" / "ci"
OFF, ON = (ROOT / "sample_logs" / name / "server.log" for name in ("h100x2-off", "h100x2-on"))
RULE = "idle_rank_pass_ratio<=0.3"


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("github-actions", ACTION),
        ("github-workflows", EXAMPLES / "github-workflow.yml"),
        ("gitlab-ci", EXAMPLES / "gitlab-ci.yml"),
    ],
    ids=["action", "workflow", "gitlab"],
)
def test_file_is_valid(schema, file):
    """A key that GitHub or GitLab does not know stops the pipeline before anything is judged."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", ["README.md", "docs/ci.md"])
def test_shown_workflow_is_the_example(page):
    """Two versions of the ten lines that people copy would drift apart."""
    text = (ROOT / page).read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    whole = YAML(typ="safe").load((EXAMPLES / "github-workflow.yml").read_text(encoding="utf-8"))
    assert YAML(typ="safe").load(shown)["jobs"] == whole["jobs"]


def test_example_names_inputs_that_the_action_has():
    """GitHub only warns of an input with a typing error, and the gate would judge by nothing."""
    whole = YAML(typ="safe").load((EXAMPLES / "github-workflow.yml").read_text(encoding="utf-8"))
    (step,) = [s for s in whole["jobs"]["fusion"]["steps"] if "pdtrace@" in s.get("uses", "")]
    assert step["with"].keys() <= read_action()["inputs"].keys()


def test_gitlab_example_names_options_that_exist():
    """The example is copied as it is."""
    jobs = YAML(typ="safe").load((EXAMPLES / "gitlab-ci.yml").read_text(encoding="utf-8"))
    (command,) = [c for c in jobs["fusion-gate"]["script"] if c.startswith("pdtrace ")]
    args = build_parser().parse_args(command.split()[1:])
    reports = jobs["fusion-gate"]["artifacts"]["reports"]
    assert (args.junit, args.code_quality) == (reports["junit"], reports["codequality"])
    assert [args.html] == jobs["fusion-gate"]["artifacts"]["paths"]


def test_no_script_holds_an_expression():
    """An input that becomes part of a script's text can run commands."""
    for step in read_action()["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


def test_used_actions_are_pinned_by_major_version():
    """An unpinned action can change under a gate that is trusted."""
    uses = [step["uses"] for step in read_action()["runs"]["steps"] if "uses" in step]
    assert uses
    for name in uses:
        assert re.fullmatch(r"actions/[\w-]+@v\d+", name)


@pytest.fixture(scope="module")
def failing(tmp_path_factory) -> Job:
    """The action on a run without the delayer, by a rule that it breaks."""
    folder = tmp_path_factory.mktemp("failing")
    (folder / "workspace").mkdir()
    shutil.copy(OFF, folder / "workspace" / "server.log")
    return run_action(folder, path="server.log", rule=RULE)


def test_failing_run_fails_the_step(failing):
    """The red cross: nothing else stops a merge."""
    assert failing.outcome == "failure"
    assert failing.outputs["verdict"] == "fail"
    assert failing.outputs["exit-code"] == "1"


def test_failing_run_uploads_its_page(failing):
    """The page is needed when the gate fails, which is when later steps are skipped by default."""
    ((name, told),) = failing.uses
    assert name.startswith("actions/upload-artifact@")
    assert told["name"] == "pdtrace-check"
    folder = Path(told["path"])
    assert {p.name for p in folder.iterdir()} == {"check.html", "check.json", "junit.xml"}
    assert failing.outputs["page"] == str(folder / "check.html")


def test_failing_run_is_annotated_and_summarised(failing):
    """Metric, value, rule and log line stand where the developer looks first."""
    (line,) = [x for x in failing.log.splitlines() if x.startswith("::error")]
    assert re.match(r"::error file=server\.log,line=\d+,title=", line)
    for part in ("idle_rank_pass_ratio", RULE):
        assert part in line
        assert part.replace("_", "\\_").replace("<", "&lt;") in failing.summary
    assert failing.summary.startswith("\n## ❌ pdtrace check")


def test_report_is_printed_where_commands_are_off(failing):
    """The log shows the report too, and nothing in it is obeyed."""
    first = failing.log.splitlines()[0]
    assert first.startswith("::stop-commands::")
    assert "FAILED" in failing.log
    assert f"\n::{first.removeprefix('::stop-commands::')}::\n" in failing.log


def test_passing_run_passes(tmp_path):
    """A gate that cannot be green would be removed."""
    job = run_action(tmp_path, path=str(ON), rule=f"{RULE}\n\n  fusion_width_mean>=1.5  \n")
    assert job.outcome == "success", job.errors
    assert (job.outputs["verdict"], job.outputs["exit-code"]) == ("pass", "0")
    assert "::error" not in job.log
    told = json.loads((Path(job.outputs["results"]) / "check.json").read_text(encoding="utf-8"))
    assert [f["rule"] for f in told["findings"]] == [RULE, "fusion_width_mean>=1.5"]


def test_pdtrace_is_installed_from_the_action(tmp_path):
    """What runs must be the version that the workflow names, apart from the job's own packages."""
    run_action(tmp_path, path="none", rule=RULE)
    told = (tmp_path / "temp" / "pdtrace-venv" / "bin" / "pip-arguments").read_text().splitlines()
    assert told[:3] == ["-m", "pip", "install"]
    assert told[-1] == f"{ROOT}[otel,fpm]"


def test_unreadable_recording_is_an_error_everywhere(tmp_path):
    """A job whose engine never started must be red, say why, and leave no green document."""
    job = run_action(tmp_path, path="no-such-recording", rule=RULE)
    assert job.outcome == "failure"
    assert (job.outputs["verdict"], job.outputs["exit-code"]) == ("unmeasured", "2")
    (line,) = [x for x in job.log.splitlines() if x.startswith("::error")]
    assert "no-such-recording" in line
    assert "no-such-recording" in job.summary
    junit = ET.parse(Path(job.outputs["results"]) / "junit.xml")
    assert [e.get("errors") for e in junit.iter("testsuite")] == ["1"]


@pytest.mark.parametrize("name", ["path", "rule", "baseline", "rules", "args"])
def test_inputs_run_no_commands(name, tmp_path):
    """A pull request may choose branch names and files: none of it may become shell text."""
    given = {"path": str(ON), "rule": RULE}
    given[name] = "$(touch owned)`touch owned`\"; touch owned; #\n'; touch owned; '${IFS}"
    job = run_action(tmp_path, **given)
    assert job.outcome == "failure"
    assert not list(tmp_path.rglob("owned"))


def test_nothing_is_uploaded_without_a_name(tmp_path):
    """Two gates in a job would collide in one artifact."""
    assert not run_action(tmp_path, path="none", rule=RULE, artifact="").uses


def test_python_is_set_up_beside_the_jobs_own(tmp_path):
    """Engine developers pin their Python and its packages: the gate must not replace them."""
    job = run_action(tmp_path, path="none", rule=RULE, python_version="3.12")
    name, told = job.uses[0]
    assert name.startswith("actions/setup-python@")
    assert told == {"python-version": "3.12", "update-environment": "false"}


def test_baseline_reaches_the_check(tmp_path):
    """Against the baseline of the run with the delayer, the run without it is worse."""
    baseline = tmp_path / "baseline.json"
    on, off = str(ON.parent), str(OFF.parent)
    assert main(["check", on, "--baseline", str(baseline), "--update-baseline"]) == 0
    job = run_action(tmp_path, path=off, baseline=str(baseline))
    assert job.outputs["verdict"] == "fail"
    assert "baseline" in job.log
