"""GitLab's code quality report: the fields it demands, one entry a finding, stable fingerprints."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pdtrace.check.code_quality import build_code_quality, write_code_quality
from tests.check import made


@pytest.mark.parametrize("kind", ["passed", "failed", "uncomparable", "inconclusive", "hostile"])
def test_entries_have_what_gitlab_demands(kind):
    """GitLab drops an entry that lacks one of these, or whose fingerprint it saw before."""
    result = getattr(made, kind)()
    entries = json.loads(write_code_quality(result))
    for entry in entries:
        assert entry.keys() == {"description", "check_name", "fingerprint", "severity", "location"}
        assert entry["severity"] in {"info", "minor", "major", "critical", "blocker"}
        assert isinstance(entry["location"]["path"], str)
        assert entry["location"]["lines"]["begin"] >= 1
        assert "\n" not in entry["description"]
    assert len({e["fingerprint"] for e in entries}) == len(entries)


def test_severity_follows_the_verdict():
    """What failed stands above what only has no verdict; what passed is not listed."""
    severities = [e["severity"] for e in build_code_quality(made.failed())]
    assert severities == ["critical", "critical", "major", "major"]
    assert [e["severity"] for e in build_code_quality(made.uncomparable())] == ["blocker"]


def test_place_is_relative_to_the_checkout(tmp_path):
    """GitLab links only paths of the repository."""
    where = replace(made.RULE.where, file=str(tmp_path / "a" / "server.log"))
    (entry,) = build_code_quality(made.failed(replace(made.RULE, where=where)), str(tmp_path))
    assert entry["location"] == {"path": "a/server.log", "lines": {"begin": 815}}


def test_fingerprint_stays():
    """Another value of the same finding is the same finding: GitLab compares two branches by it."""
    (one,) = build_code_quality(made.failed(made.COUNT))
    (two,) = build_code_quality(made.failed(replace(made.COUNT, value=700.0, where=None)))
    assert one["fingerprint"] == two["fingerprint"]
