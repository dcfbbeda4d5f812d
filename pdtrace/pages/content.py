"""What a page is filled with, whatever it is about."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Number:
    """A number in a row of metrics, as it is shown.

    Attributes:
        label: In words.
        value: Formatted.
        unit: Beside it; empty where the value says it.
        small: Under it: its interval, or why it is not known.
        hint: What it means, on hover.
        kind: Its unit as table ``metrics`` names it, for the script; empty: it is not of one run.
    """

    label: str
    value: str
    unit: str = ""
    small: str = ""
    hint: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Content:
    """What is put on a page; every text in it is untrusted and escaped where it is shown.

    Attributes:
        drawn: What its figures draw: a survey, a pair, an outlook or a fleet.
        name: Which recording, after the title.
        facts: What was recorded, in a line.
        verdict: Sentences, the most important first.
        numbers: Metric → number, for rows of metrics.
        worst: First and last iteration of the stretch to look at first, and what happened there.
        command: A line to copy, under the verdict.
        reasons: Why nothing is claimed, as a list under the verdict.
        warnings: Of reading, folded away.
        notes: What the numbers rest on, folded away.
    """

    drawn: object
    name: str
    facts: tuple[str, ...]
    verdict: tuple[str, ...]
    numbers: dict[str, Number] = field(default_factory=dict)
    worst: tuple[int, int, str] | None = None
    command: str = ""
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
