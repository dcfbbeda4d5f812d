"""Pages about many runs: a row each, whatever became of it."""

from __future__ import annotations

import re

import pytest

from pdtrace.errors import UsageError
from pdtrace.figures.fleet import Fleet, FleetRow, Measured
from pdtrace.pages import build_row, format_metric, render_fleet
from tests.figures.recorded import read_sample
from tests.pages.recorded_pages import EVIL, body_of, list_strings, read_data

NAMES = ("h100x2-off", "h100x2-on", "cpu-dp4-off")
BROKEN = FleetRow("runs/broken.log", "not a log")


def read_rows() -> list[FleetRow]:
    """Three recorded runs, and one that could not be read."""
    return [*(build_row(f"runs/{n}", read_sample(n)) for n in NAMES), BROKEN]


def write_page(tmp_path, text: str) -> str:
    """A page of one's own."""
    path = tmp_path / "mine.toml"
    path.write_text(f"subject = 'fleet'\n{text}")
    return str(path)


def list_names(text: str) -> list[str]:
    """Names in the table of runs, from the top."""
    return re.findall(r'<a href="#run-\d+">(.*?)</a>', text)


def test_each_run_is_a_row_and_the_idlest_comes_first():
    """Whom to look at stands on top; what could not be read stands last and says why."""
    page = render_fleet(read_rows())
    assert list_names(page) == ["cpu-dp4-off", "h100x2-off", "h100x2-on", "broken.log"]
    assert '<p class="reason">not a log</p>' in page
    value = Fleet(tuple(read_rows())).values("idle_rank_pass_ratio")[2][1]
    share = format_metric(value, "ratio")[0]
    assert f"cpu-dp4-off idles most: {share}" in page
    assert "1 of 4 inputs gave nothing to measure" in page


def test_counts_add_up_and_shares_do_not():
    """The sum over runs is exact; a share of several runs is told as a range."""
    fleet = Fleet(tuple(read_rows()))
    total = sum(read_sample(n).iterations.height for n in NAMES)
    assert fleet.add_up()["num_iterations"].value == total
    assert "idle_rank_pass_ratio" not in fleet.add_up()
    page = render_fleet(read_rows())
    assert f"<dd>{total:,} " in page


def test_a_sum_says_which_runs_it_lacks():
    """A run that does not tell a count is named beside the sum, not taken for zero."""
    known = FleetRow("a", metrics={"num_delay_passes": Measured(5.0, "count")})
    silent = FleetRow("b", metrics={"num_delay_passes": Measured(None, "count", "counters")})
    summed = Fleet((known, silent)).add_up()["num_delay_passes"]
    assert (summed.value, summed.note) == (5.0, "1 of 2 runs do not tell it")


def test_a_fleet_of_which_nothing_can_be_read_is_still_a_page():
    """All reasons are told even where no number is."""
    page = render_fleet([BROKEN, FleetRow("runs/other.log", "is a directory")])
    assert "not a log" in page
    assert "is a directory" in page


def test_names_that_try_to_act_stay_text():
    """Names of files may hold markup; they are text in the table, its links and the figures."""
    rows = [FleetRow(EVIL, facts=(EVIL,), metrics=build_row("x", read_sample(NAMES[0])).metrics)]
    rows.append(FleetRow(EVIL + "2", reason=EVIL))
    page = render_fleet(rows)
    assert "<b onclick" not in body_of(page)
    assert "\u202e" not in page
    assert not [s for s in list_strings(read_data(page)) if "<b onclick" in s or "\u202e" in s]


def test_an_unknown_column_names_the_known(tmp_path):
    """Columns are metrics, as analyze --json names them."""
    page = write_page(tmp_path, "[[tile]]\nruns = ['num_iteration']")
    with pytest.raises(UsageError, match=r"unknown metric 'num_iteration'.*mean 'num_iterations'"):
        render_fleet(read_rows(), page=page)


@pytest.mark.browser
def test_the_table_sorts_by_keyboard(open_page):
    """Enter on a heading sorts by value, not by text; again turns round; unknown stays last."""
    from selenium.webdriver.common.keys import Keys

    driver = open_page(render_fleet(read_rows()))
    heads = driver.find_elements("css selector", "table.sortable th")
    at = next(i for i, h in enumerate(heads) if h.text.startswith("Iterations"))
    button = heads[at].find_element("css selector", "button")
    wanted = sorted(NAMES, key=lambda n: -read_sample(n).iterations.height)

    def names() -> list[str]:
        links = driver.find_elements("css selector", "table.sortable td.name a")
        return [link.text for link in links]

    driver.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    assert names() == [*wanted, "broken.log"]
    assert heads[at].get_attribute("aria-sort") == "descending"
    button.send_keys(Keys.SPACE)
    assert names() == [*reversed(wanted), "broken.log"]
    assert heads[at].get_attribute("aria-sort") == "ascending"
    assert [h for h in heads if h.get_attribute("aria-sort")] == [heads[at]]
    assert "ascending" in driver.find_element("css selector", ".sorted").text


@pytest.mark.browser
def test_headings_sort_names_from_a_to_z(open_page):
    """A first press on the names' heading begins with a, where numbers begin with the largest."""
    driver = open_page(render_fleet(read_rows()))
    driver.find_element("css selector", "table.sortable th button").click()
    links = driver.find_elements("css selector", "table.sortable td.name a")
    assert [link.text for link in links] == sorted([*NAMES, "broken.log"])
