"""A selected stretch: every tile tells what the Python API measures of the same iterations."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from pdtrace.figures import draw_figure
from pdtrace.figures.survey import survey_run
from pdtrace.metrics import measure
from pdtrace.pages import format_metric, load_page, render_page
from tests.pages.made_pages import (
    as_number,
    cut_run,
    load,
    make_run,
    press,
    read_table,
    render,
    select,
    settle,
    text,
    timeline,
    uses_browser,
)

pytestmark = uses_browser
STRETCHES = {"h100x2-on": (50, 149), "cpu-dp8-off": (20, 44)}
# Metrics that rest on something without times, and keep the value of the whole run.
OF_WHOLE = {"num_delay_passes", "num_unfinished_requests", "delay_seconds_total"}


def number_of_units(driver) -> list[int] | None:
    """The selected stretch, as the page holds it."""
    found: list[int] | None = driver.execute_script("return timelines[0].stretch.units")
    return found


@pytest.mark.parametrize("name", STRETCHES)
def test_every_tile_tells_what_python_measures(open_page, name):
    """Numbers, bars and tables of a stretch are those of the run cut to it."""
    first, last = STRETCHES[name]
    driver = open_page(render_page(load(name)))
    select(driver, first, last)
    cut = cut_run(load(name), first, last)
    n = last - first + 1
    assert f"{n} of {load(name).iterations.height} iterations selected" in text(driver, "#stretch")

    # In the whole run the pass after the last one overlaps it, and cuts what is drawn of it.
    survey = survey_run(load(name))
    at = int(survey.iteration.searchsorted(last))
    over = float(survey.duration[at] - survey.busy[at])
    rows = {int(r[0]): r for r in read_table(driver, "fusion_histogram")}
    wanted = draw_figure("fusion_histogram", cut).table
    for width, iterations, _, seconds, _ in wanted.iter_rows():
        assert int(rows[width][1].replace(",", "")) == iterations
        assert as_number(rows[width][3]) == pytest.approx(seconds, abs=over + 2e-3)

    boxes = {r[0]: r for r in read_table(driver, "durations")}
    for row in draw_figure("durations", cut).table.iter_rows():
        told = [as_number(c) for c in boxes[str(row[0])]]
        assert told[1] == row[1]
        assert told[2:] == pytest.approx(row[2:], abs=0.11)

    wanted = draw_figure("rank_balance", cut).table
    for told, row in zip(read_table(driver, "rank_balance"), wanted.iter_rows(), strict=True):
        numbers = [as_number(c) for c in told]
        assert numbers[-1] == row[-1]
        assert sum(numbers[1:-2]) == pytest.approx(sum(row[1:-2]), abs=over + 5e-3)

    bar = draw_figure("idle_causes", cut).spec["data"][0]
    told = {r[0]: (as_number(r[2]), as_number(r[4])) for r in read_table(driver, "idle_causes")}
    passes = [as_number(text.split()[0]) for text in bar["text"]]
    assert {k: v[0] for k, v in told.items()} == dict(zip(bar["y"], passes, strict=True))
    assert sum(v[1] for v in told.values()) == pytest.approx(sum(bar["x"]), abs=8 * over + 0.01)

    wanted = draw_figure("idle_share", cut).table
    told = [[as_number(c) for c in r] for r in read_table(driver, "idle_share")]
    idle = wanted["idle (rank-seconds)"].sum()
    assert sum(r[4] for r in told) == pytest.approx(idle, abs=8 * over + 0.06)
    if not over:
        shares = [as_number(r[2]) for r in read_table(driver, "idle_share")]
        assert shares == pytest.approx(
            wanted["idle (% of ranks' time in passes)"].to_list(), abs=0.3
        )

    peaks = draw_figure("queues", cut).table
    rows = [[as_number(c) for c in r] for r in read_table(driver, "queues")]
    for place, column in enumerate(peaks.columns[2:], start=2):
        top = max(r[place] for r in rows if r[place] is not None)
        assert top == pytest.approx(peaks[column].max(), abs=1e-3)


@pytest.mark.parametrize("name", STRETCHES)
def test_every_metric_tells_what_python_measures(open_page, name):
    """The numbers at the top are those of the cut run, as Python would print them."""
    first, last = STRETCHES[name]
    driver = open_page(render_page(load(name)))
    whole = {e.get_attribute("data-metric"): e.text for e in metric_items(driver)}
    select(driver, first, last)
    cut = cut_run(load(name), first, last)
    table = measure(cut)
    wanted = {r["metric"]: r for r in table.iter_rows(named=True) if r["dp_rank"] is None}
    told = 0
    for item in metric_items(driver):
        metric = item.get_attribute("data-metric")
        if "of-whole" in item.get_attribute("class"):
            assert "whole run" in item.text
            assert item.text.split("\n")[1] == whole[metric].split("\n")[1]
            continue
        shown = " ".join(item.find_element("css selector", "dd").text.split("\n")[0].split())
        if metric == "delay_seconds_total":  # the engine's counter knows the whole run alone
            survey = survey_run(load(name))
            inside = (survey.iteration >= first) & (survey.iteration <= last)
            held = float(survey.held[inside].sum())
            assert shown == " ".join(" ".join(format_metric(held, "s")).split())
            continue
        row = wanted[metric]
        assert shown == " ".join(" ".join(format_metric(row["value"], row["unit"])).split())
        told += 1
    names = [m for tile in load_page("overview").tiles for m in tile.metrics]
    assert told >= len(names) - len(OF_WHOLE)


def metric_items(driver):
    """The metrics of the page."""
    return driver.find_elements("css selector", "[data-metric]")


def test_the_breakdown_of_a_stretch_is_that_of_its_requests(open_page):
    """Mean, p50 and p99 request are taken from the requests prefilled in the stretch."""
    first, last = STRETCHES["h100x2-on"]
    driver = open_page(render(load("h100x2-on")))
    select(driver, first, last)
    wanted = draw_figure("ttft_breakdown", cut_run(load("h100x2-on"), first, last)).table
    told = {(r[0], r[1]): r[2:] for r in read_table(driver, "ttft_breakdown")}
    assert len(told) == wanted.height
    for stage, held, *numbers in wanted.iter_rows():
        assert [as_number(c) for c in told[stage, held]] == pytest.approx(numbers, abs=0.11)


def test_a_drag_with_shift_selects_and_escape_clears(open_page):
    """Dragging selects the cells it covers; Escape gives every tile its whole run back."""
    driver = open_page(render(make_run(40, 2)))
    before = read_table(driver, "fusion_histogram")
    press(driver, "iteration")
    settle(driver)
    drag(driver, 10.3, 19.8, 40, shift=True)
    assert number_of_units(driver) == [10, 20]
    assert read_table(driver, "fusion_histogram") != before
    assert "10 of 40 iterations selected: 10 to 19" in text(driver, "#stretch")
    ActionChains(driver).send_keys(Keys.ESCAPE).perform()
    settle(driver)
    assert number_of_units(driver) is None
    assert not driver.find_element("css selector", "#stretch").is_displayed()
    assert read_table(driver, "fusion_histogram") == before


def test_the_select_button_makes_plain_drags_select(open_page):
    """Without a modifier key, a button turns drags from zooming to selecting and back."""
    driver = open_page(render(make_run(40, 2)))
    press(driver, "iteration")
    press(driver, "select")
    settle(driver)
    drag(driver, 4.2, 7.9, 40)
    assert number_of_units(driver) == [4, 8]
    press(driver, "select")
    drag(driver, 20, 30, 40)
    assert number_of_units(driver) == [4, 8]
    assert int(text(driver, ".status").split()[0]) <= 12


def drag(driver, first, last, size, *, shift=False) -> None:
    """Drag over the timeline from one iteration to another."""
    area = timeline(driver).find_element("css selector", ".nsewdrag")
    width = area.rect["width"]
    at = [round((x / size - 0.5) * width) for x in (first, last)]
    chain = ActionChains(driver)
    if shift:
        chain = chain.key_down(Keys.SHIFT)
    chain = chain.move_to_element_with_offset(area, at[0], 0).click_and_hold()
    chain = chain.move_to_element_with_offset(area, at[1], 5).release()
    if shift:
        chain = chain.key_up(Keys.SHIFT)
    chain.perform()
    settle(driver)


def test_the_keyboard_selects_cell_by_cell(open_page):
    """Shift and the arrows grow a stretch from the cell that is read out."""
    driver = open_page(render(make_run(20, 2)))
    press(driver, "iteration")
    settle(driver)
    target = timeline(driver)
    driver.execute_script("arguments[0].focus()", target)
    for _ in range(6):
        target.send_keys(Keys.ARROW_RIGHT)
    target.send_keys(Keys.SHIFT + Keys.ARROW_RIGHT)
    for _ in range(3):
        target.send_keys(Keys.SHIFT + Keys.ARROW_RIGHT)
    settle(driver)
    assert number_of_units(driver) == [5, 9]
    target.send_keys(Keys.ESCAPE)
    target.send_keys("s")
    settle(driver)
    assert number_of_units(driver) == [0, 20]


def test_delay_episodes_of_a_stretch_are_those_that_began_in_it(open_page):
    """Episodes are taken from the wait before the first iteration to the end of the last."""
    run = load("cpu-dp4-on")
    driver = open_page(render(run))
    select(driver, 40, 80)
    survey = survey_run(run)
    begins = draw_figure("delay_episodes", survey).table["from (s)"]
    inside = begins.is_between(float(survey.end[39]), float(survey.end[80]), closed="left")
    assert len(read_table(driver, "delay_episodes")) == inside.sum() > 5


def test_figures_over_time_are_cut_anew_for_the_window(open_page):
    """Zooming in, the idle share shows the window in as many intervals as the whole run had."""
    driver = open_page(render(make_run(2000, 2)))
    driver.execute_script("timelines[0].lead(timelines[0].show(100, 160))")
    settle(driver)
    ask = """
        const tile = page.tiles.find((t) => t.figure === "idle_share");
        const [bars] = document.getElementById(tile.id).data;
        return [bars.x.length, bars.x[0], bars.x[bars.x.length - 1], bars.width];
    """
    assert driver.execute_script(ask) == pytest.approx([120, 100.25, 159.75, 0.5])
    press(driver, "all")
    settle(driver)
    number, first, last, width = driver.execute_script(ask)
    assert number == 120
    assert last + width / 2 > 400
    assert first < 10


def test_a_run_in_blocks_counts_what_blocks_can_tell(open_page, tmp_path):
    """Where iterations do not fit, a stretch is of whole blocks, and its counts stay exact."""
    path = tmp_path / "small.toml"
    tiles = ("fusion_histogram", "rank_balance", "idle_share", "durations", "idle_causes")
    path.write_text(
        '[[tile]]\nmetrics = ["num_iterations", "idle_rank_pass_ratio"]\n'
        '[[tile]]\nfigure = "timeline"\noptions = { max_kb = 60 }\n'
        + "".join(f'[[tile]]\nfigure = "{name}"\n' for name in tiles)
    )
    run = make_run(20_000, 4, lose_every=9)
    driver = open_page(render_page(run, page=str(path)))
    size = driver.execute_script("return timelines[0].cells.size")
    assert size > 1
    first, last = 10 * size, 200 * size - 1
    select(driver, first, last)
    cut = cut_run(run, first, last)
    told = {int(r[0]): r[1] for r in read_table(driver, "fusion_histogram")}
    wanted = dict(cut.iterations["fusion_width"].value_counts().iter_rows())
    assert {w: as_number(n) for w, n in told.items() if n != "0"} == wanted
    table = {r["metric"]: r["value"] for r in measure(cut).iter_rows(named=True)}
    items = {e.get_attribute("data-metric"): " ".join(e.text.split()) for e in metric_items(driver)}
    assert f"{last - first + 1:,}" in items["num_iterations"]
    ratio = format_metric(table["idle_rank_pass_ratio"], "ratio")[0]
    assert " ".join(ratio.split()) in items["idle_rank_pass_ratio"]
    balance = draw_figure("rank_balance", cut).table
    for told_row, row in zip(read_table(driver, "rank_balance"), balance.iter_rows(), strict=True):
        seconds = [as_number(c) for c in told_row[1:-2]]
        assert seconds == pytest.approx(row[1:-2], rel=0.01, abs=2.0)
        assert as_number(told_row[-2]) == row[-2]
    assert f"blocks of {size} iterations" in text(driver, ".of-whole .scope")
    press(driver, "in")
    settle(driver)
    assert "one column" in text(driver, ".status")


def test_what_cannot_be_told_of_a_stretch_says_so(open_page):
    """A tile of totals without times keeps the whole run, dimmed, and says that it does."""
    import dataclasses

    from pdtrace.loading import compare_sources

    run = compare_sources(dataclasses.replace(load("h100x2-on")))
    driver = open_page(render(run))
    select(driver, 10, 20)
    said = driver.execute_script(
        """
        const tile = page.tiles.find((t) => t.figure === "agreement");
        const box = document.getElementById(tile.id).closest(".tile");
        return [box.querySelector(".scope").textContent, box.classList.contains("of-whole")];
        """
    )
    assert said[0].startswith("Whole run: it compares counters and totals")
    assert said[1]
