"""Findings in words: different numbers look different, none is rounded to a false 0 or 100."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdtrace.check.verdicts import Verdict, Where
from pdtrace.check.wording import (
    describe_finding,
    describe_runs_needed,
    describe_values,
    show_change,
    show_limit,
    show_value,
    show_values,
    show_where,
    sort_by_gravity,
)
from tests.check import made


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.3885, "ratio", "38.9 %"),
        (0.0, "ratio", "0 %"),
        (1.0, "ratio", "100 %"),
        (0.99996, "ratio", "99.996 %"),
        (0.00001, "ratio", "0.00100 %"),
        (0.00012, "s", "120 µs"),
        (0.8123, "s", "812 ms"),
        (12.3456, "s", "12.3 s"),
        (41_234.4, "tok/s", "41,234 tok/s"),
        (1.4142, "ranks", "1.41 ranks"),
        (381.0, "count", "381"),
        (-2.0, "requests", "−2 requests"),
        (None, "s", "–"),
    ],
)
def test_value_has_its_unit(value, unit, shown):
    """A number without its unit, or rounded to nothing or all, misleads."""
    assert show_value(value, unit) == shown


@given(
    st.floats(1e-6, 1e6),
    st.floats(1e-4, 10),
    st.sampled_from(["ratio", "s", "tok/s", "count", "ranks"]),
)
def test_different_values_look_different(value, factor, unit):
    """A value just above its limit must not be printed as the limit."""
    other = value * (1 + factor)
    first, second = show_values([value, other], unit)
    assert first != second


def test_value_beside_its_limit():
    """The tightest failures are the ones people argue about."""
    found = replace(made.RULE, value=0.30004)
    assert describe_values(found) == "30.004 %, limit 30 %"


def test_change_of_a_share_is_in_points():
    """From 10 % to 15 % is 5 points and 50 %: both are called five or fifty somewhere."""
    share = replace(made.RULE, rule="1 point more", baseline=0.1, value=0.15, limit=0.01)
    points = replace(share, scale="absolute", change=0.05)
    assert show_change(0.05, points) == "+5 points"
    assert show_limit(points) == "+1 point"
    assert show_change(0.5, replace(share, scale="relative")) == "+50 %"


def test_limit_points_in_the_bad_direction():
    """Allowed −5 % of a throughput and +5 % of a latency are the same strictness."""
    assert show_limit(made.SAME) == "−5 %"
    assert show_limit(made.TIME) == "+5 %"


def test_finding_in_one_line():
    """Annotations and test reports show one line: it must hold all that a developer needs."""
    assert describe_finding(made.RULE) == (
        "idle share of rank passes (idle_rank_pass_ratio): 38.9 %, limit 30 %; "
        "rule: idle_rank_pass_ratio<=0.3 (gate.toml:4); the value is above the bound; "
        "worst at runs/candidate/server.log:815 "
        "(iteration 211, rank 1: one rank of 2 prefilled 8,192 tokens)"
    )


def test_runs_needed_in_words():
    """Inconclusive is useful only with what would settle it."""
    assert describe_runs_needed(made.TIME) == "2 more runs would settle it"
    both = replace(made.TIME, runs_needed=1, baseline_runs_needed=3)
    assert describe_runs_needed(both) == "1 more run and 3 more baseline runs would settle it"
    assert describe_runs_needed(made.SAME) == ""


def test_where_without_line_or_rank():
    """Spans have no lines: no colon, no 'None'."""
    assert show_where(Where("spans.pb", None, 5, None, "")) == "spans.pb (iteration 5)"


def test_worst_first():
    """Where ten fit, the failures and the largest losses are those to see."""
    small = replace(made.COUNT, change=0.05)
    order = sort_by_gravity([made.SAME, made.TIME, small, made.ABSENT, made.COUNT])
    assert order == [made.COUNT, small, made.ABSENT, made.TIME, made.SAME]
    assert order[0].verdict is Verdict.FAIL
    seconds = replace(made.COUNT, unit="s", scale="absolute", change=2.0, limit=1.0)
    assert sort_by_gravity([seconds, made.COUNT]) == [made.COUNT, seconds]
