"""Everything on a page is reached and read without a pointer."""

from __future__ import annotations

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from pdtrace.figures import draw_figure
from pdtrace.pages import render_page
from tests.pages.made_pages import (
    add_requests,
    load,
    make_run,
    read_table,
    render,
    settle,
    text,
    timeline,
    uses_browser,
)

pytestmark = uses_browser


def focused(driver) -> str:
    """What has the focus, as its tag, class or label."""
    found: str = driver.execute_script(
        "const e = document.activeElement; return e.getAttribute('aria-label') || e.textContent"
    )
    return found


def test_the_arrow_keys_reach_every_cell(open_page):
    """Without a pointer, the arrow keys read cells out and + zooms."""
    driver = open_page(render(make_run(20, 2)))
    target = timeline(driver)
    driver.execute_script("arguments[0].focus()", target)
    target.send_keys(Keys.ARROW_RIGHT)
    assert "iteration 0" in text(driver, ".readout")
    target.send_keys(Keys.ARROW_DOWN)
    assert "rank 1" in text(driver, ".readout")
    target.send_keys("+")
    settle(driver)
    assert int(text(driver, ".status").split()[0]) < 20
    target.send_keys("0")
    settle(driver)
    assert text(driver, ".status").startswith("20 iterations")


def test_tab_reaches_every_figure_and_shows_where_it_is(open_page):
    """Walking by Tab alone meets all figures, controls and tables, each with a visible focus."""
    driver = open_page(render(add_requests(make_run(60, 3), 20)))
    driver.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    drawn = driver.execute_script(
        "return page.tiles.filter((t) => t.spec.data.length).map((t) => t.id)"
    )
    tables = driver.execute_script("return document.querySelectorAll('details .scroll').length")
    met, regions, labels, unmarked = set(), 0, set(), 0
    for _ in range(80):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        tag, name, is_region, label, outline = driver.execute_script(
            """
            const e = document.activeElement;
            return [e.tagName, e.id, e.matches("details .scroll"),
              e.getAttribute("aria-label") || e.textContent,
              getComputedStyle(e).outlineStyle !== "none"];
            """
        )
        if tag == "BODY":  # behind the last element
            break
        met.add(name)
        regions += is_region
        labels.add(label)
        unmarked += not outline
    assert set(drawn) <= met
    assert regions >= tables
    assert {"Request id", "Find", "Select", "select"} <= labels
    assert unmarked == 0


def test_every_figure_is_walked_with_a_readout(open_page):
    """The arrow keys read out the points of every figure, numbers with their units."""
    driver = open_page(render_page(load("h100x2-on")))
    bar = draw_figure("idle_causes", load("h100x2-on")).spec["data"][0]
    wanted = {
        "fusion_histogram": "1 of 2 ranks prefilled · 119 iterations",
        "idle_share": "idle (of the ranks' time in passes): ",
        "durations": "median ",
        "idle_causes": f"{bar['y'][0]}: {bar['x'][0]:.3f} s of the ranks' time, {bar['text'][0]}",
        "rank_balance": "rank 0: ",
        "queues": "waiting queue (requests): ",
        "ttft_breakdown": "mean: behind a running forward ",
    }
    for figure, words in wanted.items():
        said = walk(driver, figure, Keys.ARROW_RIGHT)
        assert words in said
        assert "%{" not in said
        assert " (1 of " in said or figure == "idle_share"
        assert walk(driver, figure, Keys.END) != said
    first = walk(driver, "fusion_histogram", Keys.HOME)
    assert first.startswith("1 of 2 ranks prefilled · 119 iterations (43 %)")
    row = read_table(driver, "fusion_histogram")[0]
    assert row[1] == "119"


def test_points_of_every_panel_are_marked(open_page):
    """Resting on a point of a second panel marks it there; the console stays silent."""
    driver = open_page(render_page(load("h100x2-on")))
    for figure in ("queues", "idle_share", "delay_episodes"):
        walk(driver, figure, Keys.END)
        marked = "return document.activeElement.querySelectorAll('.hoverlayer .hovertext').length"
        WebDriverWait(driver, 5).until(lambda d, script=marked: d.execute_script(script))


def walk(driver, figure: str, key: str) -> str:
    """Press a key on a figure, and read what is said under it."""
    gd = driver.execute_script(
        """
        const tile = page.tiles.find((t) => t.figure === arguments[0]);
        const gd = document.getElementById(tile.id);
        gd.focus();
        return gd;
        """,
        figure,
    )
    gd.send_keys(key)
    found: str = driver.execute_script(
        "return arguments[0].closest('.tile').querySelector('.readout').textContent", gd
    )
    return found


def test_a_figure_of_a_stretch_is_walked_as_it_is_shown(open_page):
    """After a selection the points read out are those of the stretch."""
    driver = open_page(render(make_run(50, 2)))
    before = walk(driver, "fusion_histogram", Keys.HOME)
    driver.execute_script("timelines[0].stretch.set(0, 10)")
    settle(driver)
    after = walk(driver, "fusion_histogram", Keys.HOME)
    assert after != before
    row = read_table(driver, "fusion_histogram")[0]
    assert f"· {row[1]} iterations" in after


def test_r_shows_the_way_of_the_cell_s_request(open_page):
    """From a cell one key leads to the way of its slowest request, and back to the search."""
    run = add_requests(make_run(12, 1), 60)
    driver = open_page(render(run))
    target = timeline(driver)
    driver.execute_script("arguments[0].focus()", target)
    target.send_keys(Keys.ARROW_RIGHT)
    target.send_keys("r")
    settle(driver)
    rid = text(driver, ".path h3").removeprefix("Request ")
    assert rid in set(run.stages["rid"])
    assert "Way of the request" in focused(driver)
