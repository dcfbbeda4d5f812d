"""Pages about a what-if: what to set, what to expect, or that it is better left off."""

from __future__ import annotations

import dataclasses

import pytest

from pdtrace.delayer.replay import Setting
from pdtrace.pages import render_whatif
from pdtrace.wording import change
from tests.figures.recorded import read_outlook, read_sample

RUN = "h100x2-off"


def head_of(page: str) -> str:
    """What stands above the tiles."""
    return page[page.index('id="verdict"') : page.index("<main")]


def test_the_flags_to_use_can_be_copied():
    """The head says what to set, as one line, and what it is predicted to change."""
    outlook = read_outlook(RUN)
    advice = dataclasses.replace(
        outlook.advice, chosen=outlook.bounds[1], flags=("--enable-prefill-delayer", "--x 30")
    )
    page = render_whatif(read_sample(RUN), dataclasses.replace(outlook, advice=advice))
    assert "Turn the delayer on, with 30 delay passes." in head_of(page)
    assert "<code>--enable-prefill-delayer --x 30</code>" in head_of(page)
    assert f"<dd>{change(outlook.bounds[1].latency[0])} " in page


def test_leaving_it_off_is_said_with_its_reason():
    """Where nothing pays there is no line to copy, and the reason stands first."""
    outlook = read_outlook(RUN)
    advice = dataclasses.replace(outlook.advice, chosen=None, flags=(), reason="no gain")
    page = render_whatif(read_sample(RUN), dataclasses.replace(outlook, advice=advice))
    assert "Leave the delayer off: no gain." in head_of(page)
    assert "<code>" not in head_of(page)
    assert "Use --" not in head_of(page)


def test_numbers_are_of_the_setting_asked_about():
    """The row of metrics is of the setting that whatif was asked about, not of the one to use."""
    outlook = dataclasses.replace(read_outlook(RUN), asked=(Setting(500),))
    page = render_whatif(read_sample(RUN), outlook, verdict=("500 passes: slower.",))
    assert "<dt>Mean latency, 500 passes</dt>" in page
    assert "500 passes: slower." in head_of(page)


def test_what_the_numbers_rest_on_is_told():
    """Remarks of the sweep and the length of a turn are on the page, folded away."""
    outlook = read_outlook(RUN)
    page = render_whatif(read_sample(RUN), outlook)
    assert "A delayed scheduler turn takes" in page
    assert "details class=notes" in page


@pytest.mark.browser
def test_it_draws_every_figure_quietly(open_page):
    """All figures of the page are drawn, without a message on the console."""
    driver = open_page(render_whatif(read_sample(RUN), read_outlook(RUN)), dark=True)
    plots = driver.find_elements("css selector", ".plot")
    assert len(plots) == 5
    assert all(p.find_elements("css selector", ".main-svg") for p in plots)
