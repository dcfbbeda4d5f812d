"""A part of a report, before any renderer says how it looks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A titled table and the notes below it.

    ``columns`` name what the cells hold; the first ``num_texts`` of them are text, the others
    numbers, which align to the right.
    """

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    num_texts: int = 1
