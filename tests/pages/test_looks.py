"""How pages look: what leads the eye, and what wide engines and narrow windows do to them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pdtrace.compare import compare_runs
from pdtrace.exports.strip import find_worst_stretch
from pdtrace.figures.survey import survey_run
from pdtrace.pages import build_row, render_comparison, render_fleet
from tests.pages.made_pages import (
    load,
    make_run,
    render,
    settle,
    text,
    timeline,
    uses_browser,
)

pytestmark = uses_browser


def draw_comparison() -> str:
    """Two recorded runs side by side."""
    runs = (load("h100x2-off"), load("h100x2-on"))
    return render_comparison(compare_runs(*runs), runs)


def draw_fleet() -> str:
    """Three recorded runs, a row each."""
    names = ("h100x2-off", "h100x2-on", "cpu-dp8-off")
    return render_fleet([build_row(name, load(name)) for name in names])


def test_the_head_leads_to_the_worst_stretch(open_page):
    """One press from the verdict shows and selects the iterations that lost most rank time."""
    run = load("h100x2-on")
    worst = find_worst_stretch(run, 80)
    driver = open_page(render(run, worst=worst))
    button = driver.find_element("css selector", ".worst button")
    assert f"iterations {worst.first:,}–{worst.last:,}" in text(driver, ".worst")
    button.click()
    settle(driver)
    n = worst.last - worst.first + 1
    assert f"{n} of {run.iterations.height} iterations selected" in text(driver, "#stretch")
    low, high = driver.execute_script("return timelines[0].window")
    survey = survey_run(run)
    ends = [
        survey.start[survey.iteration == worst.first],
        survey.end[survey.iteration == worst.last],
    ]
    assert [low, high] == pytest.approx([float(e[0]) for e in ends], abs=0.01)


@pytest.mark.parametrize("ranks", [8, 64])
def test_all_ranks_stand_in_one_view(open_page, ranks):
    """However many ranks there are, the timeline with its axis fits a screen."""
    driver = open_page(render(make_run(30, ranks)))
    assert timeline(driver).size["height"] < 700
    labels = driver.find_elements("css selector", f"#{timeline(driver).get_attribute('id')} .ytick")
    boxes = sorted((label.rect["y"], label.rect["height"]) for label in labels)
    assert all(y + high <= below + 1 for (y, high), (below, _) in pairwise(boxes))


@pytest.mark.parametrize("draw", [draw_comparison, draw_fleet])
def test_a_narrow_page_squeezes_nothing(open_page, browser, draw):
    """On 800 pixels no cell of a table is a column of letters, and no axis a few pixels wide."""
    driver = open_page(draw())
    size = {"width": 800, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    settle(driver)
    try:
        narrowest = """
            const boxes = [...document.querySelectorAll(".runs td.text, .plot .nsewdrag")];
            return Math.min(...boxes.map((box) => box.getBoundingClientRect().width));
        """
        assert driver.execute_script(narrowest) > 140
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 800
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_printed_table_of_runs_keeps_its_headings(open_page, browser):
    """On paper nothing can be pressed, but a column without its name says nothing."""
    driver = open_page(draw_fleet())
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        buttons = driver.find_elements("css selector", "table.sortable th button")
        assert buttons
        assert all(button.is_displayed() for button in buttons)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
