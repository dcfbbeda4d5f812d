"""A GitHub runner as far as a composite action needs one: steps, conditions, variables, files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent.parent
ACTION = ROOT / "action.yml"
# What the runner starts for "shell: bash".
SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail")
# The steps install pdtrace into an environment that they make with "python3 -m venv". Here that
# environment's pip only notes what it was told to install, and what "installs" is this checkout:
# tests must not need a network. That the package installs is tested by the CI script.
PYTHON_STUB = """#!/bin/bash
[[ "$1 $2" == "-m venv" ]] || exit 97
mkdir -p "$3/bin"
cat > "$3/bin/python" <<'END'
#!/bin/bash
[[ "$1 $2" == "-m pip" ]] || exit 98
printf '%s\\n' "$@" > "$(dirname "$0")/pip-arguments"
printf '#!/bin/bash\\nexec "{python}" -m pdtrace "$@"\\n' > "$(dirname "$0")/pdtrace"
chmod +x "$(dirname "$0")/pdtrace"
END
chmod +x "$3/bin/python"
"""


def read_action() -> dict[str, Any]:
    """The action's file."""
    return YAML(typ="safe").load(ACTION.read_text(encoding="utf-8"))


@dataclass
class Job:
    """What running the action gave.

    Attributes:
        outcome: ``success`` or ``failure``.
        outputs: Of the action.
        uses: Steps that use another action, as ``(name, inputs)``; they are not run.
        log: Standard output of all steps.
        errors: Standard error of all steps.
        summary: What was appended to the step summary.
    """

    outcome: str = "success"
    outputs: dict[str, str] = field(default_factory=dict)
    uses: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    log: str = ""
    errors: str = ""
    summary: str = ""


def run_action(folder: Path, **inputs: str) -> Job:
    """Run the action's steps as a runner does.

    Args:
        folder: An empty folder; ``workspace`` in it becomes the checkout, where the steps run.
        inputs: With ``_`` for ``-``.
    """
    action, job = read_action(), Job()
    given = {name.replace("_", "-"): value for name, value in inputs.items()}
    assert given.keys() <= action["inputs"].keys()
    known = {f"inputs.{k}": v.get("default", "") for k, v in action["inputs"].items()}
    known |= {f"inputs.{k}": v for k, v in given.items()}
    workspace, temp, path = folder / "workspace", folder / "temp", folder / "bin"
    for each in (workspace, temp, path):
        each.mkdir(exist_ok=True)
    stub = path / "python3"
    stub.write_text(PYTHON_STUB.replace("{python}", sys.executable))
    stub.chmod(0o755)
    summary = folder / "summary.md"
    for number, step in enumerate(action["runs"]["steps"]):
        condition = str(step.get("if", "success()"))
        if not evaluate(condition, known, job.outcome):
            continue
        if "uses" in step:
            told = {k: expand(text_of(v), known) for k, v in step.get("with", {}).items()}
            job.uses.append((step["uses"], told))
            continue
        script, outputs = folder / f"step{number}.sh", folder / f"outputs{number}"
        script.write_text(expand(step["run"], known), encoding="utf-8")
        outputs.touch()
        assert step["shell"] == "bash"
        done = subprocess.run(
            [*SHELL, str(script)],
            cwd=workspace,
            env=os.environ
            | {k: expand(str(v), known) for k, v in step.get("env", {}).items()}
            | {
                "PATH": f"{path}:{os.environ['PATH']}",
                "RUNNER_TEMP": str(temp),
                "GITHUB_WORKSPACE": str(workspace),
                "GITHUB_ACTION_PATH": str(ROOT),
                "GITHUB_OUTPUT": str(outputs),
                "GITHUB_STEP_SUMMARY": str(summary),
                "PYTHONPATH": str(ROOT),
            },
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        job.log += done.stdout
        job.errors += done.stderr
        for line in outputs.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            known[f"steps.{step.get('id')}.outputs.{name}"] = value
        if done.returncode != 0:
            job.outcome = "failure"
    job.outputs = {k: expand(v["value"], known) for k, v in action["outputs"].items()}
    job.summary = summary.read_text(encoding="utf-8") if summary.exists() else ""
    return job


def expand(text: str, known: dict[str, str]) -> str:
    """Replace ``${{ … }}`` as the runner does: before any shell sees the text."""
    return re.sub(r"\$\{\{(.*?)\}\}", lambda m: str(evaluate(m[1], known, "success")), text)


def evaluate(expression: str, known: dict[str, str], outcome: str) -> object:
    """Evaluate an expression of the few forms that the action has."""
    literals: list[str] = []

    def keep(found: re.Match[str]) -> str:
        literals.append(found[1])
        return f"literals[{len(literals) - 1}]"

    text = re.sub(r"'([^']*)'", keep, expression)
    text = re.sub(
        r"\b(inputs|steps)((?:\.[\w-]+)+)", lambda m: f"known.get({m[1] + m[2]!r}, '')", text
    )
    text = text.replace("&&", " and ").replace("||", " or ").strip()
    names = {
        "known": known,
        "literals": literals,
        "always": lambda: True,
        "success": lambda: outcome == "success",
    }
    return eval(text, {"__builtins__": {}}, names)


def text_of(value: object) -> str:
    """A YAML value as the runner passes it on."""
    return str(value).lower() if isinstance(value, bool) else str(value)
