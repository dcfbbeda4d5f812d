"""Pages: self-contained, honest, quick, and deaf to what a log tries to say to a browser."""

from __future__ import annotations

import json
import re

import pytest
from plotly.offline import get_plotlyjs

from pdtrace.errors import InputError, UsageError
from pdtrace.figures.packing import pack_text
from pdtrace.pages import format_metric, load_page, render_page
from pdtrace.pages.policy import one_newline
from tests.pages.made_pages import NASTY, make_run, render


def test_one_file_without_outside_references():
    """A page can be mailed: its own policy forbids loads, and no element asks for one."""
    page = render(make_run(50, 2), verdict=["Ranks idle a lot."])
    body = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "default-src 'none'" in page
    assert "unsafe-eval" not in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", body)
    assert page.count(pack_text(one_newline(get_plotlyjs()))) == 1
    assert "Ranks idle a lot." in page


def test_untrusted_text_is_escaped_everywhere():
    """File names, warnings and verdicts from a log stay text, also in the data block."""
    import dataclasses

    run = dataclasses.replace(make_run(20, 2, path=NASTY), warnings=(NASTY,))
    page = render(run, verdict=[NASTY])
    assert "<img" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    data = re.search(r'id="page-data">(.*?)</script>', page, re.DOTALL)
    assert data
    (tile,) = (t for t in json.loads(data[1])["tiles"] if "levels" in t)
    assert tile["levels"]["files"] == [NASTY]


def test_every_figure_has_its_table():
    """Who cannot see a figure reads its numbers; a tile without data is a sentence, not a hole."""
    page = render(make_run(50, 2))
    figures = sum(tile.figure is not None for tile in load_page("overview").tiles)
    assert page.count('class="plot"') + page.count('class="nothing"') == figures
    assert page.count('class="plot"') == page.count("<summary>Table") == 7
    assert "spans or request time stats would" in page
    assert "There is but one source" in page


def test_metrics_are_measured_where_none_are_given():
    """A page asked for with a run alone measures that run, and knows every name it shows."""
    page = render_page(make_run(50, 2))
    assert "<dt>Iterations</dt><dd>50 " in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("titel = 'x'", "unknown page key 'titel'; known: title, tile"),
        ("title = 'x'", "no \\[\\[tile\\]\\]"),
        ("[[tile]]\nfigur = 'x'", "unknown tile key 'figur'; known: figure, metrics"),
        ("[[tile]]\nfigure = 'x'", "unknown figure 'x'; known: agreement"),
        ("[[tile]]\nfigure = 'queues'\nwidth = 'wide'", "known: full, half, third"),
        ("[[tile]]\nwidth = 'half'", "either a figure"),
        ("[[tile]]\nfigure = 'queues'\noptions = {a = 1}", "no option 'a'; known: intervals"),
        ("[[tile]]\nmetrics = ['speed']", "unknown metric 'speed'; known: num_iterations"),
    ],
)
def test_mistakes_in_a_page_name_the_known(tmp_path, text, message):
    """A page is written by hand, so each mistake in it is answered with what exists."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        render(make_run(5, 2), page=str(path))


def test_pages_that_cannot_be_read_are_refused(tmp_path):
    """A page that is missing or not TOML is an error of one line, not a traceback."""
    with pytest.raises(UsageError, match=r"unknown page 'nope'; known: .*overview"):
        load_page("nope")
    with pytest.raises(UsageError, match="cannot read the page"):
        load_page(str(tmp_path / "nope.toml"))
    (tmp_path / "bad.toml").write_text("= 1")
    with pytest.raises(InputError, match="not a page"):
        load_page(str(tmp_path / "bad.toml"))


def test_numbers_are_never_rounded_to_a_false_whole():
    """A share that is nearly nothing or nearly all does not read as 0 % or 100 %."""
    assert format_metric(0.0004, "ratio")[0].startswith("< 0.1")
    assert format_metric(0.9996, "ratio")[0].startswith("> 99.9")
    assert format_metric(None, "s") == ("–", "")
    assert format_metric(0.0123, "s") == ("12.3", "ms")
    assert format_metric(32788.4, "tok/s") == ("32,788", "tok/s")
