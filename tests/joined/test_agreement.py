"""Agreement: verdicts, and that a real disagreement is seen."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import polars as pl
import pytest

import pdtrace
from pdtrace.joined.agreement import check_agreement, compare
from pdtrace.loading import compare_sources
from pdtrace.sources.joining import join_requests

SAMPLES = Path(__file__).parents[2] / "sample_logs"


@cache
def load():
    """A complete run."""
    return pdtrace.load(SAMPLES / "h100x2-on")


def verdicts(run):
    """(what, source b) → verdict."""
    table = check_agreement(run, join_requests(run.requests), {})
    return {(r["what"], r["source_b"]): r["verdict"] for r in table.iter_rows(named=True)}


@pytest.mark.parametrize(
    ("b", "more", "verdict"),
    [
        (5, {}, "agrees"),
        (6, {}, "differs"),
        (6, {"allowed": 1, "reason": "known"}, "agrees"),
        (6, {"doubt": "partial"}, "not_comparable"),
        (5, {"doubt": "partial"}, "agrees"),
        (5, {"blocked": "partial"}, "not_comparable"),
        (None, {}, "not_comparable"),
    ],
)
def test_verdicts(b, more, verdict):
    """Equal, explained, doubted, blocked, missing: each has its verdict, and its reason."""
    row = compare("x", ("a", 5), ("b", b), **more)
    assert row.verdict == verdict
    is_plain = (b == 5 and "blocked" not in more) or (b == 6 and not more)
    assert (row.reason is None) == is_plain


def test_a_counter_that_is_off_by_one_differs():
    """One outcome more than iterations is no rounding."""
    run = load()
    reason = pl.col("output_reason").cast(pl.String)
    first = pl.int_range(pl.len()) == pl.arg_where(reason == "no_wait").first()
    more = run.decisions.with_columns(pl.col("count") + first.cast(pl.UInt64))
    told = verdicts(dataclasses.replace(run, decisions=more))
    assert told["iterations on all ranks", "engine counters: no_wait + wait_success"] == "differs"
    assert told["prefill batches", "engine counters: actual_execution"] == "differs"


def test_a_lost_span_differs_or_is_named():
    """A batch that spans miss is a difference where nothing explains it."""
    run = load()
    parts = [
        dataclasses.replace(p, events=p.events.filter(pl.col("event_id") != lost))
        for p in run
        for lost in [
            p.events.filter(pl.col("source").cast(pl.String) == "otel_spans")["event_id"][9]
        ]
    ]
    told = verdicts(dataclasses.replace(run, parts=parts))
    assert told["prefill batches", "spans"] == "differs"
    assert told["prompt tokens computed", "spans"] == "not_comparable"


def test_one_source_is_not_compared_with_itself():
    """A log alone has nothing to agree with, and costs nothing."""
    run = pdtrace.load(SAMPLES / "h100x2-on" / "server.log")
    assert compare_sources(run) is run
