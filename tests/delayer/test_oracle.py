"""The policy against recordings of the real delayer: every cell of every pass, floats with ==.

The excerpts in ``tests/data/delayer`` always run. Whole recordings run from the directory named by
the environment variable PDTRACE_ORACLE_DIR, or else from the neighbouring directory below.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from pdtrace.delayer.rules import GROUPS, rules_for

PROJECT = Path(__file__).parents[2]
EXCERPTS = sorted((PROJECT / "tests" / "data" / "delayer").glob("*.jsonl.gz"))
ORACLE_DIR = Path(
    os.environ.get("PDTRACE_ORACLE_DIR") or PROJECT.parent / "shared/prefill-delayer/public"
)
RECORDINGS = sorted(p for p in ORACLE_DIR.rglob("*") if p.name.endswith((".jsonl", ".jsonl.gz")))
RECORDED_GROUPS = {g.group for g in GROUPS} - {"E2"}
# Switches that decide verdicts, and the groups in whose excerpts a wrong one must show. The others
# change the gathered columns, which are compared anyway, or nothing of a negotiation.
SWITCHES = {
    "has_watermark_in_all": RECORDED_GROUPS,
    "bounds_all": RECORDED_GROUPS - {"A"},
    "reports_release": RECORDED_GROUPS,
    "has_sliding_watermark": RECORDED_GROUPS - {"A"},
    "caps_by_max_requests": {"G", "H"},
}


def report(comparison) -> str:
    """The differences, the first twenty in full."""
    shown = comparison.differences[:20]
    return f"{len(comparison.differences)} cells differ:\n" + "\n".join(shown)


@pytest.mark.parametrize("path", EXCERPTS, ids=lambda p: p.name.removesuffix(".jsonl.gz"))
def test_oracle_excerpt(recordings: ModuleType, path: Path) -> None:
    """The project shows by itself, in every checkout, that its policy is the engine's."""
    comparison = recordings.compare(path)
    assert comparison.num_passes > 100
    assert not comparison.differences, report(comparison)


@pytest.mark.parametrize(
    "path", RECORDINGS or [None], ids=lambda p: p.name.split(".jsonl")[0] if p else "absent"
)
def test_oracle_recording(
    recordings: ModuleType, path: Path | None, record_property: pytest.RecordProperty
) -> None:
    """The policy is the engine's in every recorded situation, not only in excerpts."""
    if path is None:
        assert not ORACLE_DIR.is_dir(), f"{ORACLE_DIR} holds no recordings (*.jsonl, *.jsonl.gz)"
        pytest.skip(f"there is no directory {ORACLE_DIR}; PDTRACE_ORACLE_DIR can name one")
    comparison = recordings.compare(path)
    record_property("version", comparison.version)
    record_property("scenarios", comparison.num_scenarios)
    record_property("passes", comparison.num_passes)
    record_property("cells", comparison.cells.total())
    assert comparison.num_passes > 0
    assert not comparison.differences, report(comparison)


def test_oracle_names_the_cell_that_differs(recordings: ModuleType, tmp_path: Path) -> None:
    """A failure that did not say where would leave thousands of passes to search."""
    header, scenarios = recordings.read_recording(EXCERPTS[-1])
    scenario = copy.deepcopy(scenarios[0])
    scenario["passes"][1]["out"]["output_reason"] = "no_such_reason"
    path = tmp_path / "one.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, (header, scenario))).encode()))
    first = recordings.compare(path).differences[0]
    where = f"{header['sglang_version']} {scenario['id']} pass 1 rank 0 output_reason: "
    assert first.startswith(where + "expected 'no_such_reason', got ")


@pytest.mark.parametrize("switch", SWITCHES)
def test_oracle_excerpts_notice_a_wrong_switch(
    recordings: ModuleType, switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recordings that any rule would satisfy would prove nothing about the release groups."""
    noticing = set()
    for path in EXCERPTS:
        header, _ = recordings.read_recording(path)
        rules = rules_for(header["sglang_version"])
        flipped = replace(rules, **{switch: not getattr(rules, switch)})
        monkeypatch.setattr(recordings, "rules_for", lambda _, flipped=flipped: flipped)
        if recordings.compare(path).differences:
            noticing.add(rules.group)
    assert noticing == SWITCHES[switch]


def test_oracle_excerpts_cover_every_recorded_group(recordings: ModuleType) -> None:
    """A release group without a recording would be a rule that nobody compared."""
    versions = [recordings.read_recording(p)[0]["sglang_version"] for p in EXCERPTS]
    assert {rules_for(v).group for v in versions} == RECORDED_GROUPS
