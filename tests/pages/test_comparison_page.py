"""Pages about two runs: the verdict, its cost, and why there is none."""

from __future__ import annotations

import dataclasses
import html

from pdtrace.compare import compare_runs
from pdtrace.pages import render_comparison
from tests.figures.recorded import read_pair, read_sample
from tests.pages.recorded_pages import EVIL, body_of, list_strings, read_data, with_evil_ids

RUNS = ("h100x2-off", "h100x2-on")


def render_sample(*names: str) -> str:
    """The page of two recorded runs."""
    runs = read_sample(names[0]), read_sample(names[1])
    return render_comparison(read_pair(*names).result, runs)


def test_the_verdict_stands_at_the_head_with_its_cost():
    """Who reads two lines knows what was gained and what it cost."""
    page = render_sample(*RUNS)
    head = page[page.index('id="verdict"') : page.index("<main")]
    assert "The candidate is better: request latency, mean, 317 ms → 270 ms" in head
    assert "Cost: 118 of 453 requests are answered over 5 % later" in head
    assert head.index("The candidate is better") < head.index("Cost:")


def test_runs_that_cannot_be_compared_tell_every_reason():
    """Different engines get all reasons and no sentence that claims a gain."""
    page = render_sample("h100x2-off", "cpu-dp8-off")
    result = read_pair("h100x2-off", "cpu-dp8-off").result
    assert len(result.reasons) > 1
    head = page[page.index('id="verdict"') : page.index("<main")]
    assert "no gain is claimed" in head
    for reason in result.reasons:
        assert html.escape(reason) in head
    assert "better" not in head


def test_ids_that_try_to_act_stay_text():
    """Markup, controls and marks that reorder text are shown, in the page and in its figures."""
    runs = tuple(with_evil_ids(read_sample(n)) for n in RUNS)
    result = compare_runs(runs[0], runs[1])
    named = dataclasses.replace(runs[0], warnings=(EVIL,))
    page = render_comparison(result, (named, runs[1]), request_filter=None)
    assert "<b onclick" not in body_of(page)
    strings = list_strings(read_data(page))
    assert not [s for s in strings if "\u202e" in s or "\x1b" in s]
    labels = [s for s in strings if "onclick" in s]
    # Plotly takes markup in labels for its own: ids reach it escaped.
    assert labels
    assert not [s for s in labels if "<b onclick" in s]
    assert "\\u202e" in page
