"""What a page TOML says: its title and its tiles, read and checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdtrace.errors import InputError, UsageError
from pdtrace.figures import list_figures

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PACKAGE = Path(__file__).parent.parent
_WIDTHS = ("full", "half", "third")
_TILE_KEYS = ("figure", "metrics", "title", "note", "width", "options")
_PAGE_KEYS = ("title", "tile")


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
    """The folder of pages: in the wheel inside the package, in a checkout beside it."""
    packed = _PACKAGE / "_dashboards"
    return packed if packed.is_dir() else _PACKAGE.parent / "dashboards"


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
