"""Pages: a page TOML and the figures of a run become one self-contained HTML file.

What a log says is untrusted: text goes through ``html.escape`` into the page, or as JSON into a
data block that is never executed; and the page's policy runs only the two scripts whose hashes it
names.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import html
import json
import math
import re
import tomllib
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import polars as pl
from plotly.offline import get_plotlyjs

from pdtrace.errors import InputError, UsageError
from pdtrace.figures import draw_figure, list_figures
from pdtrace.figures.figure import PALETTE, Figure
from pdtrace.figures.survey import PREFILL, ROLE_NAMES, Survey, survey_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pdtrace.run import Run

_HERE = Path(__file__).parent
_WIDTHS = ("full", "half", "third")
_TILE_KEYS = ("figure", "metrics", "title", "note", "width", "options")
_PAGE_KEYS = ("title", "tile")
_MAX_WARNINGS = 50


@dataclass(frozen=True)
class Tile:
    """One tile of a page: a figure with its options, or a row of metrics."""

    figure: str | None = None
    metrics: tuple[str, ...] = ()
    title: str | None = None
    note: str | None = None
    width: str = "full"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """What a page TOML says."""

    title: str
    tiles: tuple[Tile, ...]


def find_dashboards() -> Path:
    """The folder of pages: in the wheel beside this module, in a checkout at its top."""
    packed = _HERE / "_dashboards"
    return packed if packed.is_dir() else _HERE.parent / "dashboards"


def load_page(page: str) -> Page:
    """Read a page by its name among the dashboards, or from a TOML file.

    Raises:
        UsageError: There is no such page, or it holds something unknown; the known is named.
        InputError: The file is not TOML.
    """
    path = Path(page)
    if path.suffix != ".toml":
        folder = find_dashboards()
        known = sorted(p.stem for p in folder.glob("*.toml"))
        if page not in known:
            raise UsageError(f"unknown page {page!r}; known: {', '.join(known)}, or a .toml file")
        path = folder / f"{page}.toml"
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the page {page!r}: {error}") from error
    try:
        told = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not a page: {error}", path=str(path)) from error
    _refuse_unknown("page", told, _PAGE_KEYS)
    tiles = told.get("tile", [])
    if not isinstance(tiles, list) or not all(isinstance(t, dict) for t in tiles) or not tiles:
        raise UsageError(f"page {page!r} has no [[tile]]")
    return Page(str(told.get("title", path.stem)), tuple(_build_tile(t) for t in tiles))


def _build_tile(told: dict[str, Any]) -> Tile:
    _refuse_unknown("tile", told, _TILE_KEYS)
    if ("figure" in told) == ("metrics" in told):
        names = ", ".join(list_figures())
        raise UsageError(f"a tile has either a figure ({names}) or metrics = [names]")
    tile = Tile(**{**told, "metrics": tuple(told.get("metrics", ()))})
    if tile.width not in _WIDTHS:
        raise UsageError(f"unknown tile width {tile.width!r}; known: {', '.join(_WIDTHS)}")
    if tile.figure is not None and tile.figure not in list_figures():
        raise UsageError(f"unknown figure {tile.figure!r}; known: {', '.join(list_figures())}")
    if not isinstance(tile.options, dict):
        raise UsageError("a tile's options are a table: options = {name = value}")
    return tile


def _refuse_unknown(what: str, told: Mapping[str, Any], known: Iterable[str]) -> None:
    for key in told:
        if key not in known:
            raise UsageError(f"unknown {what} key {key!r}; known: {', '.join(known)}")


def render_page(
    run: Run,
    *,
    page: str = "overview",
    metrics: pl.DataFrame | None = None,
    verdict: Sequence[str] = (),
) -> str:
    """Render a page of a run as one HTML file that needs nothing else.

    Args:
        run: The run.
        page: A name among the dashboards, or the path of a TOML file.
        metrics: Table ``metrics``; measured here where it is not given.
        verdict: Sentences for the head, the most important first.

    Raises:
        UsageError: The page, a tile or an option is not known.
    """
    told = load_page(page)
    if metrics is None:
        from pdtrace.metrics import measure  # noqa: PLC0415  (a page given its metrics needs none)

        metrics = measure(run)
    survey = survey_run(run)
    tiles: list[str] = []
    drawn: list[dict[str, Any]] = []
    for number, tile in enumerate(told.tiles):
        if tile.figure is None:
            tiles.append(_render_metrics(tile, metrics))
            continue
        figure = draw_figure(tile.figure, survey, tile.options)
        name = f"figure-{number}"
        tiles.append(_render_figure(tile, figure, name))
        drawn.append(
            {
                "id": name,
                "spec": figure.spec,
                "timeAxis": figure.time_axis,
                **({"levels": figure.levels} if figure.levels else {}),
            }
        )
    folder = find_dashboards()
    script = _one_newline((folder / "page.js").read_text("utf-8"))
    plotly = _one_newline(get_plotlyjs())
    subject = ", ".join("/".join(PurePath(f.path).parts[-2:]) for f in run.files[:3]) or "run"
    if len(run.files) > 3:
        subject += f" and {len(run.files) - 3} more"
    slots = {
        "csp": _build_policy(plotly, script),
        "title": html.escape(told.title),
        "subject": html.escape(subject),
        "version": html.escape(_find_version()),
        "css": (folder / "page.css").read_text("utf-8"),
        "facts": _render_facts(run, survey),
        "verdict": "".join(
            f"<p>{html.escape(line)}</p>\n" for line in (verdict or _state_shares(survey))
        ),
        "warnings": _render_warnings(run.warnings),
        "tiles": "".join(tiles),
        "data": _dump({"palette": PALETTE, "tiles": drawn}),
        "plotly": plotly,
        "script": script,
    }
    template = (folder / "page.html").read_text("utf-8")
    # One pass, so that no text put into a slot can open another.
    return re.sub(r"\{\{(\w+)\}\}", lambda m: slots[m[1]], template)


def _one_newline(text: str) -> str:
    """A browser hashes a script after making every line end a line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _build_policy(*scripts: str) -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'"
        for s in scripts
    )
    # Plotly sets style attributes, and shows a raster as a data: image.
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _dump(data: object) -> str:
    """JSON that cannot end its script element, whatever strings it holds."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _find_version() -> str:
    try:
        return version("pdtrace")
    except PackageNotFoundError:
        return "(checkout)"


def _render_facts(run: Run, survey: Survey) -> str:
    engine = run.engine
    low, high = engine.release_min, engine.release_max
    release = low or high
    if low and high and low != high:
        release = f"{low}–{high}"
    facts = [f"{engine.engine} {release}" if release else engine.engine]
    if engine.role and engine.role != "null":
        facts.append(f"{engine.role} engine")
    facts.append(f"{run.dp_size} DP ranks")
    if engine.model_path:
        facts.append(engine.model_path)
    if len(survey):
        begin = dt.datetime.fromtimestamp(survey.origin_ns / 1e9, dt.UTC)
        facts.append(f"from {begin:%Y-%m-%d %H:%M:%S} UTC, {_format_span(float(survey.end[-1]))}")
    facts.append(f"iterations by {run.grouping}")
    delayer = engine.delayer
    if delayer.enabled is not None:
        words = "delayer on" if delayer.enabled else "delayer off"
        if delayer.enabled and delayer.max_delay_passes is not None:
            words += f", at most {delayer.max_delay_passes} passes"
        if delayer.enabled and delayer.token_usage_low_watermark is not None:
            words += f", watermark {delayer.token_usage_low_watermark}"
        facts.append(words)
    return "".join(f"<span>{html.escape(f)}</span>" for f in facts)


def _state_shares(survey: Survey) -> list[str]:
    """What the iterations alone say, where no verdict was given."""
    if not len(survey):
        return ["No iteration was rebuilt from this input."]
    known = survey.role != ROLE_NAMES.index("unknown")
    idle = (known & (survey.role != PREFILL) & (survey.role != 1)).sum()
    full = (survey.width == survey.dp_size).mean()
    share = idle / max(int(known.sum()), 1)
    return [
        f"{_format_ratio(float(share))} of the rank passes were idle; in "
        f"{_format_ratio(float(full))} of {len(survey):,} iterations every rank prefilled."
    ]


def _render_warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{html.escape(w)}</li>" for w in warnings[:_MAX_WARNINGS])
    if len(warnings) > _MAX_WARNINGS:
        items += f"<li>and {len(warnings) - _MAX_WARNINGS:,} more</li>"
    one = "1 warning" if len(warnings) == 1 else f"{len(warnings):,} warnings"
    return f"<details class=warnings><summary>{one}</summary><ul>{items}</ul></details>\n"


def _render_figure(tile: Tile, figure: Figure, name: str) -> str:
    title = html.escape(tile.title or figure.title)
    note = html.escape(tile.note or figure.note)
    refined = bool(figure.levels)
    tools = legend = readout = ""
    if refined:
        buttons = (
            ("time", "time", ' aria-pressed="true"'),
            ("iteration", "iterations", ' aria-pressed="false"'),
            ("in", "+", ' aria-label="Zoom in"'),
            ("out", "−", ' aria-label="Zoom out"'),
            ("all", "all", ' aria-label="Show all"'),
        )
        tools = "".join(f'<button data-do="{d}"{a}>{t}</button>' for d, t, a in buttons)
        tools = f'<span class="note status"></span><span class="tools">{tools}</span>'
        roles = figure.levels["roles"]
        legend = "".join(f'<span class="{r}"><i></i>{r}</span>' for r in roles)
        legend = f'<div class="legend">{legend}</div>'
        readout = (
            '<div class="readout" role="status" aria-live="polite">'
            "Point at a cell, or walk them with the arrow keys.</div>"
        )
        keys = "Arrow keys walk the cells, + and − zoom, 0 shows all."
        access = f'tabindex="0" role="application" aria-label="{html.escape(figure.alt)} {keys}"'
    else:
        access = f'role="img" aria-label="{html.escape(figure.alt)}"'
    return (
        f'<section class="tile {tile.width}" aria-labelledby="{name}-title">'
        f'<div class="head"><h2 id="{name}-title">{title}</h2>{legend}{tools}</div>\n'
        f'<div class="plot" id="{name}" {access} style="height:{figure.height}px"></div>\n'
        + readout
        + (f'<p class="note">{note}</p>' if note else "")
        + _render_table(figure.table, title)
        + "</section>\n"
    )


def _render_table(table: pl.DataFrame, title: str) -> str:
    if not table.width:
        return ""
    head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_format_cell(v)}</td>" for v in row) + "</tr>\n"
        for row in table.iter_rows()
    )
    return (
        f"<details><summary>Table · {table.height:,} rows</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table: {title}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _format_cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else html.escape(str(value))


def _render_metrics(tile: Tile, metrics: pl.DataFrame) -> str:
    whole = metrics.filter(pl.col("dp_rank").is_null())
    rows = {row["metric"]: row for row in whole.iter_rows(named=True)}
    items = []
    for name in tile.metrics:
        if name not in rows:
            raise UsageError(f"unknown metric {name!r}; known: {', '.join(rows)}")
        row = rows[name]
        value, unit = format_metric(row["value"], row["unit"])
        small = row["note"] if row["value"] is None else ""
        if row["low"] is not None and row["high"] is not None:
            low, high = (" ".join(format_metric(row[k], row["unit"])) for k in ("low", "high"))
            small = f"{low} – {high}"
        hint = f' title="{html.escape(row["note"])}"' if row["note"] else ""
        items.append(
            f"<div{hint}><dt>{html.escape(_spell(name))}</dt><dd>{html.escape(value)} "
            f'<span class="unit">{html.escape(unit)}</span>'
            + (f"<small>{html.escape(small)}</small>" if small else "")
            + "</dd></div>"
        )
    title = f"<h2>{html.escape(tile.title)}</h2>" if tile.title else ""
    return (
        f'<section class="tile {tile.width}" aria-label="{html.escape(tile.title or "Metrics")}">'
        f'{title}<dl class="metrics">{"".join(items)}</dl></section>\n'
    )


_LABELS = {
    "idle_rank_pass_ratio": "Idle rank passes",
    "idle_rank_seconds": "Idle rank time",
    "fusion_width_mean": "Fusion width, mean",
    "iteration_seconds_p50": "Iteration time, median",
    "prefill_throughput_tok_s": "Prefill throughput",
    "num_new_tokens": "Prompt tokens computed",
    "delay_seconds_total": "Time delayed",
    "grouping_confidence_mean": "Grouping confidence",
}


def _spell(metric: str) -> str:
    """A metric's name in words; its unit is shown with the number."""
    words = re.sub(r"_(ratio|tok_s|s|total)$", "", metric)
    words = re.sub(r"\bttft\b", "TTFT", re.sub(r"^num_", "", words).replace("_", " "))
    return _LABELS.get(metric, words[:1].upper() + words[1:])


def format_metric(value: float | None, unit: str) -> tuple[str, str]:
    """A number for people, and its unit: never rounded to a false 0 or 100 %."""
    if value is None or math.isnan(value):
        return "–", ""
    if unit == "ratio":
        return _format_ratio(value), ""
    if unit == "s":
        number, _, scale = _format_span(value).partition(" ")
        return number, scale
    shown = "" if unit == "count" else unit
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}", shown
    return f"{value:.3g}", shown


def _format_ratio(value: float) -> str:
    if 0 < value < 0.001:
        return "< 0.1 %"
    if 0.999 < value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def _format_span(seconds: float) -> str:
    if seconds == 0 or abs(seconds) >= 1000:
        return f"{seconds:,.0f} s"
    return f"{seconds * 1e3:.3g} ms" if abs(seconds) < 1 else f"{seconds:.4g} s"
