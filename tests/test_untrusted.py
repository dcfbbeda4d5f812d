"""What users and other programs wrote: patterns, deep documents, long values; one line each."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

import pdtrace
from pdtrace.__main__ import main
from pdtrace.check.baseline_file import read_baseline
from pdtrace.check.rules import read_rules
from pdtrace.errors import InputError, UsageError
from pdtrace.untrusted import compile_pattern

ON = str(Path(__file__).parent.parent / "sample_logs" / "h100x2-on" / "server.log")
DEEP = "[" * 100_000 + "]" * 100_000
# Read by Python, but too deep for what is done with it.
HALF_DEEP = "[" * 900 + "]" * 900


@pytest.mark.parametrize("pattern", ["(", "{,99999999999}", "(" * 5000, "a{3}{4}{5", "(?P<é!>x)"])
@pytest.mark.parametrize(
    "command",
    [
        ["compare", ON, ON],
        ["whatif", ON, "--max-delay-passes", "30"],
        ["tune", ON],
        ["dashboard", ON, ON, "--page", "comparison", "-o", "/dev/null"],
        ["dashboard", ON, "--figure", "gain", "--svg", "/dev/null"],
    ],
    ids=lambda command: " ".join(command[:1]),
)
def test_a_pattern_that_cannot_be_compiled_is_one_short_line(command, pattern, capsys):
    """Every command that takes a pattern refuses what Python's compiler stumbles over."""
    try:
        compile_pattern("--x", pattern)
    except UsageError:
        pass
    else:
        pytest.skip("this Python compiles it")
    assert main([*command, "--request-filter", pattern]) == 2
    err = capsys.readouterr().err
    assert "is not a regular expression" in err
    assert err.count("\n") == 1
    assert len(err) < 300


def test_a_pattern_of_doubtful_future_is_taken_without_a_warning(recwarn):
    """A warning of Python's about the user's pattern is no line of this program."""
    assert compile_pattern("--request-filter", "[[a]").search("[")
    assert not recwarn.list


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("server_info.json", '{"model_path": "m", "version": %s}'),
        ("client.jsonl", '{"rid": "a", "phase": "x", "t0": 1780000000.0, "meta": %s}'),
        ("docker.log", '{"log": "x\\n", "time": %s}'),
        ("spans.jsonl", '{"resourceSpans": %s}'),
        ("fpm.jsonl", '{"scheduled_requests": %s}'),
        ("metrics.log", '{"request_parameters": "{}", "id": %s}'),
        ("run.toml", "a = %s"),
        ("truth.json", '{"num_iterations": %s}'),
    ],
)
@pytest.mark.parametrize("deep", [DEEP, HALF_DEEP], ids=["deep", "half as deep"])
def test_a_deep_document_beside_a_log_does_not_keep_it_from_being_read(tmp_path, name, text, deep):
    """Files beside a recording are other programs'; one of them must not cost the report."""
    shutil.copy(ON, tmp_path)
    (tmp_path / name).write_text(text % deep + "\n")
    assert len(pdtrace.load(tmp_path).iterations) == 277


def test_deep_documents_that_were_named_are_one_line(tmp_path):
    """A baseline, a saved run, rules and pages: each says what is wrong with it."""
    path = tmp_path / "document"
    path.write_text('{"a": %s}' % DEEP)  # noqa: UP031 (braces)
    with pytest.raises(InputError, match="nested"):
        read_baseline(path)
    path.write_text(f"rules = {DEEP}")
    with pytest.raises(InputError, match="not TOML"):
        read_rules(str(path))
    page = tmp_path / "page.toml"
    page.write_text(f"title = {DEEP}")
    assert main(["dashboard", ON, "--page", str(page), "-o", "/dev/null"]) == 2
    saved = tmp_path / "saved"
    assert main(["analyze", ON, "--save", str(saved)]) == 0
    facts = json.loads((saved / "run.json").read_text())
    for key in ("warnings", "engine"):
        text = json.dumps(facts | {key: None}, indent=1).replace(
            f'"{key}": null', f'"{key}": {DEEP}'
        )
        (saved / "run.json").write_text(text)
        with pytest.raises(InputError):
            pdtrace.load(saved)


@pytest.mark.parametrize(
    "argv",
    [
        ["analyze", "--dp-size", "9" * 3000 + " x" * 1000, ON],
        ["analyze", f"--dp-size={'x' * 5000}", ON],
        ["export", "y" * 5000, ON],
        ["analyze", ON, "--" + "z" * 5000],
        ["q" * 5000],
        ["collect", "-o", "d", "--grpc-port", "é\n'\"" * 1000],
        ["whatif", ON, "--max-delay-passes", "30", "--engine-version", "1" * 5000],
        ["check", ON, "--rule", "w" * 5000],
        ["check", "sample_logs", "--rule", "w" * 5000, "--json", "-", "--junit", "-" * 5000],
    ],
)
def test_a_long_value_is_not_repeated_whole(argv, capsys):
    """An error is one line that can be read."""
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert len(err) < 500, err[:600]


@pytest.mark.parametrize("url", ["http://[::1", "http://", "http://h:99999/m", "http://h:x", "h:1"])
def test_an_address_that_is_none_is_one_line(url, tmp_path, capsys):
    """Guards against a collection that starts, and scrapes nothing to its end."""
    target = tmp_path / "run"
    assert main(["collect", "-o", str(target), "--metrics-url", url]) == 2
    assert capsys.readouterr().err.count("expected http://HOST:PORT/metrics\n") == 1
    assert not target.exists()


@pytest.mark.parametrize("key", ["num_parts", "dp_size"])
def test_a_saved_run_of_billions_is_damaged(tmp_path, key):
    """A count in a file must not decide how long the program runs."""
    saved = tmp_path / "saved"
    assert main(["analyze", ON, "--save", str(saved)]) == 0
    facts = json.loads((saved / "run.json").read_text())
    (saved / "run.json").write_text(json.dumps(facts | {key: 10**9}, indent=1))
    with pytest.raises(InputError, match="damaged"):
        pdtrace.load(saved)


def test_numbers_too_long_for_python_are_one_line(tmp_path):
    """A baseline is a file in a repository, which anyone may edit."""
    path = tmp_path / "baseline.json"
    path.write_text('{"baseline_version": %s}' % ("9" * 5000))
    with pytest.raises(InputError, match="thousands of digits"):
        read_baseline(path)
    assert main(["check", ON, "--baseline", str(path), "--update-baseline"]) == 2
    path.unlink()
    assert main(["check", ON, "--baseline", str(path), "--update-baseline"]) == 0
    tree = json.loads(path.read_text())
    name = next(iter(tree["runs"][0]["metrics"]))
    tree["runs"][0]["metrics"][name][0] = 10**400
    path.write_text(json.dumps(tree))
    with pytest.raises(InputError, match="no pair of value and unit"):
        read_baseline(path)


def test_a_description_of_dots_does_not_take_minutes(tmp_path):
    """A TOML parser's time grows faster than its text."""
    shutil.copy(ON, tmp_path)
    (tmp_path / "dots.toml").write_text(".".join("a" * 60_000) + "= 1\n")
    began = time.monotonic()
    assert len(pdtrace.load(tmp_path).iterations) == 277
    assert time.monotonic() - began < 20
