"""A request's way: found by its id; its stages, its passes and the ranks that idled beside."""

from __future__ import annotations

import polars as pl
import pytest

from pdtrace.figures.timeline import MAX_LEVEL_KB
from pdtrace.pages import render_page
from tests.pages.made_pages import (
    add_requests,
    load,
    make_run,
    render,
    settle,
    text,
    uses_browser,
)

pytestmark = uses_browser


def find(driver, words: str) -> None:
    """Search for a request as a reader would: type, then Enter."""
    box = driver.find_element("css selector", ".find input")
    box.clear()
    box.send_keys(words + "\n")
    settle(driver)


def read_path(driver) -> list[list[str]]:
    """Cells of the stages shown."""
    found: list[list[str]] = driver.execute_script(
        """
        return [...document.querySelectorAll(".path tbody tr")]
          .map((r) => [...r.cells].map((c) => c.textContent));
        """
    )
    return found


def test_the_way_of_a_request_is_that_of_its_stages(open_page):
    """Stages, their times, the iteration and the idle ranks beside are those of the tables."""
    run = load("h100x2-on")
    driver = open_page(render_page(run))
    idle = run.rank_passes.filter(pl.col("role") == "idle")
    beside = run.stages.join(idle, on="iteration", how="semi")
    rid = beside.filter(pl.col("stage") == "forward")["rid"][0]
    find(driver, rid)
    assert text(driver, ".path h3") == f"Request {rid}"
    stages = run.stages.filter(pl.col("rid") == rid).sort("start")
    rows = read_path(driver)
    assert len(rows) == stages.height
    for row, stage in zip(rows, stages.iter_rows(named=True), strict=True):
        number, unit = row[3].split()
        took = float(number) / (1000 if unit == "ms" else 1)
        assert took == pytest.approx(stage["duration"].total_seconds(), rel=0.01, abs=2e-5)
        held = {"delayer": "held by the delayer", "forward": "behind a running forward"}
        if stage["held_by"] in held:
            assert row[1] == held[stage["held_by"]]
        if stage["iteration"] is not None:
            assert row[5] == f"iteration {stage['iteration']}"
            there = idle.filter(pl.col("iteration") == stage["iteration"])["dp_rank"].to_list()
            assert all(f"rank {rank}" in row[6] for rank in there)
    low, high = driver.execute_script("return timelines[0].window")
    assert high - low < 1.5 * stages["duration"].sum().total_seconds() + 0.01
    marks = driver.execute_script("return document.querySelector('[data-exact]').layout.shapes")
    solid = [m for m in marks if m["line"].get("width") == 3]
    dotted = [m for m in marks if m["line"].get("dash") == "dot" and m["type"] == "rect"]
    assert len(solid) == stages["iteration"].count()
    assert len(dotted) >= 1


def test_a_part_of_an_id_lists_its_matches(open_page):
    """What fits several ids offers them, slowest first; what fits none says so."""
    run = add_requests(make_run(60, 2), 30, prefix="batch-")
    driver = open_page(render(run))
    find(driver, "batch-")
    assert "30 requests match; the 12 slowest:" in text(driver, ".matches")
    offered = driver.find_elements("css selector", "button.rid")
    assert len(offered) == 12
    totals = (
        run.stages.group_by("rid").agg(pl.col("duration").sum()).sort("duration", descending=True)
    )
    assert [b.text for b in offered] == totals["rid"].head(12).to_list()
    rid = totals["rid"][-1]
    find(driver, rid[6:])
    assert text(driver, ".path h3") == f"Request {rid}"
    find(driver, "nobody")
    assert "No request id holds “nobody”" in text(driver, ".matches")


def test_the_cell_of_an_iteration_is_one_step_away(open_page):
    """The button of a stage zooms to the pass that prefilled the request, and reads its cell."""
    driver = open_page(render(add_requests(make_run(60, 2), 30)))
    driver.find_elements("css selector", "button.rid")[0].click()
    settle(driver)
    button = driver.find_element("css selector", ".path td button")
    words = button.text
    button.click()
    settle(driver)
    said = text(driver, ".readout")
    assert said.startswith(words)
    assert text(driver, ".path h3").removeprefix("Request ") in said


def test_a_page_says_which_requests_it_carries(open_page, tmp_path):
    """Where not all fit, the slowest can be found, and the breakdown is not told of a stretch."""
    page = tmp_path / "small.toml"
    page.write_text(
        '[[tile]]\nfigure = "timeline"\noptions = { max_kb = 60 }\n'
        '[[tile]]\nfigure = "ttft_breakdown"\n'
    )
    assert MAX_LEVEL_KB > 60
    run = add_requests(make_run(600, 2), 3000)
    driver = open_page(render(run, page=str(page)))
    said = text(driver, ".matches")
    assert said.startswith("The page carries the slowest ")
    assert " of 3,000 requests" in said
    totals = run.stages.group_by("rid").agg(pl.col("duration").sum()).sort("duration")
    find(driver, totals["rid"][-1])
    assert text(driver, ".path h3") == f"Request {totals['rid'][-1]}"
    find(driver, totals["rid"][0])
    assert "slowest of 3,000 that the page carries" in text(driver, ".matches")
    driver.execute_script("timelines[0].stretch.set(0, 10)")
    settle(driver)
    assert "which are not like all" in text(driver, ".of-whole .scope")


def test_an_input_without_requests_says_what_would_name_them(open_page):
    """A log of batches alone leaves the search closed, with the reason."""
    driver = open_page(render(make_run(10, 2)))
    assert "spans or request time stats would" in text(driver, ".matches")
    assert not driver.find_element("css selector", ".find input").is_enabled()
