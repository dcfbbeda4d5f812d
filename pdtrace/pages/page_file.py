"""What a page TOML says: what it is about and its tiles, read and checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdtrace.errors import InputError, UsageError
from pdtrace.figures import SUBJECTS, check_options, list_figures, refuse_other_subject
from pdtrace.registry import describe_unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PACKAGE = Path(__file__).parent.parent
_WIDTHS = ("full", "half", "third")
_KINDS = ("figure", "metrics", "runs")
_TILE_KEYS = (*_KINDS, "title", "note", "width", "options")
_PAGE_KEYS = ("title", "tile", "subject")


@dataclass(frozen=True)
class Tile:
    """One tile of a page: a figure with its options, a row of metrics, or a table of runs."""

    figure: str | None = None
    metrics: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    title: str | None = None
    note: str | None = None
    width: str = "full"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """What a page TOML says; ``subject`` is what it is about, see ``figures.SUBJECTS``."""

    title: str
    tiles: tuple[Tile, ...]
    subject: str = "run"


def find_dashboards() -> Path:
    """The folder of pages: in the wheel inside the package, in a checkout beside it."""
    packed = _PACKAGE / "_dashboards"
    return packed if packed.is_dir() else _PACKAGE.parent / "dashboards"


def list_pages() -> list[str]:
    """Names of the pages that come with the package."""
    return sorted(p.stem for p in find_dashboards().glob("*.toml"))


def load_page(page: str, *, subject: str | None = None) -> Page:
    """Read a page by its name among the dashboards, or from a TOML file.

    Args:
        page: The name, or the path of a file that ends in .toml.
        subject: What it must be about; None: anything.

    Raises:
        UsageError: There is no such page, it is about something else, or it holds something
            unknown; the known is named.
        InputError: The file is not TOML.
    """
    path = Path(page)
    if path.suffix != ".toml":
        known = list_pages()
        if page not in known:
            raise UsageError(f"{describe_unknown('page', page, known)} (or name a .toml file)")
        path = find_dashboards() / f"{page}.toml"
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the page {page!r}: {error}") from error
    try:
        told = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not a page: {error}", path=str(path)) from error
    _refuse_unknown("page key", told, _PAGE_KEYS)
    about = _text(told, "subject", "run")
    _refuse_unknown("subject", [about], SUBJECTS)
    if subject is not None and about != subject:
        raise UsageError(
            f"page {page!r} is about {SUBJECTS[about]} (subject {about!r}); here it takes one "
            f"about {SUBJECTS[subject]} (subject {subject!r})"
        )
    tiles = told.get("tile", [])
    if not isinstance(tiles, list) or not all(isinstance(t, dict) for t in tiles) or not tiles:
        raise UsageError(f"page {page!r} has no [[tile]]")
    title = _text(told, "title", path.stem)
    return Page(title, tuple(_build_tile(t, about) for t in tiles), about)


def _build_tile(told: dict[str, Any], subject: str) -> Tile:
    _refuse_unknown("tile key", told, _TILE_KEYS)
    if sum(kind in told for kind in _KINDS) != 1:
        names = ", ".join(list_figures())
        raise UsageError(
            f"a tile has either a figure ({names}), or metrics = [names], or on a page about a "
            "fleet runs = [names]"
        )
    if "runs" in told and subject != "fleet":
        raise UsageError(
            f"a table of runs stands on a page about a fleet (subject 'fleet'), not {subject!r}"
        )
    width = _text(told, "width", "full")
    _refuse_unknown("tile width", [width], _WIDTHS)
    options = told.get("options", {})
    if not isinstance(options, dict):
        raise UsageError("a tile's options are a table: options = {name = value}")
    figure = _text(told, "figure", None)
    if figure is not None:
        refuse_other_subject(figure, subject)
        options = check_options(figure, options)
    elif options:
        raise UsageError("only a figure has options")
    return Tile(
        figure,
        _names(told, "metrics"),
        _names(told, "runs"),
        _text(told, "title", None),
        _text(told, "note", None),
        width,
        options,
    )


def _text(told: Mapping[str, Any], key: str, default: Any) -> Any:  # noqa: ANN401 (str, or None)
    value = told.get(key, default)
    if not isinstance(value, str) and value is not default:
        raise UsageError(f"{key} must be text, not {value!r}")
    return value


def _names(told: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = told.get(key, [])
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise UsageError(f"{key} must be a list of names, not {value!r}")
    return tuple(value)


def _refuse_unknown(noun: str, told: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in told:
        if name not in known:
            raise UsageError(describe_unknown(noun, name, known))
