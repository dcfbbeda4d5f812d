"""The command line as a user meets it: a process, its output, its exit code."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import pdtrace
from pdtrace.__main__ import find_commands, main
from pdtrace.exports.report import build_report
from pdtrace.exports.strip import find_worst_stretch
from pdtrace.exports.terminal import render_terminal
from pdtrace.metrics import measure
from pdtrace.run import DelayerInfo, EngineInfo, Incident
from pdtrace.saved_run import load_run, save_run

_spec = importlib.util.spec_from_file_location(
    "hand_counted", Path(__file__).parent / "metrics" / "hand_counted.py"
)
assert _spec is not None
assert _spec.loader is not None
hand = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hand)

PROMISED = (
    "num_iterations", "num_solo_iterations", "num_fully_fused_iterations", "fusion_width_mean",
    "idle_rank_passes", "idle_rank_pass_ratio", "idle_rank_seconds", "num_new_tokens",
    "prefill_throughput_tok_s", "iteration_seconds_p50", "num_delay_passes",
    "delay_seconds_total", "num_requests", "num_unfinished_requests", "ttft_p50_s", "ttft_p99_s",
    "grouping_confidence_mean",
)  # fmt: skip
ROOT = Path(__file__).parent.parent
EVIL = "evil\x1b[31m[bold]|`<b>\u202e.log"


def pdtrace_cli(*args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    options.setdefault("timeout", 120)
    # The checkout may not be installed, and a test may run elsewhere.
    options["env"] = options.get("env", os.environ) | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "pdtrace", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved run of 12 iterations on 2 ranks: 9 solo, 3 fused."""
    grid = [(100, {0: 1000}), (200, {0: 1000, 1: 400}), (300, {1: 600}), (400, {0: 2000})] * 3
    run = hand.build(
        grid,
        cuts=(5,),
        engine=EngineInfo(
            release_min="0.5.13", release_max="0.5.13", dp_size=2, tp_size=2, pp_size=1,
            role="prefill", dp_size_source="server_args", delayer=DelayerInfo(True, 30),
        ),
        path=EVIL,
        requests=[hand.request("\x1b]0;x\x07rid", 0, 100)],
        decisions=[hand.decision("prometheus", r, "delay", 40) for r in (0, 1)],
        incidents=[Incident("crash", None, 0, 40, 1, 0, "boom \x1b[0m")],
        warnings=["careful \x1b[2J"],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("cli") / "saved"
    save_run(run, folder)
    return folder


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved run of a decode engine: nothing to measure."""
    folder = tmp_path_factory.mktemp("cli") / "decode"
    save_run(hand.build([], engine=EngineInfo(role="decode")), folder)
    return folder


def test_help_lists_the_verbs_there_are() -> None:
    """Help names every verb with its summary, and no verb that does not exist."""
    done = pdtrace_cli("--help")
    assert done.returncode == 0
    for verb, module in find_commands().items():
        summary = (module.__doc__ or "").splitlines()[0]
        assert verb in done.stdout
        assert summary.split()[0] in done.stdout
    assert "exit codes" in done.stdout


@pytest.mark.parametrize("verb", sorted(find_commands()))
def test_every_command_has_help(verb: str) -> None:
    """A verb's docstring is its help, and asking for it never fails."""
    done = pdtrace_cli(verb, "--help")
    assert done.returncode == 0
    doc = find_commands()[verb].__doc__ or ""
    assert doc.splitlines()[0] in done.stdout


def test_help_imports_nothing_slow() -> None:
    """Help is instant because no table, kernel or page library is imported for it."""
    code = (
        "import sys, contextlib, io\n"
        "from pdtrace.__main__ import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
        "slow = {'polars', 'numba', 'numpy', 'rich', 'plotly', 'pandas'} & set(sys.modules)\n"
        "print(sorted(slow))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert out.stdout.strip() == "[]"


def test_version() -> None:
    """The version is the package's."""
    assert pdtrace_cli("--version").stdout == f"pdtrace {pdtrace.__version__}\n"


@pytest.mark.parametrize(
    "args",
    [
        [], ["nonsense"], ["analyze"], ["analyze", "x", "--nonsense"],
        ["analyze", "x", "--dp-size", "two"], ["analyze", "x", "--dp-size", "0"],
        ["analyze", "no/such/file.log"], ["analyze", "no\nsuch\x1b[31mfile.log"],
        ["export", "nonsense", "x"], ["export", "events", "no/such/file.log"],
        ["export", "events", "x", "--format", "xml"],
        ["analyze", "x", "--json", "-", "--markdown", "-"],
        ["analyze", "x", "--gpu-hour-cost", "much"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_errors_are_one_line_and_exit_2(args: list[str]) -> None:
    """Whoever mistypes sees one line that says what is wrong, never a traceback."""
    done = pdtrace_cli(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"pdtrace: [^\n\x1b]+\n", done.stderr), done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    """--debug before or after the verb shows where it happened."""
    for args in (["--debug", "analyze", "nowhere"], ["analyze", "nowhere", "--debug"]):
        done = pdtrace_cli(*args, cwd=tmp_path)
        assert "Traceback" in done.stderr
        assert done.returncode != 0


def test_report_is_plain_when_piped(saved: Path) -> None:
    """A piped report has no escape sequences of ours nor of the input's, and fits 100 columns."""
    done = pdtrace_cli("analyze", saved, env=os.environ | {"FORCE_COLOR": "1", "COLUMNS": "300"})
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_verdict_comes_first(saved: Path) -> None:
    """The first three lines say what matters, with the numbers counted by hand."""
    lines = pdtrace_cli("analyze", saved, "--gpu-hour-cost", "3600").stdout.splitlines()
    assert lines[0] == ("75 % of 12 iterations prefilled on one rank of 2, 25 % on both.")
    # Idle: 3 × (0.1 + 0.3 + 0.4) s of 2 ranks × 3 s; a GPU second costs 1 USD.
    assert lines[1].startswith("40 % of rank time was idle: 2.4 of 6.0 rank-seconds")
    assert lines[1].endswith("2.4 USD.")
    assert lines[2] == (
        "15,000 prompt tokens computed: engine busy 3.00 s of 3.00 s, 5,000 tok/s while busy."
    )


def test_strip_shows_the_roles(saved: Path) -> None:
    """The strip's characters are the roles, rank by rank, iteration by iteration."""
    run = load_run(saved)  # ██·███·███·█ and ·██··██··██·
    strip = find_worst_stretch(run, 6)
    assert strip is not None
    assert (strip.first, strip.last) == (2, 7)
    assert strip.rows == {0: "·███·█", 1: "█··██·"}
    assert find_worst_stretch(run, 7) is None
    report = build_report(run, measure(run), strip_length=6)
    assert "  rank 0  ·███·█\n" in render_terminal(report)


def test_json_keeps_the_promise(saved: Path, tmp_path: Path) -> None:
    """The JSON has the promised keys, types and names, and the numbers counted by hand."""
    target = tmp_path / "summary.json"
    assert pdtrace_cli("analyze", saved, "--json", target).returncode == 0
    text = target.read_text()
    summary = json.loads(text, parse_constant=pytest.fail)
    assert summary["schema_version"] == 1
    facts = summary["run"]
    assert facts["engine"] == "sglang"
    assert (facts["dp_size"], facts["role"], facts["grouping"]) == (2, "prefill", "label")
    assert facts["delayer"]["enabled"] is True
    assert facts["delayer"]["max_delay_passes"] == 30
    assert facts["delayer"]["token_usage_low_watermark"] is None
    for name in PROMISED:
        cell = summary["metrics"][name]
        assert set(cell) >= {"value", "unit", "n", "note"}, name
        assert cell["value"] is not None or cell["note"], name
    assert summary["metrics"]["num_iterations"] == {
        "value": 12, "unit": "count", "n": 15, "note": None,
    }  # fmt: skip
    assert isinstance(summary["metrics"]["num_iterations"]["value"], int)
    assert summary["metrics"]["num_delay_passes"]["value"] == 40
    assert summary["fusion_width_histogram"] == {"1": 9, "2": 3}
    assert summary["warnings"] == ["careful \x1b[2J"]


def test_dash_is_standard_output_instead_of_the_report(saved: Path) -> None:
    """With --json - standard output is JSON and nothing else."""
    done = pdtrace_cli("analyze", saved, "--json", "-")
    assert json.loads(done.stdout)["schema_version"] == 1


def test_markdown_escapes_the_input(saved: Path) -> None:
    """A file name cannot smuggle markup or HTML into the Markdown report."""
    out = pdtrace_cli("analyze", saved, "--markdown", "-").stdout
    assert out.startswith("# Prefill report\n")
    assert "<b>" not in out
    assert "\\|\\`&lt;b&gt;" in out
    assert "\x1b" not in out


def test_saving_and_analyzing_again_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    """A saved run analyses identically."""
    first = pdtrace_cli("analyze", saved, "--save", tmp_path / "again", "--json", "-").stdout
    assert pdtrace_cli("analyze", tmp_path / "again", "--json", "-").stdout == first


def test_nothing_to_measure_exits_2_with_its_outputs(empty: Path, tmp_path: Path) -> None:
    """A decode engine's log is refused with the reason, yet the outputs asked for are written."""
    done = pdtrace_cli("analyze", empty, "--json", tmp_path / "s.json")
    assert done.returncode == 2
    assert "decode engine" in done.stderr
    assert done.stderr.count("\n") == 1
    assert json.loads((tmp_path / "s.json").read_text())["metrics"]["num_iterations"]["note"]


def test_rank_passes_as_csv(saved: Path) -> None:
    """The grid is complete, with the promised columns, and empty cells where nothing is known."""
    done = pdtrace_cli("export", "rank-passes", saved)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0])[:9] == [
        "iteration", "dp_rank", "role", "line", "file", "num_new_tokens", "start", "duration_s",
        "confidence",
    ]  # fmt: skip
    assert len(rows) == 24
    assert rows[0]["role"] == "prefill"
    assert rows[0]["start"] == "2026-11-23T01:28:32.000000Z"
    assert rows[0]["duration_s"] == "0.1"
    assert (rows[0]["line"], rows[0]["num_new_tokens"]) == ("10", "1000")
    assert (rows[1]["role"], rows[1]["line"], rows[1]["num_new_tokens"]) == ("idle", "", "")


@pytest.mark.parametrize(
    "table", ["events", "iterations", "rank-passes", "requests", "decisions", "metrics"]
)
def test_formats_agree(saved: Path, tmp_path: Path, table: str) -> None:
    """CSV, JSON and Parquet of a table have the same columns and number of rows."""
    rows = json.loads(pdtrace_cli("export", table, saved, "--format", "json").stdout)
    target = tmp_path / f"{table}.parquet"
    assert pdtrace_cli("export", table, saved, "-o", target).returncode == 0
    frame = pl.read_parquet(target)
    read = list(csv.DictReader(io.StringIO(pdtrace_cli("export", table, saved).stdout)))
    assert frame.height == len(rows) == len(read) > 0
    assert frame.columns == list(rows[0]) == list(read[0])
    assert not [c for c, kind in frame.schema.items() if kind == pl.Duration]


def test_csv_carries_no_escape_sequences(saved: Path) -> None:
    """A request id cannot steer the terminal that a CSV is shown on."""
    out = pdtrace_cli("export", "requests", saved).stdout
    assert "rid" in out
    assert "\x1b" not in out
    assert "\x07" not in out


def test_the_page_is_one_file(saved: Path, tmp_path: Path) -> None:
    """--html writes a page that carries the verdict of the report."""
    target = tmp_path / "page.html"
    assert pdtrace_cli("analyze", saved, "--html", target).returncode == 0
    page = target.read_text()
    assert "prefilled on one rank of 2" in page
    assert "<b>" not in page.partition("<style>")[0]


def test_outputs_replace_whole_or_not_at_all(saved: Path, tmp_path: Path) -> None:
    """A failed command leaves the old output as it was and no scrap beside it."""
    target = tmp_path / "out.csv"
    target.write_text("old")
    target.chmod(0o640)
    (saved.parent / "broken").mkdir(exist_ok=True)
    (saved.parent / "broken" / "run.json").write_text('{"format": "pdtrace-run"}')
    assert pdtrace_cli("export", "events", saved.parent / "broken", "-o", target).returncode == 2
    assert target.read_text() == "old"
    assert pdtrace_cli("export", "events", saved, "-o", target).returncode == 0
    assert target.read_text().startswith("event_id,")
    assert target.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]


def test_unwritable_output_is_one_line(saved: Path, tmp_path: Path) -> None:
    """An output that cannot be written is named with the reason."""
    for target in (tmp_path, tmp_path / "no" / "such.json"):
        done = pdtrace_cli("analyze", saved, "--json", target)
        assert done.returncode == 2
        assert done.stderr.startswith(f"pdtrace: {target}: cannot be written")
        assert done.stderr.count("\n") == 1


def test_a_closed_pipe_is_quiet(saved: Path) -> None:
    """``| head`` ends an export without a word."""
    command = f'"{sys.executable}" -m pdtrace export rank-passes "{saved}" | true'
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stderr == ""
    for args in (["analyze"], ["export", "events"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "pdtrace", *args, str(saved)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    """An interrupt ends with the shell's code and no traceback."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pdtrace.loading.load", interrupted)
    assert main(["analyze", str(saved)]) == 130


def test_public_names_load() -> None:
    """The public names are exactly ``__all__``, each loads, and importing pdtrace loads none."""
    assert pdtrace.__all__ == sorted(pdtrace.__all__)
    for name in pdtrace.__all__:
        assert getattr(pdtrace, name) is not None
    with pytest.raises(AttributeError):
        _ = pdtrace.nonsense  # type: ignore[attr-defined]
    code = "import sys, pdtrace; print('polars' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert out.stdout == "False\n"


def test_tables_become_pandas_frames(saved: Path) -> None:
    """With the extra, every table of a run is one call away from pandas."""
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pdtrace.load(saved).rank_passes.to_pandas()
    assert len(frame) == 24


@pytest.fixture(scope="module")
def rank_0_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded log as rank 0 alone would have written it."""
    log = tmp_path_factory.mktemp("ranks") / "rank0.log"
    whole = (ROOT / "sample_logs" / "h100x2-off" / "server.log").read_text("utf-8")
    log.write_text("".join(s for s in whole.splitlines(True) if " DP1 " not in s), "utf-8")
    return log


def test_an_unread_rank_is_named_first(rank_0_log: Path) -> None:
    """A verdict on fusion from one rank's file would be wrong: it asks for the other files."""
    done = pdtrace_cli("analyze", str(rank_0_log))
    first = " ".join(done.stdout.splitlines()[:3])
    assert "is not known: nothing was read of DP rank 1. Name the logs of all ranks" in first
    assert "100 %" not in first
    assert "tok/s" not in first


def test_a_page_of_one_rank_draws_no_widths(rank_0_log: Path, tmp_path: Path) -> None:
    """Bars of solo iterations, or a total without a word, would say what is not known."""
    page = tmp_path / "page.html"
    pdtrace_cli("analyze", rank_0_log, "--html", page)
    text = page.read_text("utf-8")
    assert "Not known: nothing was read of DP rank 1." in text
    assert text.count("<small>at least</small>") >= 2


@pytest.mark.parametrize("rule", ["solo_iteration_ratio<=0.9", "num_iterations<=300"])
def test_an_unread_rank_is_not_judged(rank_0_log: Path, rule: str) -> None:
    """A gate neither passes nor fails on what it cannot know."""
    done = pdtrace_cli("check", str(rank_0_log), rule)
    assert done.returncode == 2
    assert "nothing was read of DP rank 1" in done.stdout


def test_an_unread_rank_is_not_compared(rank_0_log: Path) -> None:
    """Iterations of one rank's file are not fewer than those of a whole log."""
    other = ROOT / "sample_logs" / "h100x2-on" / "server.log"
    done = pdtrace_cli("compare", str(rank_0_log), str(other), "--json", "-")
    rows = json.loads(done.stdout)["metrics"]
    for name in ("num_iterations", "solo_iteration_ratio", "idle_rank_seconds",
                 "fusion_width_mean", "prefill_throughput_tok_s"):  # fmt: skip
        assert rows[name]["verdict"] == "unmeasured"
        assert "nothing was read of DP rank 1" in rows[name]["note"]


@pytest.mark.parametrize("names", [("", ""), ("server.log", "server.log")])
@pytest.mark.parametrize("command", [("analyze",), ("export", "metrics"), ("tune",)])
def test_two_recordings_are_not_one_engine(
    names: tuple[str, str], command: tuple[str, ...]
) -> None:
    """Two engines' recordings as one give fusion, idle time and throughput of neither."""
    samples = ROOT / "sample_logs"
    paths = [samples / "h100x2-off" / names[0], samples / "h100x2-on" / names[1]]
    done = pdtrace_cli(*command, *paths)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert all(str(path) in line for path in paths)
    assert "pdtrace compare" in line


def test_files_of_the_ranks_of_one_engine_are_one(tmp_path: Path) -> None:
    """Ranks on two nodes each start and log by themselves; together they are the engine."""
    lines = (ROOT / "sample_logs" / "h100x2-off" / "server.log").read_text("utf-8").splitlines(True)
    for rank, other in ((0, 1), (1, 0)):
        kept = (line for line in lines if f" DP{other} " not in line)
        (tmp_path / f"rank{rank}.log").write_text("".join(kept), "utf-8")
    done = pdtrace_cli("analyze", tmp_path / "rank0.log", tmp_path / "rank1.log", "--json", "-")
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["num_fully_fused_iterations"]["value"] == 84
    assert metrics["num_iterations"]["value"] == 381


def test_a_rank_keeps_its_name_in_a_crowded_table(rank_0_log: Path) -> None:
    """A table of ranks without their numbers tells nothing."""
    done = pdtrace_cli("analyze", rank_0_log)
    assert re.search(r"^  rank 0 +239 ", done.stdout, re.MULTILINE)
    assert re.search(r"^  rank 1 +– ", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("command", ["tune", "whatif"])
def test_a_part_of_the_load_is_not_replayed(rank_0_log: Path, command: str) -> None:
    """A prediction from one rank's requests would promise what the engine cannot keep."""
    options = ("--max-delay-passes", "30") if command == "whatif" else ()
    done = pdtrace_cli(command, rank_0_log, *options)
    assert done.returncode == 2
    assert "nothing was read of DP rank 1" in done.stderr


def test_a_worst_stretch_is_no_whole_run() -> None:
    """A stretch of most of the run says no more than the run, so it is left out."""
    done = pdtrace_cli("analyze", ROOT / "sample_logs" / "h100x2-on-watermark" / "server.log")
    assert "Worst stretch" not in done.stdout
    done = pdtrace_cli("analyze", ROOT / "sample_logs" / "h100x2-off" / "server.log")
    assert "Worst stretch" in done.stdout


@pytest.mark.parametrize(
    ("redirection", "path", "code"),
    [(">&-", "sample_logs/h100x2-on/server.log", 0), ("2>/dev/full", "/nowhere", 2),
     ("<&-", "-", 2), ("2>&-", "/nowhere", 2)],
)  # fmt: skip
def test_closed_and_full_streams_do_not_change_the_verdict(redirection, path, code):
    """A job without a terminal, or with a full disk behind its log, is no failed check."""
    command = f"{sys.executable} -m pdtrace analyze {path} {redirection}"
    told = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, check=False)
    assert told.returncode == code
    assert b"internal error" not in told.stderr + told.stdout
