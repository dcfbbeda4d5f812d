"""Every directory of sample_logs is a test: what its run.toml and its truth say must be found."""

from __future__ import annotations

import gzip
import json
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import pdtrace
from pdtrace.__main__ import main
from pdtrace.sources import FORMATS

SAMPLES = Path(__file__).parent.parent / "sample_logs"
RUNS = sorted(p for p in SAMPLES.iterdir() if p.is_dir())
WITH_TRUTH = [p for p in RUNS if (p / "truth.json").exists()]
MAX_BYTES = 25 << 20
each_run = pytest.mark.parametrize("folder", RUNS, ids=lambda p: p.name)


@cache
def describe(folder: Path) -> dict[str, Any]:
    """What run.toml says."""
    path = folder / "run.toml"
    assert path.exists(), f"{folder.name} has no run.toml: say where it comes from, what to expect"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def each_run_with(*keys: str) -> pytest.MarkDecorator:
    """Runs whose run.toml has a table; one without any run.toml fails elsewhere, by its name."""

    def has(folder: Path) -> bool:
        table = describe(folder) if (folder / "run.toml").exists() else {}
        for key in keys:
            table = table.get(key, {})
        return bool(table)

    return pytest.mark.parametrize("folder", list(filter(has, RUNS)), ids=lambda p: p.name)


@pytest.fixture(scope="module")
def summarise(tmp_path_factory: pytest.TempPathFactory):
    """Analyze a run once, as a user would; gives its exit code and its JSON."""

    @cache
    def run(folder: Path) -> tuple[int, dict[str, Any]]:
        target = tmp_path_factory.mktemp("summary") / "summary.json"
        code = main(["analyze", str(folder), "--json", str(target)])
        return code, json.loads(target.read_text(encoding="utf-8"))

    return run


def test_samples_exist():
    """An empty folder must not pass as tested, and a clone must stay small."""
    assert len(RUNS) >= 9
    assert WITH_TRUTH
    assert sum(f.stat().st_size for f in SAMPLES.rglob("*")) < MAX_BYTES


@each_run
def test_run_says_where_it_comes_from(folder):
    """A sample without origin, settings and expected figures proves nothing."""
    told = describe(folder)
    assert {"shows", "origin", "settings", "expected"} <= told.keys()
    assert {"what", "machine", "engine", "release", "model"} <= told["origin"].keys()
    assert folder.name in (SAMPLES / "README.md").read_text(encoding="utf-8")


@each_run
def test_engine_facts(folder, summarise):
    """The exit code, role, ranks, grouping, settings and engine events are as recorded."""
    told = describe(folder)
    want = told["expected"]
    code, summary = summarise(folder)
    run = summary["run"]
    assert code == want["exit_code"]
    assert {k: run[k] for k in ("role", "dp_size", "grouping")} == {
        k: want[k] for k in ("role", "dp_size", "grouping")
    }
    release = told["origin"]["release"]
    low, high = run["release_min"], run["release_max"]
    assert order(low) <= order(release) <= order(high)
    for name, value in want["delayer"].items():
        assert run["delayer"][name] == value, name
    seen = Counter(i["kind"] for i in summary["incidents"])
    assert {kind: seen[kind] for kind in want["incidents"]} == want["incidents"]
    for file in run["files"]:
        if file["source"] == "scheduler_log":
            assert file["num_events"] == want["num_events"]
            assert file["skipped"] == {}


@each_run
def test_metrics(folder, summarise):
    """The numbers that the origin knows come out to the last digit."""
    want = describe(folder)["expected"]
    _, summary = summarise(folder)
    found = {name: cell["value"] for name, cell in summary["metrics"].items()}
    expected = want.get("metrics", {})
    assert {name: found[name] for name in expected} == expected
    if "fusion_width_histogram" in want:
        assert summary["fusion_width_histogram"] == want["fusion_width_histogram"]
    if "min_iterations" in want:
        assert found["num_iterations"] >= want["min_iterations"]


@each_run_with("expected", "counters")
def test_counters(folder, summarise):
    """The delayer's outcomes equal the engine's own counters, since its start or since the load."""
    if not any(f.name == "prometheus" and f.read for f in FORMATS):
        pytest.skip("no reader of Prometheus metrics yet")
    metrics = summarise(folder)[1]["metrics"]
    for name, (before, after) in describe(folder)["expected"]["counters"].items():
        assert metrics[name]["value"] in (after, after - before), name


@each_run_with("load")
def test_load_is_as_told(folder):
    """The client's log holds as many requests as run.toml says were sent and answered."""
    load = describe(folder)["load"]
    with gzip.open(folder / "client.jsonl.gz", "rt", encoding="utf-8") as lines:
        answers = [json.loads(line)["ok"] for line in lines]
    assert (len(answers), sum(answers)) == (load["num_sent"], load["num_ok"])


@pytest.mark.parametrize("folder", WITH_TRUTH, ids=lambda p: p.name)
def test_iterations_line_by_line(folder):
    """Each iteration has the label, the ranks, the lines and the tokens that the truth has."""
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    want = {
        it["forward_iter"]: {
            (int(rank), line["line"], line["new_token"]) for rank, line in it["ranks"].items()
        }
        for it in truth["iterations"]
    }
    run = pdtrace.load(folder, sources=["scheduler_log"])
    label = dict(run.iterations.select("iteration", "forward_iter").iter_rows())
    found: dict[int, set[tuple[int, int, int]]] = {}
    columns = ("iteration", "dp_rank", "line", "num_new_tokens")
    for iteration, *line in run.events.select(columns).iter_rows():
        found.setdefault(label[iteration], set()).add(tuple(line))
    assert found == want
    assert run.iterations["confidence"].min() == 1.0


def order(release: str) -> tuple[int, ...]:
    """A release in the order of releases: 0.5.9 before 0.5.10."""
    return tuple(int(part) for part in release.split(".")[:3])
