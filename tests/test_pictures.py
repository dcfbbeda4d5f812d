"""The picture of the report in the README says what the program prints."""

from __future__ import annotations

import html
import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"


def read_words(svg: str) -> str:
    """The text of an SVG, which rich writes as one element a run of characters."""
    found = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    return html.unescape(" ".join(found)).replace("\xa0", " ")


def test_picture_of_the_report_is_up_to_date(monkeypatch):
    """An old picture promises numbers and words that nobody sees; docs/images/make.py makes it."""
    monkeypatch.chdir(ROOT)
    draw_report = runpy.run_path(str(IMAGES / "make.py"))["draw_report"]
    kept = read_words((IMAGES / "report.svg").read_text(encoding="utf-8"))
    assert "78 % of 381 iterations" in kept
    assert kept.split() == read_words(draw_report()).split()
