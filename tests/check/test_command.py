"""``pdtrace check`` as CI calls it: exit codes, baselines that grow, readers that leave."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pdtrace.__main__ import main
from tests.check.recorded import SAMPLES

ON, OFF = str(SAMPLES / "h100x2-on"), str(SAMPLES / "h100x2-off")
LOG_ON, LOG_OFF = f"{ON}/server.log", f"{OFF}/server.log"


@pytest.fixture
def baseline(tmp_path, capsys):
    """A baseline file of the recorded run with the delayer on."""
    path = tmp_path / "fusion.json"
    assert main(["check", LOG_ON, "--baseline", str(path), "--update-baseline"]) == 0
    capsys.readouterr()
    return str(path)


def test_exit_codes(baseline, capsys):
    """0, 1 and 2 are all that a CI system looks at."""
    assert main(["check", LOG_ON, "--baseline", baseline]) == 0
    assert main(["check", LOG_OFF, "--baseline", baseline]) == 1
    assert capsys.readouterr().err == ""
    assert main(["check", str(SAMPLES / "cpu-dp4-on"), "--baseline", baseline]) == 2
    assert "dp_size differs: 2 and 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([LOG_ON], "nothing to judge by"),
        ([LOG_ON, "--update-baseline"], "--update-baseline needs --baseline FILE"),
        ([LOG_ON, "fusion_width<=2"], "unknown metric 'fusion_width'; did you mean"),
        ([LOG_ON, "--rule", "x"], "rule 'x': expected"),
        ([LOG_ON, "--baseline", "nowhere.json"], "nowhere.json: cannot be read"),
        ([LOG_ON, "--rules", "nowhere.toml"], "nowhere.toml: cannot be read"),
        ([LOG_ON, ON, "ttft_p50_s<=1"], "log files and run directories at once"),
        ([ON, "nowhere", "ttft_p50_s<=1"], "nowhere: no such file or directory"),
        ([LOG_ON, "idle_rank_pass_ratio<=30"], "is a share of 0 to 1; write it like 0.3 or 30%"),
        ([LOG_ON, "ttft_p50_s<="], "rule 'ttft_p50_s<=': expected"),
        ([LOG_ON, "--github", "ttft_p50_s:5"], "rule 'ttft_p50_s:5': expected"),
        ([LOG_ON, "--baseline", "b", "--update-baseline", "ttft_p50_s<=1"], "leave the rules out"),
        ([LOG_ON, "--baseline", "b", "--update-baseline", "--json", "c"], "leave out --json"),
        ([LOG_ON, "--baseline", "-", "--update-baseline"], "leave out --baseline -"),
        ([LOG_ON, "ttft_p50_s<=1", "--json", "x", "--html", "./x"], "x, which --json writes"),
        ([LOG_ON, "ttft_p50_s<=1", "--bogus", "x"], "unrecognized arguments: --bogus x"),
        (["ttft_p50_s<=1"], "name at least one log file or run directory"),
        ([str(SAMPLES / "h100x2-decode"), "ttft_p50_s<=1"], "decode engine"),
    ],
)
def test_what_cannot_be_judged_is_a_line_and_2(args, told, capsys):
    """Never a pass, never a traceback."""
    assert main(["check", *args]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def test_a_rule_may_follow_options(baseline, capsys):
    """It is the natural place for it; argparse alone takes it for an unknown argument."""
    args = ["check", LOG_ON, "--baseline", baseline, "idle_rank_pass_ratio<=0.1", "--json", "-"]
    assert main([*args, "num_requests:+50%"]) == 1
    rules = [f["rule"] for f in json.loads(capsys.readouterr().out)["findings"][:2]]
    assert rules == ["idle_rank_pass_ratio<=0.1", "num_requests:+50%"]


@pytest.mark.parametrize("what", ["log", "baseline", "rules"])
def test_no_output_replaces_an_input(what, tmp_path, baseline, capsys):
    """One wrong letter in a workflow must not cost the recording or the baseline."""
    log, rules = tmp_path / "server.log", tmp_path / "rules.toml"
    shutil.copy(LOG_ON, log)
    rules.write_text("")
    target = {"log": str(log), "baseline": baseline, "rules": str(rules)}[what]
    before = Path(target).read_bytes()
    args = ["check", str(log), "--baseline", baseline, "--rules", str(rules)]
    assert main([*args, "--html", target]) == 2
    assert capsys.readouterr().err == f"pdtrace: --html would replace {target}, which is read\n"
    assert Path(target).read_bytes() == before
    assert main([*args, "--html", "/dev/null", "--json", "/dev/null"]) == 0


def test_rules_from_everywhere_hold_together(tmp_path, capsys):
    """A rule counts wherever it is written."""
    rules = tmp_path / "rules.toml"
    rules.write_text('rules = ["num_iterations<=300"]\n')
    args = ["check", LOG_ON, "solo_iteration_ratio<=0.5", "--rules", str(rules)]
    assert main([*args, "--rule", "fusion_width_mean>=1.5", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    by_rule = {f["rule"]: f for f in told["findings"]}
    assert set(by_rule) == {
        "num_iterations<=300", "solo_iteration_ratio<=0.5", "fusion_width_mean>=1.5"
    }  # fmt: skip
    assert by_rule["num_iterations<=300"]["rule_source"] == f"{rules}:1"
    assert by_rule["num_iterations<=300"]["value"] == 277
    rules.write_text('rules = ["num_iterations<=276"]\n')
    assert main([*args, "--json", "-"]) == 1


def test_repeats_are_added_and_others_start_anew(tmp_path, capsys):
    """Runs of one setting gather; another setting, or another speed, is not mixed in."""
    path = str(tmp_path / "b.json")

    def update(*runs: str) -> str:
        assert main(["check", *runs, "--baseline", path, "--update-baseline"]) == 0
        return capsys.readouterr().out

    def num_runs() -> int:
        with open(path, encoding="utf-8") as stream:  # noqa: PTH123
            return len(json.load(stream)["runs"])

    cpu = [str(SAMPLES / n) for n in ("cpu-dp4-on", "cpu-dp4-on-defaultlog")]
    assert "1 run of sglang, 4 DP ranks" in update(cpu[0])
    assert "1 run added, 2 in all" in update(cpu[1])
    with open(path, encoding="utf-8") as stream:  # noqa: PTH123
        one_by_one = json.load(stream)
    assert "0 runs added, 2 in all (1 already in it)" in update(cpu[0])
    assert "started anew with 1 run" in update(OFF)
    assert num_runs() == 1
    update(*cpu)
    with open(path, encoding="utf-8") as stream:  # noqa: PTH123
        assert json.load(stream) == one_by_one


@pytest.mark.parametrize(
    ("run", "code", "more"),
    [(LOG_OFF, 1, []), (LOG_OFF, 1, ["--json", "-"]), (LOG_ON, 0, ["--github"])],
)
def test_a_reader_that_leaves_does_not_hide_a_failure(run, code, more, baseline):
    """`pdtrace check … | head -1` in a script with pipefail must still be red."""
    command = [sys.executable, "-m", "pdtrace", "check", run, "--baseline", baseline, *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == code, err
    assert err == b""


def test_repeats_are_directories(baseline, tmp_path, capsys):
    """Each directory is a run of its own, with a verdict of its own."""
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(LOG_OFF, again / "any-name.txt")
    assert main(["check", ON, str(again), "--baseline", baseline, "--json", "-"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert [run["verdict"] for run in told["runs"]] == ["pass", "fail"]
    assert told["reasons"] == [f"the repeats disagree: {again} alone fails"]


def test_runs_too_small_to_show_anything_are_no_pass(tmp_path, capsys):
    """Green where even a fifth more iterations would not show would be worse than no gate."""
    runs = [str(tmp_path / f"run{seed}") for seed in (1, 2)]
    for seed, run in enumerate(runs):
        told = ["--dp-size", "8", "--requests", "160", "--seed", str(seed + 1)]
        assert main(["simulate", "-o", run, "--max-delay-passes", "30", *told]) == 0
    baseline = str(tmp_path / "b.json")
    assert main(["check", runs[0], "--baseline", baseline, "--update-baseline"]) == 0
    assert main(["check", runs[1], "--baseline", baseline]) == 2
    assert "no measure could have shown a change of 20 %" in capsys.readouterr().err
