"""The figures of the pages, one file each: ``draw_<file>(run, **options) -> Figure``.

A figure is found by the name of its file, so adding one touches nothing else.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any

from pdtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pdtrace.figures.figure import Figure
    from pdtrace.figures.survey import Survey
    from pdtrace.run import Run


@cache
def list_figures() -> dict[str, Callable[..., Figure]]:
    """Name → function of every figure, in order of name."""
    found: dict[str, Callable[..., Figure]] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        module = importlib.import_module(f"{__name__}.{info.name}")
        draw = getattr(module, f"draw_{info.name}", None)
        if draw is not None:
            found[info.name] = draw
    return found


def draw_figure(name: str, run: Run | Survey, options: dict[str, Any] | None = None) -> Figure:
    """Draw a figure by name.

    Args:
        name: A name of ``list_figures``.
        run: The run, or its survey where several figures are drawn.
        options: Keyword options of that figure.

    Raises:
        UsageError: The figure or an option of it is not known; the known ones are named.
    """
    figures = list_figures()
    if name not in figures:
        raise UsageError(f"unknown figure {name!r}; known: {', '.join(figures)}")
    known = {
        p.name: p
        for p in inspect.signature(figures[name]).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    for key, value in (options or {}).items():
        if key not in known:
            names = ", ".join(known) or "none"
            raise UsageError(f"figure {name!r} has no option {key!r}; known: {names}")
        want = type(known[key].default)
        if not isinstance(value, want) or isinstance(value, bool) is not (want is bool):
            raise UsageError(f"figure {name!r}: option {key!r} must be {want.__name__}")
    return figures[name](run, **(options or {}))
