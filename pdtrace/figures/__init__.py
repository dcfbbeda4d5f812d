"""The figures of the pages, one file each: ``draw_<file>(drawn, **options) -> Figure``.

A figure is found by the name of its file, so adding one touches nothing else. Its module says in
``SUBJECT`` what it draws, one of ``SUBJECTS``; a module that does not say so draws a run.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any

from pdtrace.errors import UsageError
from pdtrace.registry import describe_unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from pdtrace.figures.figure import Figure

SUBJECTS = {
    "run": "one run",
    "comparison": "two runs compared",
    "whatif": "settings tried on a run's replay",
    "fleet": "many runs",
}
"""What a page and its figures are about, in words."""


@cache
def list_figures(subject: str | None = None) -> dict[str, Callable[..., Figure]]:
    """Name → function of every figure, in order of name; of one subject if it is given."""
    return {n: draw for n, (draw, s) in _find_figures().items() if subject in (None, s)}


def find_subject(name: str) -> str:
    """What a figure draws, one of ``SUBJECTS``.

    Raises:
        UsageError: The figure is not known; the known ones are named.
    """
    figures = _find_figures()
    if name not in figures:
        raise UsageError(describe_unknown("figure", name, figures))
    return figures[name][1]


@cache
def _find_figures() -> dict[str, tuple[Callable[..., Figure], str]]:
    found: dict[str, tuple[Callable[..., Figure], str]] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        module = importlib.import_module(f"{__name__}.{info.name}")
        draw = getattr(module, f"draw_{info.name}", None)
        if draw is not None:
            found[info.name] = draw, getattr(module, "SUBJECT", "run")
    return found


# What an option may be, whatever the figure: a page is written by hand, and must stay drawable.
RANGES = {
    "intervals": (1, 5_000),
    "bins": (1, 5_000),
    "most": (1, 1_000),
    "row_height": (0, 200),
    "max_kb": (1, 100_000),
}


def list_options(name: str) -> dict[str, Any]:
    """Name → default of every option of a figure; the type of the default is that of the option."""
    signature = inspect.signature(list_figures()[name])
    return {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}


def refuse_other_subject(name: str, subject: str) -> None:
    """Raise UsageError if a figure does not draw this subject, and name those that do."""
    mine = find_subject(name)
    if mine == subject:
        return
    raise UsageError(
        f"figure {name!r} draws {SUBJECTS[mine]} (subject {mine!r}), not {SUBJECTS[subject]} "
        f"(subject {subject!r}); figures for that: {', '.join(list_figures(subject))}"
    )


def check_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a figure as it takes them, lists as tuples.

    Raises:
        UsageError: An option is not known, not of its type, or out of its range; what would do is
            named.
    """
    known = list_options(name)
    taken = {}
    for key, value in options.items():
        if key not in known:
            names = ", ".join(known) or "none"
            raise UsageError(f"figure {name!r} has no option {key!r}; known: {names}")
        want = type(known[key])
        if want is tuple and isinstance(value, list):
            value = tuple(value)  # noqa: PLW2901 (TOML has lists, a default is a tuple)
        if not isinstance(value, want) or isinstance(value, bool) is not (want is bool):
            word = "list" if want is tuple else want.__name__
            raise UsageError(f"figure {name!r}: option {key!r} must be {word}")
        low, high = RANGES.get(key, (0, 0))
        if want is int and high and not low <= value <= high:
            raise UsageError(
                f"figure {name!r}: option {key!r} must be from {low:,} to {high:,}, not {value:,}"
            )
        taken[key] = value
    return taken


def draw_figure(name: str, drawn: object, options: dict[str, Any] | None = None) -> Figure:
    """Draw a figure by name.

    Args:
        name: A name of ``list_figures``.
        drawn: What it is about: a run or, where several figures are drawn, its survey; for the
            other subjects a ``Pair``, an ``Outlook`` or a ``Fleet``.
        options: Keyword options of that figure.

    Raises:
        UsageError: The figure or an option of it is not known, and the known ones are named; or it
            draws another subject.
    """
    refuse_other_subject(name, getattr(drawn, "subject", "run"))
    return list_figures()[name](drawn, **check_options(name, options or {}))
