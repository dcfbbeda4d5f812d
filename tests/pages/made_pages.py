"""Runs and pages that several tests of pages open, and what they read off a page."""

from __future__ import annotations

import dataclasses
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import pdtrace
from pdtrace.pages import load_page, render_page
from pdtrace.run import Part, Run
from pdtrace.schema import METRICS

TESTS = Path(__file__).parents[1]
SAMPLES = TESTS.parent / "sample_logs"
make_run = runpy.run_path(str(TESTS / "figures" / "made_run.py"))["make_run"]
add_requests = runpy.run_path(str(TESTS / "figures" / "made_requests.py"))["add_requests"]
NASTY = "<img src=x onerror=\"document.title='pwned'\">{{script}}</script><script>1</script>.log"
uses_browser = pytest.mark.browser


def make_metrics() -> pl.DataFrame:
    """A row for each metric that the overview shows; every other one unknown."""
    names = [name for tile in load_page("overview").tiles for name in tile.metrics]
    return METRICS.conform(
        pl.DataFrame(
            {
                "metric": names,
                "value": [None if i % 2 else 12.5 for i, _ in enumerate(names)],
                "unit": ["s"] * len(names),
                "n": [1] * len(names),
                "note": ["a client log would give it"] * len(names),
            }
        )
    )


def render(run: Run, **options: Any) -> str:
    """The overview of a run, with made metrics."""
    return render_page(run, metrics=make_metrics(), **options)


@cache
def load(name: str) -> Run:
    """A recorded run, read once."""
    run = pdtrace.load(SAMPLES / name)
    return dataclasses.replace(run, parts=tuple(run))


def cut_run(run: Run, first: int, last: int) -> Run:
    """The run as if only some iterations had been recorded, with the requests they prefilled."""
    inside = pl.col("iteration").is_between(first, last)
    parts = [
        Part(
            part.events.filter(inside),
            part.iterations.filter(inside),
            None if part.causes is None else part.causes.filter(inside),
        )
        for part in run
    ]
    ends = run.stages.group_by("request").agg(pl.col("iteration").max(), pl.col("rid").first())
    placed = ends.filter(inside)
    return dataclasses.replace(
        run,
        parts=tuple(p for p in parts if p.iterations.height),
        stages=run.stages.join(placed, on="request", how="semi"),
        requests=run.requests.join(placed, on="rid", how="semi"),
    )


def text(driver: Any, selector: str) -> str:
    """Text of the first element that fits, shown or folded away."""
    found: str = driver.execute_script(
        "return document.querySelector(arguments[0]).textContent", selector
    )
    return found


def timeline(driver: Any) -> Any:
    """The timeline's element."""
    return driver.find_element("css selector", ".plot[data-exact]")


def press(driver: Any, do: str) -> None:
    """Press a button of the page by what it does."""
    driver.find_element("css selector", f'[data-do="{do}"]').click()


def settle(driver: Any) -> None:
    """Wait until whatever was asked of the page has been drawn."""
    driver.set_script_timeout(60)
    driver.execute_async_script(
        """
        const done = arguments[0];
        let quiet = 0, last = null;
        const look = () => {
          const now = document.querySelectorAll("*").length + document.documentElement.dataset.told
            + [...document.querySelectorAll("[data-draw-ms]")].map((e) => e.dataset.drawMs);
          quiet = now === last ? quiet + 1 : 0;
          last = now;
          if (quiet > 3) done(); else setTimeout(look, 30);
        };
        look();
        """
    )


def select(driver: Any, first: int, last: int) -> None:
    """Select a stretch by its first and last iteration, and wait for the tiles."""
    driver.execute_script(
        """
        const form = document.querySelector(".pick"), [low, high] = form.querySelectorAll("input");
        [low.value, high.value] = arguments;
        form.requestSubmit();
        """,
        first,
        last,
    )
    settle(driver)


def read_table(driver: Any, figure: str) -> list[list[str]]:
    """Cells of the table behind a figure."""
    found: list[list[str]] = driver.execute_script(
        """
        const tile = page.tiles.find((t) => t.figure === arguments[0]);
        const box = document.getElementById(tile.id).closest(".tile");
        const rows = [...box.querySelectorAll("tbody tr")];
        return rows.map((r) => [...r.cells].map((c) => c.textContent));
        """,
        figure,
    )
    return found


def as_number(cell: str) -> float | None:
    """A number as a table shows it."""
    return None if cell == "–" else float(cell.replace(",", ""))
