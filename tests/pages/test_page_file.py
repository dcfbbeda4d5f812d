"""Page TOMLs: a mistake is answered in one line, and the page of pages tells all there is."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from pdtrace.compare.quantities import QUANTITIES
from pdtrace.errors import UsageError
from pdtrace.figures import SUBJECTS, draw_figure, find_subject, list_figures, list_options
from pdtrace.metrics import measure
from pdtrace.pages import list_pages, load_page
from pdtrace.pages.page_file import _PAGE_KEYS, _TILE_KEYS
from pdtrace.pages.whatif_page import collect_outlook_numbers
from tests.figures.recorded import read_outlook, read_sample
from tests.pages.made_pages import make_run

README = (Path(__file__).parent.parent.parent / "dashboards" / "README.md").read_text("utf-8")
ROWS = {
    name: (subject, options)
    for name, subject, options in re.findall(
        r"^\| `(\w+)` \| (\w+) \|[^|]*\|([^|]*)\|$", README, re.MULTILINE
    )
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject = 'rnu'", "unknown subject 'rnu'; known: run, comparison.*mean 'run'"),
        ("subject = 3", "subject must be text, not 3"),
        ("title = ['x']\n[[tile]]\nfigure = 'queues'", "title must be text"),
        ("[[tile]]\nfigure = 'timelin'", "unknown figure 'timelin'.*did you mean 'timeline'"),
        ("[[tile]]\nfigure = 'gain'", "'gain' draws two runs compared .*not one run"),
        ("subject = 'fleet'\n[[tile]]\nfigure = 'timeline'", "figures for that: fleet_metric$"),
        ("[[tile]]\nruns = ['num_iterations']", "stands on a page about a fleet"),
        ("[[tile]]\nmetrics = 3", "metrics must be a list of names, not 3"),
        ("[[tile]]\nmetrics = ['a']\nfigure = 'queues'", "a tile has either a figure"),
        ("[[tile]]\nmetrics = ['a']\noptions = {a = 1}", "only a figure has options"),
        ("[[tile]]\nfigure = 'queues'\noptions = 3", "options are a table"),
        ("[[tile]]\nfigure = 'queues'\nwidth = 'hal'", "did you mean 'half'"),
        ("[[tile]]\nfigure = 'queues'\noptions = {intervals = 'x'}", "'intervals' must be int"),
        (
            "subject = 'comparison'\n[[tile]]\nfigure = 'gain'\noptions = {metrics = 'x'}",
            "'metrics' must be list",
        ),
    ],
)
def test_each_mistake_is_answered_in_one_line(tmp_path, text, message):
    """Whoever writes a page by hand is told what is known, and what was probably meant."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        load_page(str(path))
    assert "\n" not in str(error.value)


def test_a_page_about_something_else_is_refused():
    """An overview cannot be drawn of two runs, and the message says which subject it takes."""
    with pytest.raises(UsageError, match=r"'overview' is about one run .*subject 'comparison'"):
        load_page("overview", subject="comparison")


@pytest.mark.parametrize("page", list_pages())
def test_every_page_that_comes_along_loads(page):
    """Each is well-formed, and stands in the page of pages."""
    assert load_page(page).tiles
    assert f"`{page}`" in README


@pytest.mark.parametrize("name", list_figures())
def test_the_page_of_pages_tells_every_figure_and_option(name):
    """A figure or an option that is not written down is not found by those who write pages."""
    subject, options = ROWS[name]
    assert subject == find_subject(name)
    assert set(re.findall(r"`(\w+)`:", options)) == set(list_options(name))


def test_the_page_of_pages_tells_every_metric():
    """What a row of metrics may name stands there; a number of ranks is written as N."""
    told = README[README.index("## Metrics") : README.index("## Reading")]
    _, run, comparison, whatif = told.split("\n\nOn pages about a ")
    measured = measure(read_sample("cpu-dp8-off")).filter(pl.col("dp_rank").is_null())
    names = {re.sub(r"width_\d+$", "width_N", n) for n in measured["metric"]}
    assert names_in(run) - {"num_runs"} == names
    assert names_in(comparison) == {q.name for q in QUANTITIES}
    assert names_in(whatif) == set(collect_outlook_numbers(read_outlook()))


def names_in(text: str) -> set[str]:
    """Names in backquotes, options of commands left out."""
    return set(re.findall(r"`(\w+)`", text))


def test_the_page_of_pages_tells_no_figure_that_is_gone():
    """What it names can be drawn; keys of pages and tiles, and subjects, are all there."""
    assert set(ROWS) == set(list_figures())
    for name in (*_PAGE_KEYS, *_TILE_KEYS, *SUBJECTS):
        assert re.search(rf"\b{name}\b", README), name


@pytest.mark.parametrize(
    ("figure", "option", "value"),
    [
        ("idle_share", "intervals", 0),
        ("queues", "intervals", 10**9),
        ("timeline", "row_height", -5),
        ("timeline", "max_kb", 0),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_range(figure, option, value):
    """A slip in a page of one's own is told in a line, not by a failure or an endless drawing."""
    with pytest.raises(UsageError, match=rf"{figure}.*{option}.* must be from .* to "):
        draw_figure(figure, make_run(20, 2), {option: value})
