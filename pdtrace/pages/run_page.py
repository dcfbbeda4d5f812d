"""Pages about one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pdtrace.exports.strip import strip_heading
from pdtrace.figures.survey import survey_run
from pdtrace.pages.content import Content, Number
from pdtrace.pages.head import name_run, state_shares, tell_facts
from pdtrace.pages.numbers import format_metric, spell_metric
from pdtrace.pages.page_file import load_page
from pdtrace.pages.rendering import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.exports.strip import Strip
    from pdtrace.run import Run


def render_page(
    run: Run,
    *,
    page: str = "overview",
    metrics: pl.DataFrame | None = None,
    verdict: Sequence[str] = (),
    worst: Strip | None = None,
) -> str:
    """Render a page of a run as one HTML file that needs nothing else.

    Args:
        run: The run.
        page: A name among the dashboards, or the path of a TOML file.
        metrics: Table ``metrics``; measured here where it is not given.
        verdict: Sentences for the head, the most important first.
        worst: The stretch that lost most rank time; a button of the head leads there.

    Raises:
        UsageError: The page, a tile or an option is not known, or it is not about a run.
    """
    told = load_page(page, subject="run")
    if metrics is None:
        from pdtrace.metrics import measure  # noqa: PLC0415  (a page given its metrics needs none)

        metrics = measure(run)
    survey = survey_run(run)
    content = Content(
        drawn=survey,
        name=name_run(run),
        facts=tuple(tell_facts(run, survey)),
        verdict=tuple(verdict) or tuple(state_shares(survey)),
        numbers=collect_numbers(metrics),
        worst=None if worst is None else (worst.first, worst.last, strip_heading(worst)),
        warnings=tuple(run.warnings),
    )
    return render(told, content)


def collect_numbers(metrics: pl.DataFrame) -> dict[str, Number]:
    """The engine's rows of table ``metrics`` as they are shown."""
    numbers = {}
    for row in metrics.filter(pl.col("dp_rank").is_null()).iter_rows(named=True):
        value, unit = format_metric(row["value"], row["unit"])
        small = (row["note"] or "") if row["value"] is None else ""
        if row["low"] is not None and row["high"] is not None:
            low, high = (" ".join(format_metric(row[k], row["unit"])) for k in ("low", "high"))
            small = f"{low} – {high}"
        elif row["low"] is not None and row["low"] == row["value"]:
            small = "at least"
        label = spell_metric(row["metric"])
        numbers[row["metric"]] = Number(
            label, value, unit, small, row["note"] or "", kind=row["unit"]
        )
    return numbers
