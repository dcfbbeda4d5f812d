"""Numbers as people read them: with units, and never rounded to a false 0 or 100 %."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

UNKNOWN = "–"
MOST_NAMED = 8


def percent(share: float | None) -> str:
    """A share as a percentage; 0 % and 100 % only where it is exactly that."""
    if share is None:
        return UNKNOWN
    whole = int(share * 100 + 0.5)
    if whole == 0 and share > 0:
        return "< 1 %"
    if whole == 100 and share < 1:
        return "> 99 %"
    return f"{whole} %"


def whole(value: float | None) -> str:
    """A count with thousands apart."""
    return UNKNOWN if value is None else f"{round(value):,}"


def seconds(value: float | None) -> str:
    """A time span in the unit that suits it."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0 s"
    # Each limit is where rounding would reach the next unit: never 1000 ms.
    if abs(value) < 0.0009995:
        return f"{value * 1e6:.0f} µs"
    if abs(value) < 0.09995:
        return f"{value * 1e3:.1f} ms"
    if abs(value) < 0.9995:
        return f"{value * 1e3:.0f} ms"
    if abs(value) < 9.995:
        return f"{value:.2f} s"
    return f"{value:,.1f} s" if abs(value) < 1000 else f"{value:,.0f} s"


def seconds_within(value: float, half: float) -> str:
    """A time span and half its interval, both in the unit that suits it: ``281 ± 33 ms``."""
    text, unit = seconds(value).rsplit(" ", 1)
    scale = {"µs": 1e6, "ms": 1e3, "s": 1.0}[unit]
    digits = len(text.partition(".")[2])
    return f"{text} ± {half * scale:,.{digits}f} {unit}"


def number(value: float | None, digits: int = 2) -> str:
    """A number with so many decimals."""
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def significant(value: float | None) -> str:
    """A number to three significant digits, so that a small one does not become 0.00."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plural(count: int, noun: str) -> str:
    """``1 rank``, ``2 ranks``; a noun in -s takes -es (passes)."""
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")


def name_ranks(ranks: Sequence[int]) -> str:
    """``rank 1``, ``ranks 1 and 3``; of many the first."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > MOST_NAMED:
        first = ", ".join(map(str, ranks[: MOST_NAMED - 1]))
        return f"ranks {first} and {len(ranks) - MOST_NAMED + 1} more"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def change(ratio: float | None) -> str:
    """A change as a percentage with its sign; from a tenfold on as a factor."""
    if ratio is None:
        return UNKNOWN
    if ratio >= 9:
        return f"×{1 + ratio:.0f}"
    digits = 1 if 0 < abs(ratio) < 0.0995 else 0
    sign = "+" if ratio > 0 else "−" if ratio < 0 else "±"
    return f"{sign}{abs(ratio) * 100:.{digits}f} %"


def in_unit(value: float | None, unit: str) -> str:
    """A value in its unit, as table ``metrics`` names units."""
    if unit == "s":
        return seconds(value)
    if unit == "ratio":
        return percent(value)
    return significant(value) if unit == "ranks" else whole(value)
