"""The command: what several paths mean, and what happens where they cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdtrace.__main__ import main
from pdtrace.commands.dashboard import choose_page
from pdtrace.errors import UsageError

SAMPLES = Path(__file__).parent.parent.parent / "sample_logs"
OFF, ON, DECODE = (str(SAMPLES / n) for n in ("h100x2-off", "h100x2-on", "h100x2-decode"))


def draw(tmp_path, *arguments: str) -> tuple[int, str]:
    """Exit code and page of a command."""
    path = tmp_path / "page.html"
    code = main(["dashboard", *arguments, "-o", str(path)])
    return code, path.read_text("utf-8") if path.exists() else ""


def test_what_several_paths_are():
    """One path or several files are a run, several directories a fleet, a mixture is refused."""
    logs = [f"{OFF}/server.log", f"{OFF}/client.jsonl.gz"]
    assert choose_page([OFF]) == "overview"
    assert choose_page(logs) == "overview"
    assert choose_page([OFF, ON]) == "fleet"
    with pytest.raises(UsageError, match="say --page overview if they are one run"):
        choose_page([OFF, logs[0]])


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        ((f"{OFF}/server.log",), "Prefill overview"),
        ((OFF, ON), "Prefill fleet"),
        ((OFF, ON, "--page", "comparison"), "Two prefill runs compared"),
        ((OFF, "--page", "fleet"), "Prefill fleet"),
        ((OFF, "--page", "whatif"), "What the delayer would do"),
    ],
)
def test_the_page_suits_what_was_named(tmp_path, arguments, title):
    """Each way of calling draws the page that the documentation says."""
    code, page = draw(tmp_path, *arguments)
    assert code == 0
    assert f"<title>{title} – " in page


def test_an_input_that_cannot_be_read_is_a_row(tmp_path):
    """One broken run among many does not take the page of the others away."""
    missing = str(tmp_path / "missing")
    code, page = draw(tmp_path, ON, DECODE, missing, "--page", "fleet")
    assert code == 0
    assert "decode engine" in page
    assert "No such file" in page or "no such file" in page
    assert "277" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((OFF, "--page", "comparison"), "takes two PATHs"),
        ((OFF, "--page", "overveiw"), "did you mean 'overview'?"),
        ((OFF, "--request-filter", "x"), "is for pages about a comparison or a what-if"),
        (("-", "-", "--page", "fleet"), "only one run can be read from standard input"),
        (("nowhere.log",), "nowhere.log"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(tmp_path, capsys, arguments, message):
    """A wrong call says why, with exit code 2, and leaves no file behind."""
    code, page = draw(tmp_path, *arguments)
    assert (code, page) == (2, "")
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_runs_that_cannot_be_compared_end_with_2_and_a_page(tmp_path, capsys):
    """As compare does: the page with the reasons is written all the same."""
    code, page = draw(tmp_path, OFF, str(SAMPLES / "cpu-dp8-off"), "--page", "comparison")
    assert code == 2
    assert "no gain is claimed" in page
    assert "not comparable" in capsys.readouterr().err


def test_a_file_name_with_markup_is_text_in_the_title_too(tmp_path):
    """The title of a page is where browsers and chat tools show a name first."""
    evil = tmp_path / "<img src=x onerror=alert(1)>\u202e.log"
    evil.write_bytes((SAMPLES / "h100x2-on" / "server.log").read_bytes())
    code, page = draw(tmp_path, str(evil))
    assert code == 0
    title = page[page.index("<title>") : page.index("</title>")]
    assert "&lt;img" in title
    assert "\\u202e" in title
    assert "\u202e" not in page


@pytest.mark.parametrize(
    "verb", [["tune"], ["whatif", "--max-delay-passes", "20"]], ids=["tune", "whatif"]
)
def test_html_of_tune_and_whatif_is_the_same_page(tmp_path, capsys, verb):
    """--html draws the page of dashboards, besides the report on the terminal."""
    path = tmp_path / "page.html"
    assert main([verb[0], OFF, *verb[1:], "--html", str(path)]) == 0
    assert "What the delayer would do" in path.read_text("utf-8")
    assert "passes" in capsys.readouterr().out
    assert main([verb[0], OFF, *verb[1:], "--html", "-", "--json", "-"]) == 2
    assert "only one output" in capsys.readouterr().err
