"""Pages: a page TOML and the figures of a run become one self-contained HTML file.

What a log says is untrusted: text goes through ``html.escape`` into the page, or as JSON into a
data block that is never executed; and the page's policy runs only the scripts whose
hashes it names.
"""

from pdtrace.pages.comparison_page import render_comparison
from pdtrace.pages.fleet_page import build_row, render_fleet
from pdtrace.pages.numbers import format_metric
from pdtrace.pages.page_file import Page, Tile, find_dashboards, list_pages, load_page
from pdtrace.pages.run_page import render_page
from pdtrace.pages.whatif_page import render_whatif

__all__ = [
    "Page",
    "Tile",
    "build_row",
    "find_dashboards",
    "format_metric",
    "list_pages",
    "load_page",
    "render_comparison",
    "render_fleet",
    "render_page",
    "render_whatif",
]
