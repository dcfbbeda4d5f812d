"""Which release maps to which rules."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdtrace.delayer.rules import GROUPS, rules_for
from pdtrace.errors import UsageError

LOOKED_AT = {
    "0.5.8": "A",
    "0.5.8.post1": "A",
    "0.5.9": "A",
    "0.5.10": "B",
    "0.5.10.post1": "B",
    "0.5.11": "C",
    "0.5.12": "D",
    "0.5.13": "D",
    "0.5.14": "E",
    "0.5.16": "E",
    "0.5.18": "F",
    "0.5.19": "G",
    "0.5.20": "G",
    "0.5.21": "G",
    "0.5.22": "H",
    "0.5.23": "H",
}
ASSUMED = {
    "0.5.12.post1": ("D", "not looked at"),
    "0.5.13.post1": ("D", "not looked at"),
    "0.5.15": ("E", "rules of 0.5.14"),
    "0.5.15.post1": ("E", "rules of 0.5.14"),
    "0.5.17": ("E2", "read, not compared"),
    "0.5.24": ("H", "newer than any"),
    "0.6": ("H", "newer than any"),
    "1.0.0rc1": ("H", "newer than any"),
    "0.5.13rc0": ("D", "pre-release"),
    "0.5.14.dev12+gabc123": ("E", "pre-release"),
}


@pytest.mark.parametrize(("version", "group"), LOOKED_AT.items())
def test_releases_looked_at_map_without_a_note(version: str, group: str) -> None:
    """A note on a release that was compared would cast doubt where there is none."""
    rules = rules_for(version)
    assert (rules.group, rules.note, rules.release) == (group, "", version)
    assert rules_for(f" v{version} ").group == group


@pytest.mark.parametrize(("version", "expected"), ASSUMED.items())
def test_other_releases_say_what_was_assumed(version: str, expected: tuple[str, str]) -> None:
    """A guess about a release must be readable as a guess."""
    rules = rules_for(version)
    assert rules.group == expected[0]
    assert expected[1] in rules.note


@pytest.mark.parametrize("version", ["0.5.7", "0.5.7.post2", "0.4.6.post5", "0.4"])
def test_releases_before_the_delayer_are_refused(version: str) -> None:
    """Replaying a policy that the release does not have would invent an engine."""
    with pytest.raises(UsageError, match=r"0\.5\.8"):
        rules_for(version)


@pytest.mark.parametrize(
    "version", ["", "newest", "0.5.x", "5", "0.5.13 or so", "0.5.13.post", "0." + "9" * 5000]
)
def test_texts_that_are_no_release_are_refused(version: str) -> None:
    """A typing error must not silently become some release."""
    with pytest.raises(UsageError, match="not an SGLang release"):
        rules_for(version)


@settings(deadline=None)
@given(st.text(max_size=12))
def test_any_text_gives_rules_or_a_usage_error(version: str) -> None:
    """A version comes from a log, so it can be any text."""
    with contextlib.suppress(UsageError):
        assert rules_for(version).release == version.strip()


@settings(deadline=None)
@given(st.integers(8, 60), st.integers(8, 60))
def test_later_releases_never_map_to_earlier_groups(one: int, other: int) -> None:
    """Groups follow each other in time."""
    order = [g.group for g in GROUPS]
    early, late = sorted((one, other))
    assert order.index(rules_for(f"0.5.{early}").group) <= order.index(
        rules_for(f"0.5.{late}").group
    )


def test_gathered_fields_grow_with_the_groups() -> None:
    """Each group sends what the one before it sent, and perhaps more, in the same order."""
    for before, after in itertools.pairwise(GROUPS):
        shared = len(before.gathered_fields)
        assert after.gathered_fields[:shared] == before.gathered_fields
