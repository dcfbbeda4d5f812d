"""The baseline file: whole, readable, merged in any order, and refused when it is damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdtrace.check.baseline import Baseline, describe_delayer, is_same_delayer
from pdtrace.check.baseline_file import read_baseline, write_baseline
from pdtrace.check.gate import check_runs
from pdtrace.check.rules import Rules
from pdtrace.errors import InputError, UsageError
from pdtrace.run import DelayerInfo
from tests.check.recorded import baseline_of, load


@cache
def text_of(name: str) -> str:
    """The file of one recorded run."""
    return write_baseline(baseline_of(name))


@pytest.mark.parametrize("name", ["h100x2-on", "cpu-dp4-on-defaultlog"])
def test_what_is_read_back_judges_alike(name, tmp_path):
    """A verdict must not depend on whether the baseline was just measured or read from its file."""
    path = tmp_path / "b.json"
    path.write_text(text_of(name), "utf-8")
    read = read_baseline(path)
    assert write_baseline(read) == text_of(name)
    runs = [(name, load(name))]
    there = check_runs(runs, read, Rules())
    here = check_runs(runs, baseline_of(name), Rules())
    assert there.findings == here.findings
    assert all(f.change in (0, None) for f in there.findings)


def test_it_can_be_reviewed():
    """Somebody has to read its changes in a pull request."""
    text = text_of("h100x2-on")
    lines = text.splitlines()
    assert len(text) < 60_000
    assert len(lines) < 700
    assert '  "fusion_width_mean": [' in text.replace("   ", "  ")
    keys = list(json.loads(text))
    assert keys == sorted(keys)


def make_repeats(num: int) -> list[Baseline]:
    """Baselines of one run each that differ a little."""
    record = baseline_of("h100x2-on").records[0]
    out = []
    for k in range(num):
        metrics = {m: (v * (1 + k / 1000), u) for m, (v, u) in record.metrics.items()}
        counts = record.sample.counts * (1 + k / 1000)
        sample = replace(record.sample, counts=counts)
        out.append(Baseline((replace(record, name=f"r{k}", metrics=metrics, sample=sample),), "t"))
    return out


def test_merging_is_associative_and_counts_no_run_twice():
    """Runs come from parallel jobs; a run that counted twice would look like certainty."""
    a, b, c = make_repeats(3)
    one, other = a.merge(b).merge(c), a.merge(b.merge(c))
    assert [r.name for r in one.records] == [r.name for r in other.records] == ["r0", "r1", "r2"]
    assert write_baseline(one) == write_baseline(other)
    assert len(one.merge(b).merge(a).records) == 3
    reverse = c.merge(a.merge(b))
    runs = [("x", load("h100x2-on"))]
    judged = [check_runs(runs, x, Rules()) for x in (one, reverse)]
    for x, y in zip(*(j.findings for j in judged), strict=True):
        assert x.verdict == y.verdict
        assert (x.low is None) == (y.low is None)
        assert (x.low or 0) == pytest.approx(y.low or 0, rel=1e-6, abs=1e-9)


def test_runs_of_other_settings_make_no_baseline():
    """A baseline of on and off together would let anything pass."""
    with pytest.raises(UsageError, match=r"delayer is on .* and off"):
        baseline_of("h100x2-on").merge(baseline_of("h100x2-off"))


def test_delayers_are_the_same_as_far_as_both_say():
    """A log names a default that spans leave out; a watermark that nothing names is unset."""
    on = DelayerInfo(True, 30)
    assert is_same_delayer(on, replace(on, max_delay_ms=5000.0))
    assert not is_same_delayer(on, replace(on, max_delay_passes=10))
    assert not is_same_delayer(on, replace(on, token_usage_low_watermark=0.04))
    assert not is_same_delayer(on, DelayerInfo(False))
    assert describe_delayer(DelayerInfo(False)) == "off"


def write(tmp_path: Path, text: str) -> Path:
    """A file with this text."""
    path = tmp_path / "b.json"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not JSON"),
        ("[]", "it is no object"),
        ("{}", "'baseline_version' is missing"),
        ('{"baseline_version": 2}', "its version is 2"),
        ("{\n\n  nonsense", "b.json:3: not JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_other_files_are_refused_in_a_line(text, told, tmp_path):
    """A file that is no baseline must not become an error deep inside."""
    with pytest.raises(InputError, match=told) as error:
        read_baseline(write(tmp_path, text))
    assert "\n" not in str(error.value)


def spots(value: object, path: tuple = ()) -> list[tuple]:
    """Every place in a JSON value."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    items = value.items() if isinstance(value, dict) else ()
    return [path, *(spot for key, item in items for spot in spots(item, (*path, key)))]


TREE = json.loads(write_baseline(make_repeats(1)[0]))
SPOTS = [p for p in spots(TREE) if p and not (len(p) > 3 and isinstance(p[-1], int) and p[-1] > 1)]


@given(
    st.sampled_from(SPOTS),
    st.sampled_from([None, -1, 1e300, "x", [], {}, True, [[]], [None], {"a": 1}]),
)
@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_files_are_refused_or_harmless(tmp_path, spot, value):
    """Whatever was edited by hand ends in one line, or in a baseline that can be judged by."""
    tree = json.loads(json.dumps(TREE))
    at = tree
    for key in spot[:-1]:
        at = at[key]
    at[spot[-1]] = value
    path = write(tmp_path, json.dumps(tree))
    error, findings = "", ()
    try:
        run = load("h100x2-on-watermark")
        findings = check_runs([("x", run)], read_baseline(path), Rules()).findings
    except (InputError, UsageError) as refused:
        error = str(refused)
    assert "\n" not in error
    assert all(f.value is None or np.isfinite(f.value) for f in findings)
