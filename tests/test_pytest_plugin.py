"""The pytest plugin, in pytest processes of its own, on recorded runs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pdtrace.__main__ import main
from pdtrace.pytest_plugin import BOUNDS, KNOWN, OPTIONS, build_command, find_complaint

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parent.parent
LOGS = {name: ROOT / "sample_logs" / f"h100x2-{name}" / "server.log" for name in ("off", "on")}
SPANS = ROOT / "tests" / "data" / "spans" / "cpu-dp4-off.pb"
HEADER = f"""
import shutil, urllib.request
import pytest
OFF, ON = {str(LOGS["off"])!r}, {str(LOGS["on"])!r}
def record(source, run):
    shutil.copy(source, run.directory / "engine.txt")
"""


@pytest.fixture
def run_tests(pytester, monkeypatch):
    """Run the text of a test module, with the plugin and no other."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(text: str, *args: str) -> pytest.RunResult:
        pytester.makepyfile(HEADER + text)
        return pytester.runpytest_subprocess(
            "-p", "pdtrace.pytest_plugin", "--strict-markers", *args
        )

    return run


def test_run_that_keeps_the_bound_passes(run_tests, pytester):
    """The verdict is noted in pytest's own JUnit XML, where CI systems collect it."""
    result = run_tests(
        """
@pytest.mark.pdtrace(max_idle_ratio=0.3, min_fusion_width=1.5)
def test_on(pdtrace_run):
    record(ON, pdtrace_run)
""",
        "--junitxml=out.xml",
    )
    result.assert_outcomes(passed=1)
    told = {
        p.get("name"): p.get("value") for p in ET.parse(pytester.path / "out.xml").iter("property")
    }
    assert told["pdtrace_verdict"] == "pass"


def test_run_that_breaks_the_bound_fails_with_the_gates_message(run_tests):
    """The developer sees metric, value, rule, log line and page, and no traceback."""
    result = run_tests("""
@pytest.mark.pdtrace(max_idle_ratio=0.3)
def test_off(pdtrace_run):
    record(OFF, pdtrace_run)
""")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "FAILED: " in text
    for part in ("idle_rank_pass_ratio", "limit     30 %", "idle_rank_pass_ratio<=0.3"):
        assert part in text
    assert re.search(r"engine\.txt:\d+ \(iteration \d+", text)
    page = re.search(r"page: (\S+)", text)
    assert page
    assert "pdtrace check" in Path(page[1]).read_text(encoding="utf-8")
    assert "Traceback" not in text
    assert "pytest_plugin.py" not in text


def test_baseline_and_rules_are_judged(run_tests, tmp_path):
    """The two ways to say what is allowed, from the marker to the command line."""
    baseline = tmp_path / "baseline.json"
    args = [str(LOGS["on"].parent), "--baseline", str(baseline), "--update-baseline"]
    assert main(["check", *args]) == 0
    result = run_tests(f"""
@pytest.mark.pdtrace(baseline={str(baseline)!r})
def test_off(pdtrace_run):
    pdtrace_run.add({str(LOGS["off"].parent)!r})

@pytest.mark.pdtrace(rules=["num_iterations<=300", "solo_iteration_ratio<=0.5"])
def test_on(pdtrace_run):
    pdtrace_run.add(ON)
""")
    result.assert_outcomes(failed=1, passed=1)
    assert "baseline" in result.stdout.str()


def test_test_that_fails_itself_is_not_judged(run_tests):
    """The first thing that went wrong is what is shown."""
    result = run_tests("""
@pytest.mark.pdtrace(max_idle_ratio=0.3)
def test_off(pdtrace_run):
    record(OFF, pdtrace_run)
    assert False, "the engine did not start"
""")
    result.assert_outcomes(failed=1)
    assert "idle_rank_pass_ratio" not in result.stdout.str()


@pytest.mark.parametrize(
    ("marker", "signature", "said"),
    [
        (
            "max_idle_rate=0.3",
            "pdtrace_run",
            "unknown argument 'max_idle_rate'; there are: max_idle",
        ),
        ("", "pdtrace_run", "nothing to judge by; name at least one of: max_idle_ratio"),
        ("max_idle_ratio='a lot'", "pdtrace_run", "max_idle_ratio is a number, not 'a lot'"),
        ("max_idle_ratio=float('nan')", "pdtrace_run", "max_idle_ratio is a number, not nan"),
        ("max_idle_ratio=30", "pdtrace_run", "max_idle_ratio is a share of 0 to 1, not 30"),
        ("rules=[0.3]", "pdtrace_run", "rules are texts"),
        ("0.3", "pdtrace_run", "name its arguments, of: max_idle_ratio"),
        ("max_idle_ratio=0.3", "", "the fixture pdtrace_run"),
    ],
)
def test_marker_that_cannot_work_is_refused_before_the_test(run_tests, marker, signature, said):
    """An engine takes minutes to start: a typing error should not cost them."""
    result = run_tests(f"""
@pytest.mark.pdtrace({marker})
def test_it({signature}):
    print("the engine starts")
""")
    result.assert_outcomes(errors=1)
    assert said in result.stdout.str()
    assert "the engine starts" not in result.stdout.str()


def test_what_cannot_be_judged_fails(run_tests):
    """No log, or one without a pass, must not count as fused."""
    result = run_tests("""
@pytest.mark.pdtrace(max_idle_ratio=0.3)
def test_nothing(pdtrace_run):
    pass

@pytest.mark.pdtrace(max_idle_ratio=0.3)
def test_garbage(pdtrace_run):
    (pdtrace_run.directory / "engine.txt").write_text("no line of an engine\\n")

@pytest.mark.pdtrace(max_idle_ratio=0.3)
def test_missing(pdtrace_run):
    pdtrace_run.add("no-such-log")
""")
    result.assert_outcomes(failed=3)
    text = result.stdout.str()
    assert "nothing was recorded" in text
    assert "no-such-log" in text
    assert "Traceback" not in text


def test_log_of_an_engine_that_outlives_the_test(run_tests, pytester):
    """Of a shared log only what came during the test counts: what came before fused badly."""
    result = run_tests("""
@pytest.mark.pdtrace(rules=["num_iterations<=277", "num_iterations>=277"], dp_size=2)
def test_on(pdtrace_run, tmp_path):
    log = tmp_path / "engine.log"
    shutil.copy(OFF, log)
    pdtrace_run.follow(log)
    with open(log, "ab") as stream:
        stream.write(open(ON, "rb").read())
""")
    result.assert_outcomes(passed=1)


def test_spans_are_collected(run_tests):
    """A test need only point its engine to the port; what was sent is judged."""
    result = run_tests(f"""
@pytest.mark.pdtrace(rules=["num_iterations>=1"])
def test_spans(pdtrace_run):
    data = open({str(SPANS)!r}, "rb").read()
    with pdtrace_run.collect() as receivers:
        assert receivers.grpc.startswith("127.0.0.1:")
        while data:
            size = int.from_bytes(data[:4], "big")
            request = urllib.request.Request(
                receivers.http, data[4:4 + size], {{"Content-Type": "application/x-protobuf"}}
            )
            assert urllib.request.urlopen(request).status == 200
            data = data[4 + size:]
""")
    result.assert_outcomes(passed=1)


def test_collection_that_cannot_start_says_why(run_tests):
    """An endpoint with a typing error must not leave a test waiting."""
    result = run_tests("""
def test_spans(pdtrace_run):
    with pdtrace_run.collect(metrics_url="ftp://nowhere"):
        pass
""")
    result.assert_outcomes(failed=1)
    assert "expected http://HOST:PORT/metrics" in result.stdout.str()


def test_judging_by_hand(run_tests):
    """A test may judge where it likes, and look at the numbers."""
    result = run_tests("""
def test_both(pdtrace_run):
    record(OFF, pdtrace_run)
    judgement = pdtrace_run.judge(max_idle_ratio=0.3)
    assert judgement.exit_code == 1
    (finding,) = judgement.result["findings"]
    assert 0.3 < finding["value"] < 0.5
""")
    result.assert_outcomes(passed=1)


def test_outputs_are_kept_where_told(run_tests, pytester):
    """A CI job uploads that folder; a second session must not judge what the first recorded."""
    text = """
import os
@pytest.mark.pdtrace(max_idle_ratio=0.3)
def test_it(pdtrace_run):
    if os.environ.get("SECOND"):
        shutil.copy(ON, pdtrace_run.directory / "other.txt")
    else:
        record(OFF, pdtrace_run)
"""
    run_tests(text, "--pdtrace-output=kept").assert_outcomes(failed=1)
    (folder,) = (pytester.path / "kept").iterdir()
    assert {p.name for p in folder.iterdir()} == {"recording", "check.html", "check.json"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECOND", "1")
        run_tests(text, "--pdtrace-output=kept").assert_outcomes(passed=1)
    assert [p.name for p in (folder / "recording").iterdir()] == ["other.txt"]


def test_plugin_loads_nothing_heavy():
    """It loads in every pytest run of an environment: each import there is paid by everyone."""
    code = (
        "import sys, pytest; before = set(sys.modules); import pdtrace.pytest_plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["pdtrace", "pdtrace.pytest_plugin"]


def test_installing_pdtrace_installs_the_plugin():
    """Nobody adds a plugin by hand that the documentation says is there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"pdtrace": "pdtrace.pytest_plugin"}


def test_arguments_become_options():
    """Each argument of the marker reaches the command line."""
    values = dict.fromkeys(BOUNDS, 0.5) | dict.fromkeys(OPTIONS, "x") | {"rules": ["a<=1"]}
    assert values.keys() == set(KNOWN)
    assert find_complaint(values) is None
    command = build_command([Path("run")], Path("out"), values)
    at = command.index("--")
    assert command[at + 1 :] == ["run"]
    rules = [*(rule.format(0.5) for rule in BOUNDS.values()), "a<=1"]
    told = [*(f"{option}=x" for option in OPTIONS.values()), *(f"--rule={rule}" for rule in rules)]
    assert command[at - len(told) : at] == told
    assert "--rules=gate.toml" in build_command([], Path("out"), {"rules": "gate.toml"})
