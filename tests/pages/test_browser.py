"""What only a real browser can tell of a page: that it opens, answers, and harms nobody."""

from __future__ import annotations

import base64
import dataclasses
import re
import time

import polars as pl
from selenium.webdriver.common.action_chains import ActionChains

from tests.pages.made_pages import (
    NASTY,
    add_requests,
    load,
    make_run,
    press,
    render,
    settle,
    text,
    timeline,
    uses_browser,
)

pytestmark = uses_browser


def point_at(driver, across: float, down: float) -> None:
    """Move the pointer to a place of the timeline, as shares of its plot."""
    area = timeline(driver).find_element("css selector", ".nsewdrag")
    dx, dy = (across - 0.5) * area.rect["width"], (down - 0.5) * area.rect["height"]
    ActionChains(driver).move_to_element_with_offset(area, round(dx), round(dy)).perform()


def test_opens_quietly(open_page):
    """The page draws every figure; the fixture sees to console and network."""
    driver = open_page(render(make_run(300, 2), verdict=["Idle ranks cost a third."]))
    assert "Prefill overview" in driver.title
    assert text(driver, "#verdict").strip() == "Idle ranks cost a third."
    assert len(driver.find_elements("css selector", ".plot .main-svg")) >= 6


def test_hovering_a_cell_shows_all_that_is_known_of_it(open_page):
    """A cell tells its iteration, rank, role, tokens, time, confidence, requests and log line."""
    run = add_requests(make_run(8, 2), 40)
    driver = open_page(render(run))
    press(driver, "iteration")
    settle(driver)
    for cell in run.rank_passes.filter(pl.col("iteration") == 3).iter_rows(named=True):
        point_at(driver, 3.5 / 8, (cell["dp_rank"] + 0.5) / 2)
        shown = text(driver, ".tip")
        assert f"iteration 3 (engine's [4]) · rank {cell['dp_rank']}" in " ".join(shown.split("\n"))
        assert cell["role"] in shown
        assert "confidence 1.00" in shown
        assert f"{1e3 * cell['duration'].total_seconds():.3g} ms from" in shown
        assert "server.log:" in shown
        if cell["role"] == "prefill":
            assert f"server.log:{cell['line']}" in shown
            assert f"{cell['num_new_tokens']:,} tokens" in shown
            mine = run.stages.filter(pl.col("iteration") == 3, pl.col("dp_rank") == cell["dp_rank"])
            assert mine.height
            assert sum(rid in shown for rid in mine["rid"]) == min(mine.height, 4)


def test_zooming_refines_to_single_iterations(open_page):
    """A run too long for one cell an iteration shows them once zoomed in, and back."""
    driver = open_page(render(make_run(5000, 4)))
    assert timeline(driver).get_attribute("data-exact") == "false"
    for _ in range(6):
        press(driver, "in")
        settle(driver)
    assert timeline(driver).get_attribute("data-exact") == "true"
    assert "each its own cell" in text(driver, ".status")
    press(driver, "all")
    settle(driver)
    assert timeline(driver).get_attribute("data-exact") == "false"


def test_columns_of_many_iterations_hold_their_shares(open_page):
    """However far out, the columns' shares of time add up to each rank's time in each role."""
    run = make_run(3000, 3, lose_every=11)
    driver = open_page(render(run))
    shown = driver.execute_script(
        """
        const tile = page.tiles.find((t) => t.levels), shown = {};
        const { columns } = window.timelines[0];
        for (const c of columns) {
          c.shares.forEach((s, k) => { shown[k] = (shown[k] || 0) + s * (c.x1 - c.x0); });
        }
        return [shown, columns.length];
        """
    )
    assert shown[1] <= 600
    passes = run.rank_passes.with_columns(pl.col("duration").dt.total_nanoseconds() / 1e9)
    for rank in range(3):
        for code, role in ((0, "prefill"), (2, "idle"), (4, "unknown")):
            mine = passes.filter(pl.col("dp_rank") == rank, pl.col("role").cast(pl.String) == role)
            assert abs(shown[0][str(rank * 5 + code)] - mine["duration"].sum()) < 0.05


def test_roles_differ_in_shape_in_both_schemes(open_page):
    """Cells are told apart without colour: each role fills another part of its cell."""
    driver = open_page(render(make_run(12, 2, lose_every=4)))
    shapes = driver.execute_script("return Object.values(GLYPH).map((g) => JSON.stringify(g))")
    assert len(set(shapes)) == 5
    labels = driver.execute_script("return document.querySelector('[data-exact]').data[0].text")
    assert {"unknown", "u"} & set(labels)
    assert {"idle", "i"} & set(labels)
    held = driver.execute_script(
        "const t = timelines[0], k = t.columns.findIndex((c) => c.gap); return t.wordsAt(k, 0)"
    )
    assert held[0] == "delayed · rank 0"
    assert held[1].startswith("prefill withheld for ")
    assert held[2] == "12 delay passes"


def test_dark_mode_is_readable(open_page):
    """In the dark scheme the ink is light on dark, in the page and inside the plots."""
    driver = open_page(render(make_run(50, 2)), dark=True)
    brightness = """
        const rgb = (s) => s.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3;
        const style = (q, p) => rgb(getComputedStyle(document.querySelector(q))[p]);
        return [style('body', 'backgroundColor'), style('body', 'color'),
                style('.plot .bg, .plot .main-svg', 'backgroundColor'),
                style('.plot .xtick text', 'fill')];
    """
    page, ink, paper, tick = driver.execute_script(brightness)
    assert page < 40
    assert paper < 40
    assert ink > 200
    assert tick > 140


def test_prints_light_and_uncut(open_page):
    """From a dark screen too, paper gets light pages on which no figure is wider than its tile."""
    driver = open_page(render(make_run(200, 4)), dark=True)
    driver.execute_script(
        """
        addEventListener("beforeprint", () => {
          const wide = [...document.querySelectorAll(".plot")].filter((p) => {
            const drawn = p.querySelector(".main-svg");
            return drawn && drawn.getBoundingClientRect().width > p.clientWidth + 1;
          });
          window.printed = {
            cut: wide.length, width: document.querySelector("main").clientWidth,
            paper: page.tiles.map((t) => document.getElementById(t.id)._fullLayout?.paper_bgcolor),
          };
        });
        """
    )
    asked = {"printBackground": True, "preferCSSPageSize": True}
    pdf = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", asked)["data"])
    seen = driver.execute_script("return window.printed")
    assert seen["cut"] == 0
    assert 1000 < seen["width"] < 1050
    assert set(seen["paper"]) - {None} == {"#ffffff"}
    boxes = re.findall(rb"/MediaBox ?\[([^\]]+)\]", pdf)
    assert 2 <= len(boxes) <= 6
    sizes = {tuple(round(float(x)) for x in box.split()[2:]) for box in boxes}
    assert sizes == {(842, 595)}
    # Afterwards the screen is dark again.
    time.sleep(0.3)
    after = "return document.querySelector('[data-exact]')._fullLayout.paper_bgcolor"
    assert driver.execute_script(after) != "#ffffff"


def test_markup_from_a_log_is_shown_and_not_run(open_page):
    """Markup in file names and request ids stays text: in cells, search, path and title."""
    run = add_requests(make_run(4, 2, path=NASTY), 6, prefix=NASTY)
    driver = open_page(render(run))
    press(driver, "iteration")
    settle(driver)
    ((rank, *_),) = run.stages.filter(pl.col("iteration") == 1).select("dp_rank").head(1).rows()
    point_at(driver, 1.5 / 4, (rank + 0.5) / 2)
    shown = text(driver, ".tip")
    assert f"{NASTY}:" in shown
    assert run.stages.filter(pl.col("iteration") == 1, pl.col("dp_rank") == rank)["rid"][0] in shown
    driver.find_elements("css selector", "button.rid")[0].click()
    settle(driver)
    assert NASTY in text(driver, ".path h3")
    assert "Prefill overview" in driver.title
    assert driver.find_elements("css selector", "img") == []
    assert driver.execute_script("return document.title") != "pwned"


def test_marks_that_reorder_text_are_shown_as_such(open_page):
    """A right-to-left override in a request's id cannot make it read as another."""
    run = add_requests(make_run(4, 2), 3, prefix="a\u202etxt.exe")
    driver = open_page(render(run))
    assert "a\\u{202e}txt.exe" in driver.find_elements("css selector", "button.rid")[0].text


def test_a_run_without_iterations_says_so(open_page):
    """A page of nothing opens as quietly as any other."""
    driver = open_page(render(dataclasses.replace(make_run(5, 2), parts=())))
    assert "No iteration was rebuilt" in text(driver, "main")


def test_captured_runs_open(open_page):
    """The pages of captured runs draw, with all there is to know of requests and causes."""
    driver = open_page(render(load("h100x2-on")))
    assert "All 562 requests can be found" in text(driver, ".matches")
