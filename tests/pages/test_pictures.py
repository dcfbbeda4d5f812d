"""Figures as pictures: drawn by a real browser, whole, labelled, and as the page counts."""

from __future__ import annotations

import html
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pdtrace.__main__ import main
from pdtrace.figures.survey import IDLE, PREFILL, ROLE_NAMES, survey_run
from pdtrace.pages.pictures import draw_picture, render_picture
from tests.figures.made_run import make_run
from tests.pages.made_pages import uses_browser

ROOT = Path(__file__).parents[2]
CHROMIUM = Path("/usr/bin/chromium")
NASTY = "<b>run</b>\x1b[31m $x$"


@pytest.fixture(autouse=True)
def _browser(request):
    if request.node.get_closest_marker("browser") and not CHROMIUM.exists():
        pytest.skip("chromium not found")


@uses_browser
@pytest.mark.parametrize("name", ["timeline", "idle_share", "delay_episodes", "agreement"])
def test_a_picture_says_what_it_shows(name):
    """Title, run, axis and legend stand in the picture itself; text of a run stays text."""
    figure = draw_picture(name, survey_run(make_run(60, 2)))
    svg = render_picture(figure, NASTY, "svg").decode()
    assert svg.startswith("<svg")
    assert 'width="1200"' in svg[:600]
    assert "<b>run" not in svg
    assert figure.title in html.unescape(svg)
    assert "<b>run</b>\\x1b[31m $x$" in html.unescape(svg)
    if figure.spec["data"]:
        assert "seconds since the first iteration" in svg
        assert all(t["name"] in svg for t in figure.spec["data"])
    else:
        assert figure.alt.split(";")[0][:30] in svg


@uses_browser
def test_the_command_writes_both_kinds(tmp_path):
    """A PNG has twice the pixels asked for; the SVG is of the same figure."""
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    path = str(ROOT / "sample_logs" / "h100x2-on" / "server.log")
    options = ["--figure", "delay_episodes", "--width", "800"]
    assert main(["dashboard", path, *options, "--png", str(png), "--svg", str(svg)]) == 0
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:])[0] == 1600
    text = svg.read_text()
    assert "wait ran out" in text
    assert "prefill withheld (ms)" in text


@pytest.mark.parametrize("num_iterations", [150, 5000])
def test_the_timeline_of_a_picture_holds_all_time(num_iterations):
    """Cells, or shares of columns: their widths × heights are the time of each role."""
    survey = survey_run(make_run(num_iterations, 4))
    figure = draw_picture("timeline", survey, 1200)
    assert sum(len(t["x"]) for t in figure.spec["data"]) <= 4 * 600 * len(figure.spec["data"])
    for trace in figure.spec["data"]:
        role = ROLE_NAMES.index(trace["name"])
        time = ((survey.role == role) * survey.busy[:, None]).sum()
        widths, heights = np.array(trace["width"]), -np.array(trace["y"]) / 0.86
        if num_iterations < 600:
            assert widths.sum() == pytest.approx(time, rel=1e-3)
            assert set(heights.round(2)) == {{PREFILL: 1.0, IDLE: 0.3}[role]}
        else:
            assert (widths * heights).sum() == pytest.approx(time, rel=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--figure", "nope", "--svg", "x"], "unknown figure 'nope'; known: agreement"),
        (["--figure", "timeline"], "--figure needs --png FILE or --svg FILE"),
        (["--figure", "timeline", "--svg", "x", "-o", "y"], "leave -o and --page out"),
        (["--svg", "x", "-o", "y"], "name its figure by --figure"),
        (["--figure", "timeline", "--svg", "x", "--width", "9"], "--width must be from 600"),
        (["--figure", "gain", "--svg", "x"], "takes two PATHs"),
        ([], "name the page to write by -o"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, message, capsys):
    """One line says why, before a long read, and names what is known."""
    assert main(["dashboard", str(ROOT / "sample_logs" / "cpu-dp8-off"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("sys.modules['kaleido'] = None", "pip install 'pdtrace[pictures]'"),
        (
            "os.environ['PATH'] = os.environ['BROWSER_PATH'] = '/nowhere'",
            "needs Chromium or Chrome",
        ),
    ],
)
def test_what_is_missing_is_named(before, message, tmp_path):
    """Without the extra, or without a browser, one line says what to install."""
    pytest.importorskip("kaleido")
    code = (
        f"import os, sys\n{before}\nfrom pdtrace.__main__ import main\n"
        "sys.exit(main(['dashboard', 'sample_logs/h100x2-off/server.log', '--figure', "
        f"'idle_share', '--svg', {str(tmp_path / 'x.svg')!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x.svg").exists()
