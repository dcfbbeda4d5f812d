"""A run that is saved and loaded again is the same run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from pdtrace.errors import InputError, OutputError, UsageError
from pdtrace.exports.summary import write_summary
from pdtrace.loading import load
from pdtrace.metrics import measure
from pdtrace.run import DelayerInfo, EngineInfo, Incident
from pdtrace.saved_run import is_saved_run, load_run, save_run

_spec = importlib.util.spec_from_file_location(
    "hand_counted", Path(__file__).parent / "metrics" / "hand_counted.py"
)
assert _spec is not None
assert _spec.loader is not None
hand = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hand)


@pytest.fixture
def run() -> Any:
    """A run that fills every field that a saved run must keep."""
    return hand.build(
        [(100, {0: 1000}), (200, {0: 1000, 1: 400}), (333, {1: 600})],
        cuts=(1, 1),
        engine=EngineInfo(
            release_min="0.5.13", tp_size=2, delayer=DelayerInfo(True, 30, 0.04),
            server_args={"model_path": "/m", "x": "ü"},
        ),
        requests=[hand.request("a", 0, 100)],
        decisions=[hand.decision("prometheus", 0, "delay", 9)],
        incidents=[Incident("crash", None, 0, 40, 1, 0, "Traceback \x1b[31m")],
        warnings=["one", "two"],
    )  # fmt: skip


def test_saved_run_is_the_same(run: Any, tmp_path: Path) -> None:
    """Tables, facts and cuts survive, so the summary is the same to the last byte."""
    save_run(run, tmp_path / "saved")
    again = load_run(tmp_path / "saved")
    assert again.engine == run.engine
    assert again.files == run.files
    assert again.incidents == run.incidents
    assert again.warnings == run.warnings
    assert again.events.equals(run.events)
    assert again.iterations.equals(run.iterations)
    assert again.rank_passes.equals(run.rank_passes)
    assert [p.iterations.height for p in again] == [p.iterations.height for p in run]
    assert write_summary(again, measure(again)) == write_summary(run, measure(run))


def test_load_takes_a_saved_run(run: Any, tmp_path: Path) -> None:
    """Every command takes a saved run as PATH, alone and whole."""
    save_run(run, tmp_path / "saved")
    assert load(tmp_path / "saved").events.equals(run.events)
    with pytest.raises(UsageError):
        load(tmp_path / "saved", tmp_path / "saved")
    with pytest.raises(UsageError):
        load(tmp_path / "saved", sources=["otel_spans"])


def test_saving_replaces_a_saved_run_only(run: Any, tmp_path: Path) -> None:
    """Saving again replaces; a directory with anything else in it is left alone."""
    target = tmp_path / "saved"
    target.mkdir()
    save_run(run, target)
    save_run(run, target)
    assert is_saved_run(target)
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a saved run"):
        save_run(run, other)
    assert [p.name for p in other.iterdir()] == ["notes.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="it is a file"):
        save_run(run, tmp_path / "file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "other", "saved"]


def test_a_failed_save_leaves_what_was_there(run: Any, tmp_path: Path) -> None:
    """If writing breaks half way, the old saved run is still whole and no scrap remains."""
    target = tmp_path / "saved"
    save_run(run, target)

    class Breaks:
        def __iter__(self) -> Any:
            yield run.parts[0]
            raise OSError(28, "No space left on device")

    broken = hand.build([(100, {0: 1})])
    object.__setattr__(broken, "parts", Breaks())
    with pytest.raises(OutputError, match="No space left"):
        save_run(broken, target)
    assert load_run(target).events.equals(run.events)
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '{"format": "other"}', "\x00\xff",
        '{"format": "pdtrace-run", "version": 2}',
        '{"format": "pdtrace-run", "version": 1}',
        '{"format": "pdtrace-run", "version": 1, "num_parts": -1, "dp_size": 2, "grouping": "x"}',
        '{"format": "pdtrace-run", "version": 1, "num_parts": true, "dp_size": 2}',
    ],
)  # fmt: skip
def test_foreign_facts_are_an_input_error(run: Any, tmp_path: Path, text: str) -> None:
    """A run.json of anyone else, or a damaged one, is refused in one line and no traceback."""
    save_run(run, tmp_path / "saved")
    (tmp_path / "saved" / "run.json").write_text(text)
    with pytest.raises(InputError):
        load_run(tmp_path / "saved")


def test_changed_facts_are_an_input_error(run: Any, tmp_path: Path) -> None:
    """Unknown or missing keys inside the facts are damage, not a crash."""
    save_run(run, tmp_path / "saved")
    path = tmp_path / "saved" / "run.json"
    facts = json.loads(path.read_text())
    for change in ({"engine": {"x": 1}}, {"files": [3]}, {"incidents": [{}]}, {"warnings": None}):
        path.write_text(json.dumps(facts | change))
        with pytest.raises(InputError):
            load_run(tmp_path / "saved")


def test_damaged_tables_are_an_input_error(run: Any, tmp_path: Path) -> None:
    """A missing, cut or foreign Parquet file is named."""
    save_run(run, tmp_path / "saved")
    events = tmp_path / "saved" / "parts" / "00000-events.parquet"
    whole = events.read_bytes()
    events.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="00000-events"):
        measure(load_run(tmp_path / "saved"))
    events.write_bytes((tmp_path / "saved" / "requests.parquet").read_bytes())
    with pytest.raises(InputError, match="columns"):
        measure(load_run(tmp_path / "saved"))
    events.unlink()
    with pytest.raises(InputError, match="missing"):
        load_run(tmp_path / "saved")


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("engine", "dp_size", "2"),
        ("engine", "server_args", {"tp_size": 2}),
        ("engine", "enable_dp_attention", 1),
        ("engine", "release_min", ["0.5.13"]),
        ("files", "num_lines", "many"),
        ("files", "path", 7),
    ],
)
def test_a_fact_of_another_type_is_damage(
    run: Any, tmp_path: Path, where: str, name: str, value: Any
) -> None:
    """Guards what comes after reading: a changed run.json ends in one line that names the fact."""
    saved = tmp_path / "saved"
    save_run(run, saved)
    facts = json.loads((saved / "run.json").read_text())
    (facts[where] if where == "engine" else facts[where][0])[name] = value
    (saved / "run.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=f"damaged: .*{name}"):
        load_run(saved)
