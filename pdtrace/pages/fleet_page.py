"""Pages about many runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pdtrace.figures.fleet import Fleet, FleetRow, measure_row
from pdtrace.pages.content import Content, Number
from pdtrace.pages.head import describe_delayer, describe_engine
from pdtrace.pages.numbers import format_metric, spell_metric
from pdtrace.pages.page_file import load_page
from pdtrace.pages.rendering import render

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pdtrace.pages.page_file import Page
    from pdtrace.run import Run


def build_row(name: str, run: Run, reason: str = "") -> FleetRow:
    """One run of a fleet: its metrics, and what it is.

    Args:
        name: As the user named it.
        run: The run.
        reason: Why nothing was found in it, if nothing was.
    """
    facts = [", ".join(describe_engine(run))]
    state = describe_delayer(run)
    return measure_row(name, run, [*facts, state] if state else facts, reason)


def render_fleet(rows: Iterable[FleetRow], *, page: str = "fleet") -> str:
    """Render a page of many runs as one HTML file that needs nothing else.

    Args:
        rows: One a run; one that could not be read says why.
        page: A name among the dashboards, or the path of a TOML file.

    Raises:
        UsageError: The page, a tile or an option is not known, or it is not about a fleet.
    """
    told = load_page(page, subject="fleet")
    fleet = Fleet(tuple(rows))
    one = "1 run" if len(fleet.rows) == 1 else f"{len(fleet.rows):,} runs"
    content = Content(
        drawn=fleet,
        name=one,
        facts=("each run analysed by itself", "sums over all, other numbers of one run each"),
        verdict=tuple(state_fleet(fleet)),
        numbers=collect_fleet_numbers(fleet) if fleet.read else _tell_nothing(told, fleet),
    )
    return render(told, content)


def _tell_nothing(page: Page, fleet: Fleet) -> dict[str, Number]:
    """Where no run was read there is nothing to know the names of metrics by."""
    names = (name for tile in page.tiles for name in tile.metrics)
    numbers = {n: Number(spell_metric(n), "–", small="no run was read") for n in names}
    return numbers | collect_fleet_numbers(fleet)


def state_fleet(fleet: Fleet) -> list[str]:
    """What a fleet says first: who idles most, what it adds up to, what could not be read."""
    lines = []
    idle = sorted(fleet.values("idle_rank_pass_ratio"), key=lambda pair: pair[1])
    if idle:
        (best, least), (worst, most) = idle[0], idle[-1]
        share = format_metric(most, "ratio")[0]
        lines.append(f"{fleet.label(worst)} idles most: {share} of its rank passes")
        if len(idle) > 1:
            lines[0] += f"; {fleet.label(best)} least: {format_metric(least, 'ratio')[0]}"
        lines[0] += "."
    sums = fleet.add_up()
    parts = []
    for metric, words in (
        ("num_new_tokens", "prompt tokens"),
        ("num_iterations", "iterations"),
        ("idle_rank_seconds", "of ranks idling"),
    ):
        value = sums[metric].value
        if value is not None:
            parts.append(f"{' '.join(format_metric(value, sums[metric].unit)).strip()} {words}")
    if parts:
        lines.append(f"Together: {', '.join(parts).replace(' tokens prompt', ' prompt')}.")
    unread = len(fleet.rows) - len(fleet.read)
    if unread:
        lines.append(
            f"{unread:,} of {len(fleet.rows):,} inputs gave nothing to measure; their rows say why."
        )
    return lines


def collect_fleet_numbers(fleet: Fleet) -> dict[str, Number]:
    """For a row of metrics: sums of what adds up, and the range of what does not."""
    unread = len(fleet.rows) - len(fleet.read)
    numbers = {
        "num_runs": Number("Runs", f"{len(fleet.rows):,}", small=f"{unread:,} not measured"),
    }
    sums = fleet.add_up()
    for metric in dict.fromkeys(n for row in fleet.read for n in row.metrics):
        label = spell_metric(metric)
        if metric in sums:
            total = sums[metric]
            value, unit = format_metric(total.value, total.unit)
            numbers[metric] = Number(label, value, unit, total.note or "in all", total.note)
            continue
        values = fleet.values(metric)
        if not values:
            numbers[metric] = Number(label, "–", small="no run tells it")
            continue
        (first, low), (last, high) = (f(values, key=lambda pair: pair[1]) for f in (min, max))
        ends = [" ".join(format_metric(v, fleet.find_unit(metric))).strip() for v in (low, high)]
        shown = ends[0] if low == high else f"{ends[0]} – {ends[1]}"
        small = "" if low == high else f"{fleet.label(first)} – {fleet.label(last)}"
        numbers[metric] = Number(label, shown, small=small)
    return numbers
